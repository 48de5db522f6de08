"""The settings of surrogates: the types that Hydra checks `configs/` against.

The number of training points may be given as a fraction of the file's training part. It is resolved here, before a run
gets its name, and so is the name of the data.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from omegaconf import MISSING

from experiments.runner.errors import BadInput, check_positive, check_precision, check_seed, nearest
from experiments.runner.limits import check_updates
from experiments.runner.settings import Activation, Initialisation, LossConfig, RunConfig
from experiments.surrogates.files import SPLITS, read, sizes

SOURCES = ("file", "reactor", "basket")


@dataclass
class DatasetConfig:
    """Samples with values and derivatives: a user's own file, or one of the tasks that are computed here."""

    source: str = MISSING  # one of SOURCES
    name: str = MISSING  # the task in rows; empty: the file's name
    path: str = MISSING  # the file
    sha256: str = MISSING  # of that file, because other data are another question
    outputs: list[str] = MISSING  # columns of a CSV; empty: y, y1, y2, ... and those that have derivative columns
    n_samples: int = MISSING  # for the tasks computed here
    split: list[float] = MISSING  # fractions: [train, validation, test]
    seed: int = MISSING  # of the split, and of the samples that are computed here
    folder: str = MISSING  # the cache of computed samples

    def check(self) -> None:
        if self.source not in SOURCES:
            raise BadInput(f"dataset.source={self.source} is unknown{nearest(self.source, [*SOURCES])}")
        if len(self.split) != 3 or min(self.split) <= 0 or not math.isclose(sum(self.split), 1):
            raise BadInput(f"dataset.split={self.split}: expected parts for train, validation and test that sum to 1")
        check_positive(**{"dataset.n_samples": self.n_samples})
        if not 0 <= self.seed < 2**62:
            raise BadInput(f"dataset.seed must be 0 or more and below 2^62, not {self.seed}")

    def part_sizes(self) -> dict[str, int]:
        """The number of samples in each part.

        Raises:
            BadInput: the file cannot be read.
        """
        n = len(read(self.path, tuple(self.outputs)).x) if self.source == "file" else self.n_samples
        return dict(zip(SPLITS, sizes(n, self.split), strict=True))


@dataclass
class NetworkConfig:
    """A perceptron. Its activation is chosen by the search."""

    hidden: list[int] = MISSING
    initialisation: Initialisation = MISSING


@dataclass
class SearchConfig:
    """The search: each method trains briefly with every pair, and at length with the pair of least validation error."""

    activations: list[Activation] = MISSING
    learning_rates: list[float] = MISSING
    steps: int = MISSING  # for each pair
    keeps: str = MISSING  # which network is kept: the last one, or the best one by validation error during training


@dataclass
class TrainingConfig:
    """Adam with a cosine schedule: its learning rate falls to 0."""

    steps: int = MISSING
    batch_size: int = MISSING  # with fewer training points, the full batch


@dataclass
class SurrogateConfig(RunConfig):
    """A network that learns values, or values and derivatives, from given samples."""

    on_gpu: ClassVar[bool] = False  # the runs of a grid use one core each; on a GPU they would take turns
    choices: ClassVar[dict[str, str]] = {"loss": "{loss.name}"}
    axes: ClassVar[tuple[str, ...]] = (
        *("n_train", "fraction", "dataset.name", "dataset.path", "dataset.sha256", "dataset.outputs"),
    )
    budget: ClassVar[tuple[str, ...]] = (
        "optimizer.steps",
        "search.steps",
        "network.hidden",
        "networks",
        "dataset.n_samples",
    )
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    loss: LossConfig = field(default_factory=LossConfig)  # weights for z-scored values and balanced derivatives
    search: SearchConfig = field(default_factory=SearchConfig)
    optimizer: TrainingConfig = field(default_factory=TrainingConfig)
    n_train: int = MISSING  # training points; 0: `fraction` of the training part
    fraction: float = MISSING
    networks: int = MISSING  # their seeds are seed, seed + 1, ...; each draws its own points, weights and batches

    def __post_init__(self) -> None:
        if self.dataset.name == "":
            self.dataset.name = self.labels.task = name_of(self.dataset.path)
        super().__post_init__()
        if self.n_train == 0:
            try:
                self.n_train = round(self.fraction * self.dataset.part_sizes()["train"])
            except BadInput:
                return  # `check` reports what is wrong with the file
            self.labels.n_train = self.n_train

    def check_values(self) -> None:
        check_seed(self)
        check_precision(self)
        self.dataset.check()
        check_positive(
            networks=self.networks,
            **{"search.steps": self.search.steps},
            **{f"optimizer.{key}": getattr(self.optimizer, key) for key in ("steps", "batch_size")},
            **{"network.hidden": min(self.network.hidden, default=0)},
            **{"search.learning_rates": min(self.search.learning_rates, default=0)},
        )
        if self.search.keeps not in ("last", "best"):
            raise BadInput(f"search.keeps={self.search.keeps}: expected last or best")
        if not self.search.activations:
            raise BadInput("search.activations is empty: name one or more, such as [tanh]")
        if self.n_train < 0 or not 0 < self.fraction <= 1:
            raise BadInput(
                f"n_train={self.n_train} with fraction={self.fraction}: expected a number of points, or n_train=0 and "
                "a fraction of the training part, above 0 and at most 1"
            )
        value, gradient, *higher = (*self.loss.weights, 0.0, 0.0)
        if not 0 < value < math.inf or not 0 <= gradient < math.inf or any(higher):
            raise BadInput(f"loss.weights={self.loss.weights}: expected those of values, above 0, and of derivatives")
        of_values, of_derivatives = (*self.loss.distances, "", "")[:2]
        if of_values != "squared_l2" or of_derivatives not in ("squared_l2", "l2"):
            said = "expected squared errors of values (squared_l2), and of derivatives squared ones or norms (l2)"
            raise BadInput(f"loss.distances={self.loss.distances}: {said}")
        check_updates(**{"optimizer.steps": self.optimizer.steps})


def name_of(path: str) -> str:
    """A one-word name for a file: its name without suffix, with underscores for other characters."""
    return re.sub(r"^\W+|[^\w.-]", "_", Path(path).stem)[:60] or "own"


TYPES = {"surrogate_types": SurrogateConfig}
