"""Figures of distillation: Figure 4 and its curves, the end of training, and how the teachers learned.

Each is a function of the rows in results/distillation or results/teachers. `draw` adds gradients next to frames.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from experiments.distillation.names import ENDS, EXPERIMENT, GAMES, LONGER, LOOKS, METHODS, METRICS, title
from experiments.distillation.ratios import beyond, ratio
from experiments.distillation.saliency_figures import Saliencies, read_saliencies, saliency
from experiments.evidence import drawing
from experiments.evidence.names import Look, looks_of
from experiments.evidence.reading import expected, read_csv, read_json
from experiments.evidence.rows import (
    MIN_SEEDS,
    BySeed,
    Interval,
    curve,
    finals,
    groups,
    levels,
    median_interval,
    rows_there,
    scale_of,
    select,
)
from experiments.evidence.schemas import RUNS, Card

TRAINED = {"linestyle": (0, (3, 1.5)), "linewidth": 0.7}
RATIO_LOOKS = {  # style, and the side of the training size on which the interval is drawn
    "action_error": ({"color": "#009E73", "marker": "^", "markerfacecolor": "white"}, -0.5),
    "kl": ({"color": "#000000", "marker": "D"}, 0.5),
}
BESIDE = 0.75  # how far beside its marker an interval may lie, in powers of 1.12, to be seen as its own


def figure_4(rows: pd.DataFrame) -> Figure:
    """Figure 4 at the end of training: action-prediction error and KL(student || teacher) on test episodes, by states.

    One row per game. Markers are medians over seeds with their 95% intervals. The last panel shows which method leads:
    the ratio value only / Sobolev of each distance, paired by seed, 1,000 at most; omitted if only one method was run.
    """
    games, sizes, looks = _games(rows), levels(rows, "n_train"), looks_of(levels(rows, "method"), LOOKS)
    ends = finals(select(rows, split="test"), "task", "method", "n_train", "metric")
    distances = ("action_error", "kl")
    columns = len(distances) + ({"value", "sobolev"} <= looks.keys())
    figure = Figure(figsize=(7, 1.0 + 1.45 * len(games)))
    grid = figure.subplots(len(games), columns, sharex=True, squeeze=False)
    ratios: list[Interval] = []
    for game, line in zip(games, grid, strict=True):
        for metric, axes in zip(distances, line, strict=False):
            _draw_ends(axes, {m: {n: ends.get((game, m, n, metric), {}) for n in sizes} for m in looks}, looks)
            _log_axis(axes)
        line[0].set_ylabel(title(game))
        for axes in line[len(distances) :]:
            for metric, (look, side) in RATIO_LOOKS.items():
                pairs = {n: [ends.get((game, m, n, metric), {}) for m in ("value", "sobolev")] for n in sizes}
                _draw_medians(axes, drawn := {n: ratio(*pair) for n, pair in pairs.items()}, side, look)
                ratios += drawn.values()
            axes.axhline(1, color="black", linewidth=0.8)
            drawing.numbers_axis(axes, evenly_below=3, between_below=200, labels=6)
    of_ratios = f"value only / Sobolev\n(above 1: Sobolev leads{beyond(ratios)})"
    names = (*(METRICS[metric] for metric in distances), of_ratios)
    for axes, name in zip(grid[0], names, strict=False):
        axes.set_title(name, fontsize=7)
    _label_sizes(grid, sizes)
    handles = [_handle(method, look) for method, look in looks.items()]
    if columns > len(distances):
        handles += [Line2D([], [], label=f"ratio of {METRICS[m]}", **look) for m, (look, _) in RATIO_LOOKS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    _title(figure, "Figure 4: distance to the teacher at the end of training, test episodes", rows, _interval(rows))
    return figure


def curves(rows: pd.DataFrame) -> Figure:
    """Figure 4's curves: action-prediction error and KL over training, one column per training size.

    Lines are medians over seeds, bands reach from the lower to the upper quartile; dashed lines are training states.
    A game's curves start where its methods begin to differ. Axes are scaled to the test curves: few training states are
    fitted far below.
    """
    games, sizes, looks = _games(rows), levels(rows, "n_train"), looks_of(levels(rows, "method"), LOOKS)
    panels = [(game, metric) for game in games for metric in ("action_error", "kl")]
    figure = Figure(figsize=(7, 0.9 + 1.3 * len(panels)))
    grid = figure.subplots(len(panels), len(sizes), sharex="row", sharey="row", squeeze=False)
    for (game, metric), line in zip(panels, grid, strict=True):
        first, seen = _part(select(rows, task=game, split="test")), []
        for n_train, axes in zip(sizes, line, strict=True):
            of_panel = select(rows, task=game, n_train=n_train, metric=metric)
            for method, look in looks.items():
                seen += _draw_curve(axes, select(of_panel[of_panel["step"] >= first], method=method), look)
            axes.set_xscale("log")
        if any(seen):
            line[0].set_ylim(min(filter(None, seen)) / 1.3, max(seen) * 1.15)
        for axes in line:
            _log_axis(axes)
        line[0].set_ylabel(f"{title(game)}\n{METRICS[metric]}")
    for n_train, axes in zip(sizes, grid[0], strict=True):
        axes.set_title(f"{n_train:,} states")
    for axes in grid[-1]:
        axes.set_xlabel("optimiser updates")
    figure.align_ylabels()
    dashes = [Line2D([], [], color="#555555", label="test states")]
    dashes.append(Line2D([], [], color="#555555", label="training states (cut below)", **TRAINED))
    methods = [_handle(method, look) for method, look in looks.items()]
    figure.legend(handles=methods + dashes, loc="outside lower center", ncols=5)
    _title(figure, "Figure 4's curves: distance to the teacher over training", rows, "median and quartiles")
    return figure


def _draw_curve(axes: Axes, rows: pd.DataFrame, look: Look) -> list[float]:
    """Draw one method in a panel of `curves`, and return the ends of its test band."""
    steps, trained_TS = curve(select(rows, split="train"))
    if trained_TS.size:
        axes.plot(steps, np.median(trained_TS, axis=1), color=look["color"], **TRAINED)
    steps, values_TS = curve(select(rows, split="test"))
    if not values_TS.size:
        return []
    low, median, high = np.quantile(values_TS, (0.25, 0.5, 0.75), axis=1)
    axes.fill_between(steps, low, high, color=look["color"], alpha=0.18)
    axes.plot(steps, median, markevery=drawing.some(len(steps)), markersize=3, **look)
    return [low.min(), high.max()]


def _part(rows: pd.DataFrame) -> int:
    """The last step before the methods' medians differ by a tenth in any distance, at any training size."""
    rows = rows[rows["metric"].isin(["action_error", "kl"]) & (rows["step"] > 0)]
    medians = rows.pivot_table("value", ["step", "n_train", "metric"], "method", "median", observed=True)
    differ = (medians.max(axis="columns") > 1.1 * medians.min(axis="columns")).groupby("step").any()
    steps = differ.index[: max(1, int(differ.to_numpy().argmax()))]  # if they never differ: the first step
    return int(steps[-1]) if len(steps) else 1


