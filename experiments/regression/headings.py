"""What stands above figures of regression: protocol, seeds, updates, and what bars are."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from experiments.evidence import drawing
from experiments.evidence.rows import MIN_SEEDS, scale_of
from experiments.regression.names import PROTOCOLS, REDUCED


def interval_words(rows: pd.DataFrame) -> str:
    """What the bars of ``median_interval`` are: with few seeds it reaches over all of them."""
    counts = _seeds_of_cells(rows)
    if max(counts) < MIN_SEEDS:
        return "median, range (too few for an interval)"
    return "median, 95% interval" + (f" (range of fewer than {MIN_SEEDS})" if min(counts) < MIN_SEEDS else "")


def _seeds_of_cells(rows: pd.DataFrame) -> list[int]:
    """How many seeds each cell has."""
    return rows.groupby(["task", "method", "n_train"], observed=True)["seed"].nunique().tolist()


def head(figure: Figure, title: str, rows: pd.DataFrame, spread: str) -> None:
    """Name the figure, its protocol, seeds and updates and, where rows are reduced, that they are."""
    updates = " to ".join(f"{steps:,}" for steps in shortest_and_longest(rows))
    experiment = rows["experiment"].iloc[0]
    counted = drawing.counted(_seeds_of_cells(rows), spread, f", {updates} updates")
    detail = f"{PROTOCOLS.get(experiment, experiment)}; {counted}"
    drawing.title(figure, title, detail, scale_of(rows), mark=REDUCED)


def shortest_and_longest(rows: pd.DataFrame) -> list[int]:
    """After how many updates the training of cells ended, shortest and longest; one number if all agree."""
    ends = rows.groupby(["task", "method", "n_train"], observed=True)["step"].max()
    return sorted({ends.min(), ends.max()})
