"""Figures of synthetic gradients.

Each is a function of the rows in results/synthetic_gradients and of the techniques' styles. A panel, or a row of
panels, is one task at one scale, named in its title. Everything is measured on test images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.evidence import drawing
from experiments.evidence.rows import curve, final, mean_estimate, rows_there, scale_of, select
from experiments.synthetic_gradients.names import WITHOUT_SYNTHETIC, Line, Look, lines_of, looks_of, of_domain
from experiments.synthetic_gradients.paper import TABLE_1, row_of_table_1

UNMATCHED = (*WITHOUT_SYNTHETIC, "direct", "vfbn")  # techniques that predict no loss, or do not match it
SPLITS = (1, 2, 3)
SPLIT_LOOKS = {1: ("#009E73", (0, (1, 1))), 2: ("#E69F00", (0, (3, 1.5))), 3: ("#0072B2", (0, (5, 1, 1, 1)))}

Looks = Mapping[str, Look]


def table_1(rows: pd.DataFrame, looks: Looks) -> Figure:
    """Table 1: test error at the end of training, one panel per task, with the paper's number if there is one.

    The error is 100% minus the top-1 accuracy, on a logarithmic axis: the errors of 99% and 96% differ by a factor of
    four. A dot is a seed, drawn at the lower edge if its error is 0; a marker is the mean over seeds, its bar Student's
    95% interval. A hollow diamond is the paper's number for a full-scale run on the same images.
    """
    rows = select(rows, metric="accuracy_top1")
    lines = lines_of(rows)
    papers = [_of_the_same_images(line) for line in lines]
    figure, panels = grid_of(len(lines), 2.25)
    hollow = {"color": "#555555", "marker": "d", "linestyle": "", "markerfacecolor": "none", "markersize": 4.5}
    perfect = False  # whether any seed has no error
    for line, paper, axes in zip(lines, papers, panels, strict=True):
        of_line = select(rows, **line._asdict())
        errors = {t: [100 - 100 * value for value in final(of_line, method=t).values()] for t in looks}
        errors = {technique: seeds for technique, seeds in errors.items() if seeds}
        perfect |= any(0 in seeds for seeds in errors.values())
        seen = [value for technique in errors for value in (*errors[technique], *paper_error(paper, technique))]
        for position, technique in enumerate(errors):
            look, estimate = looks[technique], mean_estimate(errors[technique])
            seen += [estimate.low, estimate.high]
            axes.plot([position - 0.28] * estimate.n, errors[technique], ".", color=look.color, markersize=4, alpha=0.5)
            axes.plot([position] * 2, [estimate.low, estimate.high], color=look.color)
            axes.plot(position, estimate.value, **look.drawn)
            for value in paper_error(paper, technique):
                axes.plot(position + 0.28, value, **hollow)
        _error_axis(axes, seen)
        axes.set_title(panel_title(line, of_line), fontsize=7)
        axes.set_xticks(range(len(errors)), [_plain(looks[t].title) for t in errors], rotation=45, ha="right")
        axes.tick_params(axis="x", labelsize=6)
        axes.set_xlim(-0.6, len(errors) - 0.4)
        axes.grid(axis="x", visible=False)
    for axes in first_column(figure):
        axes.set_ylabel("test error, %")
    label = "one seed (at the lower edge: no error)" if perfect else "one seed"
    handles = [Line2D([], [], color="#777777", marker=".", linestyle="", alpha=0.6, label=label)]
    handles.append(Line2D([], [], color="#777777", marker="o", label="mean, 95% interval"))
    if any(papers):
        handles.append(Line2D([], [], label="paper, full scale", **hollow))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    _head(figure, rows, "Table 1: test error (100% less accuracy)", "mean and its 95% interval")
    return figure


def _of_the_same_images(line: Line) -> dict[str, tuple[float, float]]:
    """The paper's numbers for a task; none if its images are not the paper's, as Imagenette's are not ImageNet's."""
    return {} if "imagenette" in line.label else TABLE_1.get((row_of_table_1(line.label), "accuracy_top1"), {})


def paper_error(paper: Mapping[str, tuple[float, float]], technique: str) -> list[float]:
    return [100 - paper[technique][0]] if technique in paper else []


def _error_axis(axes: Axes, seen: Sequence[float]) -> None:
    """A logarithmic axis of errors in per cent that covers all values shown. Errors of 0 lie on its lower edge."""
    positive = [value for value in seen if value > 0] or [100.0]
    low, high = min(positive) / 1.15, max(positive) * 1.15
    axes.set_ylim(low, high)
    for line in axes.lines:
        line.set_ydata(np.maximum(line.get_ydata(), low))
        line.set_clip_on(False)
    drawing.numbers_axis(axes, evenly_below=3, between_below=200, labels=8)
    axes.set_ylim(low, high)


def accuracy(rows: pd.DataFrame, looks: Looks) -> Figure:
    """Test error (100% minus top-1 accuracy) over training, one panel per task.

    Lines are means over seeds, bands cover all seeds. The axis is logarithmic and starts below the means.
    """
    rows = select(rows, metric="accuracy_top1")
    rows = rows.assign(value=100 - 100 * rows["value"])
    lines = lines_of(rows)
    figure, panels = grid_of(len(lines), 1.9)
    for line, axes in zip(lines, panels, strict=True):
        of_line = select(rows, **line._asdict())
        for technique, look in looks.items():
            draw_curve(axes, select(of_line, method=technique), every=1, **look.drawn)
        means = np.concatenate([drawn.get_ydata() for drawn in axes.lines])
        drawing.numbers_axis(axes, evenly_below=3, between_below=200, labels=8)
        if means.any():
            axes.set_ylim(means[means > 0].min() / 1.4, means.max() * 1.1)
        axes.set_title(panel_title(line, of_line), fontsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("updates")
    for axes in first_column(figure):
        axes.set_ylabel("test error, %")
    figure.legend(handles=[*map(_handle, looks.values())], loc="outside lower center", ncols=4)
    _head(figure, rows, "Test error (100% less accuracy) over training", "mean and range")
    return figure


def gradient_cosine(rows: pd.DataFrame, looks: Looks) -> Figure:
    """Cosine between synthetic and true gradient over training: one row of panels per task, one column per split."""
    return at_splits(rows, looks, "gradient_cosine", "Cosine between synthetic and true gradient over training")


def gradient_error(rows: pd.DataFrame, looks: Looks) -> Figure:
    """|synthetic - true| / |true| over training: one row of panels per task, one column per split."""
    return at_splits(rows, looks, "gradient_relative_error", "Relative error of synthetic gradients over training")


def at_splits(rows: pd.DataFrame, looks: Looks, metric: str, title: str) -> Figure:
    """A metric at each split, without backpropagation, which has the true gradient, and Noprop, which has none."""
    rows = rows[rows["metric"].isin([f"{metric}/{k}" for k in SPLITS])]
    lines = lines_of(rows)
    figure = Figure(figsize=(7, 0.9 + 1.35 * len(lines)))
    grid = figure.subplots(len(lines), len(SPLITS), sharey="row", squeeze=False)
    for line, panels in zip(lines, grid, strict=True):
        for k, axes in zip(SPLITS, panels, strict=True):
            of_split = select(rows, **line._asdict(), metric=f"{metric}/{k}")
            if not len(of_split):
                axes.set_axis_off()
                continue
            for technique, look in looks.items():
                draw_curve(axes, select(of_split, method=technique), **look.drawn)
            if metric == "gradient_relative_error":
                axes.axhline(1, color="#555555", linewidth=0.8, linestyle=":")  # no gradient at all
                drawing.numbers_axis(axes, evenly_below=3, between_below=30, labels=5)
            else:
                axes.axhline(0, color="#555555", linewidth=0.8, linestyle=":")
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_title(f"split {k}" if line == lines[0] else "")
        panels[0].set_ylabel(panel_title(line, select(rows, **line._asdict()), "\n").replace(", ", "\n"))
    for axes in grid[-1]:
        axes.set_xlabel("updates")
    figure.align_ylabels()
    nothing = "0: no gradient" if metric == "gradient_cosine" else "1: no gradient"
    dots = Line2D([], [], color="#555555", linewidth=0.8, linestyle=":", label=nothing)
    figure.legend(
        handles=[*map(_handle, looks.values()), dots], loc="outside lower center", ncols=min(len(looks) + 1, 6)
    )
    _head(figure, rows, title, "mean and range; splits from below")
    return figure


def predicted_loss(rows: pd.DataFrame, looks: Looks) -> Figure:
    """The loss and each predictor's prediction of it, over training: one row per task, one column per technique."""
    lines = lines_of(rows)
    figure = Figure(figsize=(7, 0.9 + 1.35 * len(lines)))
    grid = figure.subplots(len(lines), len(looks), sharey="row", squeeze=False)
    for line, panels in zip(lines, grid, strict=True):
        for (technique, look), axes in zip(looks.items(), panels, strict=True):
            cell = select(rows, **line._asdict(), method=technique)
            if not len(cell):
                axes.set_axis_off()
                continue
            draw_curve(axes, select(cell, metric="loss"), color="#000000")
            for k, (color, dashes) in SPLIT_LOOKS.items():
                draw_curve(axes, select(cell, metric=f"predicted_loss/{k}"), color=color, linestyle=dashes)
            drawing.numbers_axis(axes, evenly_below=3, between_below=30, labels=5)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_title(_plain(look.title) if line == lines[0] else "")
        panels[0].set_ylabel(panel_title(line, select(rows, **line._asdict()), "\n").replace(", ", "\n"))
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


