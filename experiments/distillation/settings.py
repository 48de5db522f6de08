"""The settings of policy distillation (Section 4.2): the types against which Hydra checks `configs/`.

Numbers out of range are refused when the settings are built, before anything is loaded. What depends on files, on the
machine or on what the library offers is refused by `check` in `train.py` and `train_teacher.py`.

Some fields repeat those of the library's `AtariOptions` and `Objective` (a test keeps them the same). These classes
cannot be types here: they are frozen, which OmegaConf takes for read-only, and their modules import PyTorch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from experiments.runner.errors import BadInput, check_positive, check_precision, check_seed
from experiments.runner.limits import check_evaluations, check_updates
from experiments.runner.precision import chosen
from experiments.runner.settings import ComputeDtype, OptimizerConfig, RunConfig

SPLITS = ("train", "validation", "test")  # parts of the recorded states


@dataclass
class AtariDatasetConfig:
    """How a game is played: the fields of `sobolev.atari.AtariOptions`."""

    game: str = MISSING
    actions: list[str] = MISSING
    action_repeat: int = MISSING
    stack: int = MISSING
    max_pool: bool = MISSING
    noop_max: int = MISSING
    fire_reset: bool = MISSING
    sticky_actions: float = MISSING
    max_episode_frames: int = MISSING

    def check(self) -> None:
        if self.stack != 4:
            raise BadInput(f"dataset.stack={self.stack}: the paper's networks read 4 frames")


@dataclass
class TeacherConfig:
    """Synchronous advantage actor-critic. An update learns from environments x horizon steps."""

    algorithm: str = MISSING  # ppo or a2c; shown in a label
    steps: int = MISSING
    environments: int = MISSING
    horizon: int = MISSING
    epochs: int = MISSING
    minibatches: int = MISSING
    learning_rate: float = MISSING
    gamma: float = MISSING  # the discount
    gae_lambda: float = MISSING  # of the generalised advantage estimates
    clip: float = MISSING  # the clip range of the ratio; 0: off
    value_coef: float = MISSING
    entropy_coef: float = MISSING
    normalise_advantages: bool = MISSING
    max_grad_norm: float = MISSING
    clip_rewards: bool = MISSING
    episodic_life: bool = MISSING  # whether a lost life ends the return
    compute_dtype: ComputeDtype = MISSING
    segment: int = MISSING  # steps between resets of all environments

    @property
    def steps_per_update(self) -> int:
        return self.environments * self.horizon

    def check(self) -> None:
        positive = ("environments", "horizon", "epochs", "minibatches", "learning_rate", "max_grad_norm")
        check_positive(**{f"teacher.{key}": getattr(self, key) for key in positive})
        not_negative = ("clip", "value_coef", "entropy_coef")
        check_not_negative(**{f"teacher.{key}": getattr(self, key) for key in not_negative})
        for key in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, key) <= 1:
                raise BadInput(f"teacher.{key} must be between 0 and 1, not {getattr(self, key)}")
        of_an_update = self.steps_per_update
        for key in ("steps", "segment"):
            if getattr(self, key) < of_an_update:
                raise BadInput(f"teacher.{key}={getattr(self, key)} is less than one update's {of_an_update} steps")
        if self.minibatches * 2 > of_an_update:
            raise BadInput(f"teacher.minibatches={self.minibatches} is too many for an update of {of_an_update} steps")
        if self.algorithm == "a2c" and (self.clip or self.epochs > 1):
            raise BadInput("teacher.algorithm=a2c has teacher.clip=0 and teacher.epochs=1: use teacher=a2c")
        if self.algorithm == "ppo" and not self.clip:
            raise BadInput("teacher.algorithm=ppo has teacher.clip above 0: use teacher=a2c to train without")


@dataclass
class TrainTeacherConfig(RunConfig):
    """Section 4.2: training a policy that plays one game."""

    choices: ClassVar[dict[str, str]] = {"dataset": "atari/{dataset.game}", "teacher": "{teacher.algorithm}"}
    axes: ClassVar[tuple[str, ...]] = (
        "start",
        "start_sha256",
        "value_steps",
        "teacher.learning_rate",
        "teacher.compute_dtype",
    )
    budget: ClassVar[tuple[str, ...]] = ("teacher.steps", "evaluation_episodes")
    dataset: AtariDatasetConfig = field(default_factory=AtariDatasetConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    start: str = MISSING  # the file of a teacher to start from; empty: new weights
    start_sha256: str = MISSING  # part of the run's identity: a different teacher is a different run
    value_steps: int = MISSING  # first steps in which only the value learns, because a teacher's file has none
    evaluation_episodes: int = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher.compute_dtype is ComputeDtype.auto:
            self.teacher.compute_dtype = ComputeDtype[chosen("teacher.compute_dtype", self.compute.device)]

    def check_values(self) -> None:
        check_seed(self)
        check_precision(self)
        self.dataset.check()
        self.teacher.check()
        check_positive(evaluation_episodes=self.evaluation_episodes)
        if not 0 <= self.value_steps < self.teacher.steps:
            raise BadInput(f"value_steps={self.value_steps} must be 0 or more and less than teacher.steps")
        teacher = self.teacher
        minibatches = teacher.steps // teacher.steps_per_update * teacher.epochs * teacher.minibatches
        check_updates(**{"teacher.steps": teacher.steps, "teacher.epochs x minibatches": minibatches})


@dataclass
class RecordedDatasetConfig(AtariDatasetConfig):
    """States that a teacher visits, split by whole episodes in order of time."""

    teacher: str = MISSING  # its file
    teacher_sha256: str = MISSING  # of that file: another teacher makes another run
    n_states: int = MISSING
    recording_environments: int = MISSING  # environments that the teacher plays in parallel
    recording_seed: int = MISSING
    folder: str = MISSING  # where recordings are kept
    split: list[float] = MISSING  # shares of [train, validation, test]

    def check(self) -> None:
        super().check()
        positive = ("n_states", "recording_environments")
        check_positive(**{f"dataset.{key}": getattr(self, key) for key in positive})
        check_not_negative(**{"dataset.recording_seed": self.recording_seed})
        if len(self.split) != 3 or min(self.split) <= 0 or not math.isclose(sum(self.split), 1):
            raise BadInput(f"dataset.split={self.split}: expected parts for train, validation and test that sum to 1")


@dataclass
class StudentConfig:
    """Convolutions without padding, [channels, kernel, stride] each, then one linear layer, all with ReLU."""

    convolutions: list[list[int]] = MISSING
    hidden: int = MISSING
    initialisation: str = MISSING  # a key of `sobolev.networks.atari_policies.INITIALISATIONS`


@dataclass
class ObjectiveConfig:
    """Section 4.2: kl_weight KL + gradient_weight E_v || difference of the gradients of <log pi, v> ||.

    The paper's weights are constant and absolute. Falling weights, and weights divided by the size of the teacher's own
    gradients, are ours.
    """

    name: str = MISSING
    kl_weight: float = MISSING
    gradient_weight: float = MISSING  # alpha
    falls_until: float = MISSING  # alpha falls to 0 over this share of the training, as half a cosine; 0: constant
    balanced: bool = MISSING  # alpha is divided by the mean norm of the teacher's own gradients on training states
    divergence: str = MISSING  # student_teacher, as printed, or teacher_student
    norm: str = MISSING  # l2, as printed, or squared_l2
    projection: str = MISSING  # sphere, gaussian, rademacher or coordinate
    samples: int = MISSING  # projections per state and update

    def check(self) -> None:
        check_positive(**{"objective.samples": self.samples})
        check_not_negative(**{"objective.kl_weight": self.kl_weight, "objective.gradient_weight": self.gradient_weight})
        if not 0 <= self.falls_until <= 1:
            raise BadInput(f"objective.falls_until={self.falls_until} is a share of the training: expected 0 to 1")
        if self.falls_until and not self.kl_weight:
            raise BadInput(
                "objective.falls_until needs objective.kl_weight above 0: nothing would be left to learn from"
            )
        if self.kl_weight == self.gradient_weight == 0:
            raise BadInput(
                "objective.kl_weight and objective.gradient_weight are both 0: there is nothing to learn from"
            )


@dataclass
class DistillConfig(RunConfig):
    """Section 4.2: a student learns a teacher's policy from states that the teacher visited."""

    choices: ClassVar[dict[str, str]] = {"dataset": "atari/{dataset.game}", "objective": "{objective.name}"}
    axes: ClassVar[tuple[str, ...]] = (  # the paper searches for a learning rate in a range, and for alpha
        *("n_train", "optimizer.learning_rate", "objective.gradient_weight"),
        *("compute_dtype", "recorded_gib", "dataset.teacher_sha256"),
    )
    budget: ClassVar[tuple[str, ...]] = ("optimizer.steps", "n_evaluate", "evaluations", "play_episodes")
    dataset: RecordedDatasetConfig = field(default_factory=RecordedDatasetConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    n_train: int = MISSING  # training states: the first of the train part
    compute_dtype: ComputeDtype = MISSING  # of the derivative passes
    recorded_gib: float = MISSING  # the teacher's gradients are recorded if they fit; else computed at each step
    evaluate_on: str = MISSING  # test; validation for tuning
    n_evaluate: int = MISSING  # states, evenly spaced
    n_gradients: int = MISSING  # of these, states on which gradients are compared
    evaluations: int = MISSING  # number over training, evenly spaced in log(step)
    play_episodes: int = MISSING  # whole games that the student plays at the end; 0 for none

    @property
    def in_paper(self) -> bool:
        """Whether learning rate and alpha are within the paper's protocol.

        The rate is in the paper's range; alpha is constant and absolute, and 0 if and only if the objective is `value`.
        """
        in_range = 1e-5 <= self.optimizer.learning_rate <= 1e-3
        constant = self.objective.falls_until == 0 and not self.objective.balanced
        return in_range and constant and (self.objective.gradient_weight > 0) == (self.objective.name != "value")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compute_dtype is ComputeDtype.auto:
            self.compute_dtype = ComputeDtype[chosen("compute_dtype", self.compute.device)]

    def check_values(self) -> None:
        check_seed(self)
        check_precision(self)
        self.dataset.check()
        self.objective.check()
        own = {key: getattr(self, key) for key in ("n_train", "n_evaluate", "n_gradients", "evaluations")}
        of_optimizer = {
            f"optimizer.{key}": getattr(self.optimizer, key) for key in ("steps", "batch_size", "learning_rate")
        }
        check_positive(**own, **of_optimizer, **{"student.hidden": self.student.hidden})
        check_not_negative(play_episodes=self.play_episodes, recorded_gib=self.recorded_gib)
        if self.n_train >= self.dataset.n_states:  # how many fit exactly is known once the states are recorded
            raise BadInput(
                f"n_train={self.n_train} must be less than dataset.n_states={self.dataset.n_states}: "
                "validation and test take some of them"
            )
        check_updates(**{"optimizer.steps": self.optimizer.steps})
        check_evaluations(self.evaluations, self.optimizer.steps)


def check_not_negative(**settings: float) -> None:
    """Refuse settings that are negative or not finite."""
    for key, value in settings.items():
        if not 0 <= value < math.inf:
            raise BadInput(f"{key} must be 0 or more, not {value}")


TYPES = {
    "train_teacher_types": TrainTeacherConfig,
    "distill_atari_types": DistillConfig,
}
