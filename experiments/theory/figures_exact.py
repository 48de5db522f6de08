"""Figures of the parts that need no training: Figure 2 (left), the Gaussian pair, K_reg and K_sob of polynomials.

Each is a function of the rows in results/theory, and states in its second line what it shows.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.evidence import drawing
from experiments.evidence.rows import final, scale_of, select
from experiments.evidence.verdicts import Evidence
from experiments.theory.analysis import number, numbers
from experiments.theory.names import BLACK, BLUE, COUNTS, METHODS, ORANGE, plural


def figure_2_left(evidence: Evidence) -> Figure:
    """The hypotheses consistent with three values, and the only one consistent with three values and slopes."""
    rows = select(evidence.rows, experiment="theory_exact", task="hypotheses")
    figure = Figure(figsize=(7, 2.6))
    x_V = np.linspace(0, 1, 6)
    target_V = np.array([number(select(rows, split="target"), f"vertex_{k}") for k in range(6)])
    x_3, y_3, dy_3 = (
        np.array([number(select(rows, split="train"), f"{name}_{k}") for k in range(3)]) for name in ("x", "y", "dy")
    )
    for axes, (method, (_, colour)) in zip(figure.subplots(1, 2, sharey=True), METHODS.items(), strict=True):
        freedom = number(rows, f"{method}_dimension")
        of_vertices = [final(rows, split="hypothesis", metric=f"{method}_vertex_{k}") for k in range(6)]
        for hypothesis in of_vertices[0]:
            y_V = [of_vertex[hypothesis] for of_vertex in of_vertices]
            axes.plot(x_V, y_V, color=colour, **({"linewidth": 0.8, "alpha": 0.35} if freedom else {"linewidth": 3.5}))
        axes.plot(x_V, target_V, color=BLACK, linestyle="--", linewidth=1, zorder=3)
        axes.plot(x_3, y_3, "o", color=BLACK, markersize=5, zorder=4)
        if method == "sobolev":
            reach = 0.07 / np.hypot(1, dy_3 / 6)
            axes.plot([x_3 - reach, x_3 + reach], [y_3 - reach * dy_3, y_3 + reach * dy_3], color=BLACK, linewidth=2.5)
        seen = {"value": "3 values", "sobolev": "3 values and slopes"}[method]
        axes.set_title(f"{seen}: " + (f"a {freedom:.0f}-dimensional family" if freedom else "one function"))
        axes.set_xticks(x_V)
        axes.set_xlabel("x (ticks: the cells of the partition)")
    figure.axes[0].set_ylabel("f(x)")
    figure.axes[0].set_ylim(target_V.min() - 1.8, target_V.max() + 1.8)
    target = Line2D([], [], color=BLACK, linestyle="--", label="target")
    for axes, (_, colour) in zip(figure.axes, METHODS.values(), strict=True):
        axes.legend(handles=[target, Line2D([], [], color=colour, label="consistent")], loc="upper right")
    drawing.title(
        figure,
        "Figure 2, left, computed",
        "many piecewise-linear functions pass through three points, and one has the slopes there too",
        scale_of(rows),
    )
    return figure


def gaussian_pair(evidence: Evidence) -> Figure:
    """Proposition 3: two densities that two values cannot tell apart but one slope can."""
    rows = select(evidence.rows, experiment="theory_exact", task="gaussian")
    densities = {BLUE: (2.0, 1.0), ORANGE: tuple(number(rows, f"twin_{name}") for name in ("mean", "std"))}
    x = np.linspace(-3, 8, 500)
    figure = Figure(figsize=(5.5, 2.7))
    axes = figure.subplots()
    for colour, (mean, std) in densities.items():

        def density(at, mean=mean, std=std):
            return np.exp(-(((at - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))

        axes.plot(x, density(x), color=colour, label=f"N({mean:.6g}, {std:.6g})", linestyle="-" if std == 1 else "--")
        for point in (0.0, 3.0):
            slope = -(point - mean) / std**2 * density(point)
            reach = 0.55 / np.hypot(1, 12 * slope)
            ends = np.array([-reach, reach])
            axes.plot(point + ends, density(point) + slope * ends, color=colour, linewidth=2.5, solid_capstyle="butt")
            axes.plot(point, density(point), "o", color=BLACK, markersize=4, zorder=4)
    axes.set_xlabel("x")
    axes.set_ylabel("density")
    axes.legend(title="mean, standard deviation", loc="upper right")
    drawing.title(
        figure,
        "Proposition 3: Gaussian densities",
        "two densities agree at x = 0 and x = 3; the slope at either point tells them apart",
        scale_of(rows),
    )
    return figure


def sample_complexity(evidence: Evidence) -> Figure:
    """K_reg and K_sob of polynomials by degree, in one and in several variables."""
    rows = select(evidence.rows, experiment="theory_exact", task="polynomials")
    figure = Figure(figsize=(7, 2.8))
    panels = figure.subplots(1, 4)
    for n_inputs, axes in enumerate(panels, start=1):
        exact = {k: numbers(rows, f"k_{k}_d{n_inputs}_n") for k in COUNTS}
        degrees = np.array([int(degree) for degree in exact["reg"]])
        for name, (label, colour, marker, style) in COUNTS.items():
            if points := list(exact[name].values()):
                look = {"color": colour, "marker": marker, "linestyle": style, "markersize": 6 if "_" in name else 4}
                axes.plot(degrees, points, label=label, **look)
        axes.set_title(plural(n_inputs, "variable"))
        axes.set_xticks(degrees)
        axes.set_xlabel("degree n")
        if n_inputs > 1:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(FixedLocator([1, 2, 3, 5, 10, 20, 50]))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
            axes.yaxis.set_minor_locator(NullLocator())
    panels[0].set_ylabel("points that determine")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    drawing.title(
        figure,
        "K_reg and K_sob of polynomials, by exact ranks",
        "gradients save points, in several variables sometimes fewer than counting equations promises",
        scale_of(rows),
    )
    return figure
