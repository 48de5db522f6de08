"""Recording the states that a teacher visits, once, to be read many times (`sobolev.atari.recorded_states`).

A recording is a folder of shards and `header.json`, which is written last. A shard is a compressed NumPy file with an
interval of time. Each frame is stored once, and stacked with previous ones on reading, which saves three quarters of
the memory.

A recording is determined by its seed. An interrupted one continues where it stopped: the actions in the existing shards
bring the emulators back to that point, without the teacher.

Shape suffixes: T steps, N environments, C frames of a state, H rows, W columns, A actions.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sobolev.atari import shards
from sobolev.atari.actor_critic import sample
from sobolev.atari.environments import Environments
from sobolev.atari.play import environment_seeds
from sobolev.atari.teachers import Teacher
from sobolev.devices import to_device
from sobolev.files import locked, replacing, sha256
from sobolev.seeding import generator


@dataclass(frozen=True)
class Recording:
    """What is recorded: a teacher plays, with actions drawn from its policy.

    Attributes:
        teacher: the policy that plays, and the options of its game.
        states: the number of recorded states.
        environments: the number of parallel environments.
        seed: of the environments and of the actions.
        device: where the teacher computes. Rounding occasionally decides between actions, after which other states are
            visited. So the device is part of a recording's description and name, unless it is the CPU.

    Raises:
        ValueError: no states or no environments.
    """

    teacher: Teacher
    states: int = 100_000
    environments: int = 16
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("states", "environments"):
            if getattr(self, name) < 1:
                raise ValueError(f"a recording's {name} must be positive, not {getattr(self, name)}")

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the recorded states depend on, as stored in the header."""
        kind = torch.device(self.device).type
        return ({} if kind == "cpu" else {"device": kind}) | {
            "format": shards.FORMAT,
            "teacher": self.teacher.sha256,
            "options": asdict(self.teacher.options) | {"actions": list(self.teacher.options.actions)},
            "states": self.states,
            "environments": self.environments,
            "seed": self.seed,
            "ale_py": version("ale-py"),
        }

    @property
    def name(self) -> str:
        """The folder's name: the game and a hash of the description."""
        digest = hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.teacher.options.game}-{digest}"


def record(
    recording: Recording,
    folder: str | Path,
    threads: int = 0,
    progress: Callable[[int], None] = lambda states: None,
) -> Path:
    """Record into `folder / recording.name`, unless it exists already, and return the path.

    Another process that asks for the same recording waits for this one.

    Args:
        recording: what is recorded.
        folder: the folder of recordings.
        threads: of the emulators; 0 means one per core.
        progress: called with the number of states that a shard has added.

    Raises:
        ValueError: shards of an interrupted recording are damaged or foreign, or the emulator now plays differently.
        OSError: the disk is full, or the folder cannot be written.
    """
    path = Path(folder) / recording.name
    path.mkdir(parents=True, exist_ok=True)
    with locked(path / ".lock"):
        if not (path / "header.json").exists():
            for partial in path.glob(".*.partial"):  # of a process that was killed
                partial.unlink()
            _record(recording, path, threads, progress)
    return path


@torch.no_grad()
def _record(recording: Recording, path: Path, threads: int, progress: Callable[[int], None]) -> None:
    """Write the shards that are missing in `path`, and then the header."""
    n, device = recording.environments, torch.device(recording.device)
    policy = recording.teacher.policy.to(device)
    environments = Environments(recording.teacher.options, n, threads)
    states_NCHW = environments.reset(environment_seeds(recording.seed, "recorded environments", n))
    alive_N = np.ones(n, bool)
    missing, checksums = recording.states, dict[str, str]()
    while missing > 0:
        file = path / shards.shard_name(len(checksums))
        known = shards.read_shard(file, recording.description) if os.path.lexists(file) else None
        foreign = ValueError(f"{file} was recorded in another way: remove {path}")
        randomness = generator(recording.seed, "recorded", len(checksums))
        uniform_TNA = torch.rand(shards.SHARD_STEPS, n, environments.n_actions, generator=randomness)
        shard: dict[str, list[np.ndarray]] = {name: [] for name in shards.SHARD_ARRAYS}
        added = 0
        for t in range(shards.SHARD_STEPS):
            if known is None:
                log_probs_NA = policy(to_device(torch.from_numpy(states_NCHW), device)).cpu()
                actions_N = sample(log_probs_NA, uniform_TNA[t]).numpy()
            elif t < len(known["frames"]) and np.array_equal(known["frames"][t], states_NCHW[:, -1]):
                actions_N = known["actions"][t].astype(np.int64)
            else:
                raise foreign
            step = environments.step(actions_N)
            # Copied, because a view would keep the whole stack in memory.
            for name, array in (
                ("frames", states_NCHW[:, -1].copy()),
                ("actions", actions_N.astype(np.uint8)),
                ("alive", alive_N),
                ("rewards", step.rewards_N),
            ):
                shard[name].append(array)
            added += int(alive_N.sum())
            states_NCHW, alive_N = step.states_NCHW, ~(step.terminated_N | step.truncated_N)
            if added >= missing:
                break
        if known is None:
            with replacing(file) as partial, partial.open("wb") as stream:
                stacked = {name: np.stack(arrays) for name, arrays in shard.items()}
                np.savez_compressed(stream, **stacked)  # type: ignore[arg-type] # none is named allow_pickle
        elif not all(np.array_equal(known[name], arrays) for name, arrays in shard.items()):
            raise foreign
        checksums[file.name] = sha256(file)
        missing -= added
        progress(added)
    with replacing(path / "header.json") as partial:
        partial.write_text(json.dumps(recording.description | {"shards": checksums}, indent=2))
