"""Table 1: test accuracies of synthetic gradients, means over seeds beside the paper's numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.evidence.markdown import format_spread, markdown
from experiments.evidence.reading import expected, rows_path
from experiments.evidence.rows import final, groups, mean_estimate, read_rows, select
from experiments.evidence.schemas import SCALES

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


def format_accuracy(entry: Accuracy) -> str:
    """Mean and standard deviation over seeds, and the mean's interval where there is one."""
    interval = "" if np.isnan(entry.low) else f" [{entry.low:.1f}, {entry.high:.1f}]"
    return format_spread(entry.mean, entry.std) + interval


def tables(results: Path) -> Iterator[tuple[str, str, list[Accuracy]]]:
    """Table 1, where there are rows: (file name, Markdown, entries).

    Raises:
        EvidenceError: the rows are damaged.
    """
    path = rows_path(results / "synthetic_gradients")
    if expected(path) and (entries := accuracies(read_rows(path))):
        yield "table_1", table_1(entries), entries
