"""Figures of surrogates: errors against the number of samples and against their cost, and predictions.

Each is a function of the rows and arrays in results/surrogates, or of the arrays of one run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.evidence import drawing
from experiments.evidence.names import looks_of
from experiments.evidence.reading import expected, read_arrays
from experiments.evidence.rows import levels, median_interval, rows_there, scale_of, select
from experiments.evidence.schemas import PREDICTIONS
from experiments.surrogates.analysis import errors_of, label_costs, tasks_of
from experiments.surrogates.names import LOOKS, METHODS, METRICS, SAMPLES, outputs_of, title_of

NAMES = ("surrogate_errors", "surrogate_costs", "surrogate_predictions")
REMEDY = "`make surrogates` makes it"
REDUCED = "REDUCED: not the shipped settings"
MISSING = "; hollow: no run"
MOST = 6  # the most outputs in a figure of predictions
STYLES = {"sensitivities": "-", "differences": "--"}  # by how derivatives are computed

Arrays = Mapping[str, np.ndarray]


def errors(rows: pd.DataFrame, experiment: str, task: str) -> Figure:
    """Test errors against the number of training samples: medians over seeds with 95% intervals."""
    rows = select(rows, experiment=experiment, task=task)
    figure, panels = _panels(rows)
    looks = looks_of(levels(rows, "method"), LOOKS)
    sizes, whole = levels(rows, "n_train"), True
    for metric, axes in panels.items():
        for method, look in looks.items():
            of = experiment, task, method, metric
            whole &= _line(axes, rows, of, sizes, 1.0, **look, label=METHODS.get(method, method))
        _finish(axes, METRICS[metric], f"training {SAMPLES.get(task, 'samples')}")
        axes.xaxis.set_major_locator(FixedLocator(sizes[drawing.some(len(sizes), 9)]))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    detail = f"test error over that of a constant; medians over seeds, 95% intervals{'' if whole else MISSING}"
    drawing.title(figure, f"Surrogate: {title_of(task)}", detail, scale_of(rows), REDUCED)
    return figure


def costs(rows: pd.DataFrame, experiment: str, task: str) -> Figure:
    """The same errors against the cost of the training samples, including that of derivatives."""
    rows = select(rows, experiment=experiment, task=task)
    figure, panels = _panels(rows)
    sizes, whole = levels(rows, "n_train"), True
    for metric, axes in panels.items():
        of = experiment, task, "value", metric
        whole &= _line(axes, rows, of, sizes, 1.0, **LOOKS["value"], label="value only")
        for way, cost in label_costs(rows, experiment, task).items():
            look, of = LOOKS["sobolev"] | {"linestyle": STYLES[way]}, (experiment, task, "sobolev", metric)
            whole &= _line(axes, rows, of, sizes, cost, **look, label=f"Sobolev, {way}")
        _finish(axes, METRICS[metric], f"cost of training samples, in plain {SAMPLES.get(task, 'samples')}")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    detail = f"test error against the cost of labels; medians over seeds, 95% intervals{'' if whole else MISSING}"
    drawing.title(figure, f"Surrogate: {title_of(task)}", detail, scale_of(rows), REDUCED)
    return figure


def predicted(title: str, by_method: Mapping[str, Arrays], outputs: tuple[str, ...], scale: str) -> Figure:
    """Predicted against true values, and derivatives by all inputs, for each output; the diagonal is exact."""
    looks = looks_of(by_method, LOOKS)
    first = next(iter(by_method.values()))
    kinds = {"y": "values", **({"dy": "derivatives"} if "dy" in first else {})}
    outputs = outputs[:MOST]
    if len(outputs) == 1:  # side by side
        figure = Figure(figsize=(6, 3.2))
        grid = figure.subplots(1, len(kinds), squeeze=False).T
    else:
        figure = Figure(figsize=(max(1.75 * len(outputs), 6), 0.9 + 1.8 * len(kinds)))
        grid = figure.subplots(len(kinds), len(outputs), squeeze=False)
    for row, (kind, said) in zip(grid, kinds.items(), strict=True):
        for k, axes in enumerate(row):
            true = first[kind][:, k]
            scales = np.sqrt((true**2).mean(0)) if kind == "dy" else 1.0  # inputs have different units
            scales = np.where(scales > 0, scales, 1.0)
            for method, arrays in by_method.items():
                found, truth = ((arrays[name][:, k] / scales).ravel() for name in (f"{kind}_predicted", kind))
                marks = {"marker": looks[method]["marker"], "color": looks[method]["color"], "linestyle": ""}
                axes.plot(truth, found, **marks, markersize=1.5, alpha=0.5, label=METHODS.get(method, method))
            ends = (true / scales).min(), (true / scales).max()
            axes.plot(ends, ends, color="black", linewidth=0.7)
            axes.set_title(outputs[k] if kind == "y" else "")
            axes.set_xlabel(f"true {said}")
        row[0].set_ylabel(f"predicted {said}" + ("\n(over root mean square)" if kind == "dy" else ""))
    if len(by_method) > 1:
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, markerscale=3)
    drawing.title(figure, title, "test samples; the line is where a prediction is right", scale, REDUCED)
    return figure


def _panels(rows: pd.DataFrame) -> tuple[Figure, dict[str, Axes]]:
    """One panel per metric that has rows."""
    metrics = [metric for metric in METRICS if metric in set(select(rows, split="test")["metric"])]
    figure = Figure(figsize=(3.5 * len(metrics), 2.9))
    grid = figure.subplots(1, len(metrics), squeeze=False)
    return figure, dict(zip(metrics, grid[0], strict=True))


def _line(
    axes: Axes, rows: pd.DataFrame, of: tuple[str, str, str, str], sizes: list[int], cost: float, **look: str
) -> bool:
    """Draw medians over seeds with intervals against samples times their cost; returns whether no size is missing.

    At a missing size the line has a gap, and the method's marker is drawn hollow at the bottom of the panel.
    """
    medians = errors_of(rows, *of).medians()
    x = cost * np.array(sizes, dtype=float)
    middle, low, high, _ = np.array([medians.get(n, median_interval(())) for n in sizes]).T
    axes.plot(x, middle, **look)
    axes.fill_between(x, low, high, color=look["color"], alpha=0.2)
    known = np.isfinite(middle)
    beside = np.pad(known, 1)
    alone = known & ~beside[:-2] & ~beside[2:]  # a band of one point is invisible
    axes.vlines(x[alone], low[alone], high[alone], color=look["color"], alpha=0.4, linewidth=4)
    if not known.all():
        hollow = {"marker": look["marker"], "color": look["color"], "markerfacecolor": "none", "linestyle": ""}
        foot = np.full((~known).sum(), 0.04)
        axes.plot(x[~known], foot, **hollow, transform=axes.get_xaxis_transform())
    return bool(known.all())


def _finish(axes: Axes, title: str, of_x: str) -> None:
    axes.set_title(f"errors of {title}")
    axes.set_xlabel(of_x)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    drawing.numbers_axis(axes, 3, 200, 8)
    axes.set_ylabel("relative error")


def drawn(names: Collection[str], results: Path) -> Iterator[tuple[str, str, Figure]]:
    """The named figures for which there is evidence in `results`: (name, file name, figure), one at a time.

    Raises:
        EvidenceError: a file is damaged.
    """
    folder = results / "surrogates"
    rows = rows_there(folder)
    for experiment, task in tasks_of(rows):
        stem = experiment if experiment.endswith(f"_{task}") else f"{experiment}_{task}"
        if "surrogate_errors" in names:
            yield "surrogate_errors", f"{stem}_errors", errors(rows, experiment, task)
        if "surrogate_costs" in names and label_costs(rows, experiment, task):
            yield "surrogate_costs", f"{stem}_costs", costs(rows, experiment, task)
        if "surrogate_predictions" in names and (by_method := _kept(folder, rows, experiment, task)):
            n, by_method = by_method
            outputs = outputs_of(task, next(iter(by_method.values()))["y"].shape[1])
            scale = "paper" if all(str(arrays["scale"]) == "paper" for arrays in by_method.values()) else "reduced"
            title = f"Surrogate: {title_of(task)}, {n:,} training {SAMPLES.get(task, 'samples')}"
            yield "surrogate_predictions", f"{stem}_predictions", predicted(title, by_method, outputs, scale)


def _kept(folder: Path, rows: pd.DataFrame, experiment: str, task: str) -> tuple[int, dict[str, Arrays]] | None:
    """The predictions of each method at one size: the middle one of those for which every method has predictions."""
    rows = select(rows, experiment=experiment, task=task)
    methods = levels(rows, "method")
    by_size = {}
    for n in levels(rows, "n_train"):
        paths = {method: folder / "predictions" / f"{experiment}_{task}_{method}_{n}.npz" for method in methods}
        if all(expected(path) for path in paths.values()):
            by_size[n] = paths
    if not by_size:
        return None
    n = sorted(by_size)[len(by_size) // 2]
    return n, {method: read_arrays(path, PREDICTIONS) for method, path in by_size[n].items()}
