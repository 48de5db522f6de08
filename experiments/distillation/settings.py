"""The settings of policy distillation (Section 4.2): which types Hydra holds `configs/` against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from experiments.runner.precision import chosen
from experiments.runner.settings import OptimizerConfig, Products, RunConfig


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

    choices: ClassVar[dict[str, str]] = {"dataset": "atari/{dataset.game}", "teacher": "{teacher.algorithm}"}
    axes: ClassVar[tuple[str, ...]] = (
        "start",
        "start_sha256",
        "value_steps",
        "teacher.learning_rate",
        "teacher.products",
    )
    budget: ClassVar[tuple[str, ...]] = ("teacher.steps", "evaluation_episodes")
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

    choices: ClassVar[dict[str, str]] = {"dataset": "atari/{dataset.game}", "objective": "{objective.name}"}
    axes: ClassVar[tuple[str, ...]] = (  # the paper searches for a learning rate in a range, and for alpha
        *("n_train", "optimizer.learning_rate", "objective.gradient_weight"),
        *("products", "recorded_gib", "dataset.teacher_sha256"),
    )
    budget: ClassVar[tuple[str, ...]] = ("optimizer.steps", "n_evaluate", "evaluations", "play_episodes")
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

    @property
    def in_paper(self) -> bool:
        """Whether the learning rate is in the paper's range, and gradients count where the objective's name says it."""
        in_range = 1e-5 <= self.optimizer.learning_rate <= 1e-3
        return in_range and (self.objective.gradient_weight > 0) == (self.objective.name != "value")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.products is Products.auto:
            self.products = Products[chosen("products", self.compute.device)]


TYPES = {
    "train_teacher_types": TrainTeacherConfig,
    "distill_atari_types": DistillConfig,
}
