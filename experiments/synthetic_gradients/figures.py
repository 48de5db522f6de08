"""Figures of synthetic gradients:  python -m scripts.figures [--results results] [--out folder] [names ...]

Each is a function of the rows in results/synthetic_gradients. A panel, or a line of panels, is one task at one scale,
and its title says which. Everything is measured on test images.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from experiments.evidence import drawing
from experiments.evidence.reading import EvidenceError, expected, rows_path
from experiments.evidence.rows import curve, final, groups, levels, mean_estimate, read_rows, scale_of, select
from experiments.evidence.tables import IMAGES, TABLE_1, TECHNIQUES, row_of_table_1, where

EXPERIMENTS = ("synthetic_gradients", "synthetic_gradients_imagenet")
# Colour and marker each tell the techniques apart on their own.
LOOKS = {
    "backprop": {"color": "#000000", "marker": "x"},
    "noprop": {"color": "#E69F00", "marker": "v"},
    "direct": {"color": "#009E73", "marker": "^"},
    "vfbn": {"color": "#CC79A7", "marker": "D"},
    "critic": {"color": "#0072B2", "marker": "o"},
    "sobolev": {"color": "#D55E00", "marker": "s"},
    "sobolev_label": {"color": "#56B4E9", "marker": "P"},
}
LEARNED = ("direct", "vfbn", "critic", "sobolev", "sobolev_label")  # techniques with a gradient of their own
PREDICTING = ("critic", "sobolev", "sobolev_label")  # techniques that match the loss
SPLITS = (1, 2, 3)
SPLIT_LOOKS = {1: ("#009E73", (0, (1, 1))), 2: ("#E69F00", (0, (3, 1.5))), 3: ("#0072B2", (0, (5, 1, 1, 1)))}

Setting = tuple[str, str]  # (task, scale)


def table_1(rows: pd.DataFrame) -> Figure:
    """Table 1: top-1 accuracy at the end of training, a panel a task, beside the paper's number where it has one.

    A dot is a seed; a marker the mean over seeds and its bar Student's 95% interval, cut off at the panel's edge. A
    hollow diamond is the paper's number: of a full-scale run, and for Imagenette of ImageNet.
    """
    rows = select(rows, metric="accuracy_top1")
    settings, techniques = settings_of(rows), techniques_of(rows)
    papers = [TABLE_1.get((row_of_table_1(task), "accuracy_top1"), {}) for task, _ in settings]
    figure, panels = grid_of(len(settings), 1.75)
    hollow = {"color": "#555555", "marker": "d", "linestyle": "", "markerfacecolor": "none", "markersize": 4.5}
    for setting, paper, axes in zip(settings, papers, panels, strict=True):
        seen = []
        for position, technique in enumerate(techniques):
            seeds = [100 * value for value in final(rows, **where(*setting), method=technique).values()]
            estimate, look = mean_estimate(seeds), LOOKS[technique]
            if seeds:
                axes.plot([position - 0.28] * len(seeds), seeds, ".", color=look["color"], markersize=4, alpha=0.5)
                axes.plot([position] * 2, [estimate.low, estimate.high], color=look["color"])
                axes.plot(position, estimate.value, **look)
            if technique in paper:
                axes.plot(position + 0.28, paper[technique][0], **hollow)
                seen.append(paper[technique][0])
            seen += seeds
        reach = max(np.ptp(seen), 5) / 10
        axes.set_ylim(min(seen) - reach, max(seen) + reach)
        axes.set_title(name_of(setting), fontsize=7)
        axes.set_xticks([])
        axes.set_xlim(-0.6, len(techniques) - 0.4)
    for axes in first_column(figure):
        axes.set_ylabel("accuracy, %")
    handles = [_handle(technique) for technique in techniques]
    handles.append(Line2D([], [], color="#777777", marker=".", linestyle="", alpha=0.6, label="one seed"))
    if any(papers):
        handles.append(Line2D([], [], label="paper, full scale", **hollow))
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    of_another = any(task.startswith("imagenette") for task, _ in settings)
    beside = "; Imagenette beside the paper's ImageNet" if of_another else ""
    _head(figure, rows, "Table 1: test accuracy", f"mean and its 95% interval{beside}")
    return figure


def accuracy(rows: pd.DataFrame) -> Figure:
    """Top-1 accuracy over training, a panel a task. Lines are means over seeds, bands reach over all seeds."""
    rows = select(rows, metric="accuracy_top1")
    settings, techniques = settings_of(rows), techniques_of(rows)
    figure, panels = grid_of(len(settings), 1.9)
    for setting, axes in zip(settings, panels, strict=True):
        for technique in techniques:
            cell = select(rows, **where(*setting), method=technique)
            draw_curve(axes, cell, 100, **LOOKS[technique])
        axes.set_title(name_of(setting), fontsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("updates")
    for axes in first_column(figure):
        axes.set_ylabel("accuracy, %")
    figure.legend(handles=[_handle(technique) for technique in techniques], loc="outside lower center", ncols=4)
    _head(figure, rows, "Test accuracy over training", "mean and range")
    return figure


def gradient_cosine(rows: pd.DataFrame) -> Figure:
    """Cosine between synthetic and true gradient over training: a line of panels a task, a column a split."""
    return at_splits(rows, "gradient_cosine", "Cosine between synthetic and true gradient over training")


def gradient_error(rows: pd.DataFrame) -> Figure:
    """|synthetic - true| / |true| over training: a line of panels a task, a column a split."""
    return at_splits(rows, "gradient_relative_error", "Relative error of synthetic gradients over training")


def at_splits(rows: pd.DataFrame, metric: str, title: str) -> Figure:
    """A metric of each split. Backpropagation has the true gradient and Noprop has none: they are left out."""
    rows = rows[rows["metric"].isin([f"{metric}/{k}" for k in SPLITS])]
    settings, techniques = settings_of(rows), techniques_of(rows)
    figure = Figure(figsize=(7, 0.9 + 1.35 * len(settings)))
    grid = figure.subplots(len(settings), len(SPLITS), sharey="row", squeeze=False)
    for setting, line in zip(settings, grid, strict=True):
        for k, axes in zip(SPLITS, line, strict=True):
            of_split = select(rows, **where(*setting), metric=f"{metric}/{k}")
            if not len(of_split):
                axes.set_axis_off()
                continue
            for technique in techniques:
                draw_curve(axes, select(of_split, method=technique), **LOOKS[technique])
            if metric == "gradient_relative_error":
                axes.axhline(1, color="#555555", linewidth=0.8, linestyle=":")  # no gradient at all
                _log_axis(axes)
            else:
                axes.axhline(0, color="#555555", linewidth=0.8, linestyle=":")
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_title(f"split {k}" if setting == settings[0] else "")
        line[0].set_ylabel(on_lines(setting))
    for axes in grid[-1]:
        axes.set_xlabel("updates")
    figure.align_ylabels()
    nothing = "0: no gradient" if metric == "gradient_cosine" else "1: no gradient"
    dots = Line2D([], [], color="#555555", linewidth=0.8, linestyle=":", label=nothing)
    figure.legend(handles=[*map(_handle, techniques), dots], loc="outside lower center", ncols=len(techniques) + 1)
    _head(figure, rows, title, "mean and range; splits from below")
    return figure


def predicted_loss(rows: pd.DataFrame) -> Figure:
    """The loss and what each split's predictor says of it, over training: a line a task, a column a technique."""
    settings, techniques = settings_of(rows), techniques_of(rows)
    figure = Figure(figsize=(7, 0.9 + 1.35 * len(settings)))
    grid = figure.subplots(len(settings), len(techniques), sharey="row", squeeze=False)
    for setting, line in zip(settings, grid, strict=True):
        for technique, axes in zip(techniques, line, strict=True):
            cell = select(rows, **where(*setting), method=technique)
            if not len(cell):
                axes.set_axis_off()
                continue
            draw_curve(axes, select(cell, metric="loss"), color="#000000")
            for k, (color, dashes) in SPLIT_LOOKS.items():
                draw_curve(axes, select(cell, metric=f"predicted_loss/{k}"), color=color, linestyle=dashes)
            _log_axis(axes)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_title(TECHNIQUES[technique] if setting == settings[0] else "")
        line[0].set_ylabel(on_lines(setting))
    for axes in grid[-1]:
        axes.set_xlabel("updates")
    figure.align_ylabels()
    handles = [Line2D([], [], color="#000000", label="loss")]
    handles += [
        Line2D([], [], color=c, linestyle=d, label=f"predicted at split {k}") for k, (c, d) in SPLIT_LOOKS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    _head(figure, rows, "The loss and its predictions over training", "mean and range; splits from below")
    return figure


def draw_curve(axes: Axes, cell: pd.DataFrame, factor: float = 1.0, marker: str | None = None, **look: object) -> None:
    """The mean over seeds as a line that ends in the marker, in a band over all seeds. `cell` is of one metric."""
    steps, values_TS = curve(cell)
    if not values_TS.size:
        return
    values_TS = factor * values_TS
    axes.fill_between(steps, values_TS.min(axis=1), values_TS.max(axis=1), color=look["color"], alpha=0.15)
    axes.plot(steps, values_TS.mean(axis=1), marker=marker, markevery=[-1], **look)


def settings_of(rows: pd.DataFrame) -> list[Setting]:
    """The tasks and scales of the rows, in the table's order."""
    found = {key for key, _ in groups(rows, "task", "scale")}
    return [(task, scale) for task in IMAGES for scale in ("reduced", "paper") if (task, scale) in found]


def techniques_of(rows: pd.DataFrame) -> list[str]:
    found = levels(rows, "method")
    return [technique for technique in TECHNIQUES if technique in found]


def name_of(setting: Setting) -> str:
    task, scale = setting
    return f"{IMAGES[task]} ({scale})"


def on_lines(setting: Setting) -> str:
    """The name of a task and its scale, beside a line of panels."""
    task, scale = setting
    return f"{IMAGES[task].replace(', ', chr(10))}\n({scale})"


def grid_of(count: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    """A figure with a panel for each of `count`, three a line, and room for a legend below."""
    columns = min(3, count)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(7, 1.0 + height * lines))
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def first_column(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_subplotspec().is_first_col() and axes.axison]


def _log_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 3 * low:  # 1, 2 and 5 would leave one label or none
        axes.yaxis.set_major_locator(MaxNLocator(4))
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,), numticks=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _handle(technique: str) -> Line2D:
    return Line2D([], [], label=TECHNIQUES[technique], **LOOKS[technique])


