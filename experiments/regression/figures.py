"""Figures from recorded rows:  python -m scripts.figures [--results results] [--out results/figures] [names ...]

Every figure is a function of rows or of recorded surfaces. Drawing trains nothing and needs no display or network.
A figure with any reduced row says so on its face.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Collection, Iterable, Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from experiments.evidence import drawing
from experiments.evidence.reading import EvidenceError, rows_path
from experiments.evidence.rows import (
    METHODS,
    MIN_SEEDS,
    TASKS,
    Surface,
    Surfaces,
    curve,
    finals,
    groups,
    in_order,
    levels,
    log_ratio,
    loss_curve,
    median_interval,
    read_rows,
    read_surfaces,
    scale_of,
    select,
)

# Colour and marker each tell the methods apart on their own.
LOOKS = {
    "value": {"color": "#0072B2", "marker": "o"},
    "sobolev": {"color": "#D55E00", "marker": "s"},
    "sobolev_2": {"color": "#009E73", "marker": "^"},
    "derivative": {"color": "#CC79A7", "marker": "D"},
    "relu": {"color": "#E69F00", "marker": "P"},
    "softplus": {"color": "#56B4E9", "marker": "v"},
}
OTHER_LOOKS = [  # of methods that are not ours
    {"color": "#56B4E9", "marker": "v"},
    {"color": "#E69F00", "marker": "P"},
    {"color": "#000000", "marker": "X"},
]
SIZE_LOOKS = [
    {"color": "#009E73", "marker": "o"},
    {"color": "#E69F00", "marker": "s"},
    {"color": "#56B4E9", "marker": "^"},
]
PROTOCOLS = {
    "regression": "paper's protocol",
    "regression_normalised": "normalised protocol",
    "regression_second_order": "normalised protocol, smooth activation",
    "regression_descent": "normalised protocol",
}
NOT_DRAWN = ("regression_steep",)  # the report has it as a table
METRICS = {"value_mse": "MSE of values", "gradient_mse": "MSE of gradients", "hessian_mse": "MSE of Hessians"}


def figure_2(rows: pd.DataFrame) -> Figure:
    """Figure 2, right: test MSE against training size, a panel a function, for the rows of one experiment.

    A faint dot is a seed; a marker the median over seeds and its bar the 95% interval of the median.
    """
    rows = select(rows, split="test", metric="value_mse")
    errors = finals(rows, "task", "method", "n_train")
    # Derivatives alone fix the values only up to a constant.
    looks = _looks(method for method in levels(rows, "method") if method != "derivative")
    tasks, sizes = levels(rows, "task"), levels(rows, "n_train")
    columns = min(4, len(tasks) + 1)  # the last panel holds the legend
    lines = math.ceil((len(tasks) + 1) / columns)
    figure = Figure(figsize=(7, 0.6 + 1.65 * lines))
    panels = iter(figure.subplots(lines, columns).flat)
    for task, axes in zip(tasks, panels, strict=False):
        for k, (method, look) in enumerate(looks.items()):
            positions = np.arange(len(sizes)) + 0.25 * (k - (len(looks) - 1) / 2)
            medians = []
            for position, n_train in zip(positions, sizes, strict=True):
                seeds = errors.get((task, method, n_train), {})
                interval = median_interval(seeds.values())
                axes.plot(
                    [position + 0.09] * len(seeds),
                    list(seeds.values()),
                    ".",
                    color=look["color"],
                    markersize=3.5,
                    markeredgewidth=0,
                    alpha=0.4,
                )
                axes.plot([position] * 2, [interval.low, interval.high], color=look["color"])
                medians.append(interval.median)
            axes.plot(positions, medians, linewidth=0.5, **look)
        axes.set_title(TASKS.get(task, task))
        axes.set_xticks(range(len(sizes)), [f"{n:,}" for n in sizes])
        axes.set_xlim(-0.5, len(sizes) - 0.5)
        axes.grid(axis="x", visible=False)
        _log_axis(axes)
    for axes in panels:
        axes.set_axis_off()
    figure.axes[-1].legend(
        handles=[
            *_handles(looks),
            Line2D([], [], color="#777777", marker=".", markersize=4, linestyle="", alpha=0.5, label="one seed"),
        ],
        loc="center",
    )
    figure.supxlabel("training points", fontsize=8)
    figure.supylabel("test MSE of values", fontsize=8)
    _head(figure, "Figure 2 (right): test error by training size", rows, _interval_words(rows))
    return figure


def ratios(rows: pd.DataFrame) -> Figure:
    """How many times smaller Sobolev Training's test error is: median over seeds of the paired ratio, 95% interval."""
    rows = select(rows, split="test")
    tasks, sizes = levels(rows, "task"), levels(rows, "n_train")
    metrics = [metric for metric in METRICS if metric in levels(rows, "metric") and metric != "hessian_mse"]
    figure = Figure(figsize=(7, 3.4))
    for axes, metric in zip(figure.subplots(1, len(metrics), sharey=True, squeeze=False).flat, metrics, strict=True):
        errors = finals(select(rows, metric=metric), "task", "method", "n_train")
        for k, n_train in enumerate(sizes):
            look = SIZE_LOOKS[k % len(SIZE_LOOKS)]
            for position, task in enumerate(tasks):
                ratio = log_ratio(*(errors.get((task, method, n_train), {}) for method in ("value", "sobolev")))
                if ratio.n:
                    height = position + 0.22 * (k - (len(sizes) - 1) / 2)
                    axes.plot([10**ratio.low, 10**ratio.high], [height, height], color=look["color"])
                    axes.plot(10**ratio.median, height, **look)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_title(METRICS[metric])
        axes.set_xlabel("value only / Sobolev\n$\\leftarrow$ value only better      Sobolev better $\\rightarrow$")
        axes.set_yticks(range(len(tasks)), [TASKS.get(task, task) for task in tasks])
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
    handles = [
        Line2D([], [], label=f"{n_train:,} points", **look)
        for n_train, look in zip(sizes, itertools.cycle(SIZE_LOOKS), strict=False)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(sizes))
    _head(figure, "Ratio of test errors, paired by seed", rows, _interval_words(rows))
    return figure


