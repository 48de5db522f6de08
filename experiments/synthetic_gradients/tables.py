"""Table 1, with the paper's accuracies next to ours, and the report's tables of runs and of their gradients."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.evidence.markdown import format_number, format_spread, markdown
from experiments.evidence.rows import final, finals, groups, levels, mean_estimate, rows_there, select
from experiments.evidence.verdicts import Evidence
from experiments.synthetic_gradients.names import (
    WITHOUT_SYNTHETIC,
    Line,
    lines_of,
    looks_of,
    of_domain,
    title_of,
)
from experiments.synthetic_gradients.paper import TABLE_1, row_of_table_1
from experiments.synthetic_gradients.tasks import SETTINGS

ACCURACIES = {"accuracy_top1": "top-1", "accuracy_top5": "top-5"}


class Accuracy(NamedTuple):
    """The test accuracy of one technique at the end of training, over its seeds, and the paper's, in per cent."""

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
    paper_task: str  # the task in the paper's Table 1; empty if it has none
    paper_mean: float
    paper_std: float


def accuracies(rows: pd.DataFrame) -> list[Accuracy]:
    """One entry for each task at a scale, metric and technique of Section 4.3 in the rows."""
    rows = select(of_domain(rows), split="test")
    rows = rows[rows["metric"].isin(ACCURACIES)]
    of_cells = dict(groups(rows, *Line._fields, "metric", "method"))
    entries = []
    for line, metric, technique in itertools.product(lines_of(rows), ACCURACIES, looks_of(rows["method"])):
        cell = of_cells.get((*line, metric, technique))
        if cell is None or (metric == "accuracy_top5" and not line.of_imagenet):
            continue
        values = [100 * value for value in final(cell).values()]
        std = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
        paper_task = row_of_table_1(line.label)
        mean, spread = TABLE_1.get((paper_task, metric), {}).get(technique, (np.nan, np.nan))
        estimate = mean_estimate(values)
        entries.append(
            Accuracy(
                *(line.label, line.scale, metric, technique),
                *(estimate.value, std, estimate.low, estimate.high, estimate.n),
                int(cell["step"].max()),
                *("" if np.isnan(mean) else paper_task, mean, spread),
            )
        )
    return entries


def table_1(entries: Sequence[Accuracy]) -> str:
    """Table 1 as Markdown: one row per task, scale and metric, with the paper's row below it if there is one."""
    groups: dict[tuple[str, str, str], dict[str, Accuracy]] = {}
    for entry in entries:
        groups.setdefault((entry.task, entry.scale, entry.metric), {})[entry.technique] = entry
    looks = looks_of(entry.technique for entry in entries)
    lines = []
    for (task, scale, metric), group in groups.items():
        seeds = "/".join(str(n) for n in sorted({entry.seeds for entry in group.values()}))
        ours = [format_accuracy(group[technique]) if technique in group else "-" for technique in looks]
        lines.append([title_of(task), ACCURACIES[metric], "ours", *ours, seeds, scale])
        if paper := TABLE_1.get((row_of_table_1(task), metric)):
            numbers = [format_spread(*paper[technique]) if technique in paper else "-" for technique in looks]
            whose = "the paper's, of ImageNet" if task.startswith("imagenette") else "the paper's"
            lines.append(["", ACCURACIES[metric], whose, *numbers, "", "paper"])
    return markdown(["task", "accuracy, %", "whose", *(look.title for look in looks.values()), "seeds", "scale"], lines)


def format_accuracy(entry: Accuracy) -> str:
    """Mean and standard deviation over seeds, and the mean's interval if there is one."""
    interval = "" if np.isnan(entry.low) else f" [{entry.low:.1f}, {entry.high:.1f}]"
    return format_spread(entry.mean, entry.std) + interval


def appendix(evidence: Evidence) -> str:
    """Table 1, what was run, and how good the synthetic gradients were at the end of training."""
    rows = of_domain(evidence.rows)
    ours = accuracies(rows)
    if not ours:
        return ""
    return (
        "#### Table 1: test accuracy\n\nMean ± standard deviation over seeds, and the 95% interval of the mean.\n\n"
        f"{table_1(ours)}\n\n#### What was run, and what differs from the paper\n\n{runs_table(rows)}\n\n"
        "#### Gradients at the end of training\n\nCosine between synthetic and true gradient, and |synthetic - true| / "
        "|true|, at each split, counted from the bottom: means over seeds, on test images. Backpropagation uses true "
        f"gradients and Noprop none.\n\n{gradients_table(rows)}"
    )


def runs_table(rows: pd.DataFrame) -> str:
    """What was run, one row per task and scale, as Markdown. For users' tasks the differences are unknown."""
    shipped = {setting.line: setting for setting in SETTINGS}
    cells = []
    for line in lines_of(rows):
        found = select(rows, **line._asdict())
        sizes = "/".join(f"{n:,}" for n in levels(found, "n_train"))
        differs, remade = "not a task that ships: its settings are in settings.json", "-"
        if setting := shipped.get(line):
            differs, remade = setting.differs, f"`python run.py -m sweep={setting.sweep}`"
        cells.append([line.title, line.scale, sizes, f"{found['step'].max():,}", differs, remade])
    return markdown(["task", "scale", "training images", "updates", "what differs", "command"], cells)


def gradients_table(rows: pd.DataFrame) -> str:
    """How good the synthetic gradients were at the end, one row per task, scale and technique, as Markdown."""
    looks = looks_of(rows["method"])
    cells = []
    for line in lines_of(rows):
        ends = finals(select(rows, **line._asdict(), split="test"), "method", "metric")
        for technique, look in looks.items():
            columns = [
                ends.get((technique, f"{metric}/{k}"))
                for metric in ("gradient_cosine", "gradient_relative_error")
                for k in (1, 2, 3)
            ]
            if technique in WITHOUT_SYNTHETIC or not any(columns):
                continue
            numbers = [format_number(float(np.mean(list(c.values())))) if c else "-" for c in columns]
            cells.append([line.title, look.title, *numbers, line.scale])
    head = [f"{word}, split {k}" for word in ("cosine", "error") for k in (1, 2, 3)]
    return markdown(["task", "technique", *head, "scale"], cells)


def tables(results: Path) -> Iterator[tuple[str, str, list[Accuracy]]]:
    """Table 1, if there are rows: (file name, Markdown, entries).

    Raises:
        EvidenceError: the rows are damaged.
    """
    if entries := accuracies(rows_there(results / "synthetic_gradients")):
        yield "table_1", table_1(entries), entries