def final_values(rows: pd.DataFrame) -> Figure:
    """Further metrics at the end of training, by states: gradient errors on test episodes, and how students play."""
    games, sizes, looks = _games(rows), levels(rows, "n_train"), looks_of(levels(rows, "method"), LOOKS)
    ends = finals(rows, "task", "method", "n_train", "split", "metric")
    columns = {key: name for key, name in ENDS.items() if any(cell[3:] == key for cell in ends)}
    figure = Figure(figsize=(7, 1.0 + 1.45 * len(games)))
    grid = figure.subplots(len(games), len(columns), sharex=True, squeeze=False)
    for game, line in zip(games, grid, strict=True):
        for (split, metric), axes in zip(columns, line, strict=True):
            _draw_ends(axes, {m: {n: ends.get((game, m, n, split, metric), {}) for n in sizes} for m in looks}, looks)
            if metric != "score":
                _log_axis(axes)
        line[0].set_ylabel(title(game))
    for axes, name in zip(grid[0], columns.values(), strict=True):
        axes.set_title(name, fontsize=7)
    _label_sizes(grid, sizes)
    methods = [_handle(method, look) for method, look in looks.items()]
    figure.legend(handles=methods, loc="outside lower center", ncols=len(methods))
    _title(figure, "Gradients and play at the end of training", rows, _interval(rows))
    return figure


