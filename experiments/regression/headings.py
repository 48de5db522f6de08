"""The headings of regression's figures: protocol, seeds, updates, and the meaning of bars."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from experiments.evidence import drawing
from experiments.evidence.rows import MIN_SEEDS, scale_of
from experiments.regression.names import PROTOCOLS, REDUCED


def interval_words(rows: pd.DataFrame) -> str:
    """The meaning of bars from ``median_interval``: with few seeds they are the range."""
    counts = _seeds_of_cells(rows)
    if max(counts) < MIN_SEEDS:
        return "median, range (too few for an interval)"
    return "median, 95% interval" + (f" (range of fewer than {MIN_SEEDS})" if min(counts) < MIN_SEEDS else "")


def _seeds_of_cells(rows: pd.DataFrame) -> list[int]:
    """The number of seeds of each cell."""
    return rows.groupby(["task", "method", "n_train"], observed=True)["seed"].nunique().tolist()


def head(figure: Figure, title: str, rows: pd.DataFrame, spread: str) -> None:
    """Set the title with protocol, seeds and updates, and mark reduced rows."""
    updates = " to ".join(f"{steps:,}" for steps in shortest_and_longest(rows))
    experiment = rows["experiment"].iloc[0]
    counted = drawing.counted(_seeds_of_cells(rows), spread, f", {updates} updates")
    detail = f"{PROTOCOLS.get(experiment, experiment)}; {counted}"
    drawing.title(figure, title, detail, scale_of(rows), mark=REDUCED)


def shortest_and_longest(rows: pd.DataFrame) -> list[int]:
    """The least and greatest number of updates at which cells ended; one number if they agree."""
    ends = rows.groupby(["task", "method", "n_train"], observed=True)["step"].max()
    return sorted({ends.min(), ends.max()})
