"""Files that others wrote, read as what they must be or refused in one line.

A run's folder may come from another machine or another hand, and results are merged, edited and cut short. Each reader
here takes so many bytes at most, holds what it read against a schema, and raises `EvidenceError` for everything else:
nothing that a file holds ends a program in another way. A file that a `SHA256SUMS` beside it or a folder above names
must also be what it says, for a CSV that was cut at a line's end looks whole.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import TypeAdapter, ValidationError

from experiments.evidence.schemas import SCALES

LIMIT = 2**29  # bytes of a file
UNPACKED_LIMIT = 2**28  # bytes that a .gz file may hold; the longest that ships holds 13 million
CONFIG_LIMIT = 2**16
ARRAYS_LIMIT = 2**24  # bytes of an npz file, and of its arrays once they are unpacked
YAML_DEPTH = 20
SUMS = "SHA256SUMS"
ROWS_FILE, ROWS_FILE_BEFORE = "rows.csv.gz", "rows.csv"  # results used to hold their rows uncompressed

Rows = list[dict[str, str]]
Columns = dict[str, list[str]]


class EvidenceError(ValueError):
    """A file that is missing, damaged or not what it must be. Its text is one line, whatever the file holds."""

    def __init__(self, text: str):
        line = "".join(c if c.isprintable() else " " for c in text)
        super().__init__(line if len(line) <= 400 else f"{line[:400]} ...")


def inside(folder: Path, name: str) -> Path:
    """A file of a folder, not of another one by a link.

    Raises:
        EvidenceError: it leads out of the folder.
    """
    path = folder / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise EvidenceError(f"{path} leads out of its folder")
    return path


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """The content of a file that has its checksum, if there is one, and so many bytes at most."""
    content = _read(path, limit)
    for folder in (path.parent, path.parent.parent):
        written = read_sums(folder).get(path.relative_to(folder).as_posix())
        if written not in (None, hashlib.sha256(content).hexdigest()):
            raise EvidenceError(
                f"{path} is not what {folder / SUMS} says. Where collecting was interrupted, collect again; "
                "where it was cut, restore it; where it is right, take its line out there"
            )
    return content


def _read(path: Path, limit: int) -> bytes:
    try:
        if not path.is_file():  # a pipe would wait for ever
            raise EvidenceError(f"there is no file {path}")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(min(size, limit) + 1)
    except OSError as error:
        raise EvidenceError(f"{path} cannot be read ({error.strerror})") from None
    if len(content) > limit:
        raise EvidenceError(f"{path} has more than {limit:,} bytes")
    return content


def read_sums(folder: Path) -> dict[str, str]:
    """{name: SHA-256} of a folder's files, as `sha256sum` writes it; none where there is no such list."""
    path = folder / SUMS
    if not path.exists():
        return {}
    lines = _text(_read(path, LIMIT), path).splitlines()
    parsed = [re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line) for line in lines]
    if not all(parsed):
        raise EvidenceError(f"{path}, line {parsed.index(None) + 1}: not a digest and a name")
    return {line[2]: line[1] for line in parsed}


def expected(path: Path) -> bool:
    """Whether a file is there, or should be by the checksums beside it."""
    return path.exists() or path.name in read_sums(path.parent)


def rows_path(folder: Path) -> Path:
    """The file of a domain's rows: the compressed one, unless the results are of before and have the other."""
    before = not expected(folder / ROWS_FILE) and expected(folder / ROWS_FILE_BEFORE)
    return folder / (ROWS_FILE_BEFORE if before else ROWS_FILE)


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise EvidenceError(f"{path} is not text: it is damaged") from None


# --- JSON and YAML ---


def read_json(path: Path, schema: Any) -> Any:
    """The content of a JSON file as an object of the schema."""
    return _validated(read_bytes(path), schema, path)


def read_yaml(path: Path, schema: Any) -> dict[str, Any]:
    """The plain content of a config that the schema admits. It holds no more than JSON can say, and no aliases."""
    content = read_bytes(path, CONFIG_LIMIT)
    try:
        plain = json.loads(json.dumps(yaml.load(content, _PlainLoader), allow_nan=False))
    except Exception as error:  # of YAML's, and those with which its constructors meet text that is damaged
        raise EvidenceError(f"{path} is no config ({type(error).__name__}: {error})") from None
    _validated(json.dumps(plain).encode(), schema, path)
    return plain


class _PlainLoader(yaml.SafeLoader):
    """Without aliases, nine lines of which unfold to a billion entries, and of bounded depth."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias")
        self.depth += 1
        if self.depth > YAML_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {YAML_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


@lru_cache(maxsize=64)
def _adapter(schema: Any) -> TypeAdapter:
    return TypeAdapter(schema)


def _validated(content: bytes, schema: Any, path: Path) -> Any:
    try:
        return _adapter(schema).validate_json(content, strict=True)
    except ValidationError as error:
        raise EvidenceError(f"{path}: {_reason(error)}") from None


def check(value: Any, schema: Any, path: Path) -> None:
    """Hold something that was read from `path` against a schema of its own."""
    try:
        _adapter(schema).validate_python(value, strict=True)
    except ValidationError as error:
        raise EvidenceError(f"{path}: {_reason(error)}") from None


def _reason(error: ValidationError, place: bool = True) -> str:
    """The first of what is wrong, in words."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) if place else ""
    return f"{where}{': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"


# --- CSV ---


def read_csv(path: Path, columns: Mapping[str, Any] | None = None) -> Rows:
    """The rows of a CSV file with just these columns, {name: type}, or with any where none are given."""
    return _rows(read_columns(path, columns))