def longer(rows: pd.DataFrame) -> Figure:
    """The end of longer training: KL(student || teacher) on test episodes, and its ratio to value-only training.

    One row per game. The ratio, value only / method, is paired by seed.
    """
    games, sizes, looks = _games(rows), levels(rows, "n_train"), looks_of(levels(rows, "method"), LOOKS)
    ends = finals(select(rows, split="test", metric="kl"), "task", "method", "n_train")
    figure = Figure(figsize=(5, 1.0 + 1.45 * len(games)))
    grid = figure.subplots(len(games), 2, sharex=True, squeeze=False)
    ratios: list[Interval] = []
    for game, line in zip(games, grid, strict=True):
        _draw_ends(line[0], {m: {n: ends.get((game, m, n), {}) for n in sizes} for m in looks}, looks)
        _log_axis(line[0])
        for k, (method, look) in enumerate(looks.items()):
            pairs = {n: [ends.get((game, m, n), {}) for m in ("value", method)] for n in sizes}
            if method != "value":
                drawn = {n: ratio(*pair) for n, pair in pairs.items()}
                _draw_medians(line[1], drawn, _side(k, len(looks)), look)
                ratios += drawn.values()
        line[1].axhline(1, color="black", linewidth=0.8)
        drawing.numbers_axis(line[1], evenly_below=3, between_below=200, labels=6)
        line[0].set_ylabel(title(game))
    of_ratios = f"value only / method\n(above 1: the method leads{beyond(ratios)})"
    for axes, name in zip(grid[0], (METRICS["kl"], of_ratios), strict=True):
        axes.set_title(name, fontsize=7)
    _label_sizes(grid, sizes)
    columns = len(looks) if len(looks) < 4 else 2  # more would not fit into the width
    figure.legend(handles=[_handle(*each) for each in looks.items()], loc="outside lower center", ncols=columns)
    text = f"Distance to the teacher after {rows['step'].max():,} updates, test episodes"
    detail = drawing.counted([len(of_cell) for of_cell in ends.values()], _interval(rows))
    drawing.title(figure, text, detail, scale_of(rows))
    return figure


def _draw_ends(axes: Axes, ends: dict[str, dict[int, BySeed]], looks: dict[str, Look]) -> None:
    """Medians and their intervals against training sizes, of each method."""
    for k, (method, look) in enumerate(looks.items()):
        intervals = {n: median_interval(cell.values()) for n, cell in ends[method].items()}
        _draw_medians(axes, intervals, _side(k, len(looks)), look)


def _side(k: int, count: int) -> float:
    """Where the interval of method k of `count` is drawn: next to its marker, however many methods there are."""
    return min(1.0, 2 * BESIDE / max(1, count - 1)) * (k - (count - 1) / 2)


def _draw_medians(axes: Axes, intervals: dict[int, Interval], side: float, look: Look) -> None:
    """A line through the sizes, broken where one has no runs (NaN); intervals lie beside it, so that lines cross where
    medians do.
    """
    for n_train, interval in intervals.items():
        axes.plot([n_train * 1.12**side] * 2, [interval.low, interval.high], color=look["color"])
    axes.plot([*intervals], [interval.median for interval in intervals.values()], linewidth=0.8, **look)


def _label_sizes(grid: np.ndarray, sizes: list[int]) -> None:
    for axes in grid[-1]:
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("training states")


def _interval(rows: pd.DataFrame) -> str:
    return "median, 95% interval" if rows["seed"].nunique() >= MIN_SEEDS else "median and range (few seeds)"


def _games(rows: pd.DataFrame) -> list[str]:
    """The games of the rows: the paper's in its order, then others."""
    found = levels(rows, "task")
    return [game for game in GAMES if game in found] + [game for game in found if game not in GAMES]


def _log_axis(axes: Axes) -> None:
    """Make the axis logarithmic, unless every value shown is 0, as for a student without errors."""
    if any((np.asarray(line.get_ydata()) > 0).any() for line in axes.lines):
        drawing.numbers_axis(axes, evenly_below=4, between_below=200, labels=4)


def _handle(method: str, look: Look) -> Line2D:
    return Line2D([], [], label=METHODS.get(method, method), **look)


def _title(figure: Figure, text: str, rows: pd.DataFrame, spread: str) -> None:
    drawing.title(figure, text, drawing.counted([rows["seed"].nunique()], spread), scale_of(rows))