def learning_curves(rows: pd.DataFrame, n_train: int) -> Figure:
    """Train and test error over training at one size: a row a function, a column a metric.

    Lines are medians over seeds; bands reach from the lower to the upper quartile. A panel's axis is that of the test
    curves and a decade below: few points are fitted to many more decades, beside which test curves would be flat.
    """
    rows = select(rows, n_train=n_train)
    tasks, looks = levels(rows, "task"), _looks(levels(rows, "method"))
    metrics = [metric for metric in METRICS if metric in levels(rows, "metric")]
    figure = Figure(figsize=(7, 0.6 + 1.2 * len(tasks)))
    grid = figure.subplots(len(tasks), len(metrics), sharex=True, squeeze=False)
    for task, row in zip(tasks, grid, strict=True):
        for metric, axes in zip(metrics, row, strict=True):
            _draw_curves(axes, select(rows, task=task, metric=metric), looks)
        row[0].set_ylabel(TASKS.get(task, task))
    for metric, axes in zip(metrics, grid[0], strict=True):
        axes.set_title(METRICS[metric])
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
    _head(figure, f"Learning curves, {n_train:,} training points", rows, "median and quartiles")
    return figure


def _draw_curves(axes: Axes, rows: pd.DataFrame, looks: dict[str, dict[str, str]]) -> None:
    """One panel of `learning_curves`, of one task and metric."""
    tested = []
    for method, look in looks.items():
        for split, dashes, alpha in (("train", (0, (3, 1.5)), 0.08), ("test", "-", 0.2)):
            cell = select(rows, method=method, split=split)
            if method == "derivative":  # derivatives fix the values only up to a constant
                cell = cell[cell["metric"] != "value_mse"]
            steps, values_TS = curve(cell[cell["step"] > 0])  # step 0 has no place on a logarithmic axis
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
                markevery=[-1],
                marker=look["marker"] if split == "test" else None,
            )
    axes.set_xscale("log")
    if tested:
        axes.set_ylim(min(tested) / 10, max(tested) * 2)
    _log_axis(axes)


