"""Recorded rows and surfaces: reading, checking, selecting, and statistics over seeds.

A row is one number that a run measured: `experiment,task,method,n_train,seed,step,split,metric,value,scale`. Rows are a
NumPy structured array with these fields. A cell is what differs only by seed: one task, method and training size.

An interval of a median over seeds is a 95% percentile bootstrap. It resamples from a fixed generator, so that the same
rows always give the same interval. Where there are three seeds, which no bootstrap can bear, it is Student's of a mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments.evidence.reading import EvidenceError, read_arrays, read_csv
from experiments.evidence.schemas import ROWS, SURFACE

DTYPE = np.dtype(
    [
        ("experiment", object),
        ("task", object),
        ("method", object),
        ("n_train", int),
        ("seed", int),
        ("step", int),
        ("split", object),
        ("metric", object),
        ("value", float),
        ("scale", object),
    ]
)

# Fewer seeds than this cannot bear a 95% interval: the range of n draws misses the median with probability 2^(1-n).
MIN_SEEDS = 6

# The benchmarks as figures and tables call them, in the order of the paper's table.
TASKS = {
    "ackley": "Ackley",
    "beale": "Beale",
    "booth": "Booth",
    "bukin": "Bukin N. 6",
    "mccormick": "McCormick",
    "rosenbrock": "Rosenbrock",
    "styblinski_tang": "Styblinski-Tang",
}
METHODS = {
    "value": "value only",
    "sobolev": "Sobolev",
    "sobolev_2": "Sobolev, 2nd order",
    "derivative": "derivatives only",
    "sobolev_light": "Sobolev, a tenth of the weight",
    "sobolev_norm": "Sobolev, norm not squared",
    "sobolev_norm_light": "Sobolev, norm not squared, a tenth of the weight",
    "relu": "ReLU",
    "softplus": "softplus",
}


def read_rows(path: Path) -> np.ndarray:
    """Read and check one CSV of rows.

    Raises:
        EvidenceError: the file is missing, cut or not text, its header differs, a field is not of its kind, a row
            occurs twice, or one cell mixes scales.
    """
    if not path.is_file():
        raise EvidenceError(f"no rows at {path}: `make quickstart` makes reduced ones, `make help` lists the rest")
    read = read_csv(path, ROWS)
    rows = np.empty(len(read), DTYPE)
    for name in DTYPE.names:
        number = {"O": str, "i": int, "f": float}[DTYPE[name].kind]
        rows[name] = [number(row[name]) for row in read]
    _check(rows, path)
    return rows


def _check(rows: np.ndarray, path: Path) -> None:
    seen, scales = set(), {}
    for row in rows.tolist():
        *key, _, scale = row
        cell = tuple(key[:4])
        if tuple(key) in seen:
            raise EvidenceError(f"{path}: {' '.join(map(str, key))} occurs twice")
        if scales.setdefault(cell, scale) != scale:
            raise EvidenceError(f"{path}: {' '.join(map(str, cell))} mixes rows of paper and of reduced scale")
        seen.add(tuple(key))


def select(rows: np.ndarray, **equal: Any) -> np.ndarray:
    """The rows whose columns equal what is asked: ``select(rows, task="booth", n_train=20)``."""
    keep = np.ones(len(rows), dtype=bool)
    for column, wanted in equal.items():
        keep &= rows[column] == wanted
    return rows[keep]


def levels(rows: np.ndarray, column: str) -> list:
    """The distinct entries of a column: tasks and methods in their printed order, all else sorted."""
    return in_order(column, rows[column].tolist())


def in_order(column: str, entries: Iterable) -> list:
    """Distinct entries of a column, sorted as `levels` does."""
    order = {"task": list(TASKS), "method": list(METHODS)}.get(column, [])
    return sorted(set(entries), key=lambda level: (order.index(level) if level in order else 99, level))


def scale_of(rows: np.ndarray) -> str:
    """`paper` if every row is of the paper's scale; one reduced row makes it `reduced`."""
    return "paper" if len(rows) and (rows["scale"] == "paper").all() else "reduced"


