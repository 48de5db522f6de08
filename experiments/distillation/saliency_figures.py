"""Gradients next to frames: where a teacher and its students look, from the arrays in results/distillation/saliency."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.distillation.names import EXPERIMENT, LOOKS, METHODS, title
from experiments.evidence import drawing
from experiments.evidence.reading import read_arrays
from experiments.evidence.schemas import SALIENCY


@dataclass(frozen=True)
class Saliency:
    """Gradients of the log-probability of the teacher's choice with respect to states in [0, 1].

    S: states, C: frames of a stack.

    Attributes:
        state_SCHW: raw frames.
        teacher_SCHW: the teacher's gradients.
        student_SCHW: the student's.
        seed: the student's.
        scale: `paper` or `reduced`.
    """

    state_SCHW: np.ndarray
    teacher_SCHW: np.ndarray
    student_SCHW: np.ndarray
    seed: int
    scale: str


Saliencies = dict[tuple[str, str, int], Saliency]  # (game, method, n_train)


def saliency(saliencies: Saliencies, game: str, n_train: int) -> Figure:
    """The gradient of the log-probability of the teacher's choice with respect to the newest frame, next to that frame.

    One row per state, with one colour scale per row: up to the 99.5th percentile of its absolute values. Red raises the
    log-probability and blue lowers it. The numbers are for gradients over all frames of the state: the cosine between
    student's and teacher's, and the student's norm over the teacher's. A student that is certain has nearly none.
    """
    students = {m: saliencies[game, m, n_train] for m in METHODS if (game, m, n_train) in saliencies}
    first = next(iter(students.values()))
    n_states, columns = len(first.state_SCHW), 2 + len(students)
    figure = Figure(figsize=(7, 0.95 + 1.55 * n_states))
    grid = figure.subplots(n_states, columns, squeeze=False)
    for s, line in enumerate(grid):
        line[0].imshow(first.state_SCHW[s, -1], cmap="gray", vmin=0, vmax=255)
        gradients_HW = [first.teacher_SCHW[s, -1], *(student.student_SCHW[s, -1] for student in students.values())]
        gradients_HW = [gradient_HW.astype(float) for gradient_HW in gradients_HW]
        reach = np.quantile(np.abs(gradients_HW), 0.995) or 1.0
        for axes, gradient_HW in zip(line[1:], gradients_HW, strict=True):
            image = axes.imshow(gradient_HW, cmap="RdBu_r", vmin=-reach, vmax=reach)
        bar = figure.colorbar(image, ax=line[1:], shrink=0.9, aspect=14, pad=0.01, ticks=MaxNLocator(4))
        bar.ax.tick_params(labelsize=6)
        for axes, (method, student) in zip(line[2:], students.items(), strict=True):
            a, b = student.student_SCHW[s], student.teacher_SCHW[s]
            text = f"{cosine(a, b):.2f}, {size(a) / (size(b) or 1.0):.2g}"
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            axes.text(0.03, 0.03, text, transform=axes.transAxes, color=LOOKS[method]["color"], weight="bold", bbox=box)
    for axes, name in zip(grid[0], ("newest frame", "teacher", *(METHODS[m] for m in students)), strict=True):
        axes.set_title(name)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(False)
    seeds = " and ".join(map(str, sorted({student.seed for student in students.values()})))
    drawing.title(
        figure,
        f"{title(game)}, {n_train:,} training states: gradient of log pi(the teacher's choice)",
        f"students of seed {seeds}; in each of {n_states} parts of the test states, where the teacher's is largest\n"
        "by the newest frame, in [0, 1]; numbers, of all frames: cosine with the teacher's, norm over the teacher's",
        "paper" if all(student.scale == "paper" for student in students.values()) else "reduced",
    )
    return figure


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = size(a) * size(b)
    return float(a.ravel().astype(float) @ b.ravel().astype(float) / norms) if norms else 0.0


def size(gradient: np.ndarray) -> float:
    return float(np.linalg.norm(gradient.astype(float)))


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
            arrays["state"],
            arrays["teacher_gradient"],
            arrays["student_gradient"],
            int(arrays["seed"]),
            str(arrays["scale"]),
        )
    return found
