"""Samples in a file of one's own: values and derivatives, read and refused in one line.

Shape suffixes: N samples, I inputs, O outputs.

A .npz file holds

    x     (N, I)                    inputs, all finite
    y     (N,) or (N, O)            values
    dy    (N, I) or (N, O, I)       derivatives dy[n, o, i] = d y_o / d x_i at sample n; may be left out

and a .csv file named columns: `dy/dx1` is the derivative of column y by column x1. Outputs are the columns y, y1, y2,
... and those that such a column is a derivative of; all others are inputs. NaN (in a CSV also an empty cell) stands
for a value or derivative that is not known.
"""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.runner.errors import BadInput
from experiments.runner.settings import located

SPLITS = ("train", "validation", "test")
FEWEST = {"train": 4, "validation": 2, "test": 2}  # samples of a part
DERIVATIVE = re.compile(r"d(?P<output>.+)/d(?P<input>.+)")
EXPECTED = "expected x (N, I), y (N,) or (N, O), and dy (N, I) or (N, O, I)"


class Samples(NamedTuple):
    """Samples in float64, NaN where a number is not known."""

    x: np.ndarray  # (N, I)
    y: np.ndarray  # (N, O)
    dy: np.ndarray  # (N, O, I)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def at(self, index: np.ndarray | slice) -> Samples:
        """Some of the samples."""
        return self._replace(x=self.x[index], y=self.y[index], dy=self.dy[index])

    @property
    def has_derivatives(self) -> bool:
        return bool(np.isfinite(self.dy).any())


def read(path: str, outputs: tuple[str, ...] = ()) -> Samples:
    """The samples of a file.

    Args:
        path: a .npz or .csv file.
        outputs: the columns of a CSV that are outputs; by default, those that the convention above names.

    Raises:
        BadInput: there is no such file, or what it holds is not what is expected.
    """
    if not path:
        raise BadInput("dataset.path is empty: name a .npz or .csv file with your samples (docs/surrogates.md)")
    file = located(path)
    try:
        status = file.stat()
        if not file.is_file():
            raise OSError(0, "not a file")
        return _read(file, status.st_mtime_ns, status.st_size, outputs)
    except (OSError, ValueError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"dataset.path={path} cannot be read: {reason}") from None


@lru_cache(maxsize=4)  # a sweep composes many configs that name one file
def _read(path: Path, _mtime: int, _size: int, outputs: tuple[str, ...]) -> Samples:
    if path.suffix == ".npz":
        if outputs:
            raise BadInput(f"dataset.outputs={[*outputs]} names columns of a CSV, and {path} has none")
        samples = _read_npz(path)
    elif path.suffix == ".csv":
        samples = _read_csv(path, outputs)
    else:
        raise BadInput(f"dataset.path={path}: expected a .npz or .csv file")
    _check_numbers(samples, path)
    return samples


def _read_npz(path: Path) -> Samples:
    found = {}
    # NumPy would take an array or a pickle for a .npz by its first bytes, and leaves a damaged file open.
    with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
        for name in ("x", "y", "dy"):
            if name in arrays.files:
                try:
                    found[name] = arrays[name]
                except ValueError:  # pickled
                    raise BadInput(f"{path}: {name} holds Python objects: {EXPECTED}, of numbers") from None
                if found[name].dtype.kind not in "fiu":
                    raise BadInput(f"{path}: {name} holds {found[name].dtype}: {EXPECTED}, of real numbers")
            elif name != "dy":
                raise BadInput(f"{path} has no {name}, but {', '.join(arrays.files) or 'nothing'}: {EXPECTED}")
    x, y = (found[name].astype(np.float64) for name in ("x", "y"))
    if x.ndim != 2 or not x.shape[1]:
        raise BadInput(f"{path}: x is {x.shape}: expected (N, I), a row a sample, also for one input")
    if y.ndim not in (1, 2) or len(y) != len(x) or not y.size:
        raise BadInput(f"{path}: y is {y.shape} with x {x.shape}: expected ({len(x)},) or ({len(x)}, O)")
    y = y.reshape(len(y), -1)
    inputs, outputs = (
        tuple(f"{letter}{k}" for k in range(1, count + 1)) for letter, count in (("x", x.shape[1]), ("y", y.shape[1]))
    )
    dy = _shaped(found["dy"], x.shape, y.shape, path) if "dy" in found else np.full((*y.shape, x.shape[1]), np.nan)
    return Samples(x, y, dy.astype(np.float64), inputs, outputs if y.shape[1] > 1 else ("y",))


def _shaped(dy: np.ndarray, x_shape: Sequence[int], y_shape: Sequence[int], path: Path) -> np.ndarray:
    """Derivatives (N, O, I)."""
    (n, n_inputs), n_outputs = x_shape, y_shape[1]
    if dy.shape == (n, n_outputs, n_inputs):
        return dy
    if n_outputs == 1 and dy.shape == (n, n_inputs):
        return dy[:, None]
    said = f"{path}: dy is {dy.shape}: expected {(n, n_outputs, n_inputs)}, dy[n, o, i] = d y_o / d x_i"
    if dy.shape == (n, n_inputs, n_outputs):
        raise BadInput(f"{said}; its axes are swapped: save dy.swapaxes(1, 2)")
    raise BadInput(f"{said}{f', or {(n, n_inputs)}' if n_outputs == 1 else ''}")


