"""The settings of regression (Section 4.1): the types that Hydra checks `configs/` against, and their validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from experiments.runner.errors import BadInput, check_labelled_activation, check_positive, check_precision, check_seed
from experiments.runner.limits import check_evaluations, check_updates
from experiments.runner.settings import Activation, LossConfig, MLPConfig, OptimizerConfig, RunConfig

PIECEWISE_LINEAR = (Activation.relu, Activation.leaky_relu)  # their second derivatives vanish

# The choices for the gradient term of a recipe, see experiments/regression/recipes.py.
TERM = {
    "weight": ("none", "unit", "balanced"),
    "falls": ("flat", "late", "early"),
    "distance": ("square", "norm"),
    "derivative": ("exact", "finite"),
}
PROJECTIONS = ("full", "sphere", "gaussian", "rademacher", "coordinate")


@dataclass
class BenchmarkDatasetConfig:
    """Points drawn uniformly from the domain of an optimisation benchmark."""

    name: str = MISSING


@dataclass
class RegressionConfig(RunConfig):
    """Section 4.1: an ensemble of networks, one per seed, on one function and one training size."""

    on_gpu: ClassVar[bool] = False  # the runs of a grid use one core each; on a GPU they would take turns
    choices: ClassVar[dict[str, str]] = {"loss": "{loss.name}"}
    axes: ClassVar[tuple[str, ...]] = ("dataset", "n_train")
    budget: ClassVar[tuple[str, ...]] = ("optimizer.steps", "model.hidden", "networks", "n_test", "evaluations")
    dataset: BenchmarkDatasetConfig = field(default_factory=BenchmarkDatasetConfig)
    model: MLPConfig = field(default_factory=MLPConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    n_train: int = MISSING
    n_test: int = MISSING
    networks: int = MISSING  # their seeds are seed, seed + 1, ...
    normalise: bool = MISSING
    evaluations: int = MISSING  # their number during training, evenly spaced in log(step)

    def named_modules(self) -> set[str]:
        return modules_of(self.dataset.name, self.loss.distances)

    def check_values(self) -> None:
        check_ensemble(self)
        weights, distances = self.loss.weights, self.loss.distances
        if not any(weights) or not all(0 <= weight < math.inf for weight in weights) or len(weights) > 3:
            raise BadInput(f"loss.weights={weights}: expected up to 3 weights by order, none negative, not all 0")
        if len(distances) < len(weights):
            raise BadInput(f"loss.distances={distances}: expected one per order, {len(weights)}")
        if sum(weights[2:]) and self.model.activation in PIECEWISE_LINEAR:
            raise BadInput(
                f"loss={self.loss.name} matches second derivatives, and those of {self.model.activation.name} vanish: "
                "use a smooth activation (model=mlp_smooth)"
            )


@dataclass
class DescentConfig(RegressionConfig):
    """Networks trained on values only, then on values and gradients."""

    choices: ClassVar[dict[str, str]] = {}
    axes: ClassVar[tuple[str, ...]] = ("dataset", "n_train", "activation", "model.activation")
    budget: ClassVar[tuple[str, ...]] = (*RegressionConfig.budget, "start.steps")
    activation: str = MISSING  # the model's, as a label
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
                "both trainings use the same batches"
            )


@dataclass
class GradientTermConfig:
    """The gradient term of a recipe's loss, beside the squared error of values; choices are in `TERM`."""

    weight: str = MISSING
    falls: str = MISSING
    distance: str = MISSING
    derivative: str = MISSING
    factor: float = MISSING  # multiplies the weight
    noise: float = MISSING  # in the training gradients, relative to their root mean square


