"""Figures of distillation: Figure 4, the end of training, gradients beside frames, and how the teachers learned.

Each is a function of the rows in results/distillation or results/teachers, or of the gradients in
results/distillation/saliency.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.distillation.names import ENDS, EXPERIMENT, GAMES, LOOKS, METHODS, METRICS, title
from experiments.evidence import drawing
from experiments.evidence.names import Look, looks_of
from experiments.evidence.reading import expected, read_arrays, read_csv, read_json
from experiments.evidence.rows import (
    MIN_SEEDS,
    curve,
    finals,
    groups,
    levels,
    median_interval,
    rows_there,
    scale_of,
    select,
)
from experiments.evidence.schemas import RUNS, SALIENCY, Card


@dataclass(frozen=True)
class Saliency:
    """Gradients of the log-probability of the teacher's choice, by states in [0, 1]. S: states, C: frames of a stack.

    Attributes:
        state_SCHW: raw frames.
        teacher_SCHW: the teacher's gradients.
        student_SCHW: the student's.
        scale: `paper` or `reduced`.
    """

    state_SCHW: np.ndarray
    teacher_SCHW: np.ndarray
    student_SCHW: np.ndarray
    scale: str


Saliencies = dict[tuple[str, str, int], Saliency]  # (game, method, n_train)


def figure_4(rows: pd.DataFrame) -> Figure:
    """Figure 4: action-prediction error and KL(student || teacher) over training, one column per training size.

    Lines are medians over seeds, bands reach from the lower to the upper quartile; dashes are the training states.
    """
    games, sizes, looks = _games(rows), levels(rows, "n_train"), looks_of(levels(rows, "method"), LOOKS)
    panels = [(game, metric) for metric in ("action_error", "kl") for game in games]
    figure = Figure(figsize=(7, 0.9 + 1.25 * len(panels)))
    grid = figure.subplots(len(panels), len(sizes), sharex=True, sharey="row", squeeze=False)
    for (game, metric), line in zip(panels, grid, strict=True):
        for n_train, axes in zip(sizes, line, strict=True):
            of_panel = select(rows, task=game, n_train=n_train, metric=metric)
            for method, look in looks.items():
                for split, dashes, alpha in (("test", "-", 0.18), ("train", (0, (3, 1.5)), 0.0)):
                    cell = select(of_panel, method=method, split=split)
                    steps, values_TS = curve(cell[cell["step"] > 0])
                    if not values_TS.size:
                        continue
                    low, median, high = np.quantile(values_TS, (0.25, 0.5, 0.75), axis=1)
                    if alpha:
                        axes.fill_between(steps, low, high, color=look["color"], alpha=alpha)
                    axes.plot(steps, median, color=look["color"], linestyle=dashes, linewidth=1.2 if alpha else 0.7)
            axes.set_xscale("log")
            _log_axis(axes)
        line[0].set_ylabel(f"{title(game)}\n{METRICS[metric]}")
    for n_train, axes in zip(sizes, grid[0], strict=True):
        axes.set_title(f"{n_train:,} states")
    for axes in grid[-1]:
        axes.set_xlabel("optimiser updates")
    figure.align_ylabels()
    dashes = [Line2D([], [], color="#555555", label="test states")]
    dashes.append(Line2D([], [], color="#555555", linestyle=(0, (3, 1.5)), linewidth=0.7, label="training states"))
    methods = [_handle(method, {"color": look["color"]}) for method, look in looks.items()]
    figure.legend(handles=methods + dashes, loc="outside lower center", ncols=5)
    _title(figure, "Figure 4: distance to the teacher over training", rows, "median and quartiles")
    return figure


def final_values(rows: pd.DataFrame) -> Figure:
    """The end of training against the training size, one row per game: on test episodes and in play."""
    games, sizes, looks = _games(rows), levels(rows, "n_train"), looks_of(levels(rows, "method"), LOOKS)
    ends = finals(rows, "task", "method", "n_train", "split", "metric")
    columns = {key: name for key, name in ENDS.items() if any(cell[3:] == key for cell in ends)}
    figure = Figure(figsize=(7, 0.9 + 1.45 * len(games)))
    grid = figure.subplots(len(games), len(columns), sharex=True, squeeze=False)
    for game, line in zip(games, grid, strict=True):
        for (split, metric), axes in zip(columns, line, strict=True):
            for k, (method, look) in enumerate(looks.items()):
                by_size = {n: ends.get((game, method, n, split, metric), {}) for n in sizes}
                intervals = {n: median_interval(cell.values()) for n, cell in by_size.items() if cell}
                x = np.array(list(intervals)) * 1.06 ** (k - (len(looks) - 1) / 2)
                axes.plot(x, [i.median for i in intervals.values()], linewidth=0.8, **look)
                for at, interval in zip(x, intervals.values(), strict=True):
                    axes.plot([at] * 2, [interval.low, interval.high], color=look["color"])
            axes.set_xscale("log")
            if metric != "score":
                _log_axis(axes)
        line[0].set_ylabel(title(game))
    for name, axes in zip(columns.values(), grid[0], strict=True):
        axes.set_title(name, fontsize=7)
    for axes in grid[-1]:
        axes.set_xlabel("training states")
    methods = [_handle(method, look) for method, look in looks.items()]
    figure.legend(handles=methods, loc="outside lower center", ncols=len(methods))
    enough = rows["seed"].nunique() >= MIN_SEEDS
    _title(figure, "The end of training", rows, "median, 95% interval" if enough else "median and range: few seeds")
    return figure


def saliency(saliencies: Saliencies, game: str, n_train: int) -> Figure:
    """The gradient of the log-probability of the teacher's choice by the newest frame, beside that frame.

    One row per state. Red raises it and blue lowers it. A panel's range is the 99.5th percentile of its own absolute
    values; the number is the cosine between student's and teacher's gradient over all frames of the state.
    """
    students = {m: saliencies[game, m, n_train] for m in METHODS if (game, m, n_train) in saliencies}
    first = next(iter(students.values()))
    n_states, columns = len(first.state_SCHW), 2 + len(students)
    figure = Figure(figsize=(1.45 * columns, 0.85 + 1.4 * n_states))
    grid = figure.subplots(n_states, columns, squeeze=False)
    for s, line in enumerate(grid):
        line[0].imshow(first.state_SCHW[s, -1], cmap="gray", vmin=0, vmax=255)
        _heat(line[1], first.teacher_SCHW[s, -1])
        for axes, (method, student) in zip(line[2:], students.items(), strict=True):
            _heat(axes, student.student_SCHW[s, -1])
            alike = cosine(student.student_SCHW[s], student.teacher_SCHW[s])
            axes.text(0.03, 0.03, f"{alike:.2f}", transform=axes.transAxes, color=LOOKS[method]["color"], weight="bold")
    for axes, name in zip(grid[0], ("newest frame", "teacher", *(METHODS[m] for m in students)), strict=True):
        axes.set_title(name)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(False)
    drawing.title(
        figure,
        f"{title(game)}, {n_train:,} training states",
        "gradient of log pi (chosen action)\nnumber: cosine with the teacher's",
        "paper" if all(student.scale == "paper" for student in students.values()) else "reduced",
    )
    return figure


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(float), b.ravel().astype(float)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else 0.0


def _heat(axes: Axes, gradient_HW: np.ndarray) -> None:
    gradient_HW = gradient_HW.astype(float)
    reach = np.quantile(np.abs(gradient_HW), 0.995) or 1.0
    axes.imshow(gradient_HW, cmap="RdBu_r", vmin=-reach, vmax=reach)


def _games(rows: pd.DataFrame) -> list[str]:
    """The games of the rows: the paper's in its order, then others."""
    found = levels(rows, "task")
    return [game for game in GAMES if game in found] + [game for game in found if game not in GAMES]


