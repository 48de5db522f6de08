"""Figures of the theory.

Each is a function of the rows in results/theory, and states in its second line what it shows. Figures of the parts that
need no training are in figures_exact.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.evidence import drawing
from experiments.evidence.reading import expected
from experiments.evidence.rows import (
    Interval,
    final,
    groups,
    levels,
    median_interval,
    read_settings,
    rows_there,
    scale_of,
    select,
)
from experiments.evidence.verdicts import Evidence
from experiments.theory.analysis import LEARNED, by_width, number, of_experiment, points_needed, present
from experiments.theory.figures_exact import figure_2_left, gaussian_pair, sample_complexity
from experiments.theory.names import (
    ACTIVATIONS,
    BLACK,
    DIFFERENCES,
    DOMAINS,
    ERRORS,
    GREY,
    JOINT_ERRORS,
    METHODS,
    NORMS,
    of_dimension,
    plural,
)


def theorem_1(evidence: Evidence) -> Figure:
    """The S_1 error of constructed networks against width."""
    rows = of_experiment(evidence, "theory_construction").rows
    inputs = levels(rows, "n_inputs")
    figure = Figure(figsize=(7, 2.7))
    for axes, name in zip(figure.subplots(1, 2), ("gradient", "value"), strict=True):
        for n_inputs in inputs:
            colour, marker = of_dimension(n_inputs)
            for norm, (_, style) in NORMS.items():
                errors = by_width(rows, f"{name}_{norm}", n_inputs=n_inputs)
                medians = [next(iter(of_seed.values())) for of_seed in errors.values()]
                axes.plot(list(errors), medians, color=colour, marker=marker, linestyle=style, markersize=3)
        exponent = 1 if name == "gradient" else 2
        _slope(axes, exponent)
        axes.set_title(f"{name}s")
        axes.set_xlabel("hidden units")
    figure.axes[0].set_ylabel("error on [-1, 1]$^d$")
    looks = {n_inputs: of_dimension(n_inputs) for n_inputs in inputs}
    handles = [Line2D([], [], color=colour, marker=m, label=f"d = {d}") for d, (colour, m) in looks.items()]
    handles += [Line2D([], [], color=GREY, linestyle=style, label=label) for label, style in NORMS.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    drawing.title(
        figure,
        "Theorem 1: one hidden layer of ReLUs, written down",
        "its gradients converge together with its values, in 1, 2 and 3 dimensions",
        scale_of(rows),
    )
    return figure


def error_against_width(evidence: Evidence) -> Figure:
    """RQ2: errors of values and gradients against width, for trained networks and for the construction."""
    trained, built = (of_experiment(evidence, name).rows for name in ("theory_approximation", "theory_construction"))
    inputs, activations = levels(trained, "n_inputs"), present(trained, "activation", ACTIVATIONS)
    figure = Figure(figsize=(7, 1 + 1.6 * len(inputs)))
    for n_inputs, row in zip(inputs, figure.subplots(len(inputs), 4, sharex=True, squeeze=False), strict=True):
        for (metric, title), axes in zip(ERRORS.items(), row, strict=True):
            widths = set()
            for matched, (_, colour) in (DIFFERENCES | METHODS).items():  # drawn first: for tanh, `sobolev` covers it
                for activation in activations:
                    _, style, marker = ACTIVATIONS[activation]
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
        row[0].set_ylabel(plural(n_inputs, "input"))
    handles = [Line2D([], [], color=colour, label=label) for label, colour in (METHODS | DIFFERENCES).values()]
    looks = [ACTIVATIONS[activation] for activation in activations]
    handles += [Line2D([], [], color=GREY, linestyle=s, marker=m, label=label) for label, s, m in looks]
    handles += [Line2D([], [], color=BLACK, label="written down (Theorem 1)")]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    drawing.title(
        figure,
        "RQ2: error against width, by training (medians over seeds)",
        "derivatives bring tanh networks closer in both; they have no gradient by the biases of ReLU networks",
        scale_of(trained),
    )
    return figure


def wrong_derivative(evidence: Evidence) -> Figure:
    """Theorem 2: the joint error that training reaches, and its lower bound, against the size of the mismatch."""
    rows = of_experiment(evidence, "theory_mismatch").rows
    figure = Figure(figsize=(7, 2.7))
    mismatched = groups(rows[rows["delta"] > 0], "domain", "delta")
    for axes, (metric, label) in zip(figure.subplots(1, 2), JOINT_ERRORS.items(), strict=True):
        for domain, (_, colour, marker) in DOMAINS.items():
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
        *(Line2D([], [], color=c, marker=m, markerfacecolor="none", label=label) for label, c, m in DOMAINS.values()),
        Line2D([], [], color=GREY, label="least possible (closed form)"),
        Line2D([], [], color=GREY, marker="o", linestyle="none", markerfacecolor="none", label="trained, a seed each"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    drawing.title(
        figure,
        "Theorem 2: a derivative that is wrong",
        "no network gets below the floor, which grows with the mismatch; training on the mean square reaches it",
        scale_of(rows),
    )
    return figure


def points_against_dimension(evidence: Evidence) -> Figure:
    """RQ1 in practice: points needed with and without derivatives against dimension, and their ratio."""
    rows = of_experiment(evidence, "theory_points").rows
    figure = Figure(figsize=(7, 2.8))
    left, right = figure.subplots(1, 2)
    inputs = levels(rows, "n_inputs")
    for activation in present(rows, "activation", ACTIVATIONS):
        name, style, _ = ACTIVATIONS[activation]
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
    drawing.title(
        figure,
        f"RQ1: points until less than {LEARNED:.0%} of a teacher's variance is unexplained (median, 95% interval)",
        "with derivatives fewer points do, and from 3 inputs on the more so the more inputs there are",
        scale_of(rows),
    )
    return figure


def _bars(axes: Axes, x: list[int], intervals: list[Interval], **look: str) -> None:
    """Draw medians with their intervals as bars."""
    median, low, high = (np.array(ends) for ends in list(zip(*intervals, strict=True))[:3])
    axes.errorbar(x, median, yerr=[median - low, high - median], capsize=2, **look)


def _slope(axes: Axes, exponent: int) -> None:
    """Set logarithmic axes and draw a grey line of slope -exponent below the curves."""
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


# {name: (the rows that it needs, function)}
FIGURES: dict[str, tuple[dict[str, str], Callable[[Evidence], Figure]]] = {
    "figure_2_left": ({"experiment": "theory_exact", "task": "hypotheses"}, figure_2_left),
    "gaussian_pair": ({"experiment": "theory_exact", "task": "gaussian"}, gaussian_pair),
    "sample_complexity": ({"experiment": "theory_exact", "task": "polynomials"}, sample_complexity),
    "theorem_1": ({"experiment": "theory_construction"}, theorem_1),
    "error_against_width": ({"experiment": "theory_approximation"}, error_against_width),
    "wrong_derivative": ({"experiment": "theory_mismatch"}, wrong_derivative),
    "points_against_dimension": ({"experiment": "theory_points"}, points_against_dimension),
}


REMEDY = "`make theory` makes it"
NAMES = tuple(FIGURES)


def drawn(names: Collection[str], results: Path) -> Iterator[tuple[str, str, Figure]]:
    """The named figures for which there is evidence in `results`: (name, file name, figure), one at a time.

    Raises:
        EvidenceError: a file is damaged.
    """
    folder = results / "theory"
    rows = rows_there(folder)
    settings = read_settings(folder / "settings.json") if expected(folder / "settings.json") else {}
    for name in names:
        needed, draw = FIGURES[name]
        if len(select(rows, **needed)):
            yield name, f"theory_{name}", draw(Evidence(rows, {}, settings))