def teachers(rows: pd.DataFrame, steps_before: dict[str, int]) -> Figure:
    """How the teachers learned: scores of the games that ended in each segment of training, with sampled actions.

    Lines and bands are mean and one standard deviation over games; a cross is the final teacher, over whole games. A
    line is one run (algorithm, number of steps and seed); it starts where the training that it continues ended.
    """
    games = _games(rows)
    figure = Figure(figsize=(1 + 2 * max(2, len(games)), 2.2))
    for game, axes in zip(games, figure.subplots(1, len(games), squeeze=False).flat, strict=True):
        of_game = select(rows, task=game)
        runs = groups(of_game, "method", "n_train", "seed")
        for k, ((method, n_train, seed), of_run) in enumerate(runs):
            look = {"color": f"C{k}"}
            run = f"{game}-{method}-n{n_train}-seed{seed}-"
            before = next((steps for run_id, steps in steps_before.items() if run_id.startswith(run)), 0)
            steps, mean, std = _scores(of_run, "train")
            steps = steps + before
            axes.fill_between(steps / 1e6, mean - std, mean + std, alpha=0.18, **look)
            several = of_game["seed"].nunique() > 1
            label = f"{method.replace('_', ' ')}, {n_train / 1e6:g}M{f', seed {seed}' if several else ''}"
            axes.plot(steps / 1e6, mean, label=label, **look)
            steps, mean, std = _scores(of_run, "test")
            axes.errorbar((steps + before) / 1e6, mean, std, marker="x", linestyle="", **look)
        if len(runs) > 1:
            axes.legend(loc="lower right", fontsize=6, handlelength=1)
        axes.set_title(title(game))
        axes.set_xlabel("million agent steps")
    figure.axes[0].set_ylabel("score of a game")
    seeds = rows["seed"].nunique()
    detail = f"{seeds} seed{'s' * (seeds > 1)}; mean and standard deviation over games"
    drawing.title(figure, "Teachers", detail, scale_of(rows))
    return figure


def _scores(rows: pd.DataFrame, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean scores and their standard deviations over games, of one run's rows."""
    mean, std = (select(rows, split=split, metric=metric) for metric in ("score", "score_std"))
    return mean["step"].to_numpy(), mean["value"].to_numpy(), std["value"].to_numpy()


def read_steps_before(folder: Path) -> dict[str, int]:
    """For each run that the teachers' cards name and that has rows: the number of training steps before it.

    Raises:
        EvidenceError: a card is damaged.
    """
    steps_before = {}
    runs = folder / "runs.csv"
    drawn = {row["run_id"] for row in read_csv(runs, RUNS)} if expected(runs) else set()
    for path in sorted(folder.glob("*.json")):
        card = read_json(path, Card) if path.name != "settings.json" else None
        while isinstance(card, Card):  # of a teacher from elsewhere only the SHA-256 is known
            before = card.before.training.steps if isinstance(card.before, Card) else 0
            if card.run_id in drawn:
                steps_before[card.run_id] = before
            card = card.before
    return steps_before


REMEDY = "`make teachers distillation` makes it"
NAMES = ("figure_4", "final_values", "longer", "distillation_curves", "saliency", "teachers")


def draw(
    names: list[str],
    rows: pd.DataFrame,
    rows_of_longer: pd.DataFrame,
    saliencies: Saliencies,
    of_teachers: pd.DataFrame,
    steps_before: dict[str, int],
) -> Iterator[tuple[str, str, Figure]]:
    """Those of the named figures that rows and gradients allow: (name, file name, figure), one at a time."""
    if "teachers" in names and len(of_teachers):
        yield "teachers", "distillation_teachers", teachers(of_teachers, steps_before)
    if "figure_4" in names and len(rows):
        yield "figure_4", "figure_4", figure_4(rows)
    if "final_values" in names and len(rows):
        yield "final_values", "distillation_final_values", final_values(rows)
    if "longer" in names and len(rows_of_longer):
        yield "longer", "distillation_longer", longer(rows_of_longer)
    if "distillation_curves" in names and len(rows):
        yield "distillation_curves", "distillation_curves", curves(rows)
    if "saliency" in names:
        for game, n_train in sorted({(game, n_train) for game, _, n_train in saliencies}):
            yield "saliency", f"distillation_saliency_{game}_{n_train}", saliency(saliencies, game, n_train)


def drawn(names: Collection[str], results: Path) -> Iterator[tuple[str, str, Figure]]:
    """Those of the named figures that the evidence under `results` allows: (name, file name, figure), one at a time.

    Raises:
        EvidenceError: a file is damaged.
    """
    rows, of_teachers = rows_there(results / "distillation"), rows_there(results / "teachers")
    saliencies = read_saliencies(results / "distillation" / "saliency")
    steps_before = read_steps_before(results / "teachers")
    of_both = (select(rows, experiment=name) for name in (EXPERIMENT, LONGER))
    yield from draw(names, *of_both, saliencies, of_teachers, steps_before)
