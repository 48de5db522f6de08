"""Recorded rows and surfaces: reading, checking, selecting, and statistics over seeds.

A row is one number that a run measured: `experiment,task,method,n_train,seed,step,split,metric,value,scale`. Rows are a
pandas DataFrame with these columns. A cell is one experiment, task, method and training size; its rows differ by seed.

Text columns are categories, which pandas compares and groups as integers. Code that needs many cells gets them in one
pass over the rows (`groups`, `finals`) instead of one `select` per cell.

The interval of a median over seeds is a 95% percentile bootstrap with a fixed generator, so that the same rows always
give the same interval. With seven seeds or fewer a bootstrap interval is too narrow (with seven it covers the median in
87% of trials). There the interval is the range of the seeds, which is exact: 96.9% with six. Three seeds suffice for
neither; their mean has a Student's t interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import JsonValue
from scipy import stats

from experiments.evidence.names import in_order, place
from experiments.evidence.reading import EvidenceError, expected, read_arrays, read_columns, read_json, rows_path
from experiments.evidence.schemas import CELL, ROWS, SURFACE, Settings

TYPES = dict.fromkeys(ROWS, "category") | dict.fromkeys(("n_train", "seed", "step"), "int64") | {"value": "float64"}

# The least number of seeds for a 95% interval: the range of n draws misses the median with probability 2^(1-n).
MIN_SEEDS = 6
MIN_SEEDS_OF_MEAN = 3  # for Student's interval of a mean
RANGE = 7  # up to this many seeds, the interval of the median is their range


def as_rows(entries: Iterable[tuple] | Mapping[str, Iterable] | pd.DataFrame) -> pd.DataFrame:
    """Rows with typed columns, from tuples, from columns by name, or from concatenated frames."""
    return pd.DataFrame(entries, columns=list(ROWS)).astype(TYPES)


def read_rows(path: Path) -> pd.DataFrame:
    """Read and check one CSV of rows.

    Raises:
        EvidenceError: the file is missing, truncated or not text, its header differs, a field has the wrong type, a row
            occurs twice, or a cell mixes scales.
    """
    if not path.is_file():
        raise EvidenceError(f"no rows at {path}: `make quickstart` makes reduced ones, `make help` lists the rest")
    columns = read_columns(path, ROWS)
    number = {"int64": int, "float64": float}
    rows = as_rows({name: [*map(number.get(TYPES[name], str), entries)] for name, entries in columns.items()})
    _check(rows, path)
    return rows


def rows_there(folder: Path) -> pd.DataFrame:
    """The rows of a domain's results; empty if there is no file.

    Raises:
        EvidenceError: the file is damaged.
    """
    path = rows_path(folder)
    return read_rows(path) if expected(path) else as_rows([])


def _check(rows: pd.DataFrame, path: Path) -> None:
    key = [name for name in ROWS if name not in ("value", "scale")]
    twice = rows.loc[rows.duplicated(key), key]
    if len(twice):
        raise EvidenceError(f"{path}: {' '.join(map(str, twice.iloc[0]))} occurs twice")
    of_cells = rows[[*CELL, "scale"]].drop_duplicates()
    mixed = of_cells.loc[of_cells.duplicated(list(CELL)), list(CELL)]
    if len(mixed):
        raise EvidenceError(f"{path}: {' '.join(map(str, mixed.iloc[0]))} mixes rows of paper and of reduced scale")


Cell = tuple[str, str, str, int]  # (experiment, task, method, n_train)


def read_settings(path: Path) -> dict[Cell, dict[str, JsonValue]]:
    """The settings of each cell, {cell: {"optimizer.steps": 5000, ...}}, of one domain's settings.json.

    Raises:
        EvidenceError: the file is damaged.
    """
    settings = {}
    for name, of_cell in read_json(path, Settings).items():
        *words, n_train = name.split(" ")
        if len(words) != 3 or not (n_train.isascii() and n_train.isdigit()):
            raise EvidenceError(f"{path}: {name!r} is no cell")
        settings[(*words, int(n_train))] = of_cell
    return settings


def with_settings(
    rows: pd.DataFrame, settings: Mapping[Cell, Mapping[str, JsonValue]], columns: Mapping[str, tuple[str, type]]
) -> pd.DataFrame:
    """The rows with settings of their cells as additional columns, {column: (setting, type)}.

    Raises:
        EvidenceError: a cell lacks a setting, or has it with another type.
    """

    def setting(cell: Cell, name: str, kind: type) -> Any:
        value = settings.get(cell, {}).get(name)
        if type(value) is not kind:
            raise EvidenceError(f"settings.json has no {name} of type {kind.__name__} for {' '.join(map(str, cell))}")
        return value

    of_cells = rows[list(CELL)].drop_duplicates()
    cells = list(of_cells.itertuples(index=False, name=None))
    joined = {column: [setting(cell, *asked) for cell in cells] for column, asked in columns.items()}
    return rows.merge(of_cells.assign(**joined), how="left", on=list(CELL))


def select(rows: pd.DataFrame, **equal: Any) -> pd.DataFrame:
    """The rows with these values in their columns: ``select(rows, task="booth", n_train=20)``."""
    keep = np.ones(len(rows), dtype=bool)
    for column, wanted in equal.items():
        keep &= (rows[column] == wanted).to_numpy()
    return rows[keep]


def groups(rows: pd.DataFrame, *columns: str) -> list[tuple[tuple, pd.DataFrame]]:
    """The rows grouped by columns, sorted by the order of `levels`, first column first.

    ``for (task, n_train), cell in groups(rows, "task", "n_train")``
    """
    grouped = rows.groupby(list(columns), observed=True, sort=False)
    return sorted(grouped, key=lambda group: tuple(map(place, columns, group[0])))


def levels(rows: pd.DataFrame, column: str) -> list:
    """The distinct entries of a column in the order of `experiments.evidence.names`."""
    return in_order(column, rows[column].unique().tolist())


def scale_of(rows: pd.DataFrame) -> str:
    """`paper` if every row is at the paper's scale; a single reduced row makes it `reduced`."""
    return "paper" if len(rows) and (rows["scale"] == "paper").all() else "reduced"


