"""The types of every configuration. Values live in `configs/`, one YAML a choice.

A misspelt key or a wrong type is refused against these classes when Hydra composes a run, before anything
starts. `OmegaConf.to_object` turns the composed config into these plain objects, which experiments read.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

Activation = enum.Enum("Activation", ["relu", "leaky_relu", "tanh", "softplus", "silu"])
Initialisation = enum.Enum("Initialisation", ["uniform_fan_in", "glorot", "he"])
Schedule = enum.Enum("Schedule", ["constant", "cosine"])
WandbMode = enum.Enum("WandbMode", ["offline", "online", "disabled"])
Precision = enum.Enum("Precision", ["float32", "float64"])


@dataclass
class LabelsConfig:
    """What a run's rows are called; also the readable part of its folder's name."""

    task: str = MISSING
    method: str = MISSING
    n_train: int = MISSING


@dataclass
class RecorderConfig:
    """Where rows go besides metrics.csv. W&B is a mirror: losing it loses nothing."""

    wandb: WandbMode = MISSING
    project: str = MISSING
    group: str = MISSING


@dataclass
class ComputeConfig:
    """Where a run computes. Not part of its identity."""

    device: str = MISSING  # cpu, cuda, cuda:1, or auto: cuda where there is one
    threads: int = MISSING  # 0: one a core
    precision: Precision = MISSING
    checkpoint_seconds: float = MISSING


@dataclass
class RunConfig:
    """What every experiment has."""

    name: str = MISSING  # the experiment's name: folder of its runs, column of its rows
    entry: str = MISSING  # the function that runs it, experiments.<module>.<function>
    seed: int = MISSING
    runs_dir: str = MISSING
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    recorder: RecorderConfig = field(default_factory=RecorderConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)


@dataclass
class BenchmarkDatasetConfig:
    """Points drawn uniformly from the domain of an optimisation benchmark."""

    name: str = MISSING


@dataclass
class MLPConfig:
    hidden: list[int] = MISSING
    activation: Activation = MISSING
    initialisation: Initialisation = MISSING


@dataclass
class LossConfig:
    """Weights of the squared errors by order: [value, gradient, Hessian]. A weight of 0 leaves an order out."""

    name: str = MISSING
    weights: list[float] = MISSING


@dataclass
class OptimizerConfig:
    """Adam. `steps` counts updates; `cosine` takes the learning rate to 0 over them."""

    learning_rate: float = MISSING
    schedule: Schedule = MISSING
    steps: int = MISSING
    batch_size: int = MISSING  # at most; fewer training points make a full batch


@dataclass
class RegressionConfig(RunConfig):
    """Section 4.1: an ensemble of networks, one a seed, on one function and one training size."""

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
class ExactConfig(RunConfig):
    """What needs no training: one part of the theory, in exact or float64 arithmetic."""

    part: str = MISSING  # a function of experiments/theory.py
    instances: int = MISSING  # random instances, counted in the column `seed`


@dataclass
class ConstructionConfig(RunConfig):
    """Theorem 1: the network that is written down, of one width."""

    n_inputs: int = MISSING
    width: int = MISSING
    degree: int = MISSING  # of the trigonometric sum, for two inputs or more
    n_train: int = MISSING  # points that the sum is fitted to
    n_test: int = MISSING


@dataclass
class TrainingConfig(RunConfig):
    """What the trained parts share: an ensemble of networks, one a seed."""

    model: MLPConfig = field(default_factory=MLPConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    n_train: int = MISSING
    n_test: int = MISSING
    networks: int = MISSING  # seeds seed, seed + 1, ...


@dataclass
class ApproximationConfig(TrainingConfig):
    """RQ2: the same target as the construction's, by training one hidden layer of one width."""

    n_inputs: int = MISSING
    width: int = MISSING
    activation: str = MISSING  # the model's; a label shows it
    method: str = MISSING  # value, sobolev or differences
    difference_step: float = MISSING  # half the distance of difference quotients


@dataclass
class MismatchConfig(TrainingConfig):
    """Theorem 2: gradients that are wrong by a known amount."""

    domain: str = MISSING  # interval or disc
    delta: float = MISSING


@dataclass
class PointsConfig(TrainingConfig):
    """RQ1 in practice: how well a teacher network is learned from so many points in so many dimensions."""

    n_inputs: int = MISSING
    teacher_units: int = MISSING
    activation: str = MISSING  # the model's; a label shows it
    loss: LossConfig = field(default_factory=LossConfig)


TYPES = {
    "regression_types": RegressionConfig,
    "theory_exact_types": ExactConfig,
    "theory_construction_types": ConstructionConfig,
    "theory_approximation_types": ApproximationConfig,
    "theory_mismatch_types": MismatchConfig,
    "theory_points_types": PointsConfig,
}


def register() -> None:
    """Make the types known to Hydra; an experiment names its own in its defaults list."""
    for name, node in TYPES.items():
        ConfigStore.instance().store(name=name, node=node, package="_global_")
