"""The files of a recording, `header.json` and shards, read without trusting their content.

A shard is a compressed NumPy file with `SHARD_ARRAYS` of up to `SHARD_STEPS` steps; all but the last are full. Any
problem with a file is a ValueError that names it.

Shape suffixes: T steps, N environments.
"""

from __future__ import annotations

import json
import os
import stat
import zipfile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from sobolev.atari.environments import AtariOptions
from sobolev.files import sha256
from sobolev.networks.atari_policies import FRAME

FORMAT = "sobolev recorded states 1"
SHARD_STEPS = 500  # in each environment
SHARD_ARRAYS = {  # the type of each array, and its shape after (T, N)
    "frames": (np.uint8, (FRAME, FRAME)),
    "actions": (np.uint8, ()),
    "alive": (np.bool_, ()),
    "rewards": (np.int32, ()),
}
HEADER_BYTES = 1 << 20  # the largest header, enough for 10,000 shards
HEADER = {  # its fields and their types
    "format": str,
    "teacher": str,
    "options": dict,
    "states": int,
    "environments": int,
    "seed": int,
    "ale_py": str,
    "shards": dict,
}
DEVICE = {"device": "cpu"}  # a field that is omitted if the teacher computed on the CPU


def read_header(file: Path) -> dict[str, Any]:
    """A recording's header, after a check that all fields exist, with the right types and ranges."""
    if not os.path.lexists(file):
        raise ValueError(f"{file.parent} holds no complete recording: it has no {file.name}")
    _check_regular(file, HEADER_BYTES)
    try:
        header = json.loads(file.read_bytes())
        if not isinstance(header, dict) or set(header := DEVICE | header) != {*HEADER, *DEVICE}:
            raise ValueError(f"expected {', '.join(HEADER)}")
        for key, kind in (HEADER | {"device": str}).items():
            if type(header[key]) is not kind:
                raise ValueError(f"{key} is {header[key]!r:.100}, expected {kind.__name__}")
        if header["format"] != FORMAT:
            raise ValueError(f"format is {header['format']!r:.100}, expected {FORMAT!r}")
        AtariOptions.parse(header["options"])
        if min(header["states"], header["environments"], len(header["shards"])) < 1:
            raise ValueError("states, environments and shards must be 1 or more")
        if [*header["shards"]] != [shard_name(i) for i in range(len(header["shards"]))]:
            raise ValueError(f"shards must be {shard_name(0)} and on, without a gap")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no header of a recording ({error})") from None
    return header


def checked_files(path: Path, header: dict[str, Any]) -> list[Path]:
    """The shards that a recording's header names, after a check that each exists and has its checksum."""
    files = [path / name for name in header["shards"]]
    for file, checksum in zip(files, header["shards"].values(), strict=True):
        if not file.exists():
            raise ValueError(f"{file} is missing: remove {path} to record it again")
        _check_regular(file, _most_bytes(header["environments"]))
        if sha256(file) != checksum:
            raise ValueError(f"{file} is not what was recorded: remove {path} to record it again")
    return files


def read_shard(file: Path, description: dict[str, Any], *names: str) -> dict[str, np.ndarray]:
    """The named arrays (T, N, ...) of a shard, by default all, checked against the recording's description."""
    n, n_actions = description["environments"], len(description["options"]["actions"])
    _check_regular(file, _most_bytes(n))
    try:
        with zipfile.ZipFile(file) as archive:
            shard = {name: _read_array(archive, name, n) for name in names or SHARD_ARRAYS}
        if len({len(array) for array in shard.values()}) > 1:
            raise ValueError("its arrays have different numbers of steps")
        if "actions" in shard and (largest := shard["actions"].max()) >= n_actions:
            raise ValueError(f"an action is {largest}, expected 0 to {n_actions - 1}")
        if "alive" in shard and shard["alive"].view(np.uint8).max() > 1:
            raise ValueError("alive has bytes that are neither 0 nor 1")
    except Exception as error:  # zipfile and zlib raise many kinds, and each means that this file is bad
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is no shard of this recording ({reason}): remove it") from None
    return shard


def _read_array(archive: zipfile.ZipFile, name: str, n: int) -> np.ndarray:
    """Read an array of a shard. Its NumPy header is checked first, so that memory is bounded."""
    dtype, shape = SHARD_ARRAYS[name]
    with archive.open(f"{name}.npy") as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{name} is not in version 1.0 of NumPy's format")
        found, fortran_order, found_dtype = np.lib.format.read_array_header_1_0(stream)
        if (found[1:], found_dtype, fortran_order) != ((n, *shape), dtype, False) or not 1 <= found[0] <= SHARD_STEPS:
            expected = f"{np.dtype(dtype)} ({', '.join(map(str, ('T', n, *shape)))}) with T from 1 to {SHARD_STEPS}"
            raise ValueError(f"{name} is {found_dtype} {found}, expected {expected}")
        size = prod(found) * found_dtype.itemsize
        content = stream.read(size + 1)  # to the end, where zipfile compares its checksum
    if len(content) != size:
        raise ValueError(f"{name} is not as long as it says")
    return np.frombuffer(content, dtype).reshape(found)


def shard_name(index: int) -> str:
    """The name of shard number `index`, from 0."""
    return f"shard_{index:03}.npz"


def _most_bytes(n: int) -> int:
    """The largest file that may be a shard of n environments.

    It is twice the size of the arrays, because incompressible data become slightly larger.
    """
    return 2 * SHARD_STEPS * n * sum(np.dtype(dtype).itemsize * prod(shape) for dtype, shape in SHARD_ARRAYS.values())


def _check_regular(file: Path, limit: int) -> None:
    """Refuse links, which may lead anywhere, pipes and devices, which may never end, and files that are too large."""
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{file} is no regular file: remove it")
    if status.st_size > limit:
        raise ValueError(f"{file} has {status.st_size:,} bytes, expected {limit:,} at most: remove it")
