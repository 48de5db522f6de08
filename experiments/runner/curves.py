"""The figure that each run writes beside its rows: every metric over training.

The paper's figures compare runs and are drawn from results/. This one shows a single run to the user who started it.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from experiments.runner.settings import RunConfig
from sobolev.files import naming

STYLE = Path(__file__).with_name("paper.mplstyle")  # for all figures of the project
COLUMNS = 3
DASHES = {"train": (0, (3, 1.5))}

Curve = dict[int, list[float]]  # {step: one value per seed}
Panels = dict[str, dict[tuple[str, str], Curve]]  # {metric: {(split, part): curve}}


def draw_curves(metrics: Path, config: RunConfig, scale: str | None) -> Figure | None:
    """A run's rows: one panel per metric and one line per split and part, with the median over seeds in a band from
    the minimum to the maximum. None if no metric was measured more than once.

    The metric `name/k` is part k of panel `name`. An axis is logarithmic if all values are positive and span a decade.
    """
    panels = read_panels(metrics)
    if not panels:
        return None
    with matplotlib.style.context(STYLE):
        n_rows = -(-len(panels) // COLUMNS)
        figure = Figure(figsize=(7, 0.6 + 1.7 * n_rows))
        grid = figure.subplots(n_rows, min(COLUMNS, len(panels)), squeeze=False)
        for axes, (name, lines) in zip(grid.flat, panels.items(), strict=False):
            colors = {name: f"C{k}" for k, name in enumerate(sorted({part or split for split, part in lines}))}
            for (split, part), curve in sorted(lines.items()):
                steps = sorted(curve)
                low, median, high = np.array([np.quantile(curve[step], (0, 0.5, 1)) for step in steps]).T
                color, label = colors[part or split], f"{split} {part}".strip()
                axes.plot(steps, median, color=color, linestyle=DASHES.get(split, "-"), label=label)
                axes.fill_between(steps, low, high, color=color, alpha=0.15)
            seen = [value for curve in lines.values() for values in curve.values() for value in values]
            if min(seen) > 0 and max(seen) > 10 * min(seen):
                axes.set_yscale("log")
            axes.set_title(name.replace("_", " "))
            axes.set_xlabel("step")
            axes.legend(fontsize=6)
        for axes in grid.flat[len(panels) :]:
            axes.axis("off")
        labels = config.labels
        title = f"{config.name}: {labels.task}, {labels.method}, {labels.n_train:,} training points"
        figure.suptitle(f"{title} ({scale})" if scale else title, x=0.01, ha="left")
    return figure


def read_panels(metrics: Path) -> Panels:
    """The metrics of a run that were measured more than once."""
    panels: Panels = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    with naming(metrics), metrics.open(newline="") as file:
        for row in csv.DictReader(file):
            name, _, part = row["metric"].partition("/")
            panels[name][row["split"], part][int(row["step"])].append(float(row["value"]))
    kept = {name: {key: curve for key, curve in lines.items() if len(curve) > 1} for name, lines in panels.items()}
    return {name: lines for name, lines in kept.items() if lines}