def curve(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The learning curves of one cell, split and metric: steps (T,), and values (T, S) of seeds with every step."""
    table = rows.pivot(index="step", columns="seed", values="value").dropna(axis="columns")
    return table.index.to_numpy(), np.ascontiguousarray(table.to_numpy())


def loss_curve(rows: pd.DataFrame, **cell: Any) -> tuple[np.ndarray, np.ndarray]:
    """The Sobolev loss on the training points, relative to its initial value: steps (T,), values (T, S)."""
    value, gradient = (select(rows, split="train", metric=term, **cell) for term in ("value_loss", "gradient_loss"))
    steps, value_TS = curve(value)
    loss_TS = value_TS + curve(gradient)[1]
    return steps, loss_TS / loss_TS[:1]


BySeed = dict[int, float]


def final(rows: pd.DataFrame, **cell: Any) -> BySeed:
    """The final value of each seed, {seed: value}; the selected rows must be of one cell, split and metric."""
    rows = select(rows, **cell)
    return _by_seed(rows[rows["step"] == rows["step"].max()])


def finals(rows: pd.DataFrame, *columns: str) -> dict[tuple, BySeed]:
    """`final` for every cell at once, keyed by columns: ``finals(rows, "task", "method")["booth", "value"]``."""
    last = rows[rows["step"] == rows.groupby(list(columns), observed=True)["step"].transform("max")]
    found: dict[tuple, BySeed] = {}
    for *key, seed, value in zip(*(last[name].tolist() for name in (*columns, "seed", "value")), strict=True):
        found.setdefault(tuple(key), {})[seed] = value
    return dict(sorted(found.items(), key=lambda cell: tuple(map(place, columns, cell[0]))))


def _by_seed(rows: pd.DataFrame) -> BySeed:
    return dict(zip(rows["seed"].tolist(), rows["value"].tolist(), strict=True))


class Interval(NamedTuple):
    """A median over n seeds and its 95% interval. The ends are NaN for fewer than two seeds."""

    median: float
    low: float
    high: float
    n: int


def median_interval(values: Iterable[float]) -> Interval:
    """The median of the values with its 95% percentile-bootstrap interval (fixed generator).

    For `RANGE` values or fewer the interval is their range, which contains the median of their distribution with
    probability 1 - 2^(1 - n).
    """
    return _median_interval(tuple(map(float, values)))


@cache  # claims and tables of a report need the same intervals
def _median_interval(values: tuple[float, ...]) -> Interval:
    if len(values) < 2:
        return Interval(values[0] if values else np.nan, np.nan, np.nan, len(values))
    if len(values) <= RANGE:
        return Interval(float(np.median(values)), min(values), max(values), len(values))
    # As in `scipy.stats.bootstrap`, which would draw the samples again each time. For short rows, sorting is faster
    # than `np.median`.
    samples = np.sort(np.array(values)[_resamples(len(values))], axis=1)
    medians = samples[:, [(len(values) - 1) // 2, len(values) // 2]].mean(axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return Interval(float(np.median(values)), float(low), float(high), len(values))


@cache
def _resamples(n: int) -> np.ndarray:
    """The indices of each bootstrap sample of n values, (4999, n)."""
    return np.random.default_rng(0).integers(0, n, (4999, n))


class Estimate(NamedTuple):
    """An estimate from n seeds and its 95% interval. The ends are NaN for fewer than two seeds."""

    value: float
    low: float
    high: float
    n: int


def mean_estimate(values: Iterable[float]) -> Estimate:
    """The mean of the values with Student's t 95% interval: mean +- t(0.975; n - 1) std / sqrt(n)."""
    values = np.asarray(list(values), dtype=float)
    if len(values) < 2:
        return Estimate(float(values[0]) if len(values) else np.nan, np.nan, np.nan, len(values))
    mean = float(values.mean())
    reach = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - reach, mean + reach, len(values))