@dataclass
class RecipeConfig(RunConfig):
    """Regression in the normalised protocol with a recipe: a network, its optimiser and a gradient term."""

    choices: ClassVar[dict[str, str]] = {}
    axes: ClassVar[tuple[str, ...]] = (
        *("dataset", "n_train", "activation", "initialisation", "model", "gradient", "optimizer"),
    )
    budget: ClassVar[tuple[str, ...]] = ("networks", "n_test", "evaluations")
    dataset: BenchmarkDatasetConfig = field(default_factory=BenchmarkDatasetConfig)
    model: MLPConfig = field(default_factory=MLPConfig)
    gradient: GradientTermConfig = field(default_factory=GradientTermConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    activation: str = MISSING  # this and the next are the model's, as labels
    initialisation: str = MISSING
    n_train: int = MISSING
    n_test: int = MISSING  # the number of points in the split
    networks: int = MISSING  # their seeds are seed, seed + 1, ...
    split: str = MISSING  # validation or test: the points on which errors are measured
    evaluations: int = MISSING  # their number during training, evenly spaced in log(step); 1: only at the end

    def named_modules(self) -> set[str]:
        return modules_of(self.dataset.name)

    def check_values(self) -> None:
        check_ensemble(self)
        check_positive(**{"gradient.factor": self.gradient.factor})
        check_labelled_activation(self.activation, self.model)
        if self.initialisation != (of_model := self.model.initialisation.name):
            label = f"the label initialisation={self.initialisation}"
            raise BadInput(f"model.initialisation={of_model} differs from {label}")
        for key, choices in TERM.items():
            if (word := getattr(self.gradient, key)) not in choices:
                raise BadInput(f"gradient.{key}={word}: expected {', '.join(choices)}")
        if not 0 <= self.gradient.noise < math.inf:
            raise BadInput(f"gradient.noise={self.gradient.noise}: expected 0 or more, and finite")
        if self.split not in ("validation", "test"):
            raise BadInput(f"split={self.split}: expected validation or test")


@dataclass
class ChosenRecipeConfig(RecipeConfig):
    """The recipe, or the value-only training, that a search chose: a file in configs/recipe."""

    choices: ClassVar[dict[str, str]] = {"recipe": "{approach}"}
    axes: ClassVar[tuple[str, ...]] = ("dataset", "n_train")
    budget: ClassVar[tuple[str, ...]] = (*RecipeConfig.budget, "optimizer.steps")
    approach: str = MISSING  # value or sobolev, as a label


@dataclass
class RecipeLimitsConfig(ChosenRecipeConfig):
    """A chosen recipe with another weight of gradients, or with noisy ones."""

    axes: ClassVar[tuple[str, ...]] = ("dataset", "n_train", "gradient.factor", "gradient.noise")


@dataclass
class ProjectedConfig(ChosenRecipeConfig):
    """A chosen recipe for a function's gradient field, whose Jacobian is learned in full or projected."""

    axes: ClassVar[tuple[str, ...]] = ("dataset", "n_train", "projection", "samples")
    projection: str = MISSING  # one of PROJECTIONS
    samples: int = MISSING  # vectors per sample and update

    def check_values(self) -> None:
        super().check_values()
        check_positive(samples=self.samples)
        if self.projection not in PROJECTIONS:
            raise BadInput(f"projection={self.projection}: expected {', '.join(PROJECTIONS)}")
        if self.gradient.derivative != "exact" or self.gradient.noise:
            raise BadInput("the Jacobian of a field is exact here: gradient.derivative=exact and gradient.noise=0")


def modules_of(function: str, distances: Sequence[str] = ()) -> set[str]:
    """The modules that hold a function's formula and derivatives, and distances, if there are any."""
    from sobolev.functions import FUNCTIONS  # these import torch, which is slow and not needed for validation
    from sobolev.losses import DISTANCES

    names = ("formula", "partials", "second_partials")
    parts = [getattr(FUNCTIONS.get(function), name, None) for name in names] + [*map(DISTANCES.get, distances)]
    return {part.__module__ for part in parts if isinstance(getattr(part, "__module__", None), str)}


def check_ensemble(config: RegressionConfig | RecipeConfig) -> None:
    """Refuse invalid numbers for the training of an ensemble."""
    check_seed(config)
    check_precision(config)
    check_positive(
        n_train=config.n_train,
        n_test=config.n_test,
        networks=config.networks,
        evaluations=config.evaluations,
        **of_optimizer("optimizer", config.optimizer),
        **{"model.hidden": min(config.model.hidden, default=0)},
    )
    check_updates(**{"optimizer.steps": config.optimizer.steps})
    check_evaluations(config.evaluations, config.optimizer.steps)


def of_optimizer(name: str, optimizer: OptimizerConfig) -> dict[str, float]:
    """The numbers of an optimizer by key, {"optimizer.steps": 5000, ...}."""
    return {f"{name}.{key}": getattr(optimizer, key) for key in ("steps", "batch_size", "learning_rate")}


TYPES = {
    "regression_types": RegressionConfig,
    "regression_descent_types": DescentConfig,
    "regression_recipes_types": RecipeConfig,
    "regression_recipe_types": ChosenRecipeConfig,
    "regression_recipe_limits_types": RecipeLimitsConfig,
    "regression_projections_types": ProjectedConfig,
}