def draw_curve(
    axes: Axes, cell: pd.DataFrame, marker: str | None = None, every: int | None = None, **look: object
) -> None:
    """Draw the mean over seeds as a line in a band over all seeds, with markers at some points or at `every` point.

    `cell` holds one metric.
    """
    steps, values_TS = curve(cell)
    if not values_TS.size:
        return
    axes.fill_between(steps, values_TS.min(axis=1), values_TS.max(axis=1), color=look["color"], alpha=0.15)
    axes.plot(
        steps, values_TS.mean(axis=1), marker=marker, markevery=every or drawing.some(len(steps)), markersize=3, **look
    )


def panel_title(line: Line, rows: pd.DataFrame, between: str = " ") -> str:
    """The name of a task and its scale, with a note if there is only one seed."""
    if rows.groupby("method", observed=True)["seed"].nunique().max() == 1:
        return f"{_plain(line.title)}\n({line.scale}, 1 seed)"
    return f"{_plain(line.title)}{between}({line.scale})"


def grid_of(count: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    """A figure with `count` panels, three per row, and room for a legend below."""
    columns = min(3, count)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(7, 1.0 + height * lines))
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def first_column(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_subplotspec().is_first_col() and axes.axison]


def _plain(name: str) -> str:
    """Escape a name: Matplotlib would set text between two dollar signs as a formula."""
    return name.replace("$", r"\$")


