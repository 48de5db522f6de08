"""Tables from recorded rows:  python -m scripts.tables [--results results] [--out results/tables]

For each regression experiment, the test errors at the end of training as Markdown and as CSV: medians over seeds, each
with its 95% bootstrap interval. And Table 1, synthetic gradients: means over seeds beside the paper's numbers.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.evidence.reading import EvidenceError, expected, rows_path
from experiments.evidence.rows import (
    METHODS,
    TASKS,
    Estimate,
    Interval,
    curve,
    final,
    groups,
    in_order,
    mean_estimate,
    median_interval,
    read_rows,
    select,
)
from experiments.evidence.schemas import SCALES

METRICS = {"value_mse": "values", "gradient_mse": "gradients", "hessian_mse": "Hessians"}

TECHNIQUES = {
    "backprop": "backpropagation",
    "noprop": "Noprop",
    "direct": "Direct SG",
    "vfbn": "VFBN",
    "critic": "Critic",
    "sobolev": "Sobolev",
    "sobolev_label": "Sobolev and labels",
}
IMAGES = {
    "digits": "digits",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "cifar10_60_epochs": "CIFAR-10, 60 epochs",
    "imagenet_resnet50_1": "ImageNet, 1 module",
    "imagenet_resnet50_3": "ImageNet, 3 modules",
    "imagenette_resnet50_1": "Imagenette, 1 module",
    "imagenette_resnet50_3": "Imagenette, 3 modules",
}
ACCURACIES = {"accuracy_top1": "top-1", "accuracy_top5": "top-5"}
# Table 1 of the paper, per cent: {(task, metric): {technique: (mean, standard deviation)}}; NaN where it gives none.
TABLE_1: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    ("cifar10", "accuracy_top1"): {
        "backprop": (94.3, np.nan),
        "noprop": (54.5, 1.15),
        "direct": (79.2, 0.01),
        "vfbn": (88.5, 2.70),
        "critic": (93.2, 0.02),
        "sobolev": (93.5, 0.01),
    },
    ("imagenet_resnet50_1", "accuracy_top1"): {
        "backprop": (75.0, np.nan),
        "noprop": (54.0, 0.29),
        "vfbn": (57.9, 2.03),
        "critic": (71.7, 0.23),
        "sobolev": (72.0, 0.05),
    },
    ("imagenet_resnet50_1", "accuracy_top5"): {
        "backprop": (92.3, np.nan),
        "noprop": (77.3, 0.06),
        "vfbn": (81.5, 1.20),
        "critic": (90.5, 0.15),
        "sobolev": (90.8, 0.01),
    },
    ("imagenet_resnet50_3", "accuracy_top1"): {
        "backprop": (75.0, np.nan),
        "noprop": (18.7, 0.18),
        "vfbn": (28.3, 5.24),
        "critic": (65.7, 0.56),
        "sobolev": (66.5, 0.22),
    },
    ("imagenet_resnet50_3", "accuracy_top5"): {
        "backprop": (92.3, np.nan),
        "noprop": (38.0, 0.34),
        "vfbn": (52.9, 6.62),
        "critic": (86.9, 0.33),
        "sobolev": (87.4, 0.11),
    },
}


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
    """The entries of one experiment as Markdown: a row a function and size, a column a metric and method."""
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
    """How the median test error of a cell moved over the last part of training."""

    from_step: int
    to_step: int
    change: float  # relative: -0.1 is 10% smaller at the end


def convergence(cell: pd.DataFrame) -> Convergence:
    """Relative change of the median over seeds from the last evaluation in the first half of training to the end.

    The rows select one experiment, task, method, size, split and metric. The change is NaN where only one evaluation
    was recorded.
    """
    steps, values_TS = curve(cell)
    half = max(0, np.searchsorted(steps, steps[-1] / 2, side="right") - 1)
    before, after = np.median(values_TS[half]), np.median(values_TS[-1])
    change = after / before - 1 if half < len(steps) - 1 else np.nan
    return Convergence(int(steps[half]), int(steps[-1]), float(change))


def where(task: str, scale: str) -> dict[str, str]:
    """What selects the rows of one task of Section 4.3 at one scale."""
    experiment = "synthetic_gradients_imagenet" if task.startswith("imagenet") else "synthetic_gradients"
    return {"experiment": experiment, "task": task, "scale": scale}


def row_of_table_1(task: str) -> str:
    """The task of the paper's table that one of ours stands beside."""
    return task.replace("imagenette", "imagenet").removesuffix("_60_epochs")


class Accuracy(NamedTuple):
    """The test accuracy of one technique at the end of training, over its seeds, and the paper's; per cent."""

    task: str
    scale: str
    metric: str
    technique: str
    mean: float
    std: float  # NaN for one seed
    low: float
    high: float
    seeds: int
    step: int
    paper_task: str  # whose row of Table 1 the paper's number is; empty where it has none
    paper_mean: float
    paper_std: float