def _head(figure: Figure, rows: pd.DataFrame, title: str, spread: str) -> None:
    seeds = rows.groupby(["experiment", "task", "method", "scale"], observed=True)["seed"].nunique().tolist()
    fewest, most = min(seeds), max(seeds)
    count = f"{most} seed{'s' * (most > 1)}" if fewest == most else f"{fewest} to {most} seeds"
    drawing.title(figure, title, f"{count}: {spread}", scale_of(rows))


# The metric and the techniques that each shows.
FIGURES: dict[str, tuple[str, Sequence[str], Callable[[pd.DataFrame], Figure]]] = {
    "table_1": ("accuracy_top1", (*LOOKS,), table_1),
    "accuracy": ("accuracy_top1", (*LOOKS,), accuracy),
    "gradient_cosine": ("gradient_cosine/1", LEARNED, gradient_cosine),
    "gradient_error": ("gradient_relative_error/1", LEARNED, gradient_error),
    "predicted_loss": ("predicted_loss/1", PREDICTING, predicted_loss),
}


def draw(name: str, rows: pd.DataFrame) -> Figure | None:
    """A figure, or none where the rows do not hold what it shows."""
    metric, techniques, of_rows = FIGURES[name]
    rows = select(rows, split="test")
    rows = rows[rows["experiment"].isin(EXPERIMENTS) & rows["task"].isin(IMAGES) & rows["method"].isin(techniques)]
    return of_rows(rows) if metric in levels(rows, "metric") else None


def main(arguments: list[str] | None = None) -> int:
    """Draw, print the path of each file written, and return the exit status."""
    options = drawing.parse("synthetic_figures", FIGURES, "synthetic_gradients", arguments)
    try:
        path = rows_path(options.results / "synthetic_gradients")
        if not expected(path):
            print(f"no rows at {path}: `make synthetic-gradients` makes them", file=sys.stderr)
            return int(bool(options.names))  # `make figures` draws what there is
        rows = read_rows(path)
    except EvidenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    missing = []
    for name in options.names or FIGURES:
        figure = draw(name, rows)
        if figure is None:
            missing.append(name)
            print(f"{name}: {path} has not what it shows; `make synthetic-gradients` makes it", file=sys.stderr)
        else:
            drawing.save(figure, options.out / f"synthetic_gradients_{name}")
    return 1 if set(missing) & set(options.names) else 0


if __name__ == "__main__":
    sys.exit(main())
