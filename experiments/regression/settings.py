"""The settings of regression (Section 4.1): which types Hydra holds `configs/` against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from experiments.runner.settings import LossConfig, MLPConfig, OptimizerConfig, RunConfig


@dataclass
class BenchmarkDatasetConfig:
    """Points drawn uniformly from the domain of an optimisation benchmark."""

    name: str = MISSING


@dataclass
class RegressionConfig(RunConfig):
    """Section 4.1: an ensemble of networks, one a seed, on one function and one training size."""

    choices: ClassVar[dict[str, str]] = {"loss": "{loss.name}"}
    axes: ClassVar[tuple[str, ...]] = ("dataset", "n_train")
    budget: ClassVar[tuple[str, ...]] = ("optimizer.steps", "model.hidden", "networks", "n_test", "evaluations")
    dataset: BenchmarkDatasetConfig = field(default_factory=BenchmarkDatasetConfig)
    model: MLPConfig = field(default_factory=MLPConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    n_train: int = MISSING
    n_test: int = MISSING
    networks: int = MISSING  # seeds seed, seed + 1, ...
    normalise: bool = MISSING
    evaluations: int = MISSING  # how often over training, evenly in log(step)


@dataclass
class DescentConfig(RegressionConfig):
    """Networks trained on values alone, and from there on values and gradients."""

    choices: ClassVar[dict[str, str]] = {}
    axes: ClassVar[tuple[str, ...]] = ("dataset", "n_train", "activation", "model.activation")
    budget: ClassVar[tuple[str, ...]] = (*RegressionConfig.budget, "start.steps")
    activation: str = MISSING  # the model's; a label shows it
    start: OptimizerConfig = field(default_factory=OptimizerConfig)  # of the first training


TYPES = {
    "regression_types": RegressionConfig,
    "regression_descent_types": DescentConfig,
}
