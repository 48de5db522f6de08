"""Figures of the search for a recipe, and of the recipe with other weights and with noise, from recorded rows."""

from __future__ import annotations

import re

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.evidence import drawing
from experiments.evidence.names import looks_of
from experiments.evidence.rows import finals, log_ratio, scale_of, select
from experiments.regression.choosing import (
    CELLS,
    LIMITS,
    MOST,
    SEARCH,
    Choice,
    complete,
    errors_of,
    gain,
    of_one_size,
    ranked,
)
from experiments.regression.names import REDUCED, SIZE_LOOKS

AXES_OF_LIMITS = {  # {label of the axis: pattern of the methods}
    "weight of gradients / the recipe's": r"sobolev_weight(.*)_noise0\.0",
    "noise / root mean square of the gradients": r"sobolev_weight1\.0_noise(.*)",
}
VALUE_OF_LIMITS = "value_weight1.0_noise0.0"
WORDS = {"unit": "1:1", "balanced": "balanced", "flat": "", "late": "falling", "early": "falling early", "square": ""}
WORDS |= {"norm": "norm", "exact": "", "finite": "differences"}


def recipes(rows: pd.DataFrame) -> Figure | None:
    """The ratio of the best value-only error to that of each recipe in stage 2.

    Each dot is a function and size, and the bar is the gain. None if no recipe has every function and size.
    """
    errors = errors_of(rows)
    whole = complete(errors, CELLS)
    value, choices = ranked(errors)
    if not choices:
        return None
    reference, sizes = whole[value[0]], sorted({n_train for _, n_train in CELLS})
    figure = Figure(figsize=(7, 1.3 + 0.24 * len(choices)))
    axes = figure.subplots()
    for position, choice in enumerate(choices):
        for k, n_train in enumerate(sizes):
            ratios = [reference[cell] / error for cell, error in whole[choice].items() if cell[1] == n_train]
            height = position + 0.2 * (k - 1)
            axes.plot(ratios, [height] * len(ratios), linestyle="", markersize=3, alpha=0.7, **SIZE_LOOKS[k])
        axes.plot([gain(reference, whole[choice])] * 2, [position - 0.4, position + 0.4], color="black", linewidth=2)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.axvspan(1 / MOST, MOST, color="#999999", alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_yticks(range(len(choices)), [title(choice) for choice in choices])
    axes.set_ylim(len(choices) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    better = "$\\leftarrow$ value only better      recipe better $\\rightarrow$"
    axes.set_xlabel(f"MSE of values, best value only / recipe\n{better}")
    handles = [
        Line2D([], [], label=f"{n:,} points, one function", linestyle="", markersize=4, **look)
        for n, look in zip(sizes, SIZE_LOOKS, strict=False)
    ]
    gains = Line2D([], [], color="black", linewidth=2, label="gain (counts the grey range alone)")
    figure.legend(handles=[*handles, gains], loc="outside lower center", ncols=2)
    detail = f"validation points, functions that are none of the paper's; value only: {title(value[0])}"
    if any(choice.derivative == "finite" for choice in choices):
        detail += "\ndifferences were tried after the search had chosen"
    drawing.title(figure, "The search for a recipe", detail, scale_of(select(rows, experiment=SEARCH)), mark=REDUCED)
    return figure


def limits(rows: pd.DataFrame) -> Figure | None:
    """The ratio of value-only error to the recipe's, by the factor of its weight and by the noise in its gradients.

    One line per function: the median over seeds of the paired ratio, with its 95% interval. None if nothing was run.
    """
    rows, points = of_one_size(rows, LIMITS)
    errors = finals(select(rows, metric="value_mse"), "task", "method")
    tasks = list(dict.fromkeys(task for task, _ in errors))
    if not tasks:
        return None
    looks = looks_of(tasks, dict(zip(tasks, SIZE_LOOKS, strict=False)))
    figure = Figure(figsize=(7, 3))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (name, template) in zip(panels, AXES_OF_LIMITS.items(), strict=True):
        for task, look in looks.items():
            value, found = errors.get((task, VALUE_OF_LIMITS), {}), {}
            for (other, method), by_seed in errors.items():
                if other == task and (at := re.fullmatch(template, method)):
                    found[float(at[1])] = log_ratio(value, by_seed)
            shown = sorted((x, ratio) for x, ratio in found.items() if x and ratio.n)
            for x, ratio in shown:
                axes.plot([x, x], [10**ratio.low, 10**ratio.high], color=look["color"])
            axes.plot([x for x, _ in shown], [10**ratio.median for _, ratio in shown], **look)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xlabel(name)
    drawing.decades_axis(panels[0])
    panels[0].set_ylabel("MSE of values, value only / recipe")
    handles = [Line2D([], [], label=task, **look) for task, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(tasks))
    detail = f"{points:,} points, validation points of functions that are none of the paper's; median, 95% interval"
    drawing.title(figure, "The recipe with other weights, and with noise", detail, scale_of(rows), mark=REDUCED)
    return figure


def title(choice: Choice) -> str:
    """A choice in words, `tanh 0.003, balanced, falling`."""
    batch = f", batch {choice.batch_size}" if choice.batch_size != "32" else ""
    network = f"{choice.activation} {choice.learning_rate}{batch}"
    terms = (choice.weight, choice.falls, choice.distance, choice.derivative) if choice.learns_gradients else ()
    return ", ".join([network, *filter(None, (WORDS[word] for word in terms))])