def read_columns(path: Path, columns: Mapping[str, Any] | None = None) -> Columns:
    """The same by columns, for tables too long for a dictionary a row. A file named .gz is unpacked."""
    return _parsed(_unpacked(read_bytes(path), path), path, columns)


def parse_csv(content: bytes, path: Path, columns: Mapping[str, Any] | None = None) -> Rows:
    """The rows of what a CSV file holds."""
    return _rows(_parsed(content, path, columns))


def _rows(columns: Columns) -> Rows:
    return [dict(zip(columns, fields, strict=True)) for fields in zip(*columns.values(), strict=True)]


def _unpacked(content: bytes, path: Path) -> bytes:
    """What a file named .gz holds, if that is one stream of so many bytes at most; of any other its content."""
    if path.suffix != ".gz":
        return content
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # with gzip's header and its checksum
    try:
        unpacked = stream.decompress(content, UNPACKED_LIMIT + 1)
    except zlib.error as error:
        raise EvidenceError(f"{path} cannot be unpacked ({error})") from None
    if len(unpacked) > UNPACKED_LIMIT:
        raise EvidenceError(f"{path} unpacks to more than {UNPACKED_LIMIT:,} bytes")
    if not stream.eof:
        raise EvidenceError(f"{path} cannot be unpacked: it is cut short")
    if stream.unused_data:
        raise EvidenceError(f"{path} goes on behind its end")
    return unpacked


def _parsed(content: bytes, path: Path, columns: Mapping[str, Any] | None) -> Columns:
    text = _text(content, path)
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(lines, [])
        if columns is not None and header != list(columns):
            raise EvidenceError(f"{path}: the header is {','.join(header)!r}, not {','.join(columns)!r}")
        if not header or len(set(header)) < len(header):
            raise EvidenceError(f"{path}: the header is {','.join(header)!r}, not names of columns")
        width, entries = len(header), []
        for fields in lines:
            if len(fields) != width:
                where = f"{path}, line {lines.line_num}"
                raise EvidenceError(f"{where}: {len(fields)} fields, not {width}; the file may be cut short")
            entries += fields  # one list: Python's collector would go through a list a row again and again
    except csv.Error as error:
        raise EvidenceError(f"{path}, line {lines.line_num}: {error}") from None
    if not text.endswith("\n"):
        raise EvidenceError(f"{path}: the last line has no end; the file is cut short")
    parsed = {name: entries[k::width] for k, name in enumerate(header)}
    for name, kind in (columns or {}).items():
        _check_column(parsed[name], name, kind, path)
    return parsed


def _check_column(entries: list[str], name: str, kind: Any, path: Path) -> None:
    """Each entry that differs from the others is looked at once: most columns hold few."""
    distinct = list(dict.fromkeys(entries))
    try:
        _adapter(list[kind]).validate_python(distinct)
    except ValidationError as error:
        wrong = distinct[error.errors(include_url=False)[0]["loc"][0]]
        where = f"{path}, line {entries.index(wrong) + 2}"
        raise EvidenceError(f"{where}: {name} is {wrong!r}, {_reason(error, place=False)}") from None


# --- Arrays ---


def read_arrays(path: Path, schema: Mapping[str, tuple[str, str]]) -> dict[str, np.ndarray]:
    """The arrays of an npz file that a schema names, of its kinds and shapes, all of them finite."""
    return parse_arrays(read_bytes(path, ARRAYS_LIMIT), path, schema)


def parse_arrays(content: bytes, path: Path, schema: Mapping[str, tuple[str, str]]) -> dict[str, np.ndarray]:
    """The arrays of what an npz file holds."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [archive.getinfo(f"{name}.npy") for name in schema]
            if sum(member.file_size for member in members) > ARRAYS_LIMIT:
                raise ValueError(f"its arrays have more than {ARRAYS_LIMIT:,} bytes")
            arrays = {name: _array(archive, member) for name, member in zip(schema, members, strict=True)}
        sizes: dict[str, int] = {}
        for name, (kinds, shape) in schema.items():
            _check_array(arrays[name], name, kinds, shape, sizes)
    except Exception as error:  # zipfile, zlib and NumPy each have their own for a damaged file
        raise EvidenceError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None
    return arrays


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array, which takes no more memory than its archive says, whatever its own header does."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is compressed as NumPy compresses nothing")
    with archive.open(member) as file:
        content = io.BytesIO(file.read(member.file_size + 1))
    if np.lib.format.read_magic(content) != (1, 0):
        raise ValueError("its header is of another version")
    shape, _, dtype = np.lib.format.read_array_header_1_0(content)
    if math.prod(shape) * dtype.itemsize != member.file_size - content.tell():
        raise ValueError("its header gives another size")
    content.seek(0)
    return np.lib.format.read_array(content, allow_pickle=False)


def _check_array(array: np.ndarray, name: str, kinds: str, shape: str, sizes: dict[str, int]) -> None:
    """Whether an array is of a kind and shape. `sizes` has what each letter stood for so far."""
    fits = array.dtype.kind in kinds and array.ndim == len(shape)
    for letter, size in zip(shape, array.shape, strict=False):
        fits &= size == (int(letter) if letter.isdigit() else sizes.setdefault(letter, size)) and size > 0
    if not fits:
        raise ValueError(f"{name} is of shape {array.shape} and type {array.dtype}, not {shape or 'one number'}")
    if kinds == "U" and str(array) not in SCALES:  # the one word in any of them
        raise ValueError(f"{name} is not one of {', '.join(SCALES)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} holds numbers that are not finite")
