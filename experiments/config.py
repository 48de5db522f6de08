"""The types of every configuration. Values live in `configs/`, one YAML a choice.

A misspelt key or a wrong type is refused against these classes when Hydra composes a run, before anything
starts. `OmegaConf.to_object` turns the composed config into these plain objects, which experiments read.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from experiments.precision import chosen

ROOT = Path(__file__).resolve().parents[1]
Activation = enum.Enum("Activation", ["relu", "leaky_relu", "tanh", "softplus", "silu"])
Initialisation = enum.Enum("Initialisation", ["uniform_fan_in", "glorot", "he"])
Schedule = enum.Enum("Schedule", ["constant", "cosine"])
WandbMode = enum.Enum("WandbMode", ["offline", "online", "disabled"])
# bfloat16: products only; auto: see experiments/precision.py
Precision = enum.Enum("Precision", ["float32", "float64", "bfloat16", "auto"])
Products = enum.Enum("Products", ["float32", "bfloat16", "auto"])


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
    """What every experiment has. Made from a composed config, it says what each `auto` precision is on this machine."""

    several_processes: ClassVar[bool] = False  # whether torchrun may start it
    autocasts: ClassVar[bool] = False  # whether it may compute in bfloat16
    name: str = MISSING  # the experiment's name: folder of its runs, column of its rows
    entry: str = MISSING  # the function that runs it, experiments.<module>.<function>
    seed: int = MISSING
    runs_dir: str = MISSING
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    recorder: RecorderConfig = field(default_factory=RecorderConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        if self.compute.precision is Precision.auto:
            name = chosen("compute.precision", self.compute.device) if self.autocasts else "float32"
            self.compute.precision = Precision[name]


@dataclass
class BenchmarkDatasetConfig:
    """Points drawn uniformly from the domain of an optimisation benchmark."""

    name: str = MISSING


@dataclass
class ImageDatasetConfig:
    """Images that are held in memory: digits, mnist or cifar10."""

    name: str = MISSING
    n_train: int = MISSING  # images of the publisher's train part; a label shows it
    folder: str = MISSING  # where data sets lie, each in a folder of its own
    download: bool = MISSING  # from the publisher, if it is not there
    hold_out: int = MISSING  # training images that make the validation split instead
    padding: int = MISSING  # pixels by which images are moved at most
    flip: bool = MISSING  # mirror half of them


@dataclass
class ImageFolderConfig:
    """Images that are read as they are needed: <folder>/<directory>/{train,val}/<class>/*.JPEG."""

    name: str = MISSING
    n_train: int = MISSING  # images in train/; a label shows it
    folder: str = MISSING
    directory: str = MISSING
    download: bool = MISSING
    hold_out: int = MISSING
    size: int = MISSING  # side of the crops
    resize: int = MISSING  # shorter side of an image whose centre is evaluated
    min_area: float = MISSING  # of a crop, as a part of the image's
    flip: bool = MISSING
    colour: float = MISSING  # strength of random brightness, contrast and colour, 0 for none
    workers: int = MISSING  # processes that decode


@dataclass
class MLPConfig:
    hidden: list[int] = MISSING
    activation: Activation = MISSING
    initialisation: Initialisation = MISSING


@dataclass
class LossConfig:
    """Weights and distances by order: [value, gradient, Hessian]. A weight of 0 leaves an order out."""

    name: str = MISSING
    weights: list[float] = MISSING
    distances: list[str] = field(default_factory=lambda: ["squared_l2"] * 3)  # keys of `sobolev.losses.DISTANCES`


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
class DescentConfig(RegressionConfig):
    """Networks trained on values alone, and from there on values and gradients."""

    activation: str = MISSING  # the model's; a label shows it
    start: OptimizerConfig = field(default_factory=OptimizerConfig)  # of the first training


@dataclass
class PredictorConfig:
    """3 x 3 convolutions with ReLU, then a linear layer."""

    channels: list[int] = MISSING
    strides: list[int] = MISSING
    head: str = MISSING  # what the linear layer sees: flatten or average


@dataclass
class DecoupledModelConfig:
    """A network, where it is split, and what stands at the splits."""

    name: str = MISSING
    network: str = MISSING  # convnet or resnet50
    channels: list[int] = MISSING  # of a convnet
    strides: list[int] = MISSING
    head: str = MISSING  # of a convnet: average or flatten
    splits: list[int] = MISSING  # after blocks of these numbers, from 1
    label_predictor: PredictorConfig = field(default_factory=PredictorConfig)
    direct_channels: list[int] = MISSING  # of direct SG, but for the last, which are the hidden layer's


@dataclass
class TechniqueConfig:
    """What crosses a split and what its predictor learns from: see sobolev/synthetic_gradients/technique.py."""

    name: str = MISSING
    crosses: str = MISSING
    value: float = MISSING
    gradient: float = MISSING
    label: float = MISSING
    distance: str = MISSING
    reduction: str = MISSING
    targets: str = MISSING


@dataclass
class SGDConfig:
    """SGD for the network, Adam at a constant rate for the predictors."""

    learning_rate: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING  # of kernels; not of BatchNorm and biases
    milestones: list[float] = MISSING  # where the learning rate falls to a tenth, as parts of the steps
    steps: int = MISSING
    batch_size: int = MISSING  # of all processes together
    predictor_learning_rate: float = MISSING


@dataclass
class DecoupledConfig(RunConfig):
    """Section 4.3: one network, trained by one technique."""

    several_processes: ClassVar[bool] = True
    autocasts: ClassVar[bool] = True
    model: DecoupledModelConfig = field(default_factory=DecoupledModelConfig)
    technique: TechniqueConfig = field(default_factory=TechniqueConfig)
    optimizer: SGDConfig = field(default_factory=SGDConfig)
    evaluate_on: str = MISSING  # test, or validation with dataset.hold_out images: tuning
    evaluations: int = MISSING  # how often over training, evenly
    gradient_samples: int = MISSING  # images, about, on which synthetic and true gradients are compared


@dataclass
class SyntheticGradientsConfig(DecoupledConfig):
    """On images that fit into memory."""

    dataset: ImageDatasetConfig = field(default_factory=ImageDatasetConfig)


@dataclass
class SyntheticGradientsFolderConfig(DecoupledConfig):
    """On images that are read as they are needed."""

    dataset: ImageFolderConfig = field(default_factory=ImageFolderConfig)


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


@dataclass
class AtariDatasetConfig:
    """What a game is played with: the fields of `sobolev.atari.AtariOptions`."""

    game: str = MISSING
    actions: list[str] = MISSING
    action_repeat: int = MISSING
    stack: int = MISSING
    max_pool: bool = MISSING
    noop_max: int = MISSING
    fire_reset: bool = MISSING
    sticky_actions: float = MISSING
    max_episode_frames: int = MISSING


@dataclass
class TeacherConfig:
    """Synchronous advantage actor-critic. An update learns from environments x horizon steps."""

    algorithm: str = MISSING  # ppo or a2c; a label shows it
    steps: int = MISSING
    environments: int = MISSING
    horizon: int = MISSING
    epochs: int = MISSING
    minibatches: int = MISSING
    learning_rate: float = MISSING
    discount: float = MISSING
    trace: float = MISSING  # lambda of the generalised advantages
    clip: float = MISSING  # 0: off
    value_weight: float = MISSING
    entropy_weight: float = MISSING
    normalise_advantages: bool = MISSING
    max_gradient_norm: float = MISSING
    clip_rewards: bool = MISSING
    life_is_episode: bool = MISSING
    products: Products = MISSING
    segment: int = MISSING  # steps between resets of all environments


@dataclass
class TrainTeacherConfig(RunConfig):
    """Section 4.2: a policy that plays one game."""

    dataset: AtariDatasetConfig = field(default_factory=AtariDatasetConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    start: str = MISSING  # the file of a teacher to go on from; empty: new weights
    start_sha256: str = MISSING  # of that file: from another teacher it is another training
    value_steps: int = MISSING  # of those that go on: at first the value alone learns, for a teacher's file has none
    evaluation_episodes: int = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher.products is Products.auto:
            self.teacher.products = Products[chosen("teacher.products", self.compute.device)]


@dataclass
class RecordedDatasetConfig(AtariDatasetConfig):
    """States that a teacher visits, split by whole episodes in the order of time."""

    teacher: str = MISSING  # its file
    teacher_sha256: str = MISSING  # of that file: another teacher is another question
    n_states: int = MISSING
    recording_environments: int = MISSING  # that the teacher plays in at once
    recording_seed: int = MISSING
    folder: str = MISSING  # where recordings are kept
    split: list[float] = MISSING  # parts: [train, validation, test]


@dataclass
class StudentConfig:
    """Convolutions without padding, [channels, kernel, stride] each, then one linear layer, all with ReLU."""

    convolutions: list[list[int]] = MISSING
    hidden: int = MISSING
    initialisation: str = MISSING  # a key of `sobolev.networks.atari_policies.INITIALISATIONS`


@dataclass
class ObjectiveConfig:
    """Section 4.2: kl_weight KL + gradient_weight E_v || difference of the gradients of <log pi, v> ||."""

    name: str = MISSING
    kl_weight: float = MISSING
    gradient_weight: float = MISSING  # alpha
    divergence: str = MISSING  # student_teacher, as printed, or teacher_student
    norm: str = MISSING  # l2, as printed, or squared_l2
    projection: str = MISSING  # sphere, gaussian, rademacher or coordinate
    samples: int = MISSING  # projections a state and update


@dataclass
class DistillConfig(RunConfig):
    """Section 4.2: a student learns a teacher's policy from states that the teacher visited."""

    dataset: RecordedDatasetConfig = field(default_factory=RecordedDatasetConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    n_train: int = MISSING  # the first so many states of the train part
    products: Products = MISSING  # of the derivative passes
    recorded_gib: float = MISSING  # the teacher's gradients are kept if they take no more; else computed at each step
    evaluate_on: str = MISSING  # test, or validation: tuning
    n_evaluate: int = MISSING  # states, evenly spaced
    n_gradients: int = MISSING  # of these, where gradients are compared
    evaluations: int = MISSING  # how often over training, evenly in log(step)
    play_episodes: int = MISSING  # whole games that the student plays in the end; 0 for none

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.products is Products.auto:
            self.products = Products[chosen("products", self.compute.device)]


TYPES = {
    "regression_types": RegressionConfig,
    "regression_descent_types": DescentConfig,
    "synthetic_gradients_types": SyntheticGradientsConfig,
    "synthetic_gradients_folder_types": SyntheticGradientsFolderConfig,
    "theory_exact_types": ExactConfig,
    "theory_construction_types": ConstructionConfig,
    "theory_approximation_types": ApproximationConfig,
    "theory_mismatch_types": MismatchConfig,
    "theory_points_types": PointsConfig,
    "train_teacher_types": TrainTeacherConfig,
    "distill_atari_types": DistillConfig,
}


def register() -> None:
    """Make the types known to Hydra; an experiment names its own in its defaults list.

    Configs may say ${sha256:<path>} for the digest of a file, '' where there is none.
    """
    OmegaConf.register_new_resolver("sha256", file_sha256, replace=True)
    for name, node in TYPES.items():
        ConfigStore.instance().store(name=name, node=node, package="_global_")


def located(path: str) -> Path:
    """A file that a config names: as seen from where the command was typed, or else one that ships with the project."""
    here, shipped = Path(path), ROOT / path
    return shipped if not here.exists() and shipped.exists() else here


def file_sha256(path: str) -> str:
    """The SHA-256 of a file in hexadecimal digits, '' where there is no file to read."""
    try:
        if not (file := located(path)).is_file():
            return ""
        status = file.stat()
        return _sha256(file, status.st_mtime_ns, status.st_size, status.st_ino)
    except (OSError, ValueError):
        return ""


@lru_cache(maxsize=64)  # a sweep composes hundreds of configs that name the same few files
def _sha256(path: Path, *_version: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