def _log_axis(axes: Axes) -> None:
    """A logarithmic axis, unless all that is shown is 0, as the errors of a student that is right everywhere are."""
    if any((np.asarray(line.get_ydata()) > 0).any() for line in axes.lines):
        drawing.numbers_axis(axes, evenly_below=4, between_below=200, labels=4)


def _handle(method: str, look: Look) -> Line2D:
    return Line2D([], [], label=METHODS.get(method, method), **look)


def _title(figure: Figure, text: str, rows: pd.DataFrame, spread: str) -> None:
    seeds = rows["seed"].nunique()
    drawing.title(figure, text, f"{seeds} seed{'s' * (seeds > 1)}: {spread}", scale_of(rows))


def read_saliencies(folder: Path) -> Saliencies:
    """Read every `distill_atari_<game>_<method>_<n_train>.npz` of a folder; none if the folder is missing.

    Raises:
        EvidenceError: an array is missing or damaged.
    """
    pattern = re.compile(rf"{EXPERIMENT}_(.+)_({'|'.join(LOOKS)})_(\d+)")
    found: Saliencies = {}
    for path in sorted(folder.glob("*.npz")):
        match = pattern.fullmatch(path.stem)
        if match is None:
            continue  # another experiment's
        game, method, n_train = match.groups()
        arrays = read_arrays(path, SALIENCY)
        found[game, method, int(n_train)] = Saliency(
            arrays["state"], arrays["teacher_gradient"], arrays["student_gradient"], str(arrays["scale"])
        )
    return found


