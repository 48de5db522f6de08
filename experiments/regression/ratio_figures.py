"""Ratios of test errors, value-only over Sobolev Training: by training size, and by the loss of derivatives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.evidence import drawing
from experiments.evidence.names import Look, looks_of
from experiments.evidence.rows import BySeed, finals, groups, levels, log_ratio, select
from experiments.regression.headings import head, interval_words
from experiments.regression.names import LOOKS, METHODS, METRICS, SIZE_LOOKS, TASKS

Errors = Mapping[tuple, BySeed]  # {(task, method, n_train): test errors}
Pairing = Callable[[Errors, str], list[tuple[BySeed, BySeed]]]  # value-only and other errors at each tick of a series


def ratios(rows: pd.DataFrame) -> Figure:
    """How many times smaller Sobolev Training's test error is: the median over seeds of the paired ratio."""
    rows = select(rows, split="test")
    tasks, sizes = levels(rows, "task"), levels(rows, "n_train")
    looks = {f"{n_train:,} points": look for n_train, look in zip(sizes, itertools.cycle(SIZE_LOOKS), strict=False)}
    size_of = dict(zip(looks, sizes, strict=True))

    def pairs(errors: Errors, name: str) -> list[tuple[BySeed, BySeed]]:
        return [tuple(errors.get((task, m, size_of[name]), {}) for m in ("value", "sobolev")) for task in tasks]

    metrics = [metric for metric in METRICS if metric in levels(rows, "metric") and metric != "hessian_mse"]
    figure = _ratio_figure(rows, metrics, [TASKS.get(task, task) for task in tasks], looks, pairs, "Sobolev")
    head(figure, "Ratio of test errors, paired by seed", rows, interval_words(rows))
    return figure


def losses(rows: pd.DataFrame) -> Figure:
    """`ratios` for each loss of derivatives: its test error relative to that of value-only training."""
    rows = select(rows, split="test")
    cells = [key for key, _ in groups(rows, "task", "n_train")]
    methods = [method for method in levels(rows, "method") if method not in ("value", "derivative")]
    of_methods = looks_of(methods, LOOKS)
    looks = {METHODS.get(method, method): look for method, look in of_methods.items()}
    method_of = dict(zip(looks, methods, strict=True))

    def pairs(errors: Errors, name: str) -> list[tuple[BySeed, BySeed]]:
        return [tuple(errors.get((task, m, n), {}) for m in ("value", method_of[name])) for task, n in cells]

    metrics = [metric for metric in METRICS if metric in levels(rows, "metric")]
    ticks = [f"{TASKS.get(task, task)}, {n_train:,}" for task, n_train in cells]
    figure = _ratio_figure(rows, metrics, ticks, looks, pairs, "this loss")
    head(figure, "Ratio of test errors by loss (function, training points), paired by seed", rows, interval_words(rows))
    return figure


def _ratio_figure(
    rows: pd.DataFrame,
    metrics: Sequence[str],
    ticks: Sequence[str],
    looks: Mapping[str, Look],
    pairs: Pairing,
    other: str,
) -> Figure:
    """One panel per metric and one line per tick, with a marker and interval for each series in `looks`."""
    lines = -(-len(looks) // 2) if max(map(len, looks)) > 20 else 1  # of the legend
    figure = Figure(figsize=(7, 1.1 + 0.2 * lines + len(ticks) * max(0.3, 0.1 * len(looks))))
    for axes, metric in zip(figure.subplots(1, len(metrics), sharey=True, squeeze=False).flat, metrics, strict=True):
        errors = finals(select(rows, metric=metric), "task", "method", "n_train")
        for k, (name, look) in enumerate(looks.items()):
            for position, pair in enumerate(pairs(errors, name)):
                ratio = log_ratio(*pair)
                if ratio.n:
                    height = position + 0.66 / len(looks) * (k - (len(looks) - 1) / 2)
                    axes.plot(10 ** np.array([ratio.low, ratio.high]), [height, height], color=look["color"])
                    axes.plot(10**ratio.median, height, **look)
        axes.axvline(1, color="black", linewidth=0.8)
        drawing.numbers_axis(axes, evenly_below=4, between_below=300, labels=10, which="x")
        axes.set_title(f"MSE of {METRICS[metric]}")
        better = "" if len(metrics) > 2 else " better"
        sides = f"$\\leftarrow$ value only{better}   {other}{better} $\\rightarrow$"
        axes.set_xlabel(f"value only / {other}\n{sides}")
        axes.set_yticks(range(len(ticks)), ticks)
        axes.set_ylim(len(ticks) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
    handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(looks) // lines))
    return figure
