"""The settings that every experiment or several of them have. Values live in `configs/`, one YAML a choice.

A misspelt key or a wrong type is refused against these classes when Hydra composes a run, before anything
starts. `OmegaConf.to_object` turns the composed config into these plain objects, which experiments read.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING, OmegaConf

from experiments.runner.precision import chosen

ROOT = Path(__file__).resolve().parents[2]
Activation = enum.Enum("Activation", ["relu", "leaky_relu", "tanh", "softplus", "silu", "gelu"])
Initialisation = enum.Enum("Initialisation", ["uniform_fan_in", "glorot", "he", "he_spread"])
Schedule = enum.Enum("Schedule", ["constant", "cosine", "tail"])
WandbMode = enum.Enum("WandbMode", ["offline", "online", "disabled"])
# bfloat16 and tf32: products only, the latter of float32 on a GPU; auto: see experiments/runner/precision.py
Precision = enum.Enum("Precision", ["float32", "float64", "bfloat16", "tf32", "auto"])
ComputeDtype = enum.Enum("ComputeDtype", ["float32", "bfloat16", "auto"])


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
    bundle: str = ""  # a .tgz for the rows, of a run at its end, of a sweep again and again until it ends; empty: none


@dataclass
class ComputeConfig:
    """Where a run computes. Not part of its identity."""

    device: str = MISSING  # cpu, cuda, cuda:1, or auto: cuda where there is one, cpu for small ensembles
    threads: int = MISSING  # 0: one a core
    precision: Precision = MISSING
    checkpoint_seconds: float = MISSING


@dataclass
class LimitConfig:
    """How long a command may take. Not part of a run's identity: the same command goes on where it stopped."""

    seconds: float = 0.0  # of the command, a run or a sweep; 0: as long as it takes
    deadline: float = 0.0  # in seconds since the epoch. Commands and sweeps set it for their runs, whose `seconds`
    # are then those of training after which they stop: a sweep tries for a while what it does not know the cost of


@dataclass
class RunConfig:
    """What every experiment has. Made from a composed config, it says what each `auto` precision is on this machine."""

    several_processes: ClassVar[bool] = False  # whether torchrun may start it
    autocasts: ClassVar[bool] = False  # whether it may compute in bfloat16
    on_gpu: ClassVar[bool] = True  # whether compute.device=auto is a GPU where there is one
    fixed_shapes: ClassVar[bool] = False  # whether all batches have one shape, for which cuDNN may look for the fastest
    # What the scale of a run follows from, see experiments/runner/scale.py. Settings are given by dotted keys.
    choices: ClassVar[dict[str, str]] = {}  # {config group: the choice that the settings name, "{loss.name}"}
    axes: ClassVar[tuple[str, ...]] = ()  # settings, or groups of them, that span the experiment's grid
    budget: ClassVar[tuple[str, ...]] = ()  # numbers that may grow and not shrink
    name: str = MISSING  # the experiment's name: folder of its runs, column of its rows
    entry: str = MISSING  # the function that runs it, experiments.<domain>.<module>.<function>
    seed: int = MISSING
    runs_dir: str = MISSING
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    recorder: RecorderConfig = field(default_factory=RecorderConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    limit: LimitConfig = field(default_factory=LimitConfig)

    @property
    def in_paper(self) -> bool:
        """Whether the paper, or an experiment that ships in its place, has anything at these axes."""
        return True

    def __post_init__(self) -> None:
        if self.compute.precision is Precision.auto:
            name = chosen("compute.precision", self.compute.device) if self.autocasts else "float32"
            self.compute.precision = Precision[name]
        if not lacks_values(self):  # what is missing is named by whoever composed this
            self.check_values()

    def named_modules(self) -> set[str]:
        """Modules whose code decides rows because a setting names what they hold, such as a function of the user's.

        `entry` imports none of them: they are extensions. `experiments.runner.code_identity` reads them.
        """
        return set()

    def data_digest(self) -> str:
        """A digest of data that decide rows and that no setting tells from others, '' where there are none."""
        return ""

    def check_values(self) -> None:
        """Refuse ranges and combinations that no type can, without a look at data or at this machine.

        Raises:
            BadInput: naming the setting and what would be right.
        """


def lacks_values(settings: Any) -> bool:
    """Whether a setting is missing, here or in one of the groups."""
    found = vars(settings).values()
    return any(lacks_values(value) if is_dataclass(value) else value == MISSING for value in found)


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
    """Adam. `steps` counts updates; `cosine` takes the learning rate to 0 over them, `tail` over their last quarter."""

    learning_rate: float = MISSING
    schedule: Schedule = MISSING
    steps: int = MISSING
    batch_size: int = MISSING  # at most; fewer training points make a full batch


def register_resolvers() -> None:
    """Let configs say ${sha256:<path>} for the digest of a file, '' where there is none."""
    OmegaConf.register_new_resolver("sha256", file_sha256, replace=True)


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