def log_ratio(numerator: BySeed, denominator: BySeed) -> Interval:
    """Median over seeds of log10(numerator / denominator), paired by seed."""
    return median_interval(seed_ratios(numerator, denominator).values())


def seed_ratios(numerator: BySeed, denominator: BySeed) -> BySeed:
    """log10(numerator / denominator) for the seeds that both have; two errors of 0 are equal."""
    tiny = np.finfo(float).tiny  # changes no other ratio
    seeds = sorted(numerator.keys() & denominator.keys())
    return {seed: float(np.log10((numerator[seed] + tiny) / (denominator[seed] + tiny))) for seed in seeds}


@dataclass(frozen=True)
class Surface:
    """A trained model and its target on a grid over the domain. G: grid points per side.

    Attributes:
        x_GG2: The grid.
        value_GG: The model's values for one seed: the run's first, or in older runs the one with the median test MSE.
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
        """Variance of the target over its domain."""
        return self._mean((self.target_value_GG - self._mean(self.target_value_GG)) ** 2)

    @property
    def mse(self) -> float:
        """Mean squared error of the model's values over the domain."""
        return self._mean((self.value_GG - self.target_value_GG) ** 2)

    def _mean(self, of_GG: np.ndarray) -> float:
        """The mean under the uniform density (Simpson's rule: G is odd)."""
        along = [np.where(np.arange(points) % 2, 4.0, 2.0) for points in of_GG.shape]
        for weights in along:
            weights[[0, -1]] = 1
        return float(np.average(of_GG, weights=np.outer(*along)))


Surfaces = dict[Cell, Surface]


def read_surfaces(folder: Path, rows: pd.DataFrame) -> Surfaces:
    """Read `<experiment>_<task>_<method>_<n_train>.npz` for the cells of the rows that have one.

    Raises:
        EvidenceError: a file belongs to none of the cells, or an array is missing or damaged.
    """
    of_cells = rows[list(CELL)].drop_duplicates()
    cell_of = {"_".join(map(str, cell)): cell for cell in sorted(of_cells.itertuples(index=False, name=None))}
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
