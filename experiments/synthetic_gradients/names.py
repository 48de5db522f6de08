"""What figures, tables and the report call tasks and techniques, and how they draw them.

A task or technique that is not listed here is shown as well: after those that are, under its own name, with a look that
none of them has. What a claim of the paper is about is fixed in `claims`, and does not depend on what is listed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from experiments.evidence.rows import groups
from experiments.evidence.schemas import SCALES

EXPERIMENTS = ("synthetic_gradients", "synthetic_gradients_imagenet")  # those that ship


class Look(NamedTuple):
    """The name of a technique in print, its colour and its marker, which each tell the techniques apart."""

    title: str
    color: str
    marker: str

    @property
    def drawn(self) -> dict[str, str]:
        """The look as options of `Axes.plot`."""
        return {"color": self.color, "marker": self.marker}


TECHNIQUES = {
    "backprop": Look("backpropagation", "#000000", "x"),
    "noprop": Look("Noprop", "#E69F00", "v"),
    "direct": Look("Direct SG", "#009E73", "^"),
    "vfbn": Look("VFBN", "#CC79A7", "D"),
    "critic": Look("Critic", "#0072B2", "o"),
    "sobolev": Look("Sobolev", "#D55E00", "s"),
    "sobolev_label": Look("Sobolev and labels", "#56B4E9", "P"),
}
WITHOUT_SYNTHETIC = ("backprop", "noprop")  # true gradients cross the splits, or none
# Of techniques that are not listed, the first of each for the first, and so on in turn.
OTHER_COLORS = ("#332288", "#882255", "#999933", "#661100", "#6699CC")
OTHER_MARKERS = ("*", "<", ">", "p", "h", "X", "8")
TASKS = {
    "digits": "digits",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "cifar10_30_epochs": "CIFAR-10, 30 epochs",
    "cifar10_60_epochs": "CIFAR-10, 60 epochs",
    "imagenet_resnet50_1": "ImageNet, 1 module",
    "imagenet_resnet50_3": "ImageNet, 3 modules",
    "imagenette_resnet50_1": "Imagenette, 1 module",
    "imagenette_resnet50_3": "Imagenette, 3 modules",
}


class Line(NamedTuple):
    """A line of Table 1, or a panel of a figure: one task of an experiment at one scale. Its fields select its rows."""

    experiment: str
    task: str
    scale: str

    @property
    def label(self) -> str:
        """The task, with its experiment where that does not ship."""
        return self.task if self.experiment in EXPERIMENTS else f"{self.task}, {self.experiment}"

    @property
    def title(self) -> str:
        """The label in print."""
        return title_of(self.label)

    @property
    def of_imagenet(self) -> bool:
        """Whether images lie in folders as ImageNet's do: the paper has top-5 accuracies there, and no Direct SG."""
        return self.experiment == "synthetic_gradients_imagenet"


def title_of(label: str) -> str:
    """The name of a task in print."""
    return TASKS.get(label, label)


def of_domain(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of synthetic gradients, those of experiments that do not ship among them, out of all rows."""
    return rows[rows["experiment"].str.startswith("synthetic").to_numpy(dtype=bool)]


def lines_of(rows: pd.DataFrame) -> list[Line]:
    """The lines that the rows hold, in the order of `TASKS` and others after them; paper scale comes before reduced."""
    order = [*TASKS]

    def place(line: Line) -> tuple[int, str, int]:
        known = line.label in TASKS
        return order.index(line.label) if known else len(order), line.label, SCALES.index(line.scale)

    return sorted((Line(*key) for key, _ in groups(rows, *Line._fields)), key=place)


def looks_of(techniques: Iterable[str]) -> dict[str, Look]:
    """The looks of techniques, in the order of `TECHNIQUES` and others after them by name."""
    found = set(techniques)
    looks = {technique: look for technique, look in TECHNIQUES.items() if technique in found}
    for k, technique in enumerate(sorted(found - looks.keys())):
        color, marker = OTHER_COLORS[k % len(OTHER_COLORS)], OTHER_MARKERS[k % len(OTHER_MARKERS)]
        looks[technique] = Look(technique, color, marker)
    return looks