def curve(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The learning curves of one cell, split and metric: steps (T,), and values (T, S) of the seeds that have all."""
    steps = np.unique(rows["step"])
    complete = [seed for seed in np.unique(rows["seed"]) if (rows["seed"] == seed).sum() == len(steps)]
    per_seed = [np.sort(rows[rows["seed"] == seed], order="step")["value"] for seed in complete]
    return steps, np.stack(per_seed, axis=1) if per_seed else np.empty((len(steps), 0))


def loss_curve(rows: np.ndarray, **cell: Any) -> tuple[np.ndarray, np.ndarray]:
    """The Sobolev loss on the training points, over the one where descent on it began: steps (T,), values (T, S)."""
    value, gradient = (select(rows, split="train", metric=term, **cell) for term in ("value_loss", "gradient_loss"))
    steps, value_TS = curve(value)
    loss_TS = value_TS + curve(gradient)[1]
    return steps, loss_TS / loss_TS[:1]


def final(rows: np.ndarray, **cell: Any) -> dict[int, float]:
    """The value of each seed at the end of training: {seed: value}, for rows that select one cell, split and metric."""
    rows = select(rows, **cell)
    if not len(rows):
        return {}
    last = rows[rows["step"] == rows["step"].max()]
    return dict(zip(last["seed"].tolist(), last["value"].tolist(), strict=True))


class Interval(NamedTuple):
    """A median over n seeds and its 95% interval. The ends are NaN where there are fewer than two seeds."""

    median: float
    low: float
    high: float
    n: int


def median_interval(values: Iterable[float]) -> Interval:
    """The median of the values with its 95% percentile-bootstrap interval (fixed generator)."""
    values = np.asarray(list(values), dtype=float)
    if len(values) < 2:
        return Interval(float(np.median(values)) if len(values) else np.nan, np.nan, np.nan, len(values))
    interval = stats.bootstrap(
        (values,), np.median, n_resamples=4999, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return Interval(float(np.median(values)), float(interval.low), float(interval.high), len(values))


class Estimate(NamedTuple):
    """A number and its 95% interval, of n seeds. The ends are NaN where there are fewer than two."""

    value: float
    low: float
    high: float
    n: int


def mean_estimate(values: Iterable[float]) -> Estimate:
    """The mean of the values with Student's 95% interval: mean +- t(0.975; n - 1) std / sqrt(n)."""
    values = np.asarray(list(values), dtype=float)
    if len(values) < 2:
        return Estimate(float(values[0]) if len(values) else np.nan, np.nan, np.nan, len(values))
    mean = float(values.mean())
    reach = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - reach, mean + reach, len(values))


def log_ratio(numerator: dict[int, float], denominator: dict[int, float]) -> Interval:
    """Median over seeds of log10(numerator / denominator), paired by seed."""
    seeds = sorted(numerator.keys() & denominator.keys())
    return median_interval(np.log10(numerator[seed] / denominator[seed]) for seed in seeds)


@dataclass(frozen=True)
class Surface:
    """A trained model and its target on a grid over the domain. G: points a side of the grid.

    Attributes:
        x_GG2: The grid.
        value_GG: The model's values, of the seed whose final test MSE is the median.
        gradient_GG2: The model's gradients.
        target_value_GG: The target's values.
        target_gradient_GG2: The target's gradients.
        x_train_P2: Training points, 100 at most.
        seed: The seed of the model.
        scale: `paper` or `reduced`.
    """

    x_GG2: np.ndarray
    value_GG: np.ndarray
    gradient_GG2: np.ndarray
    target_value_GG: np.ndarray
    target_gradient_GG2: np.ndarray
    x_train_P2: np.ndarray
    seed: int
    scale: str

    @property
    def target_variance(self) -> float:
        """Variance of the target over its domain, under the uniform density (Simpson's rule: G is odd)."""
        along = [np.where(np.arange(points) % 2, 4.0, 2.0) for points in self.target_value_GG.shape]
        for weights in along:
            weights[[0, -1]] = 1
        weights = np.outer(*along)
        mean = np.average(self.target_value_GG, weights=weights)
        return float(np.average((self.target_value_GG - mean) ** 2, weights=weights))


Surfaces = dict[tuple[str, str, str, int], Surface]  # (experiment, task, method, n_train)


def read_surfaces(folder: Path, rows: np.ndarray) -> Surfaces:
    """Read the `<experiment>_<task>_<method>_<n_train>.npz` of every cell of the rows; none if the folder is missing.

    Raises:
        EvidenceError: a file that is of none of the cells, or an array that is missing or damaged.
    """
    cells = set(rows[["experiment", "task", "method", "n_train"]].tolist())
    cell_of = {"_".join(map(str, cell)): cell for cell in sorted(cells)}
    surfaces: Surfaces = {}
    for path in sorted(folder.glob("*.npz")):
        if path.stem not in cell_of:
            raise EvidenceError(f"{path}: there are no rows of an <experiment>_<task>_<method>_<n_train> of this name")
        arrays = read_arrays(path, SURFACE)
        surfaces[cell_of[path.stem]] = Surface(
            x_GG2=arrays["x"],
            value_GG=arrays["value"],
            gradient_GG2=arrays["gradient"],
            target_value_GG=arrays["target_value"],
            target_gradient_GG2=arrays["target_gradient"],
            x_train_P2=arrays["x_train"],
            seed=int(arrays["seed"]),
            scale=str(arrays["scale"]),
        )
    return surfaces
