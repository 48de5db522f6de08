"""Titles and styles of tasks and techniques in figures, tables and the report.

A task or technique that is not listed here is shown too: after the listed ones, under its own name, with a style that
none of them has. The claims do not depend on these lists: `claims` names what each of them judges.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from experiments.evidence.rows import groups
from experiments.evidence.schemas import SCALES

EXPERIMENTS = ("synthetic_gradients", "synthetic_gradients_imagenet")  # the shipped ones


class Look(NamedTuple):
    """The title of a technique, its colour and its marker. Each of the three identifies the technique."""

    title: str
    color: str
    marker: str

    @property
    def drawn(self) -> dict[str, str]:
        """The style as options of `Axes.plot`."""
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
# Styles of unlisted techniques: the first colour and marker for the first technique, and so on in turn.
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
    """A row of Table 1, or a panel of a figure: one task of an experiment at one scale. Its fields select its rows."""

    experiment: str
    task: str
    scale: str

    @property
    def label(self) -> str:
        """The task, with its experiment unless that is a shipped one."""
        return self.task if self.experiment in EXPERIMENTS else f"{self.task}, {self.experiment}"

    @property
    def title(self) -> str:
        """The title of the label."""
        return title_of(self.label)

    @property
    def of_imagenet(self) -> bool:
        """Whether images are in folders, as ImageNet's are: there the paper has top-5 accuracies, and no Direct SG."""
        return self.experiment == "synthetic_gradients_imagenet"


def title_of(label: str) -> str:
    """The title of a task."""
    return TASKS.get(label, label)


def of_domain(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of synthetic gradients out of all rows, including those of users' experiments."""
    return rows[rows["experiment"].str.startswith("synthetic").to_numpy(dtype=bool)]


def lines_of(rows: pd.DataFrame) -> list[Line]:
    """The lines in the rows, in the order of `TASKS`, then others; paper scale comes before reduced."""
    order = [*TASKS]

    def place(line: Line) -> tuple[int, str, int]:
        known = line.label in TASKS
        return order.index(line.label) if known else len(order), line.label, SCALES.index(line.scale)

    return sorted((Line(*key) for key, _ in groups(rows, *Line._fields)), key=place)


def looks_of(techniques: Iterable[str]) -> dict[str, Look]:
    """The styles of techniques, in the order of `TECHNIQUES`, then others by name."""
    found = set(techniques)
    looks = {technique: look for technique, look in TECHNIQUES.items() if technique in found}
    for k, technique in enumerate(sorted(found - looks.keys())):
        color, marker = OTHER_COLORS[k % len(OTHER_COLORS)], OTHER_MARKERS[k % len(OTHER_MARKERS)]
        looks[technique] = Look(technique, color, marker)
    return looks
