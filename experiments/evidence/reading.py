"""Readers for files from others: each file is validated, or refused with a one-line error.

A run's folder may come from another machine or person, and results get merged, edited and truncated. Each reader here
limits the size, validates the content against a schema, and raises `EvidenceError` for anything else; no content can
end a program in another way. A file that is listed in a `SHA256SUMS`, beside it or one folder above, must also match
its checksum, because a CSV that was truncated at the end of a line looks complete.
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
UNPACKED_LIMIT = 2**28  # bytes that a .gz file may unpack to; the largest that ships has 13 million
CONFIG_LIMIT = 2**16
ARRAYS_LIMIT = 2**24  # bytes of an npz file, and of its unpacked arrays
YAML_DEPTH = 20
SUMS = "SHA256SUMS"
ROWS_FILE, ROWS_FILE_BEFORE = "rows.csv.gz", "rows.csv"  # results used to hold their rows uncompressed

Rows = list[dict[str, str]]
Columns = dict[str, list[str]]


class EvidenceError(ValueError):
    """A file is missing, damaged or invalid. The message is a single line, whatever the file holds."""

    def __init__(self, text: str):
        line = "".join(c if c.isprintable() else " " for c in text)
        super().__init__(line if len(line) <= 400 else f"{line[:400]} ...")


def inside(folder: Path, name: str) -> Path:
    """The path of a file that must lie in the folder itself.

    Raises:
        EvidenceError: a link leads out of the folder.
    """
    path = folder / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise EvidenceError(f"{path} leads out of its folder")
    return path


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """The content of a file, after a check of its size and of its checksum, if there is one."""
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
        if not path.is_file():  # reading a pipe would wait forever
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
    """The checksums {name: SHA-256} of a folder's files, in the format of `sha256sum`; empty if there is no list."""
    path = folder / SUMS
    if not path.exists():
        return {}
    lines = _text(_read(path, LIMIT), path).splitlines()
    parsed = [re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line) for line in lines]
    if not all(parsed):
        raise EvidenceError(f"{path}, line {parsed.index(None) + 1}: not a digest and a name")
    return {line[2]: line[1] for line in parsed}


def expected(path: Path) -> bool:
    """Whether a file exists, or should exist because the checksums beside it list it."""
    return path.exists() or path.name in read_sums(path.parent)


def rows_path(folder: Path) -> Path:
    """The file of a domain's rows: the compressed one, or the uncompressed one of older results."""
    before = not expected(folder / ROWS_FILE) and expected(folder / ROWS_FILE_BEFORE)
    return folder / (ROWS_FILE_BEFORE if before else ROWS_FILE)


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise EvidenceError(f"{path} is not text: it is damaged") from None


# --- JSON and YAML ---


def read_json(path: Path, schema: Any) -> Any:
    """The content of a JSON file, as an object of the schema."""
    return _validated(read_bytes(path), schema, path)


def read_yaml(path: Path, schema: Any) -> dict[str, Any]:
    """The content of a YAML config, validated by the schema. It must be expressible in JSON and have no aliases."""
    content = read_bytes(path, CONFIG_LIMIT)
    try:
        plain = json.loads(json.dumps(yaml.load(content, _PlainLoader), allow_nan=False))
    except Exception as error:  # YAML's own errors, and whatever its constructors raise for damaged text
        raise EvidenceError(f"{path} is no config ({type(error).__name__}: {error})") from None
    _validated(json.dumps(plain).encode(), schema, path)
    return plain


class _PlainLoader(yaml.SafeLoader):
    """Loads YAML of limited depth, without aliases: nine lines of nested ones expand to a billion entries."""

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
    """Validate a value that was read from `path` against a schema."""
    try:
        _adapter(schema).validate_python(value, strict=True)
    except ValidationError as error:
        raise EvidenceError(f"{path}: {_reason(error)}") from None


