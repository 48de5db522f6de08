"""The final test errors of regression: medians over seeds with 95% intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.evidence.markdown import format_interval, markdown
from experiments.evidence.names import in_order
from experiments.evidence.reading import rows_path
from experiments.evidence.rows import (
    Interval,
    curve,
    final,
    groups,
    median_interval,
    read_rows,
    select,
)
from experiments.regression.choosing import LIMITS, SEARCH
from experiments.regression.names import METHODS, METRICS, TASKS


class Entry(NamedTuple):
    """The final test error of one cell over its seeds."""

    experiment: str
    task: str
    method: str
    n_train: int
    metric: str
    median: float
    low: float
    high: float
    seeds: int
    step: int
    scale: str


def final_errors(rows: pd.DataFrame) -> list[Entry]:
    """One entry for each experiment, function, training size, method and metric that the rows hold."""
    entries = []
    for (experiment, task, n_train, method), of_cell in groups(
        select(rows, split="test"), "experiment", "task", "n_train", "method"
    ):
        for metric in METRICS:
            cell = select(of_cell, metric=metric)
            if len(cell):
                interval = median_interval(final(cell).values())
                step, scale = int(cell["step"].max()), cell["scale"].iloc[0]
                entries.append(Entry(experiment, task, method, n_train, metric, *interval, step, scale))
    return entries


def errors_table(entries: Iterable[Entry]) -> str:
    """The entries of one experiment as Markdown: one row per function and size, one column per metric and method."""
    entry_of = {(e.task, e.n_train, e.metric, e.method): e for e in entries}
    methods = in_order("method", (key[3] for key in entry_of))
    columns = [(metric, m) for metric in METRICS for m in methods if any(key[2:] == (metric, m) for key in entry_of)]
    names = (f"{METRICS[metric]}: {METHODS.get(m, m)}" for metric, m in columns)
    header = ["function", "points", *names, "seeds", "scale"]
    lines = []
    for task, n_train in dict.fromkeys(key[:2] for key in entry_of):
        found = [entry_of.get((task, n_train, *column)) for column in columns]
        present = [entry for entry in found if entry is not None]
        lines.append(
            [
                TASKS.get(task, task),
                f"{n_train:,}",
                *("-" if e is None else format_interval(Interval(e.median, e.low, e.high, e.seeds)) for e in found),
                "/".join(str(n) for n in sorted({entry.seeds for entry in present})),
                "/".join(sorted({entry.scale for entry in present})),
            ]
        )
    return markdown(header, lines)


class Convergence(NamedTuple):
    """How much the median test error of a cell changed over the last part of training."""

    from_step: int
    to_step: int
    change: float  # relative: -0.1 means 10% smaller at the end


def convergence(cell: pd.DataFrame) -> Convergence:
    """Relative change of the median over seeds from the last evaluation in the first half of training to the end.

    The rows must be of one experiment, task, method, size, split and metric. The change is NaN if only one evaluation
    was recorded.
    """
    steps, values_TS = curve(cell)
    half = max(0, np.searchsorted(steps, steps[-1] / 2, side="right") - 1)
    before, after = np.median(values_TS[half]), np.median(values_TS[-1])
    change = after / before - 1 if half < len(steps) - 1 else np.nan
    return Convergence(int(steps[half]), int(steps[-1]), float(change))


def tables(results: Path) -> Iterator[tuple[str, str, list[Entry]]]:
    """The tables of each experiment: (file name, Markdown, entries).

    Raises:
        EvidenceError: there are no rows, or they are damaged.
    """
    entries = final_errors(read_rows(rows_path(results / "regression")))
    for experiment in dict.fromkeys(entry.experiment for entry in entries if entry.experiment not in (SEARCH, LIMITS)):
        of_experiment = [entry for entry in entries if entry.experiment == experiment]
        yield experiment, errors_table(of_experiment), of_experiment
