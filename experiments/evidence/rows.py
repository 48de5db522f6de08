"""Recorded rows and surfaces: reading, checking, selecting, and statistics over seeds.

A row is one number that a run measured: `experiment,task,method,n_train,seed,step,split,metric,value,scale`. Rows are a
pandas DataFrame with these columns. A cell is what differs only by seed: one task, method and training size.

Words are categories, which pandas compares and groups as numbers. What needs many cells takes them from one pass over
the rows (`groups`, `finals`) in place of one `select` each.

An interval of a median over seeds is a 95% percentile bootstrap. It resamples from a fixed generator, so that the same
rows always give the same interval. Of seven seeds or fewer, which a bootstrap takes to be surer than they are (of seven
it covers the median in 87% of trials), it is their whole range: an exact interval, of 96.9% with six. Where there are
three seeds, which bear neither, it is Student's of a mean.
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

# Fewer seeds than this cannot bear a 95% interval: the range of n draws misses the median with probability 2^(1-n).
MIN_SEEDS = 6
RANGE = 7  # seeds up to which an interval of their median is their range


def as_rows(entries: Iterable[tuple] | Mapping[str, Iterable] | pd.DataFrame) -> pd.DataFrame:
    """Rows with the types of their columns: of tuples, of columns by name, or of frames that were put together."""
    return pd.DataFrame(entries, columns=list(ROWS)).astype(TYPES)


def read_rows(path: Path) -> pd.DataFrame:
    """Read and check one CSV of rows.

    Raises:
        EvidenceError: the file is missing, cut or not text, its header differs, a field is not of its kind, a row
            occurs twice, or one cell mixes scales.
    """
    if not path.is_file():
        raise EvidenceError(f"no rows at {path}: `make quickstart` makes reduced ones, `make help` lists the rest")
    columns = read_columns(path, ROWS)
    number = {"int64": int, "float64": float}
    rows = as_rows({name: [*map(number.get(TYPES[name], str), entries)] for name, entries in columns.items()})
    _check(rows, path)
    return rows


def rows_there(folder: Path) -> pd.DataFrame:
    """The rows of a domain's results, none where there is no file of them.

    Raises:
        EvidenceError: they are damaged.
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
    """The rows with settings of their cells as further columns, {column: (setting, type)}.

    Raises:
        EvidenceError: the settings of a cell do not hold one, or hold it as another type.
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
    """The rows whose columns equal what is asked: ``select(rows, task="booth", n_train=20)``."""
    keep = np.ones(len(rows), dtype=bool)
    for column, wanted in equal.items():
        keep &= (rows[column] == wanted).to_numpy()
    return rows[keep]


def groups(rows: pd.DataFrame, *columns: str) -> list[tuple[tuple, pd.DataFrame]]:
    """The rows by what the columns hold, in the order of `levels`, the first column's first.

    ``for (task, n_train), cell in groups(rows, "task", "n_train")``
    """
    grouped = rows.groupby(list(columns), observed=True, sort=False)
    return sorted(grouped, key=lambda group: tuple(map(place, columns, group[0])))


def levels(rows: pd.DataFrame, column: str) -> list:
    """The distinct entries of a column in the order of `experiments.evidence.names`."""
    return in_order(column, rows[column].unique().tolist())


def scale_of(rows: pd.DataFrame) -> str:
    """`paper` if every row is of the paper's scale; one reduced row makes it `reduced`."""
    return "paper" if len(rows) and (rows["scale"] == "paper").all() else "reduced"


def curve(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The learning curves of one cell, split and metric: steps (T,), and values (T, S) of the seeds that have all."""
    table = rows.pivot(index="step", columns="seed", values="value").dropna(axis="columns")
    return table.index.to_numpy(), np.ascontiguousarray(table.to_numpy())


def loss_curve(rows: pd.DataFrame, **cell: Any) -> tuple[np.ndarray, np.ndarray]:
    """The Sobolev loss on the training points, over the one where descent on it began: steps (T,), values (T, S)."""
    value, gradient = (select(rows, split="train", metric=term, **cell) for term in ("value_loss", "gradient_loss"))
    steps, value_TS = curve(value)
    loss_TS = value_TS + curve(gradient)[1]
    return steps, loss_TS / loss_TS[:1]


BySeed = dict[int, float]


def final(rows: pd.DataFrame, **cell: Any) -> BySeed:
    """The value of each seed at the end of training: {seed: value}, for rows that select one cell, split and metric."""
    rows = select(rows, **cell)
    return _by_seed(rows[rows["step"] == rows["step"].max()])


def finals(rows: pd.DataFrame, *columns: str) -> dict[tuple, BySeed]:
    """`final` of every cell at once, by what the columns hold: ``finals(rows, "task", "method")["booth", "value"]``."""
    last = rows[rows["step"] == rows.groupby(list(columns), observed=True)["step"].transform("max")]
    found: dict[tuple, BySeed] = {}
    for *key, seed, value in zip(*(last[name].tolist() for name in (*columns, "seed", "value")), strict=True):
        found.setdefault(tuple(key), {})[seed] = value
    return dict(sorted(found.items(), key=lambda cell: tuple(map(place, columns, cell[0]))))


def _by_seed(rows: pd.DataFrame) -> BySeed:
    return dict(zip(rows["seed"].tolist(), rows["value"].tolist(), strict=True))


class Interval(NamedTuple):
    """A median over n seeds and its 95% interval. The ends are NaN where there are fewer than two seeds."""

    median: float
    low: float
    high: float
    n: int


def median_interval(values: Iterable[float]) -> Interval:
    """The median of the values with its 95% percentile-bootstrap interval (fixed generator).

    Of `RANGE` values or fewer it is their range, which contains the median of what they are drawn from with
    probability 1 - 2^(1 - n).
    """
    return _median_interval(tuple(map(float, values)))


@cache  # a report asks for the same ones in claims and tables
def _median_interval(values: tuple[float, ...]) -> Interval:
    if len(values) < 2:
        return Interval(values[0] if values else np.nan, np.nan, np.nan, len(values))
    if len(values) <= RANGE:
        return Interval(float(np.median(values)), min(values), max(values), len(values))
    # As `scipy.stats.bootstrap` has it, which would draw the same samples each time. Short rows sort sooner than
    # `np.median` selects.
    samples = np.sort(np.array(values)[_resamples(len(values))], axis=1)
    medians = samples[:, [(len(values) - 1) // 2, len(values) // 2]].mean(axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return Interval(float(np.median(values)), float(low), float(high), len(values))


@cache
def _resamples(n: int) -> np.ndarray:
    """Which of n values each bootstrap sample has, (4999, n)."""
    return np.random.default_rng(0).integers(0, n, (4999, n))


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


def log_ratio(numerator: BySeed, denominator: BySeed) -> Interval:
    """Median over seeds of log10(numerator / denominator), paired by seed."""
    seeds = sorted(numerator.keys() & denominator.keys())
    return median_interval(np.log10(numerator[seed] / denominator[seed]) for seed in seeds)


@dataclass(frozen=True)
class Surface:
    """A trained model and its target on a grid over the domain. G: points a side of the grid.

    Attributes:
        x_GG2: The grid.
        value_GG: The model's values, of one seed: the run's first, or the one of median test MSE in older runs.
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
    """Read the `<experiment>_<task>_<method>_<n_train>.npz` of every cell of the rows; none if the folder is missing.

    Raises:
        EvidenceError: a file that is of none of the cells, or an array that is missing or damaged.
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
