"""The settings of regression (Section 4.1): which types Hydra holds `configs/` against, and what they refuse."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from experiments.runner.errors import BadInput, check_labelled_activation, check_positive, check_precision, check_seed
from experiments.runner.limits import check_evaluations, check_updates
from experiments.runner.settings import Activation, LossConfig, MLPConfig, OptimizerConfig, RunConfig

PIECEWISE_LINEAR = (Activation.relu, Activation.leaky_relu)  # their second derivatives vanish


@dataclass
class BenchmarkDatasetConfig:
    """Points drawn uniformly from the domain of an optimisation benchmark."""

    name: str = MISSING


@dataclass
class RegressionConfig(RunConfig):
    """Section 4.1: an ensemble of networks, one a seed, on one function and one training size."""

    on_gpu: ClassVar[bool] = False  # a grid has a run on every core, and on one GPU they would take turns
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

    def named_modules(self) -> set[str]:
        from sobolev.functions import BENCHMARKS  # these bring torch, which types and refusals do not wait for
        from sobolev.losses import DISTANCES

        function = BENCHMARKS.get(self.dataset.name)
        parts = [getattr(function, name, None) for name in ("formula", "partials", "second_partials")]
        parts += [DISTANCES.get(distance) for distance in self.loss.distances]
        return {part.__module__ for part in parts if isinstance(getattr(part, "__module__", None), str)}

    def check_values(self) -> None:
        check_seed(self)
        check_precision(self)
        check_positive(
            n_train=self.n_train,
            n_test=self.n_test,
            networks=self.networks,
            evaluations=self.evaluations,
            **of_optimizer("optimizer", self.optimizer),
            **{"model.hidden": min(self.model.hidden, default=0)},
        )
        weights, distances = self.loss.weights, self.loss.distances
        if not any(weights) or not all(0 <= weight < math.inf for weight in weights) or len(weights) > 3:
            raise BadInput(f"loss.weights={weights}: expected up to 3 weights by order, none negative, not all 0")
        if len(distances) < len(weights):
            raise BadInput(f"loss.distances={distances}: expected one an order, {len(weights)}")
        if sum(weights[2:]) and self.model.activation in PIECEWISE_LINEAR:
            raise BadInput(
                f"loss={self.loss.name} matches second derivatives, and those of {self.model.activation.name} vanish: "
                "use a smooth activation (model=mlp_smooth)"
            )
        check_updates(**{"optimizer.steps": self.optimizer.steps})
        check_evaluations(self.evaluations, self.optimizer.steps)


@dataclass
class DescentConfig(RegressionConfig):
    """Networks trained on values alone, and from there on values and gradients."""

    choices: ClassVar[dict[str, str]] = {}
    axes: ClassVar[tuple[str, ...]] = ("dataset", "n_train", "activation", "model.activation")
    budget: ClassVar[tuple[str, ...]] = (*RegressionConfig.budget, "start.steps")
    activation: str = MISSING  # the model's; a label shows it
    start: OptimizerConfig = field(default_factory=OptimizerConfig)  # of the first training

    def check_values(self) -> None:
        super().check_values()
        check_positive(**of_optimizer("start", self.start))
        check_updates(**{"start.steps": self.start.steps})
        check_labelled_activation(self.activation, self.model)
        weights, distances = self.loss.weights, self.loss.distances
        if sum(weights[2:]) or not sum(weights[1:2]) or set(distances[:2]) != {"squared_l2"}:
            raise BadInput(
                f"loss={self.loss.name}: expected squared norms, of values and gradients, such as loss=sobolev"
            )
        if self.start.batch_size != self.optimizer.batch_size:
            raise BadInput(
                f"start.batch_size={self.start.batch_size} is not optimizer.batch_size={self.optimizer.batch_size}: "
                "both trainings go through the same batches"
            )


def of_optimizer(name: str, optimizer: OptimizerConfig) -> dict[str, float]:
    """The numbers of an optimizer by their keys, {"optimizer.steps": 5000, ...}."""
    return {f"{name}.{key}": getattr(optimizer, key) for key in ("steps", "batch_size", "learning_rate")}


TYPES = {
    "regression_types": RegressionConfig,
    "regression_descent_types": DescentConfig,
}
