"""Tables from recorded rows:  python -m scripts.tables [--results results] [--out results/tables]

For each experiment, the test errors at the end of training as Markdown and as CSV: medians over seeds, each with its
95% bootstrap interval.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scripts.rows import METHODS, TASKS, Interval, RowsError, curve, final, levels, median_interval, read_rows, select

METRICS = {"value_mse": "values", "gradient_mse": "gradients", "hessian_mse": "Hessians"}


class Entry(NamedTuple):
    """The test error of one cell at the end of training, over its seeds."""

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


def final_errors(rows: np.ndarray) -> list[Entry]:
    """One entry for each experiment, function, training size, method and metric that the rows hold."""
    entries = []
    for experiment in levels(rows, "experiment"):
        of_experiment = select(rows, experiment=experiment, split="test")
        for task in levels(of_experiment, "task"):
            of_task = select(of_experiment, task=task)
            for n_train in levels(of_task, "n_train"):
                for method in levels(of_task, "method"):
                    for metric in METRICS:
                        cell = select(of_task, n_train=n_train, method=method, metric=metric)
                        if len(cell):
                            interval = median_interval(final(cell).values())
                            step, scale = int(cell["step"].max()), cell["scale"][0]
                            entries.append(Entry(experiment, task, method, n_train, metric, *interval, step, scale))
    return entries


def errors_table(entries: Iterable[Entry]) -> str:
    """The entries of one experiment as Markdown: a row a function and size, a column a metric and method."""
    cells = {(e.task, e.n_train, e.metric, e.method): e for e in entries}
    columns = [(metric, m) for metric in METRICS for m in METHODS if any(key[2:] == (metric, m) for key in cells)]
    header = ["function", "points", *(f"{METRICS[metric]}: {METHODS[m]}" for metric, m in columns), "seeds", "scale"]
    lines = []
    for task, n_train in dict.fromkeys(key[:2] for key in cells):
        found = [cells.get((task, n_train, *column)) for column in columns]
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
    """How the median test error of a cell moved over the last part of training."""

    from_step: int
    to_step: int
    change: float  # relative: -0.1 is 10% smaller at the end


def convergence(cell: np.ndarray) -> Convergence:
    """Relative change of the median over seeds from the last evaluation in the first half of training to the end.

    The rows select one experiment, task, method, size, split and metric. The change is NaN where only one evaluation
    was recorded.
    """
    steps, values_TS = curve(cell)
    half = max(0, np.searchsorted(steps, steps[-1] / 2, side="right") - 1)
    before, after = np.median(values_TS[half]), np.median(values_TS[-1])
    change = after / before - 1 if half < len(steps) - 1 else np.nan
    return Convergence(int(steps[half]), int(steps[-1]), float(change))


def format_number(value: float) -> str:
    """Three significant digits: 0.0123, 45.6, 7.89e+04."""
    return f"{value:.3g}"


def format_interval(interval: Interval) -> str:
    """`median [low, high]`, or the median alone where there is no interval."""
    if np.isnan(interval.low):
        return format_number(interval.median)
    return f"{format_number(interval.median)} [{format_number(interval.low)}, {format_number(interval.high)}]"


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *lines))


def main(arguments: list[str] | None = None) -> int:
    """Write the tables, print the path of each, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.tables", description="Tables from recorded rows.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds regression/rows.csv")
    parser.add_argument("--out", type=Path, help="folder for the tables (default: tables in --results)")
    options = parser.parse_args(arguments)
    out = options.out or options.results / "tables"
    try:
        entries = final_errors(read_rows(options.results / "regression" / "rows.csv"))
    except RowsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    for experiment in dict.fromkeys(entry.experiment for entry in entries):
        of_experiment = [entry for entry in entries if entry.experiment == experiment]
        (out / f"{experiment}.md").write_text(errors_table(of_experiment) + "\n")
        with (out / f"{experiment}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Entry._fields)
            writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in entry] for entry in of_experiment)
        print(out / f"{experiment}.md", out / f"{experiment}.csv", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
