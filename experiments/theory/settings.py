"""The settings of the theory's experiments (Sections 2 and 3): the types that Hydra checks `configs/` against.

A type refuses invalid values of its experiment with a one-line `BadInput`. What depends on the machine, such as memory,
is left to the experiment's `check`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from experiments.runner.errors import (
    BadInput,
    check_labelled_activation,
    check_positive,
    check_precision,
    check_seed,
    nearest,
)
from experiments.runner.limits import check_updates
from experiments.runner.settings import LossConfig, MLPConfig, OptimizerConfig, Precision, RunConfig

PARTS = ("proposition_1", "polynomials", "gaussian", "piecewise_linear", "hypotheses")
METHODS = ("value", "sobolev", "differences")
DOMAINS = ("interval", "disc")
LATTICE = 10**6  # the most frequencies that a construction may enumerate


@dataclass
class ExactConfig(RunConfig):
    """One part of the theory that needs no training, in exact or float64 arithmetic."""

    on_gpu: ClassVar[bool] = False
    axes: ClassVar[tuple[str, ...]] = ("part",)
    budget: ClassVar[tuple[str, ...]] = ("instances",)
    part: str = MISSING  # one of PARTS
    instances: int = MISSING  # random instances, counted in the column `seed`

    def check_values(self) -> None:
        check_seed(self)
        check_precision(self, Precision.float64)
        check_positive(instances=self.instances)
        check_choice(PARTS, part=self.part)


@dataclass
class ConstructionConfig(RunConfig):
    """Theorem 1: the explicitly constructed network of one width."""

    on_gpu: ClassVar[bool] = False
    axes: ClassVar[tuple[str, ...]] = ("n_inputs", "width")
    budget: ClassVar[tuple[str, ...]] = ("degree", "n_train", "n_test")
    n_inputs: int = MISSING
    width: int = MISSING
    degree: int = MISSING  # of the trigonometric sum, for two or more inputs
    n_train: int = MISSING  # points to which the sum is fitted
    n_test: int = MISSING

    def check_values(self) -> None:
        check_seed(self)
        check_precision(self, Precision.float64)
        check_positive(**{key: getattr(self, key) for key in ("n_inputs", "width", "degree", "n_train", "n_test")})
        if self.n_inputs * math.log(2 * self.degree + 1) > math.log(LATTICE):
            raise BadInput(
                f"n_inputs={self.n_inputs} with degree={self.degree} lists (2 degree + 1)^n_inputs frequencies, "
                f"more than {LATTICE:,}: use fewer inputs or a lower degree"
            )


@dataclass
class TrainingConfig(RunConfig):
    """The settings of all trained parts: an ensemble of networks, one per seed."""

    on_gpu: ClassVar[bool] = False  # the runs of a grid use one core each; on a GPU they would take turns
    budget: ClassVar[tuple[str, ...]] = ("optimizer.steps", "model.hidden", "networks", "n_train", "n_test")
    model: MLPConfig = field(default_factory=MLPConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    n_train: int = MISSING
    n_test: int = MISSING
    networks: int = MISSING  # their seeds are seed, seed + 1, ...

    def check_values(self) -> None:
        check_seed(self)
        check_precision(self)
        check_positive(
            **{key: getattr(self, key) for key in ("n_train", "n_test", "networks")},
            **{f"optimizer.{key}": getattr(self.optimizer, key) for key in ("steps", "batch_size", "learning_rate")},
            **{"model.hidden": min(self.model.hidden, default=0)},
        )
        check_updates(**{"optimizer.steps": self.optimizer.steps})


@dataclass
class ApproximationConfig(TrainingConfig):
    """RQ2: training one hidden layer of one width on the construction's target."""

    axes: ClassVar[tuple[str, ...]] = (
        *("n_inputs", "width", "model.hidden", "activation", "model.activation", "method"),
    )
    n_inputs: int = MISSING
    width: int = MISSING
    activation: str = MISSING  # the model's, as a label
    method: str = MISSING  # one of METHODS
    difference_step: float = MISSING  # the step h of central differences, (f(x + h) - f(x - h)) / 2h

    def check_values(self) -> None:
        super().check_values()
        check_positive(n_inputs=self.n_inputs, width=self.width, difference_step=self.difference_step)
        check_choice(METHODS, method=self.method)
        check_labelled_activation(self.activation, self.model)
        if self.model.hidden != [self.width]:
            raise BadInput(
                f"model.hidden={self.model.hidden} with width={self.width}: rows are labelled by width, "
                "so set width alone"
            )


@dataclass
class MismatchConfig(TrainingConfig):
    """Theorem 2: gradients that are wrong by a known amount."""

    axes: ClassVar[tuple[str, ...]] = ("domain", "delta")
    domain: str = MISSING  # one of DOMAINS
    delta: float = MISSING

    def check_values(self) -> None:
        super().check_values()
        check_choice(DOMAINS, domain=self.domain)
        if not 0 <= self.delta < math.inf:
            raise BadInput(f"delta must be 0 or more, not {self.delta}")


@dataclass
class PointsConfig(TrainingConfig):
    """RQ1 in practice: how well a teacher network is learned, by number of points and of inputs."""

    choices: ClassVar[dict[str, str]] = {"loss": "{loss.name}"}
    axes: ClassVar[tuple[str, ...]] = ("n_inputs", "n_train", "activation", "model.activation")
    n_inputs: int = MISSING
    teacher_units: int = MISSING
    activation: str = MISSING  # the model's, as a label
    loss: LossConfig = field(default_factory=LossConfig)

    def check_values(self) -> None:
        super().check_values()
        check_positive(n_inputs=self.n_inputs, teacher_units=self.teacher_units)
        check_labelled_activation(self.activation, self.model)
        weights, distances = self.loss.weights, self.loss.distances
        value_weight, gradient_weight, *higher = (*weights, 0.0, 0.0)
        possible = all(0 <= weight < math.inf for weight in weights)
        if not possible or not value_weight + gradient_weight or any(higher):
            raise BadInput(f"loss.weights={weights}: expected weights of value and gradient, none negative, not both 0")
        if set(distances) != {"squared_l2"}:
            raise BadInput(f"loss.distances={distances}: here all errors are squared (squared_l2)")


def check_choice(choices: tuple[str, ...], **setting: str) -> None:
    """Refuse a setting that is not one of the choices.

    Raises:
        BadInput: names the closest choice and all others.
    """
    ((key, word),) = setting.items()
    if word not in choices:
        raise BadInput(f"{key}={word} is unknown{nearest(word, [*choices])}")


TYPES = {
    "theory_exact_types": ExactConfig,
    "theory_construction_types": ConstructionConfig,
    "theory_approximation_types": ApproximationConfig,
    "theory_mismatch_types": MismatchConfig,
    "theory_points_types": PointsConfig,
}
