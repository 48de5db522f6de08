"""Figures of the theory:  python -m scripts.figures [--results results] [--out results/figures] [names ...]

Each is a function of the rows in results/theory, and says in its second line what it shows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.evidence import drawing
from experiments.evidence.reading import EvidenceError, expected, rows_path
from experiments.evidence.rows import (
    Interval,
    final,
    groups,
    levels,
    median_interval,
    read_rows,
    read_settings,
    scale_of,
    select,
)
from experiments.evidence.verdicts import Evidence
from experiments.theory.claims import (
    ACTIVATIONS,
    LEARNED,
    by_width,
    number,
    numbers,
    of_experiment,
    points_needed,
)

BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#999999", "#000000"
METHODS = {"value": ("value only", BLUE), "sobolev": ("Sobolev", ORANGE)}
DIFFERENCES = {"differences": ("difference quotients", GREEN)}
LINES = {"relu": ("ReLU", "-", "o"), "leaky_relu": ("leaky ReLU", "--", "s"), "tanh": ("tanh", ":", "^")}
ERRORS = {
    "value_l2": "values, rms",
    "value_sup": "values, sup",
    "gradient_l2": "gradients, rms",
    "gradient_sup": "gradients, sup",
}


def figure_2_left(evidence: Evidence) -> Figure:
    """Hypotheses consistent with three values, and the one consistent with the values and slopes."""
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
    _title(
        figure,
        rows,
        "Figure 2, left, computed",
        "many piecewise-linear functions pass through three points, and one has the slopes there too",
    )
    return figure


def gaussian_pair(evidence: Evidence) -> Figure:
    """Proposition 3: two densities that two values cannot tell apart, and one slope can."""
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
    _title(
        figure,
        rows,
        "Proposition 3: Gaussian densities",
        "two densities agree at x = 0 and x = 3; the slope at either point tells them apart",
    )
    return figure


def sample_complexity(evidence: Evidence) -> Figure:
    """K_reg and K_sob of polynomials: by degree in one variable, and in several."""
    rows = select(evidence.rows, experiment="theory_exact", task="polynomials")
    figure = Figure(figsize=(7, 2.8))
    panels = figure.subplots(1, 4)
    for n_inputs, axes in enumerate(panels, start=1):
        exact = {k: numbers(rows, f"k_{k}_d{n_inputs}_n") for k in ("reg", "sob", "sob_counted", "sob_printed")}
        degrees = np.array([int(degree) for degree in exact["reg"]])
        looks = {
            "reg": ("values: K_reg", {"color": BLUE, "marker": "o", "linestyle": "-"}),
            "sob": ("values and gradients: K_sob", {"color": ORANGE, "marker": "s", "linestyle": "-"}),
            "sob_counted": ("counting equations", {"color": GREEN, "marker": "x", "linestyle": "none"}),
            "sob_printed": ("as printed: ceil(n / 2)", {"color": BLACK, "marker": "_", "linestyle": "none"}),
        }
        for name, (label, look) in looks.items():
            if exact[name]:
                axes.plot(degrees, list(exact[name].values()), label=label, markersize=6 if "_" in name else 4, **look)
        axes.set_title(f"{n_inputs} variable{'s' * (n_inputs > 1)}")
        axes.set_xticks(degrees)
        axes.set_xlabel("degree n")
        if n_inputs > 1:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(FixedLocator([1, 2, 3, 5, 10, 20, 50]))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
            axes.yaxis.set_minor_locator(NullLocator())
    panels[0].set_ylabel("points that determine")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    _title(
        figure,
        rows,
        "K_reg and K_sob of polynomials, by exact ranks",
        "gradients save points, in several variables sometimes fewer than counting equations promises",
    )
    return figure


def theorem_1(evidence: Evidence) -> Figure:
    """The S_1 error of constructed networks against width."""
    rows = of_experiment(evidence, "theory_construction").rows
    figure = Figure(figsize=(7, 2.7))
    for axes, name in zip(figure.subplots(1, 2), ("gradient", "value"), strict=True):
        for n_inputs, (colour, marker) in enumerate(((BLUE, "o"), (ORANGE, "s"), (GREEN, "^")), start=1):
            for kind, style in (("sup", "-"), ("l2", ":")):
                errors = by_width(rows, f"{name}_{kind}", n_inputs=n_inputs)
                medians = [next(iter(of_seed.values())) for of_seed in errors.values()]
                axes.plot(list(errors), medians, color=colour, marker=marker, linestyle=style, markersize=3)
        exponent = 1 if name == "gradient" else 2
        _slope(axes, exponent)
        axes.set_title(f"{name}s")
        axes.set_xlabel("hidden units")
    figure.axes[0].set_ylabel("error on [-1, 1]$^d$")
    handles = [
        Line2D([], [], color=c, marker=m, label=f"d = {d}")
        for d, c, m in ((1, BLUE, "o"), (2, ORANGE, "s"), (3, GREEN, "^"))
    ]
    handles += [
        Line2D([], [], color=GREY, linestyle=s, label=k) for k, s in (("largest", "-"), ("root mean square", ":"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    _title(
        figure,
        rows,
        "Theorem 1: one hidden layer of ReLUs, written down",
        "its gradients converge together with its values, in 1, 2 and 3 dimensions",
    )
    return figure


def error_against_width(evidence: Evidence) -> Figure:
    """RQ2: errors of values and gradients against width by training, beside the construction."""
    trained, built = (of_experiment(evidence, name).rows for name in ("theory_approximation", "theory_construction"))
    inputs = levels(trained, "n_inputs")
    figure = Figure(figsize=(7, 1 + 1.6 * len(inputs)))
    for n_inputs, row in zip(inputs, figure.subplots(len(inputs), 4, sharex=True, squeeze=False), strict=True):
        for (metric, title), axes in zip(ERRORS.items(), row, strict=True):
            widths = set()
            for matched, (_, colour) in (DIFFERENCES | METHODS).items():  # for tanh the first lies under `sobolev`
                for activation in ACTIVATIONS:
                    _, style, marker = LINES[activation]
                    cell = {"n_inputs": n_inputs, "activation": activation, "matched": matched}
                    errors = by_width(trained, metric, **cell)
                    widths |= set(errors)
                    medians = [np.median(list(of_seeds.values())) for of_seeds in errors.values()]
                    axes.plot(list(errors), medians, color=colour, linestyle=style, marker=marker, markersize=3)
            of_built = by_width(built, metric, n_inputs=n_inputs)
            shown = {width: errors for width, errors in of_built.items() if width <= max(widths, default=0)}
            axes.plot(list(shown), [next(iter(errors.values())) for errors in shown.values()], color=BLACK, linewidth=1)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            if n_inputs == inputs[0]:
                axes.set_title(title)
            if n_inputs == inputs[-1]:
                axes.set_xlabel("hidden units")
        row[0].set_ylabel(f"{n_inputs} input{'s' * (n_inputs > 1)}")
    handles = [Line2D([], [], color=colour, label=label) for label, colour in (METHODS | DIFFERENCES).values()]
    handles += [Line2D([], [], color=GREY, linestyle=s, marker=m, label=label) for label, s, m in LINES.values()]
    handles += [Line2D([], [], color=BLACK, label="written down (Theorem 1)")]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    _title(
        figure,
        trained,
        "RQ2: error against width, by training (medians over seeds)",
        "derivatives bring tanh networks closer in both; they have no gradient by the biases of ReLU networks",
    )
    return figure


def wrong_derivative(evidence: Evidence) -> Figure:
    """Theorem 2: the joint error that training reaches against the size of the mismatch, and the floor."""
    rows = of_experiment(evidence, "theory_mismatch").rows
    figure = Figure(figsize=(7, 2.7))
    mismatched = groups(rows[rows["delta"] > 0], "domain", "delta")
    panels = {
        "joint_mse": r"mean of $|h - f|^2 + |\nabla h - g|^2$",
        "joint_sup": r"max(sup $|h - f|$, sup $|\nabla h - g|$)",
    }
    for axes, (metric, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for domain, colour, marker in (("interval", BLUE, "o"), ("disc", ORANGE, "s")):
            of_domain = {delta: of_both for (name, delta), of_both in mismatched if name == domain}
            floor = [number(select(of_delta, split="exact"), metric) for of_delta in of_domain.values()]
            axes.plot(list(of_domain), floor, color=colour)
            for delta, of_delta in of_domain.items():
                reached = list(final(of_delta, split="test", metric=metric).values())
                axes.plot([delta] * len(reached), reached, marker, color=colour, markersize=4, markerfacecolor="none")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(r"size of the mismatch $g - \nabla f$")
        axes.set_title(label)
    figure.axes[0].set_ylabel("joint error")
    handles = [
        Line2D([], [], color=BLUE, marker="o", markerfacecolor="none", label="interval, constant mismatch"),
        Line2D([], [], color=ORANGE, marker="s", markerfacecolor="none", label="disc, rotation"),
        Line2D([], [], color=GREY, label="least possible (closed form)"),
        Line2D([], [], color=GREY, marker="o", linestyle="none", markerfacecolor="none", label="trained, a seed each"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    _title(
        figure,
        rows,
        "Theorem 2: a derivative that is wrong",
        "no network gets below the floor, which grows with the mismatch; training on the mean square reaches it",
    )
    return figure


def points_against_dimension(evidence: Evidence) -> Figure:
    """RQ1 in practice: points needed with and without derivatives against dimension, and their ratio."""
    rows = of_experiment(evidence, "theory_points").rows
    figure = Figure(figsize=(7, 2.8))
    left, right = figure.subplots(1, 2)
    inputs = levels(rows, "n_inputs")
    for activation in ("relu", "tanh"):
        name, style, _ = LINES[activation]
        both = {d: [points_needed(rows, d, matched, activation) for matched in METHODS] for d in inputs}
        both = {d: needed for d, needed in both.items() if all(needed)}
        if not both:
            continue
        for k, (method, (label, colour)) in enumerate(METHODS.items()):
            intervals = [median_interval(needed[k].values()) for needed in both.values()]
            look = {"color": colour, "linestyle": style, "marker": "o" if method == "value" else "s"}
            _bars(left, list(both), intervals, label=f"{label}, {name}", **look)
        ratios = [
            median_interval(value[seed] / sobolev[seed] for seed in sorted(value.keys() & sobolev.keys()))
            for value, sobolev in both.values()
        ]
        _bars(right, list(both), ratios, label=name, color=BLACK, marker="o", linestyle=style)
    right.plot(inputs, [d + 1 for d in inputs], color=GREY, linestyle="-.", label="d + 1: numbers a point")
    for axes, label in ((left, "points needed"), (right, "value only / Sobolev")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(FixedLocator(inputs))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("inputs d")
        axes.set_ylabel(label)
        axes.legend(loc="upper left")
    _title(
        figure,
        rows,
        f"RQ1: points until less than {LEARNED:.0%} of a teacher's variance is unexplained (median, 95% interval)",
        "with derivatives fewer points do, and from 3 inputs on the more so the more inputs there are",
    )
    return figure


def _bars(axes: Axes, x: list[int], intervals: list[Interval], **look: str) -> None:
    """Medians with their intervals as bars."""
    median, low, high = (np.array(ends) for ends in list(zip(*intervals, strict=True))[:3])
    axes.errorbar(x, median, yerr=[median - low, high - median], capsize=2, **look)


def _slope(axes: Axes, exponent: int) -> None:
    """Logarithmic axes with a grey line of slope -exponent below the curves."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    lines = [line.get_data() for line in axes.lines if len(line.get_xdata())]
    if not lines:
        return
    width = np.array([min(x[0] for x, _ in lines), max(x[-1] for x, _ in lines)], dtype=float)
    lowest = min(y[-1] for _, y in lines)
    line = lowest / 3 * (width[1] / width) ** exponent
    axes.plot(width, line, color=GREY, linewidth=0.8, linestyle="-.", label=f"width$^{{-{exponent}}}$")
    axes.legend(loc="lower left")