def _reason(error: ValidationError, place: bool = True) -> str:
    """The first validation error in words."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) if place else ""
    return f"{where}{': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"


# --- CSV ---


def read_csv(path: Path, columns: Mapping[str, Any] | None = None) -> Rows:
    """The rows of a CSV file. Its columns must be `columns`, {name: type}, if they are given."""
    return _rows(read_columns(path, columns))


def read_columns(path: Path, columns: Mapping[str, Any] | None = None) -> Columns:
    """A CSV file by columns, for tables too long for one dictionary per row. A .gz file is unpacked."""
    return _parsed(_unpacked(read_bytes(path), path), path, columns)


def parse_csv(content: bytes, path: Path, columns: Mapping[str, Any] | None = None) -> Rows:
    """The rows in the content of a CSV file."""
    return _rows(_parsed(content, path, columns))


def _rows(columns: Columns) -> Rows:
    return [dict(zip(columns, fields, strict=True)) for fields in zip(*columns.values(), strict=True)]


def _unpacked(content: bytes, path: Path) -> bytes:
    """The content, unpacked if the file's name ends in .gz. It must be one stream of at most UNPACKED_LIMIT bytes."""
    if path.suffix != ".gz":
        return content
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # gzip's format, with its checksum
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
            entries += fields  # one flat list: with one list per row the garbage collector would traverse them often
    except csv.Error as error:
        raise EvidenceError(f"{path}, line {lines.line_num}: {error}") from None
    if not text.endswith("\n"):
        raise EvidenceError(f"{path}: the last line has no end; the file is cut short")
    parsed = {name: entries[k::width] for k, name in enumerate(header)}
    for name, kind in (columns or {}).items():
        _check_column(parsed[name], name, kind, path)
    return parsed


def _check_column(entries: list[str], name: str, kind: Any, path: Path) -> None:
    """Validate the distinct entries of a column only, because most columns have few of them."""
    distinct = list(dict.fromkeys(entries))
    try:
        _adapter(list[kind]).validate_python(distinct)
    except ValidationError as error:
        wrong = distinct[error.errors(include_url=False)[0]["loc"][0]]
        where = f"{path}, line {entries.index(wrong) + 2}"
        raise EvidenceError(f"{where}: {name} is {wrong!r}, {_reason(error, place=False)}") from None


# --- Arrays ---


def read_arrays(path: Path, schema: Mapping[str, tuple[str, str]]) -> dict[str, np.ndarray]:
    """The arrays of an npz file that a schema names. They must have its kinds and shapes and be finite."""
    return parse_arrays(read_bytes(path, ARRAYS_LIMIT), path, schema)


def parse_arrays(content: bytes, path: Path, schema: Mapping[str, tuple[str, str]]) -> dict[str, np.ndarray]:
    """The arrays in the content of an npz file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [archive.getinfo(f"{name}.npy") for name in schema]
            if sum(member.file_size for member in members) > ARRAYS_LIMIT:
                raise ValueError(f"its arrays have more than {ARRAYS_LIMIT:,} bytes")
            arrays = {name: _array(archive, member) for name, member in zip(schema, members, strict=True)}
        sizes: dict[str, int] = {}
        for name, (kinds, shape) in schema.items():
            _check_array(arrays[name], name, kinds, shape, sizes)
    except Exception as error:  # zipfile, zlib and NumPy raise different errors for a damaged file
        raise EvidenceError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None
    return arrays


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Read one array, using no more memory than the archive states, whatever the array's own header states."""
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
    """Check an array's kind and shape. `sizes` maps each letter to its size so far."""
    fits = array.dtype.kind in kinds and array.ndim == len(shape)
    for letter, size in zip(shape, array.shape, strict=False):
        fits &= size == (int(letter) if letter.isdigit() else sizes.setdefault(letter, size)) and size > 0
    if not fits:
        raise ValueError(f"{name} is of shape {array.shape} and type {array.dtype}, not {shape or 'one number'}")
    if kinds == "U" and str(array) not in SCALES:  # the scale is the only text
        raise ValueError(f"{name} is not one of {', '.join(SCALES)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} holds numbers that are not finite")
