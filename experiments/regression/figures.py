"""Figures of test errors, learning curves and descent, from recorded rows; `draw` adds those of surfaces.

Every figure is a function of rows or of recorded surfaces. Drawing trains nothing and needs no display or network.
A figure with any reduced row is marked.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.evidence import drawing
from experiments.evidence.names import Look, looks_of
from experiments.evidence.rows import (
    BySeed,
    Surfaces,
    curve,
    finals,
    groups,
    levels,
    loss_curve,
    median_interval,
    read_surfaces,
    rows_there,
    select,
)
from experiments.regression.budget_figures import functions_won
from experiments.regression.choosing import LIMITS, PROJECTIONS, SEARCH
from experiments.regression.headings import head, interval_words, shortest_and_longest
from experiments.regression.names import LOOKS, METHODS, METRICS, TASKS
from experiments.regression.projection_figures import projections
from experiments.regression.ratio_figures import losses, ratios
from experiments.regression.recipe_figures import limits, recipes
from experiments.regression.surfaces import figure_3, surface_view

NAMES = (
    *("figure_2", "figure_3", "surfaces", "learning_curves", "ratios", "losses", "functions_won"),
    *("descent", "recipes", "recipe_limits", "projections"),
)
REMEDY = "`make quickstart` makes a reduced version, `make regression` or `make descent` the full one"
DESCENT = "regression_descent"
SURFACES = "regression_surfaces"  # one network per cell, trained for the surface figures
NOT_DRAWN = ("regression_steep", SEARCH, LIMITS, PROJECTIONS, SURFACES)  # these have their own figures


def figure_2(rows: pd.DataFrame) -> Figure:
    """Figure 2, right: test MSE against training size, one panel per function, for the rows of one experiment.

    A marker is the median over seeds, the bar beside it the median's 95% interval, and each faint dot one seed. If
    cells were trained for different numbers of updates, these are shown below each size.
    """
    rows = select(rows, split="test", metric="value_mse")
    errors = finals(rows, "task", "method", "n_train")
    # Derivatives determine the values only up to a constant.
    looks = looks_of((method for method in levels(rows, "method") if method != "derivative"), LOOKS)
    tasks, sizes, differ = levels(rows, "task"), levels(rows, "n_train"), len(shortest_and_longest(rows)) > 1
    columns = min(4, len(tasks) + 1)  # the last panel holds the legend
    lines = math.ceil((len(tasks) + 1) / columns)
    figure = Figure(figsize=(7, 0.6 + (1.8 if differ else 1.65) * lines))
    panels = iter(figure.subplots(lines, columns).flat)
    for task, axes in zip(tasks, panels, strict=False):
        for k, (method, look) in enumerate(looks.items()):
            side = (2 * k - len(looks) + 1) / len(looks)
            _draw_errors(axes, [errors.get((task, method, n), {}) for n in sizes], side, look)
        axes.set_title(TASKS.get(task, task))
        updates = [f"\n{_updates(select(rows, task=task, n_train=n))}" if differ else "" for n in sizes]
        axes.set_xticks(range(len(sizes)), [f"{n:,}{below}" for n, below in zip(sizes, updates, strict=True)])
        reach = max(len(sizes), 3) / 2  # keeps bars near their markers if there are few sizes
        axes.set_xlim((len(sizes) - 1) / 2 - reach, (len(sizes) - 1) / 2 + reach)
        axes.grid(axis="x", visible=False)
        drawing.decades_axis(axes)
    for axes in panels:
        axes.set_axis_off()
    figure.axes[-1].legend(
        handles=[
            *_handles(looks),
            Line2D([], [], color="#777777", marker=".", markersize=4, linestyle="", alpha=0.5, label="one seed"),
        ],
        loc="center",
    )
    figure.supxlabel("training points" + " (below them: updates)" * differ, fontsize=8)
    figure.supylabel("test MSE of values", fontsize=8)
    of_paper = "Figure 2 (right): test" if rows["experiment"].iloc[0] == "regression" else "Test"
    head(figure, f"{of_paper} error by training size", rows, interval_words(rows))
    return figure


def _draw_errors(axes: Axes, by_size: list[BySeed], side: float, look: Look) -> None:
    """Errors of one function and method: a line through the sizes, with bars and seeds to one side (-1 to 1)."""
    intervals = [median_interval(seeds.values()) for seeds in by_size]
    for position, (seeds, interval) in enumerate(zip(by_size, intervals, strict=True)):
        dots = {"color": look["color"], "markersize": 3.5, "markeredgewidth": 0, "alpha": 0.4}
        bar = position + 0.22 * side
        axes.plot([bar, bar], [interval.low, interval.high], color=look["color"])
        axes.plot([bar + (0.1 if side >= 0 else -0.1)] * len(seeds), list(seeds.values()), ".", **dots)
    axes.plot(range(len(by_size)), [interval.median for interval in intervals], linewidth=0.7, markersize=3.5, **look)


def _updates(rows: pd.DataFrame) -> str:
    """The thousands of updates that the cells of one size were trained for, per method if they differ."""
    ends = rows.groupby("method", observed=True)["step"].max()
    return " / ".join(f"{steps / 1000:g}k" for steps in sorted({*ends}))


def learning_curves(rows: pd.DataFrame, n_train: int) -> Figure:
    """Train and test error over training at one size: one row per function, one column per metric.

    Lines are medians over seeds, and bands reach from the lower to the upper quartile. A panel's axis spans the test
    curves and one decade below. Training errors on few points fall much further, and would make test curves look flat.
    """
    rows = select(rows, n_train=n_train)
    tasks, looks = levels(rows, "task"), looks_of(levels(rows, "method"), LOOKS)
    metrics = [metric for metric in METRICS if metric in levels(rows, "metric")]
    figure = Figure(figsize=(7, 0.6 + 1.2 * len(tasks)))
    grid = figure.subplots(len(tasks), len(metrics), sharex=True, squeeze=False)
    for task, row in zip(tasks, grid, strict=True):
        for metric, axes in zip(metrics, row, strict=True):
            _draw_curves(axes, select(rows, task=task, metric=metric), looks)
        row[0].set_ylabel(TASKS.get(task, task))
    for metric, axes in zip(metrics, grid[0], strict=True):
        axes.set_title(f"MSE of {METRICS[metric]}")
    for axes in grid[-1]:
        axes.set_xlabel("optimiser updates")
    figure.align_ylabels()
    figure.legend(
        handles=[
            *_handles(looks),
            Line2D([], [], color="#555555", label="test"),
            Line2D([], [], color="#555555", linestyle=(0, (3, 1.5)), label="train (cut below)"),
        ],
        loc="outside lower center",
        ncols=len(looks) + 2,
    )
    head(figure, f"Learning curves, {n_train:,} training points", rows, "median and quartiles")
    return figure


def _draw_curves(axes: Axes, rows: pd.DataFrame, looks: dict[str, Look]) -> None:
    """Draw one panel of `learning_curves`, for one task and metric."""
    tested = []
    for method, look in looks.items():
        for split, dashes, alpha in (("train", (0, (3, 1.5)), 0.08), ("test", "-", 0.2)):
            cell = select(rows, method=method, split=split)
            if method == "derivative":  # derivatives determine the values only up to a constant
                cell = cell[cell["metric"] != "value_mse"]
            steps, values_TS = curve(cell[cell["step"] > 0])  # a logarithmic axis has no 0
            if not values_TS.size:
                continue
            low, median, high = np.quantile(values_TS, (0.25, 0.5, 0.75), axis=1)
            if split == "test":
                tested += [low.min(), high.max()]
            axes.fill_between(steps, low, high, color=look["color"], alpha=alpha)
            axes.plot(
                steps,
                median,
                color=look["color"],
                linestyle=dashes,
                markevery=drawing.some(len(steps)),
                markersize=3,
                marker=look["marker"] if split == "test" else None,
            )
    axes.set_xscale("log")
    if tested:
        axes.set_ylim(min(tested) / 10, max(tested) * 2)
    drawing.decades_axis(axes)


def descent(rows: pd.DataFrame) -> Figure:
    """The Sobolev loss on the training points relative to its initial value, from networks that fit the values.

    One panel per function, one row of panels per training size. Lines are medians over seeds, bands quartiles.
    """
    tasks, sizes, looks = levels(rows, "task"), levels(rows, "n_train"), looks_of(levels(rows, "method"), LOOKS)
    figure = Figure(figsize=(7, 0.9 + 1.2 * len(sizes)))
    grid = figure.subplots(len(sizes), len(tasks), sharex=True, sharey=True, squeeze=False)
    for n_train, line in zip(sizes, grid, strict=True):
        for task, axes in zip(tasks, line, strict=True):
            cell = select(rows, task=task, n_train=n_train)
            axes.axhline(1, color="black", linewidth=0.8)
            for method, look in looks.items():
                steps, loss_TS = loss_curve(cell, method=method)
                if loss_TS.size:  # a logarithmic axis has no step 0, where the ratio is 1
                    low, median, high = np.quantile(loss_TS[1:], (0.25, 0.5, 0.75), axis=1)
                    axes.fill_between(steps[1:], low, high, color=look["color"], alpha=0.2)
                    axes.plot(steps[1:], median, markevery=drawing.some(len(median)), markersize=3, **look)
        line[0].set_ylabel(f"{n_train:,} points")
    for task, axes in zip(tasks, grid[0], strict=True):
        axes.set_title(TASKS.get(task, task), fontsize=6.5)
    grid[0, 0].set_xscale("log")
    drawing.decades_axis(grid[0, 0])
    grid[-1, len(tasks) // 2].set_xlabel("updates on values and gradients")
    figure.supylabel("Sobolev loss / where it began", fontsize=8)
    figure.legend(handles=_handles(looks), loc="outside lower center", ncols=len(looks))
    head(figure, "Descent on the Sobolev loss, from networks that fit their values", rows, "median and quartiles")
    return figure


def _handles(looks: dict[str, Look]) -> list[Line2D]:
    return [Line2D([], [], label=METHODS.get(method, method), **look) for method, look in looks.items()]


def draw(names: Collection[str], rows: pd.DataFrame, surfaces: Surfaces) -> Iterator[tuple[str, str, Figure]]:
    """The named figures for which there are rows or surfaces: (name, file name, figure), one at a time."""
    # Derivatives determine the values only up to a constant. Models trained for these figures replace the others.
    surfaces = {key: surface for key, surface in surfaces.items() if key[2] != "derivative"}
    surfaces |= {("regression", *key[1:]): surface for key, surface in surfaces.items() if key[0] == SURFACES}
    if "recipes" in names and (figure := recipes(rows)):
        yield "recipes", "recipes", figure
    if "recipe_limits" in names and (figure := limits(rows)):
        yield "recipe_limits", "recipe_limits", figure
    if "projections" in names and (figure := projections(rows)):
        yield "projections", "projections", figure
    for (experiment,), of_experiment in groups(rows, "experiment"):
        suffix = experiment.removeprefix("regression")
        others = {*of_experiment["method"]} - {"value", "sobolev", "derivative"}
        if "losses" in names and others and experiment not in (SEARCH, LIMITS, PROJECTIONS, DESCENT):
            yield "losses", f"losses{suffix}", losses(of_experiment)
        if experiment in NOT_DRAWN:
            continue
        if experiment == DESCENT:
            if "descent" in names:
                yield "descent", "descent", descent(of_experiment)
            continue
        if "figure_2" in names:
            yield "figure_2", f"test_errors{suffix}" if suffix else "figure_2", figure_2(of_experiment)
        if "ratios" in names and {"value", "sobolev"} <= set(of_experiment["method"]):
            yield "ratios", f"ratios{suffix}", ratios(of_experiment)
        # With a decaying learning rate, an intermediate measurement is not the result of a shorter training.
        if "functions_won" in names and experiment == "regression" and (figure := functions_won(of_experiment)):
            yield "functions_won", "functions_won", figure
        if "learning_curves" in names:
            for n_train in levels(of_experiment, "n_train"):
                yield "learning_curves", f"learning_curves{suffix}_{n_train}", learning_curves(of_experiment, n_train)
    for experiment, task in sorted({key[:2] for key in surfaces if key[0] not in NOT_DRAWN}):
        suffix = experiment.removeprefix("regression")
        sizes = {n for e, t, _, n in surfaces if (e, t) == (experiment, task)}
        if "figure_3" in names and task == "styblinski_tang" and sizes & {20, 100}:
            yield "figure_3", f"figure_3{suffix}", figure_3(surfaces, experiment)
        if "surfaces" in names:
            yield "surfaces", f"surfaces{suffix}_{task}", surface_view(surfaces, experiment, task)


def drawn(names: Collection[str], results: Path) -> Iterator[tuple[str, str, Figure]]:
    """The named figures for which there is evidence in `results`: (name, file name, figure), one at a time.

    Raises:
        EvidenceError: a file is damaged.
    """
    folder = results / "regression"
    if len(rows := rows_there(folder)):
        yield from draw(names, rows, read_surfaces(folder / "surfaces", rows))
