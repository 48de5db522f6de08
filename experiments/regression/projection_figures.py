"""The figure of projections, from recorded rows: the gain from projected Jacobians against their cost."""

from __future__ import annotations

import re

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.evidence import drawing
from experiments.evidence.names import Look
from experiments.evidence.rows import finals, levels, log_ratio, scale_of, select
from experiments.regression.choosing import PROJECTIONS, of_one_size
from experiments.regression.names import REDUCED, SIZE_LOOKS, TASKS

LOOKS = dict(zip(("sphere", "gaussian", "rademacher", "coordinate"), SIZE_LOOKS, strict=True))
FULL: Look = {"color": "#000000", "marker": "*"}
VALUE, METHOD = "value_full1", r"sobolev_(\D+)(\d+)"
APART = 1.05  # kinds with equal cost are drawn side by side, each shifted by this factor


def projections(rows: pd.DataFrame) -> Figure | None:
    """The ratio of value-only error to that with projected Jacobians, against operations per update; a panel per field.

    A marker is the median over seeds of the paired ratio, with its 95% interval. None if nothing was run.
    """
    rows, points = of_one_size(rows, PROJECTIONS)
    tasks = levels(rows, "task")
    if not tasks:
        return None
    figure = Figure(figsize=(7, 3))
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for task, axes in zip(tasks, panels, strict=True):
        _draw(axes, select(rows, task=task))
        axes.set_title(TASKS.get(task, task))
    drawing.decades_axis(panels[0])
    panels[0].set_ylabel("MSE of values, value only / Sobolev")
    panels[len(panels) // 2].set_xlabel("million operations in products, of a network and update")
    handles = [Line2D([], [], label=kind, **look) for kind, look in LOOKS.items()]
    full = Line2D([], [], label="Jacobian in full", linestyle="", markersize=8, **FULL)
    figure.legend(handles=[*handles, full], loc="outside lower center", ncols=5)
    detail = f"1, 2 and 4 vectors a sample, {points:,} points, validation points; median, 95% interval"
    drawing.title(figure, "Jacobians of gradient fields on random vectors", detail, scale_of(rows), mark=REDUCED)
    return figure


def _draw(axes: Axes, rows: pd.DataFrame) -> None:
    errors, costs = (finals(select(rows, metric=metric), "method") for metric in ("value_mse", "mflop_per_update"))
    found: dict[str, list] = {}
    for (method,), by_seed in errors.items():
        if at := re.fullmatch(METHOD, method):
            ratio = log_ratio(errors.get((VALUE,), {}), by_seed)
            if ratio.n:
                found.setdefault(at[1], []).append((max(costs[(method,)].values()), ratio))
    for kind, of_kind in found.items():
        look = LOOKS.get(kind, FULL)
        apart = APART ** ([*LOOKS].index(kind) - 1.5) if kind in LOOKS else 1.0
        shown = sorted((cost * apart, ratio) for cost, ratio in of_kind)
        for x, ratio in shown:
            axes.plot([x, x], [10**ratio.low, 10**ratio.high], color=look["color"], linewidth=1)
        ends = [x for x, _ in shown], [10**ratio.median for _, ratio in shown]
        axes.plot(*ends, linewidth=1, markersize=4 if kind in LOOKS else 8, **look)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks([25, 50, 100, 200], ["25", "50", "100", "200"])
    axes.minorticks_off()
