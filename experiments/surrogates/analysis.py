"""Errors of surrogates against the number of samples, and how many samples a method needs for equal error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.evidence.markdown import format_factor, markdown
from experiments.evidence.rows import (
    BySeed,
    Interval,
    final,
    groups,
    levels,
    log_ratio,
    median_interval,
    select,
)
from experiments.evidence.verdicts import Evidence
from experiments.surrogates.names import METRICS, title_of

SHIPPED = ("surrogate_reactor", "surrogate_basket")
COMPARED = ("value", "sobolev")


class Errors(NamedTuple):
    """Final test errors of one experiment, task, method and metric: {samples: {seed: error}}."""

    experiment: str
    task: str
    method: str
    metric: str
    by_size: dict[int, BySeed]

    def medians(self) -> dict[int, Interval]:
        return {n: median_interval(errors.values()) for n, errors in self.by_size.items()}


def of_domain(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of surrogates."""
    return rows[rows["experiment"].str.match(r"surrogate(_|$)")]


def errors_of(rows: pd.DataFrame, experiment: str, task: str, method: str, metric: str) -> Errors:
    """The final errors of one line of a figure."""
    found = select(rows, experiment=experiment, task=task, method=method, metric=metric, split="test")
    by_size = {n: final(select(found, n_train=n)) for n in levels(found, "n_train")}
    return Errors(experiment, task, method, metric, by_size)


def tasks_of(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """The pairs of experiment and task that have rows."""
    return [key for key, _ in groups(of_domain(rows), "experiment", "task")]


def label_costs(rows: pd.DataFrame, experiment: str, task: str) -> dict[str, float]:
    """The cost of a sample with derivatives relative to one without, by how derivatives are computed; may be empty."""
    found = select(rows, experiment=experiment, task=task, split="labels")
    return {metric: float(of_metric["value"].iloc[0]) for (metric,), of_metric in groups(found, "metric")}


def worth(sobolev: Errors, value: Errors) -> dict[int, tuple[float, bool]]:
    """How many times more samples value-only training needs for the median error of Sobolev Training, by samples.

    It is interpolated log-linearly between sizes. The flag says that value-only training does not reach the error: the
    factor is then a lower bound, its largest size over this one.
    """
    line = {n: each.median for n, each in value.medians().items()}
    found = {}
    if not line:
        return found
    sizes, logs = np.log(list(line)), np.minimum.accumulate(np.log(list(line.values())))
    for n, each in sobolev.medians().items():
        target = np.log(each.median)
        if target < logs[-1]:
            found[n] = max(line) / n, True
        elif target <= logs[0]:
            needed = np.interp(-target, -logs, sizes)
            found[n] = float(np.exp(needed) / n), False
    return found


def tables(evidence: Evidence) -> str:
    """For each task, how much smaller the errors are, and how many more samples value-only training needs."""
    rows = of_domain(evidence.rows)
    return "\n\n".join(_table(rows, *key) for key in tasks_of(rows) if key[0] in SHIPPED)


def _table(rows: pd.DataFrame, experiment: str, task: str) -> str:
    lines = {
        (method, metric): errors_of(rows, experiment, task, method, metric) for method in COMPARED for metric in METRICS
    }
    body = []
    for n in lines["sobolev", "value_error"].by_size:
        cells = [f"{n:,}"]
        for metric in METRICS:
            value, sobolev = lines["value", metric], lines["sobolev", metric]
            if n not in value.by_size:
                cells += ["-", "-"]
                continue
            cells.append(format_factor(log_ratio(value.by_size[n], sobolev.by_size[n])))
            factor = worth(sobolev, value).get(n)
            cells.append("-" if factor is None else f"{'at least ' * factor[1]}{factor[0]:.2g}")
        body.append(cells)
    header = ["samples"]
    for title in METRICS.values():
        header += [f"error of {title}, value only / Sobolev", f"samples for the same error of {title}, ratio"]
    costs = ", ".join(
        f"{title.replace('_', ' ')} {cost:.3g}" for title, cost in label_costs(rows, experiment, task).items()
    )
    said = f"\n\nThe cost of a sample with derivatives, in samples without them: {costs}." if costs else ""
    return f"**{title_of(task).capitalize()}**\n\n{markdown(header, body)}{said}"