def descent(rows: pd.DataFrame) -> Figure:
    """The Sobolev loss on the training points while networks that fit their values descend on it, over where it began.

    A panel a function, a row of panels a training size. Lines are medians over seeds, bands quartiles.
    """
    tasks, sizes, looks = levels(rows, "task"), levels(rows, "n_train"), _looks(levels(rows, "method"))
    figure = Figure(figsize=(7, 0.9 + 1.2 * len(sizes)))
    grid = figure.subplots(len(sizes), len(tasks), sharex=True, sharey=True, squeeze=False)
    for n_train, line in zip(sizes, grid, strict=True):
        for task, axes in zip(tasks, line, strict=True):
            cell = select(rows, task=task, n_train=n_train)
            axes.axhline(1, color="black", linewidth=0.8)
            for method, look in looks.items():
                steps, loss_TS = loss_curve(cell, method=method)
                if loss_TS.size:  # step 0, which is 1, has no place on a logarithmic axis
                    low, median, high = np.quantile(loss_TS[1:], (0.25, 0.5, 0.75), axis=1)
                    axes.fill_between(steps[1:], low, high, color=look["color"], alpha=0.2)
                    axes.plot(steps[1:], median, markevery=[-1], **look)
        line[0].set_ylabel(f"{n_train:,} points")
    for task, axes in zip(tasks, grid[0], strict=True):
        axes.set_title(TASKS.get(task, task), fontsize=6.5)
    grid[0, 0].set_xscale("log")
    _log_axis(grid[0, 0])
    grid[-1, len(tasks) // 2].set_xlabel("updates on values and gradients")
    figure.supylabel("Sobolev loss / where it began", fontsize=8)
    figure.legend(handles=_handles(looks), loc="outside lower center", ncols=len(looks))
    _head(figure, "Descent on the Sobolev loss, from networks that fit their values", rows, "median and quartiles")
    return figure


def surface_view(surfaces: Surfaces, experiment: str, task: str) -> Figure:
    """Figure 3 and SM 5-11: target and models as surfaces, each above its gradient field; a row a training size.

    Dots beneath the target are training points, 100 at most. An arrow's length is the cube root of the gradient's norm,
    on one scale for the whole figure, so that flat regions can be seen beside steep ones.
    """
    sizes = sorted({n for e, t, _, n in surfaces if (e, t) == (experiment, task)})
    methods = in_order("method", (m for e, t, m, _ in surfaces if (e, t) == (experiment, task)))
    shown = {(m, n): surfaces.get((experiment, task, m, n)) for n in sizes for m in methods}
    recorded = [surface for surface in shown.values() if surface is not None]
    every_value = [a for surface in recorded for a in (surface.value_GG, surface.target_value_GG)]
    z_range = min(a.min() for a in every_value), max(a.max() for a in every_value)
    norms = [np.linalg.norm(surface.target_gradient_GG2, axis=-1).max() for surface in recorded]

    # In inches: square panels, a gap for the labels between rows, and room for the title and the last labels.
    columns = 1 + len(methods)
    side, gap, head, foot = 6.8 / columns, 0.2, 0.65, 0.2
    height = head + len(sizes) * side + (len(sizes) - 1) * gap + foot
    figure = Figure(figsize=(7, height), layout="none")
    figure.subplots_adjust(
        left=0, right=6.8 / 7, bottom=foot / height, top=1 - head / height, wspace=0, hspace=gap / side
    )
    for row, n_train in enumerate(sizes):
        models = {m: shown[m, n_train] for m in methods if shown[m, n_train] is not None}
        target = next(iter(models.values()))
        panels = {0: (f"target, {n_train:,} points", target, target.target_value_GG, target.target_gradient_GG2)}
        for m, model in models.items():
            panels[1 + methods.index(m)] = (METHODS.get(m, m), model, model.value_GG, model.gradient_GG2)
        for column, (title, surface, value_GG, gradient_GG2) in panels.items():
            axes = figure.add_subplot(len(sizes), columns, row * columns + column + 1, projection="3d")
            _draw_surface(axes, surface, value_GG, gradient_GG2, z_range, max(norms), points=column == 0)
            axes.set_title(title, y=1.02)
    scale = "paper" if all(surface.scale == "paper" for surface in recorded) else "reduced"
    _title(
        figure,
        f"{TASKS.get(task, task)}: values and gradient fields",
        experiment,
        scale,
        "the seed of median test error",
    )
    return figure


def figure_3(surfaces: Surfaces, experiment: str = "regression") -> Figure:
    """Figure 3: the Styblinski-Tang function and its models from 20 and from 100 points."""
    small = {key: surface for key, surface in surfaces.items() if key[3] in (20, 100)}
    return surface_view(small, experiment, "styblinski_tang")


def _draw_surface(
    axes: Axes3D,
    surface: Surface,
    value_GG: np.ndarray,
    gradient_GG2: np.ndarray,
    z_range: tuple[float, float],
    largest_norm: float,
    points: bool,
) -> None:
    """One surface above its gradient field. Suffixes: A arrows, V corners of an arrow, X coordinates."""
    x, y = surface.x_GG2[..., 0], surface.x_GG2[..., 1]
    low, high = z_range
    floor = low - 0.75 * (high - low)
    axes.plot_surface(
        x,
        y,
        value_GG,
        cmap="viridis",
        vmin=low,
        vmax=high,
        rcount=50,
        ccount=50,
        linewidth=0,
        antialiased=False,
        rasterized=True,
    )

    every = max(1, len(x) // 10)
    here = np.s_[every // 2 :: every, every // 2 :: every]
    u, v = gradient_GG2[here][..., 0], gradient_GG2[here][..., 1]
    norm = np.hypot(u, v)
    # Each arrow is a flat wedge from a broad tail to its tip, at most 2/15 of the domain long.
    stretch = np.cbrt(np.minimum(norm / largest_norm, 1)) / np.maximum(norm, np.finfo(norm.dtype).tiny) * np.ptp(x) / 15
    tip_AX = np.stack((u * stretch, v * stretch), axis=-1).reshape(-1, 2)
    side_AX = 0.25 * tip_AX[:, ::-1] * (-1, 1)
    corners_AVX = np.stack((tip_AX, side_AX - tip_AX, -side_AX - tip_AX), axis=1)
    corners_AVX += surface.x_GG2[here].reshape(-1, 1, 2)
    wedges_AVX = np.concatenate((corners_AVX, np.full((*corners_AVX.shape[:2], 1), floor)), axis=-1)
    axes.add_collection3d(Poly3DCollection(wedges_AVX, facecolor="#333333", edgecolor="none"))
    if points:
        axes.scatter(
            *surface.x_train_P2.T,
            np.full(len(surface.x_train_P2), floor),
            s=3,
            color="#D55E00",
            depthshade=False,
            linewidth=0,
        )

    axes.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()), zlim=(floor, high))
    axes.view_init(elev=24, azim=-60)
    axes.set_box_aspect((1, 1, 0.95), zoom=1.02)
    axes.patch.set_visible(False)  # it would hide the labels of the panel to the left
    axes.tick_params(labelsize=6, pad=-3)
    axes.set_zticks([tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high])
    axes.zaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_xlabel("x", labelpad=-9)
    axes.set_ylabel("y", labelpad=-9)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((1, 1, 1, 0))
        axis._axinfo["grid"].update(color="#E4E4E4", linewidth=0.4)


def _log_axis(axes: Axes) -> None:
    """A logarithmic y axis over one decade at least, with few labels."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 10 * low:
        middle = np.sqrt(low * high)
        axes.set_ylim(middle / 10**0.5, middle * 10**0.5)
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _looks(methods: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of each method; those that are not ours take spare ones in turn."""
    others = itertools.cycle(OTHER_LOOKS)
    return {method: LOOKS.get(method) or next(others) for method in methods}


def _handles(looks: dict[str, dict[str, str]]) -> list[Line2D]:
    return [Line2D([], [], label=METHODS.get(method, method), **look) for method, look in looks.items()]


def _interval_words(rows: pd.DataFrame) -> str:
    """What the bars of ``median_interval`` are: with few seeds it reaches over all of them."""
    counts = _seeds_of_cells(rows)
    if max(counts) < MIN_SEEDS:
        return "median, range (too few for an interval)"
    return "median, 95% interval" + (f" (range of fewer than {MIN_SEEDS})" if min(counts) < MIN_SEEDS else "")


def _seeds_of_cells(rows: pd.DataFrame) -> list[int]:
    """How many seeds each cell has."""
    return rows.groupby(["task", "method", "n_train"], observed=True)["seed"].nunique().tolist()


def _head(figure: Figure, title: str, rows: pd.DataFrame, spread: str) -> None:
    counts = _seeds_of_cells(rows)
    seeds = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{max(counts)}"
    updates = " to ".join(f"{steps:,}" for steps in _shortest_and_longest(rows))
    _title(figure, title, rows["experiment"].iloc[0], scale_of(rows), f"{seeds} seeds, {updates} updates: {spread}")


def _shortest_and_longest(rows: pd.DataFrame) -> list[int]:
    """After how many updates the training of cells ended, shortest and longest; one number if all agree."""
    ends = rows.groupby(["task", "method", "n_train"], observed=True)["step"].max()
    return sorted({ends.min(), ends.max()})


def _title(figure: Figure, title: str, experiment: str, scale: str, detail: str) -> None:
    """Name the figure, its protocol and, where it is not the paper's, its scale."""
    protocol = PROTOCOLS.get(experiment, experiment)
    drawing.title(figure, title, f"{protocol}; {detail}", scale, mark="REDUCED: not the paper's scale")


NAMES = ("figure_2", "figure_3", "surfaces", "learning_curves", "ratios", "descent")
DESCENT = "regression_descent"


def draw(names: Collection[str], rows: pd.DataFrame, surfaces: Surfaces) -> Iterator[tuple[str, str, Figure]]:
    """The named figures that rows and surfaces allow, for each experiment: (name, file name, figure), one at a time."""
    # Derivatives fix the values only up to a constant.
    surfaces = {key: surface for key, surface in surfaces.items() if key[2] != "derivative"}
    for (experiment,), of_experiment in groups(rows, "experiment"):
        if experiment in NOT_DRAWN:
            continue
        suffix = experiment.removeprefix("regression")
        if experiment == DESCENT:
            if "descent" in names:
                yield "descent", "descent", descent(of_experiment)
            continue
        if "figure_2" in names:
            yield "figure_2", f"figure_2{suffix}", figure_2(of_experiment)
        if "ratios" in names and {"value", "sobolev"} <= set(of_experiment["method"]):
            yield "ratios", f"ratios{suffix}", ratios(of_experiment)
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


def main(arguments: list[str] | None = None) -> int:
    """Draw, print the path of each file written, and return the exit status."""
    options = drawing.parse("figures", NAMES, "regression", arguments)
    names = options.names or NAMES
    regression = options.results / "regression"
    try:
        rows = read_rows(rows_path(regression))
        surfaces = read_surfaces(regression / "surfaces", rows)
    except EvidenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    drawn = set()
    for name, file_name, figure in draw(names, rows, surfaces):
        drawing.save(figure, options.out / file_name)
        drawn.add(name)
    missing = [name for name in names if name not in drawn]
    for name in missing:
        remedy = (
            "`make quickstart` makes it reduced, `make regression` whole"
            if name != "descent"
            else "`make descent` makes it"
        )
        print(f"{name}: {regression} has not what it shows; {remedy}", file=sys.stderr)
    return 1 if set(missing) & set(options.names) else 0


if __name__ == "__main__":
    sys.exit(main())
