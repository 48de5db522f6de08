"""The settings of the theory's experiments (Sections 2 and 3): which types Hydra holds `configs/` against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from experiments.runner.settings import LossConfig, MLPConfig, OptimizerConfig, RunConfig


@dataclass
class ExactConfig(RunConfig):
    """What needs no training: one part of the theory, in exact or float64 arithmetic."""

    axes: ClassVar[tuple[str, ...]] = ("part",)
    budget: ClassVar[tuple[str, ...]] = ("instances",)
    part: str = MISSING  # one of PARTS in experiments/theory/exact.py
    instances: int = MISSING  # random instances, counted in the column `seed`


@dataclass
class ConstructionConfig(RunConfig):
    """Theorem 1: the network that is written down, of one width."""

    axes: ClassVar[tuple[str, ...]] = ("n_inputs", "width")
    budget: ClassVar[tuple[str, ...]] = ("degree", "n_train", "n_test")
    n_inputs: int = MISSING
    width: int = MISSING
    degree: int = MISSING  # of the trigonometric sum, for two inputs or more
    n_train: int = MISSING  # points that the sum is fitted to
    n_test: int = MISSING


@dataclass
class TrainingConfig(RunConfig):
    """What the trained parts share: an ensemble of networks, one a seed."""

    budget: ClassVar[tuple[str, ...]] = ("optimizer.steps", "model.hidden", "networks", "n_train", "n_test")
    model: MLPConfig = field(default_factory=MLPConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    n_train: int = MISSING
    n_test: int = MISSING
    networks: int = MISSING  # seeds seed, seed + 1, ...


@dataclass
class ApproximationConfig(TrainingConfig):
    """RQ2: the same target as the construction's, by training one hidden layer of one width."""

    axes: ClassVar[tuple[str, ...]] = (
        *("n_inputs", "width", "model.hidden", "activation", "model.activation", "method"),
    )
    n_inputs: int = MISSING
    width: int = MISSING
    activation: str = MISSING  # the model's; a label shows it
    method: str = MISSING  # value, sobolev or differences
    difference_step: float = MISSING  # half the distance of difference quotients


@dataclass
class MismatchConfig(TrainingConfig):
    """Theorem 2: gradients that are wrong by a known amount."""

    axes: ClassVar[tuple[str, ...]] = ("domain", "delta")
    domain: str = MISSING  # interval or disc
    delta: float = MISSING


@dataclass
class PointsConfig(TrainingConfig):
    """RQ1 in practice: how well a teacher network is learned from so many points in so many dimensions."""

    choices: ClassVar[dict[str, str]] = {"loss": "{loss.name}"}
    axes: ClassVar[tuple[str, ...]] = ("n_inputs", "n_train", "activation", "model.activation")
    budget: ClassVar[tuple[str, ...]] = (*TrainingConfig.budget, "teacher_units")
    n_inputs: int = MISSING
    teacher_units: int = MISSING
    activation: str = MISSING  # the model's; a label shows it
    loss: LossConfig = field(default_factory=LossConfig)


TYPES = {
    "theory_exact_types": ExactConfig,
    "theory_construction_types": ConstructionConfig,
    "theory_approximation_types": ApproximationConfig,
    "theory_mismatch_types": MismatchConfig,
    "theory_points_types": PointsConfig,
}