def teachers(rows: pd.DataFrame, steps_before: dict[str, int]) -> Figure:
    """How the teachers learned: scores of the games that ended in each stretch of training, actions drawn from the
    policy; mean and one standard deviation over games. A cross is the final teacher, over whole games. A line is one
    run: an algorithm, a number of steps and a seed; it begins where the training that it goes on from ended."""
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
    _title(figure, "Teachers", rows, "mean and standard deviation over games")
    return figure


def _scores(rows: pd.DataFrame, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean scores and their standard deviations over games, of one run's rows."""
    mean, std = (select(rows, split=split, metric=metric) for metric in ("score", "score_std"))
    return mean["step"].to_numpy(), mean["value"].to_numpy(), std["value"].to_numpy()


def read_steps_before(folder: Path) -> dict[str, int]:
    """For each run whose rows are there and that the teachers' cards name: how many steps there were before it.

    Raises:
        EvidenceError: a card is damaged.
    """
    steps_before = {}
    runs = folder / "runs.csv"
    drawn = {row["run_id"] for row in read_csv(runs, RUNS)} if expected(runs) else set()
    for path in sorted(folder.glob("*.json")):
        card = read_json(path, Card) if path.name != "settings.json" else None
        while isinstance(card, Card):  # of a teacher from elsewhere the SHA-256 alone is known
            before = card.before.training.steps if isinstance(card.before, Card) else 0
            if card.run_id in drawn:
                steps_before[card.run_id] = before
            card = card.before
    return steps_before


REMEDY = "`make teachers distillation` makes it"
NAMES = ("figure_4", "final_values", "saliency", "teachers")


def draw(
    names: list[str],
    rows: pd.DataFrame,
    saliencies: Saliencies,
    of_teachers: pd.DataFrame,
    steps_before: dict[str, int],
) -> Iterator[tuple[str, str, Figure]]:
    """The named figures that rows and gradients allow: (name, file name, figure), one at a time."""
    if "teachers" in names and len(of_teachers):
        yield "teachers", "distillation_teachers", teachers(of_teachers, steps_before)
    if "figure_4" in names and len(rows):
        yield "figure_4", "figure_4", figure_4(rows)
    if "final_values" in names and len(rows):
        yield "final_values", "distillation_final_values", final_values(rows)
    if "saliency" in names:
        for game, n_train in sorted({(game, n_train) for game, _, n_train in saliencies}):
            yield "saliency", f"distillation_saliency_{game}_{n_train}", saliency(saliencies, game, n_train)


def drawn(names: Collection[str], results: Path) -> Iterator[tuple[str, str, Figure]]:
    """The named figures that the evidence under `results` allows: (name, file name, figure), one at a time.

    Raises:
        EvidenceError: a file is damaged.
    """
    rows, of_teachers = rows_there(results / "distillation"), rows_there(results / "teachers")
    saliencies = read_saliencies(results / "distillation" / "saliency")
    steps_before = read_steps_before(results / "teachers")
    yield from draw(names, select(rows, experiment=EXPERIMENT), saliencies, of_teachers, steps_before)