def accuracies(rows: pd.DataFrame) -> list[Accuracy]:
    """One entry for each task, scale, metric and technique of Section 4.3 that the rows hold."""
    rows = select(rows, split="test")
    of_cells = dict(groups(rows[rows["metric"].isin(ACCURACIES)], "experiment", "task", "scale", "metric", "method"))
    entries = []
    for task, scale, metric, technique in itertools.product(IMAGES, SCALES, ACCURACIES, TECHNIQUES):
        cell = of_cells.get((*where(task, scale).values(), metric, technique))
        if cell is None or (metric == "accuracy_top5" and not task.startswith("imagenet")):
            continue
        values = [100 * value for value in final(cell).values()]
        std = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
        paper_task = row_of_table_1(task)
        mean, spread = TABLE_1.get((paper_task, metric), {}).get(technique, (np.nan, np.nan))
        estimate = mean_estimate(values)
        entries.append(
            Accuracy(
                *(task, scale, metric, technique),
                *(estimate.value, std, estimate.low, estimate.high, estimate.n),
                int(cell["step"].max()),
                *("" if np.isnan(mean) else paper_task, mean, spread),
            )
        )
    return entries


def table_1(entries: Iterable[Accuracy]) -> str:
    """Table 1 as Markdown: a row a task, scale and metric, below it the paper's row where there is one."""
    groups: dict[tuple[str, str, str], dict[str, Accuracy]] = {}
    for entry in entries:
        groups.setdefault((entry.task, entry.scale, entry.metric), {})[entry.technique] = entry
    shown = [technique for technique in TECHNIQUES if any(technique in group for group in groups.values())]
    lines = []
    for (task, scale, metric), group in groups.items():
        seeds = "/".join(str(n) for n in sorted({entry.seeds for entry in group.values()}))
        ours = [format_accuracy(group[technique]) if technique in group else "-" for technique in shown]
        lines.append([IMAGES[task], ACCURACIES[metric], "ours", *ours, seeds, scale])
        paper_task = row_of_table_1(task)
        if paper := TABLE_1.get((paper_task, metric)):
            numbers = [format_spread(*paper[technique]) if technique in paper else "-" for technique in shown]
            whose = "the paper's, of ImageNet" if task.startswith("imagenette") else "the paper's"
            lines.append(["", ACCURACIES[metric], whose, *numbers, "", "paper"])
    return markdown(["task", "accuracy, %", "whose", *(TECHNIQUES[t] for t in shown), "seeds", "scale"], lines)


def format_spread(mean: float, std: float) -> str:
    """`93.5 ± 0.01`, or the mean alone where there is no standard deviation."""
    return f"{mean:.1f}" if np.isnan(std) else f"{mean:.1f} ± {std:.2f}"


def format_accuracy(entry: Accuracy) -> str:
    """Mean and standard deviation over seeds, and the mean's interval where there is one."""
    interval = "" if np.isnan(entry.low) else f" [{entry.low:.1f}, {entry.high:.1f}]"
    return format_spread(entry.mean, entry.std) + interval


def format_number(value: float) -> str:
    """Three significant digits: 0.0123, 45.6, 7.89e+04."""
    return f"{value:.3g}"


def format_interval(interval: Interval | Estimate) -> str:
    """`median [low, high]`, or the median alone where there is no interval."""
    middle, low, high, _ = interval
    if np.isnan(low):
        return format_number(middle)
    return f"{format_number(middle)} [{format_number(low)}, {format_number(high)}]"


def format_factor(interval: Interval) -> str:
    """An interval of log10 ratios, as a factor."""
    return format_interval(Interval(*(10**end for end in interval[:3]), interval.n))


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines))


def main(arguments: list[str] | None = None) -> int:
    """Write the tables, print the path of each, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.tables", description="Tables from recorded rows.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds */rows.csv.gz")
    parser.add_argument("--out", type=Path, help="folder for the tables (default: tables in --results)")
    options = parser.parse_args(arguments)
    out = options.out or options.results / "tables"
    try:
        regression, images = (rows_path(options.results / domain) for domain in ("regression", "synthetic_gradients"))
        errors = final_errors(read_rows(regression)) if expected(regression) or not expected(images) else []
        ours = accuracies(read_rows(images)) if expected(images) else []
    except EvidenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for experiment in dict.fromkeys(entry.experiment for entry in errors):
        of_experiment = [entry for entry in errors if entry.experiment == experiment]
        write(out / experiment, errors_table(of_experiment), of_experiment)
    if ours:
        write(out / "table_1", table_1(ours), ours)
    return 0


def write(stem: Path, table: str, entries: Sequence[Entry] | Sequence[Accuracy]) -> None:
    """Write `stem`.md and `stem`.csv, and print both paths. A field that is not known is empty."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    as_markdown, as_csv = stem.with_name(f"{stem.name}.md"), stem.with_name(f"{stem.name}.csv")
    as_markdown.write_text(table + "\n")
    with as_csv.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(entries[0]._fields)
        for entry in entries:
            fields = [f"{value:.6g}" if isinstance(value, float) else value for value in entry]
            writer.writerow(["" if field == "nan" else field for field in fields])
    print(as_markdown, as_csv, sep="\n")
