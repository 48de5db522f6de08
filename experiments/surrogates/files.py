"""Read a user's own file of samples, values and derivatives, with one-line errors.

Shape suffixes: N samples, I inputs, O outputs.

A .npz file holds

    x     (N, I)                    inputs, all finite
    y     (N,) or (N, O)            values
    dy    (N, I) or (N, O, I)       derivatives dy[n, o, i] = d y_o / d x_i at sample n; optional

A .csv file has named columns: `dy/dx1` is the derivative of column y by column x1. Outputs are the columns y, y1, y2,
... and those that have such a derivative column; all others are inputs. NaN (in a CSV also an empty cell) marks an
unknown value or derivative.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.runner.errors import BadInput
from experiments.runner.settings import located, version_of
from experiments.surrogates.csv_files import read_csv

SPLITS = ("train", "validation", "test")
FEWEST = {"train": 4, "validation": 2, "test": 2}  # the least number of samples
LARGEST = 1e100  # sums of squares of such numbers do not overflow float64
EXPECTED = "expected x (N, I), y (N,) or (N, O), and dy (N, I) or (N, O, I)"


class Samples(NamedTuple):
    """Samples in float64, with NaN for unknown numbers."""

    x: np.ndarray  # (N, I)
    y: np.ndarray  # (N, O)
    dy: np.ndarray  # (N, O, I)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def at(self, index: np.ndarray | slice) -> Samples:
        """The samples at these indices."""
        return self._replace(x=self.x[index], y=self.y[index], dy=self.dy[index])

    @property
    def has_derivatives(self) -> bool:
        return bool(np.isfinite(self.dy).any())


def read(path: str, outputs: tuple[str, ...] = ()) -> Samples:
    """The samples of a file.

    Args:
        path: A .npz or .csv file.
        outputs: The columns of a CSV that are outputs; by default they follow from the naming convention above.

    Raises:
        BadInput: there is no such file, or its content is not as expected.
    """
    if not path:
        raise BadInput("dataset.path is empty: name a .npz or .csv file with your samples (docs/surrogates.md)")
    file = located(path)
    try:
        version = version_of(file)
        if not file.is_file():
            raise OSError(0, "not a file")
        return _read(file, version, outputs)
    except (OSError, ValueError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"dataset.path={path} cannot be read: {reason}") from None


@lru_cache(maxsize=4)  # a sweep composes many configs that name one file
def _read(path: Path, _version: tuple[int, ...], outputs: tuple[str, ...]) -> Samples:
    if path.suffix == ".npz":
        if outputs:
            raise BadInput(f"dataset.outputs={[*outputs]} names columns of a CSV, and {path} has none")
        samples = _read_npz(path)
    elif path.suffix == ".csv":
        samples = Samples(*read_csv(path, outputs))
    else:
        raise BadInput(f"dataset.path={path}: expected a .npz or .csv file")
    _check_numbers(samples, path)
    return samples


def _read_npz(path: Path) -> Samples:
    found = {}
    # np.load would accept an array or a pickle, judging by the first bytes, and leaves a damaged file open.
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
    """The derivatives in the shape (N, O, I)."""
    (n, n_inputs), n_outputs = x_shape, y_shape[1]
    if dy.shape == (n, n_outputs, n_inputs):
        return dy
    if n_outputs == 1 and dy.shape == (n, n_inputs):
        return dy[:, None]
    said = f"{path}: dy is {dy.shape}: expected {(n, n_outputs, n_inputs)}, dy[n, o, i] = d y_o / d x_i"
    if dy.shape == (n, n_inputs, n_outputs):
        raise BadInput(f"{said}; its axes are swapped: save dy.swapaxes(1, 2)")
    raise BadInput(f"{said}{f', or {(n, n_inputs)}' if n_outputs == 1 else ''}")


def _check_numbers(samples: Samples, path: Path) -> None:
    """Refuse numbers from which nothing can be learned."""
    x, y, dy = samples.x, samples.y, samples.dy
    if len(x) < 2:
        raise BadInput(f"{path} has {_counted(len(x))}: too few to learn from")
    if (bad := ~np.isfinite(x)).any():
        sample, column = np.argwhere(bad)[0]
        name = samples.inputs[column]
        raise BadInput(f"{path}: {name} is {x[sample, column]} at sample {sample}: inputs must be known and finite")
    for name, array in (("y", y), ("dy", dy)):
        if (bad := np.isinf(array)).any():
            sample = np.argwhere(bad)[0][0]
            raise BadInput(f"{path}: {name} is infinite at sample {sample}: what is not known is NaN")
    for name, array in (("x", x), ("y", y), ("dy", dy)):
        if (bad := np.abs(array) > LARGEST).any():
            sample = np.argwhere(bad)[0][0]
            raise BadInput(f"{path}: {name} is beyond {LARGEST:g} at sample {sample}: give it in larger units")
    for names, array in ((samples.inputs, x), (samples.outputs, y)):
        for column, name in enumerate(names):
            if said := _unvarying(array[:, column][np.isfinite(array[:, column])]):
                raise BadInput(f"{path}: {name} is {said}")


def _unvarying(known: np.ndarray) -> str:
    """Why a column cannot be scaled by its standard deviation; empty if it can."""
    if not len(known):
        return "known nowhere: leave it out"
    if known.min() == known.max():
        return "the same at all samples: leave it out"
    if np.ptp(known) < 1 / LARGEST:
        return f"the same at all samples but for {np.ptp(known):.0e}: give it in smaller units"
    if known.std() <= math.sqrt(len(known)) * np.finfo(np.float64).eps * abs(known.mean()):
        return "the same at all samples but for rounding: leave it out, or take off a constant before it is saved"
    return ""


def _counted(n: int) -> str:
    return "1 sample" if n == 1 else f"{n or 'no'} samples"


def sizes(n: int, parts: Sequence[float]) -> tuple[int, int, int]:
    """How many of n samples are for training, validation and test."""
    validation, test = (round(part * n) for part in parts[1:])
    return n - validation - test, validation, test


def split(samples: Samples, parts: Sequence[float], seed: int, where: str) -> dict[str, Samples]:
    """The samples, shuffled with the seed and split into three parts.

    Raises:
        BadInput: there are too few samples.
    """
    counts = sizes(len(samples.x), parts)
    for (name, fewest), count in zip(FEWEST.items(), counts, strict=True):
        if count < fewest:
            said = f"{where} has {_counted(len(samples.x))}, of which {count} would be the {name} part"
            raise BadInput(f"{said}: {fewest} or more are needed")
    order = np.random.default_rng(seed).permutation(len(samples.x))
    found = np.split(order, np.cumsum(counts)[:2])
    return {name: samples.at(index) for name, index in zip(SPLITS, found, strict=True)}
