"""The settings that experiments share. Their values are in `configs/`, one YAML file per choice.

Hydra checks a composed config against these classes before anything starts, and refuses a misspelt key or a wrong
type. `OmegaConf.to_object` then turns the config into these plain objects, which experiments read.
"""

from __future__ import annotations

import enum
import hashlib
import time
from dataclasses import dataclass, field, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING, OmegaConf

from experiments.runner.precision import chosen

ROOT = Path(__file__).resolve().parents[2]
TICK = 3.0  # seconds: longer than the time resolution of any file system
Activation = enum.Enum("Activation", ["relu", "leaky_relu", "tanh", "softplus", "silu", "gelu"])
Initialisation = enum.Enum("Initialisation", ["uniform_fan_in", "glorot", "he", "he_spread"])
Schedule = enum.Enum("Schedule", ["constant", "cosine", "tail"])
WandbMode = enum.Enum("WandbMode", ["offline", "online", "disabled"])
# bfloat16 and tf32 apply to products only, tf32 only on a GPU; auto: see experiments/runner/precision.py
Precision = enum.Enum("Precision", ["float32", "float64", "bfloat16", "tf32", "auto"])
ComputeDtype = enum.Enum("ComputeDtype", ["float32", "bfloat16", "auto"])


@dataclass
class LabelsConfig:
    """The labels of a run's rows; also the readable part of its folder's name."""

    task: str = MISSING
    method: str = MISSING
    n_train: int = MISSING


@dataclass
class RecorderConfig:
    """Where rows go besides metrics.csv. W&B is a mirror: losing it loses nothing."""

    wandb: WandbMode = MISSING
    project: str = MISSING
    group: str = MISSING
    bundle: str = ""  # a .tgz for the rows, written at the end of a run, and repeatedly during a sweep; empty: none


@dataclass
class ComputeConfig:
    """Where a run computes. Not part of its identity."""

    device: str = MISSING  # cpu, cuda, cuda:1, or auto: cuda where there is one, cpu for small ensembles
    threads: int = MISSING  # 0: one per core
    precision: Precision = MISSING
    checkpoint_seconds: float = MISSING


@dataclass
class LimitConfig:
    """A time limit for the command. Not part of a run's identity: the same command continues where it stopped."""

    seconds: float = 0.0  # for the whole command, a run or a sweep; 0: no limit
    # On the monotonic clock; commands and sweeps set it for their runs. `seconds` then limits the training of a
    # single run: a sweep uses it for short trials of runs whose cost it does not know.
    deadline: float = 0.0


@dataclass
class RunConfig:
    """The settings of every experiment. `auto` precisions are resolved for this machine when it is created."""

    several_processes: ClassVar[bool] = False  # whether torchrun may start it
    autocasts: ClassVar[bool] = False  # whether it may compute in bfloat16
    on_gpu: ClassVar[bool] = True  # whether compute.device=auto means a GPU if there is one
    fixed_shapes: ClassVar[bool] = False  # whether all batches have one shape, so that cuDNN may benchmark algorithms
    # These decide the scale of a run, see experiments/runner/scale.py. Settings are given by dotted keys.
    choices: ClassVar[dict[str, str]] = {}  # {config group: the choice that the settings name, "{loss.name}"}
    axes: ClassVar[tuple[str, ...]] = ()  # settings, or groups of them, that span the experiment's grid
    budget: ClassVar[tuple[str, ...]] = ()  # numbers that may grow but not shrink
    name: str = MISSING  # the experiment: names the folder of its runs and a column of its rows
    entry: str = MISSING  # the function that runs it, experiments.<domain>.<module>.<function>
    seed: int = MISSING
    runs_dir: str = MISSING
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    recorder: RecorderConfig = field(default_factory=RecorderConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    limit: LimitConfig = field(default_factory=LimitConfig)

    @property
    def in_paper(self) -> bool:
        """Whether these values of the axes exist in the paper, or in the shipped experiment that extends it."""
        return True

    def __post_init__(self) -> None:
        if self.compute.precision is Precision.auto:
            name = chosen("compute.precision", self.compute.device) if self.autocasts else "float32"
            self.compute.precision = Precision[name]
        if not lacks_values(self):  # `trust.settings` reports missing values
            self.check_values()

    def named_modules(self) -> set[str]:
        """Modules that decide rows because a setting names something in them, such as a user's own function.

        `entry` does not import these extensions, so `experiments.runner.code_identity` is told of them here.
        """
        return set()

    def data_digest(self) -> str:
        """A digest of data that rows depend on but the settings do not identify; '' if there are none."""
        return ""

    def check_values(self) -> None:
        """Refuse values and combinations that types cannot exclude, without looking at data or at this machine.

        Raises:
            BadInput: names the setting and what would be right.
        """


def lacks_values(settings: Any) -> bool:
    """Whether a setting is missing, here or in a nested group."""
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
    """Adam. `steps` counts updates. `cosine` decays the learning rate to 0 over all of them, `tail` over the last
    quarter.
    """

    learning_rate: float = MISSING
    schedule: Schedule = MISSING
    steps: int = MISSING
    batch_size: int = MISSING  # with fewer training points, the full batch


def register_resolvers() -> None:
    """Register ${sha256:<path>} for configs: the digest of a file, '' if there is none."""
    OmegaConf.register_new_resolver("sha256", file_sha256, replace=True)


def located(path: str) -> Path:
    """A file that a config names, relative to the working directory or else to the project's root."""
    here, shipped = Path(path), ROOT / path
    return shipped if not here.exists() and shipped.exists() else here


def version_of(file: Path) -> tuple[int, ...]:
    """A cache key for the content of a file, which changes whenever the file does.

    The modification time alone is not enough: its resolution is a few milliseconds, on some systems two seconds, and a
    file that is written twice within a tick looks unchanged. So the key of such a young file is never the same twice.
    """
    status = file.stat()
    young = abs(time.time() - status.st_mtime) < TICK
    return status.st_mtime_ns, status.st_size, status.st_ino, time.monotonic_ns() if young else 0


def file_sha256(path: str) -> str:
    """The SHA-256 of a file in hexadecimal digits; '' if it cannot be read."""
    try:
        if not (file := located(path)).is_file():
            return ""
        return _sha256(file, version_of(file))
    except (OSError, ValueError):
        return ""


@lru_cache(maxsize=64)  # a sweep composes hundreds of configs that name the same few files
def _sha256(path: Path, _version: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
