"""The figure of claims R1 and R3 against the training budget, from test errors recorded during training."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from experiments.evidence import drawing
from experiments.evidence.rows import MIN_SEEDS, levels, scale_of, select
from experiments.regression.budget_rules import on_the_way
from experiments.regression.names import PROTOCOLS, REDUCED, SIZE_LOOKS
from experiments.regression.rules import (
    PAPER_TASKS,
    SIX_OF_SEVEN,
    Ratios,
    log_ratios,
    named_by_the_rules,
    outcome,
)

DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))  # by size, to tell lines apart without colour


def functions_won(rows: pd.DataFrame) -> Figure | None:
    """On how many of the paper's functions Sobolev Training wins (R1), and by how much (R3), against updates.

    The upper row has one panel per training size. The line counts the functions that are won by the rule of R1 (the 95%
    interval of the median ratio, paired by seed, lies above 1), and the band extends to those that are not lost. The
    lower panel has the ratio's geometric mean over functions with its 95% interval over seeds, for all sizes. After n
    updates each cell has its last measurement up to n. Sizes at which a method or a function was not run, or a cell has
    too few seeds for a verdict, are left out; None if no size remains.
    """
    rows = named_by_the_rules(select(rows, split="test", metric="value_mse"))
    sizes = [n_train for n_train in levels(rows, "n_train") if _whole(log_ratios(select(rows, n_train=n_train)))]
    if not sizes:
        return None
    figure = Figure(figsize=(7, 4.6))
    grid = figure.add_gridspec(2, len(sizes))
    below = figure.add_subplot(grid[1, :])
    panels = [figure.add_subplot(grid[0, k], sharex=below) for k in range(len(sizes))]
    for k, (n_train, axes) in enumerate(zip(sizes, panels, strict=True)):
        look = SIZE_LOOKS[k % len(SIZE_LOOKS)] | {"linestyle": DASHES[k % len(DASHES)]}
        by_updates = on_the_way(select(rows, n_train=n_train), n_train)
        updates = list(by_updates)
        outcomes = [[outcome(ratio) for ratio in ratios.values()] for ratios, _ in by_updates.values()]
        won = [of.count("won") for of in outcomes]
        axes.fill_between(
            updates, won, [len(of) - of.count("lost") for of in outcomes], color=look["color"], alpha=0.25
        )
        axes.plot(updates, won, **look)
        axes.axhline(SIX_OF_SEVEN[n_train], color="#555555", linewidth=0.8, linestyle=":")
        axes.set_title(f"{n_train:,} points")
        axes.set_ylim(-0.2, len(PAPER_TASKS) + 0.2)
        axes.set_yticks(range(len(PAPER_TASKS) + 1))
        low, middle, high = 10 ** np.array([(mean.low, mean.median, mean.high) for _, mean in by_updates.values()]).T
        below.fill_between(updates, low, high, color=look["color"], alpha=0.2)
        below.plot(updates, middle, label=f"{n_train:,} points", **look)
    below.axhline(1, color="black", linewidth=0.8)
    below.set_xscale("log")
    below.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    drawing.numbers_axis(below, evenly_below=3, between_below=200, labels=6)
    below.set_xlabel("optimiser updates, of each cell as far as it was trained")
    below.set_ylabel("value only / Sobolev\n(mean over functions)")
    panels[0].set_ylabel(f"functions won, of {len(PAPER_TASKS)}")
    below.legend(loc="upper left", ncols=len(sizes))
    handles = [
        Line2D([], [], color="#555555", label="won (line)"),
        Patch(color="#555555", alpha=0.25, label="not lost (band)"),
        Line2D([], [], color="#555555", linewidth=0.8, linestyle=":", label="what R1 asks for"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    experiment = rows["experiment"].iloc[0]
    seeds = rows.groupby(["task", "method", "n_train"], observed=True)["seed"].nunique().tolist()
    spread = "test MSE of values, paired by seed; below, geometric mean and its 95% interval"
    detail = f"{PROTOCOLS.get(experiment, experiment)}; {drawing.counted(seeds, spread)}"
    drawing.title(
        figure, "Functions won (R1) and by how much (R3), by training budget", detail, scale_of(rows), REDUCED
    )
    return figure


def _whole(ratios: Ratios) -> bool:
    """Whether every function was run with enough seeds for a verdict."""
    return {task for task, _ in ratios} == {*PAPER_TASKS} and all(r.n >= MIN_SEEDS for r in ratios.values())