def _title(figure: Figure, rows: pd.DataFrame, title: str, sentence: str) -> None:
    """What the figure is, what it shows in one sentence and, where it is not whole, that it is reduced."""
    drawing.title(figure, title, sentence, scale_of(rows))


FIGURES: dict[str, tuple[dict[str, str], Callable[[Evidence], Figure]]] = {  # and the rows that each needs
    "figure_2_left": ({"experiment": "theory_exact", "task": "hypotheses"}, figure_2_left),
    "gaussian_pair": ({"experiment": "theory_exact", "task": "gaussian"}, gaussian_pair),
    "sample_complexity": ({"experiment": "theory_exact", "task": "polynomials"}, sample_complexity),
    "theorem_1": ({"experiment": "theory_construction"}, theorem_1),
    "error_against_width": ({"experiment": "theory_approximation"}, error_against_width),
    "wrong_derivative": ({"experiment": "theory_mismatch"}, wrong_derivative),
    "points_against_dimension": ({"experiment": "theory_points"}, points_against_dimension),
}


def main(arguments: list[str] | None = None) -> int:
    """Draw, print the path of each file written, and return the exit status."""
    options = drawing.parse("theory_figures", FIGURES, "theory", arguments)
    missing, folder = [], options.results / "theory"
    try:
        path = rows_path(folder)
        if not path.is_file():
            raise EvidenceError(f"no rows at {path}: `make theory` makes them")
        settings = read_settings(folder / "settings.json") if expected(folder / "settings.json") else {}
        evidence = Evidence(read_rows(path), {}, settings)
        for name in options.names or FIGURES:
            needed, draw = FIGURES[name]
            if not len(select(evidence.rows, **needed)):
                missing.append(name)
                what = " ".join(needed.values())
                print(f"{name}: {path} has no rows of {what}; `make theory` makes them", file=sys.stderr)
                continue
            drawing.save(draw(evidence), options.out / f"theory_{name}")
    except EvidenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1 if set(missing) & set(options.names) else 0


if __name__ == "__main__":
    sys.exit(main())