def _handle(look: Look) -> Line2D:
    return Line2D([], [], label=_plain(look.title), **look.drawn)


def _head(figure: Figure, rows: pd.DataFrame, title: str, spread: str) -> None:
    seeds = rows.groupby(["experiment", "task", "method", "scale"], observed=True)["seed"].nunique().tolist()
    drawing.title(figure, title, drawing.counted(seeds, spread), scale_of(rows))


# Per figure: the metric that it needs, the techniques that it leaves out, and the function that draws it.
FIGURES: dict[str, tuple[str, Sequence[str], Callable[[pd.DataFrame, Looks], Figure]]] = {
    "table_1": ("accuracy_top1", (), table_1),
    "accuracy": ("accuracy_top1", (), accuracy),
    "gradient_cosine": ("gradient_cosine/1", WITHOUT_SYNTHETIC, gradient_cosine),
    "gradient_error": ("gradient_relative_error/1", WITHOUT_SYNTHETIC, gradient_error),
    "predicted_loss": ("predicted_loss/1", UNMATCHED, predicted_loss),
}


def draw(name: str, rows: pd.DataFrame) -> Figure | None:
    """A figure, or None if the rows lack what it shows."""
    metric, left_out, of_rows = FIGURES[name]
    rows = select(of_domain(rows), split="test")
    looks = looks_of(rows["method"])  # of all techniques, so that an unlisted one has the same style in every figure
    showing = set(select(rows, metric=metric)["method"]).difference(left_out)
    rows = rows[rows["method"].isin(showing)]
    return of_rows(rows, {t: look for t, look in looks.items() if t in showing}) if showing else None


REMEDY = "`make synthetic-gradients` makes it"
NAMES = tuple(FIGURES)


def drawn(names: Collection[str], results: Path) -> Iterator[tuple[str, str, Figure]]:
    """Those of the named figures that the evidence under `results` allows: (name, file name, figure), one at a time.

    Raises:
        EvidenceError: a file is damaged.
    """
    rows = rows_there(results / "synthetic_gradients")
    for name in names if len(rows) else ():
        if figure := draw(name, rows):
            yield name, f"synthetic_gradients_{name}", figure