def _read_csv(path: Path, asked: tuple[str, ...]) -> Samples:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        header = [name.strip() for name in next(lines, [])]
        rows = [row for row in lines if row]
    if repeated := {name for name in header if header.count(name) > 1}:
        raise BadInput(f"{path} has the column {min(repeated)} twice")
    inputs, outputs, derivatives = columns(header, asked, path)
    try:
        numbers = np.array([[float(cell.strip() or "nan") for cell in row] for row in rows], dtype=np.float64)
    except ValueError:
        numbers = None
    if numbers is None or numbers.ndim != 2 or numbers.shape[1] != len(header):
        raise BadInput(f"{path}, line {_bad_line(rows, len(header))}: expected {len(header)} numbers, as in its header")
    at = {name: numbers[:, k] for k, name in enumerate(header)}
    x, y = (np.stack([at[name] for name in names], 1) for names in (inputs, outputs))
    known = [at[name] if derivatives else np.full(len(x), np.nan) for name in _names_of_derivatives(outputs, inputs)]
    return Samples(x, y, np.stack(known, 1).reshape(len(x), len(outputs), len(inputs)), inputs, outputs)


def columns(header: Sequence[str], asked: Sequence[str], path: Path) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """The inputs, the outputs, and whether there are derivatives: then there is one of each output by each input.

    Raises:
        BadInput: a column is missing, or its name cannot be told.
    """
    found = {name: match for name in header if (match := DERIVATIVE.fullmatch(name))}
    derived = {match["output"] for match in found.values()}
    plain = [name for name in header if name not in found]
    outputs = tuple(
        name for name in plain if (name in asked if asked else re.fullmatch(r"y\d*", name) or name in derived)
    )
    inputs = tuple(name for name in plain if name not in outputs)
    named = ", ".join(header) or "nothing"
    if missing := [name for name in asked if name not in plain]:
        raise BadInput(f"{path} has no column {missing[0]}, which dataset.outputs names, but {named}")
    if not outputs or not inputs:
        which = "output" if not outputs else "input"
        raise BadInput(
            f"{path} has no {which} among {named}: name columns as x1,x2,y,dy/dx1,dy/dx2 or set dataset.outputs"
        )
    for name, match in found.items():
        for role, names in (("output", outputs), ("input", inputs)):
            if match[role] not in names:
                raise BadInput(
                    f"{path}: the column {name} is a derivative, but {match[role]} is no {role} of its header"
                )
    if found and (missing := [name for name in _names_of_derivatives(outputs, inputs) if name not in found]):
        raise BadInput(f"{path} has no column {missing[0]}: where it is not known, leave its cells empty")
    return inputs, outputs, bool(found)


def _names_of_derivatives(outputs: Sequence[str], inputs: Sequence[str]) -> list[str]:
    return [f"d{output}/d{name}" for output, name in product(outputs, inputs)]


def _bad_line(rows: list[list[str]], width: int) -> int:
    """The number of the first line that does not hold `width` numbers. The header is line 1."""

    def fits(row: list[str]) -> bool:
        try:
            return len([float(cell.strip() or "nan") for cell in row]) == width
        except ValueError:
            return False

    return next((number for number, row in enumerate(rows, 2) if not fits(row)), 2)


def _check_numbers(samples: Samples, path: Path) -> None:
    """Refuse numbers that nothing can be learned from."""
    x, y, dy = samples.x, samples.y, samples.dy
    if not len(x):
        raise BadInput(f"{path} has no samples")
    if (bad := ~np.isfinite(x)).any():
        sample, column = np.argwhere(bad)[0]
        name = samples.inputs[column]
        raise BadInput(f"{path}: {name} is {x[sample, column]} at sample {sample}: inputs must be known and finite")
    for name, array in (("y", y), ("dy", dy)):
        if (bad := np.isinf(array)).any():
            sample = np.argwhere(bad)[0][0]
            raise BadInput(f"{path}: {name} is infinite at sample {sample}: what is not known is NaN")
    for names, array in ((samples.inputs, x), (samples.outputs, y)):
        for column, name in enumerate(names):
            known = array[:, column][np.isfinite(array[:, column])]
            if not len(known) or known.min() == known.max():
                said = "known nowhere" if not len(known) else "the same at all samples"
                raise BadInput(f"{path}: {name} is {said}: leave it out")


def sizes(n: int, parts: Sequence[float]) -> tuple[int, int, int]:
    """How many of n samples train, validate and test."""
    validation, test = (round(part * n) for part in parts[1:])
    return n - validation - test, validation, test


def split(samples: Samples, parts: Sequence[float], seed: int, where: str) -> dict[str, Samples]:
    """The samples, shuffled by the seed, in three parts.

    Raises:
        BadInput: there are too few.
    """
    counts = sizes(len(samples.x), parts)
    for (name, fewest), count in zip(FEWEST.items(), counts, strict=True):
        if count < fewest:
            said = f"{where} has {len(samples.x)} samples, of which {count} would be the {name} part"
            raise BadInput(f"{said}: {fewest} or more are needed")
    order = np.random.default_rng(seed).permutation(len(samples.x))
    found = np.split(order, np.cumsum(counts)[:2])
    return {name: samples.at(index) for name, index in zip(SPLITS, found, strict=True)}
