"""The states that a teacher visits, recorded once and read many times.

A recording is a folder of shards (compressed NumPy files, each a stretch of time) and `header.json`, written last. A
frame is stored once and stacked with those before it on reading, which takes a quarter of the memory.

Recording is deterministic by seed. An interrupted one goes on where it was: the emulators are brought back to it by the
actions in the shards that are there, without the teacher.

Shape suffixes: S states in all, B states of a batch, T steps, N environments, C frames of a state, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sobolev.atari.actor_critic import sample
from sobolev.atari.environments import AtariOptions, Environments
from sobolev.atari.play import environment_seeds
from sobolev.atari.teachers import Teacher
from sobolev.files import locked, replacing, sha256
from sobolev.networks.atari_policies import FRAME
from sobolev.seeding import generator

FORMAT = "sobolev recorded states 1"
SHARD_STEPS = 500  # of each environment
SHARD_ARRAYS = {  # types, and shapes after (T, N)
    "frames": (np.uint8, (FRAME, FRAME)),
    "actions": (np.uint8, ()),
    "alive": (np.bool_, ()),
    "rewards": (np.int32, ()),
}
HEADER_BYTES = 1 << 20  # at most, which is room for 10,000 shards
HEADER = {  # its fields and their types
    "format": str,
    "teacher": str,
    "options": dict,
    "states": int,
    "environments": int,
    "seed": int,
    "ale_py": str,
    "shards": dict,
}


@dataclass(frozen=True)
class Recording:
    """What is recorded: so many states of a teacher that plays in so many environments at once, by its own odds."""

    teacher: Teacher
    states: int = 100_000
    environments: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("states", "environments"):
            if getattr(self, name) < 1:
                raise ValueError(f"a recording's {name} must be positive, not {getattr(self, name)}")

    @property
    def description(self) -> dict[str, Any]:
        """All that the recorded states depend on."""
        return {
            "format": FORMAT,
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
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] = lambda states: None,
) -> Path:
    """Record into `folder / recording.name`, unless it is there, and return that path.

    Another process that records the same waits for this one.

    Args:
        recording: what.
        folder: where recordings are kept.
        threads: of the emulators; 0: as many as there are cores.
        device: where the teacher computes.
        progress: called with the number of states that a shard has added.

    Raises:
        ValueError: shards of an interrupted recording are damaged or foreign, or the emulator now plays otherwise.
        OSError: the disk is full, or the folder cannot be written.
    """
    path = Path(folder) / recording.name
    path.mkdir(parents=True, exist_ok=True)
    with locked(path / ".lock"):
        if not (path / "header.json").exists():
            for partial in path.glob(".*.partial"):  # of a process that was killed
                partial.unlink()
            _record(recording, path, threads, torch.device(device), progress)
    return path


@torch.no_grad()
def _record(
    recording: Recording, path: Path, threads: int, device: torch.device, progress: Callable[[int], None]
) -> None:
    n = recording.environments
    policy = recording.teacher.policy.to(device)
    environments = Environments(recording.teacher.options, n, threads)
    states_NCHW = environments.reset(environment_seeds(recording.seed, "recorded environments", n))
    alive_N = np.ones(n, bool)
    missing, checksums = recording.states, {}
    while missing > 0:
        file = path / _shard_name(len(checksums))
        known = _read_shard(file, recording.description) if os.path.lexists(file) else None
        foreign = ValueError(f"{file} was recorded in another way: remove {path}")
        uniform_TNA = torch.rand(
            SHARD_STEPS, n, environments.n_actions, generator=generator(recording.seed, "recorded", len(checksums))
        )
        shard: dict[str, list[np.ndarray]] = {name: [] for name in SHARD_ARRAYS}
        added = 0
        for t in range(SHARD_STEPS):
            if known is None:
                log_probs_NA = policy(torch.from_numpy(states_NCHW).to(device)).cpu()
                actions_N = sample(log_probs_NA, uniform_TNA[t]).numpy()
            elif t < len(known["frames"]) and np.array_equal(known["frames"][t], states_NCHW[:, -1]):
                actions_N = known["actions"][t].astype(np.int64)
            else:
                raise foreign
            step = environments.step(actions_N)
            # Copied: a view would keep the whole stack.
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
                np.savez_compressed(stream, **{name: np.stack(arrays) for name, arrays in shard.items()})
        elif not all(np.array_equal(known[name], arrays) for name, arrays in shard.items()):
            raise foreign
        checksums[file.name] = sha256(file)
        missing -= added
        progress(added)
    with replacing(path / "header.json") as partial:
        partial.write_text(json.dumps(recording.description | {"shards": checksums}, indent=2))


@dataclass(frozen=True)
class Episodes:
    """Episodes (E,) in the order in which they began. The last of each environment is cut by the recording's end."""

    starts: np.ndarray  # the index of the first state
    lengths: np.ndarray


@dataclass(frozen=True)
class RecordedStates:
    """States in the order of their episodes: those of one episode follow each other.

    Args:
        frames_SHW: the newest frame of each state, uint8.
        first_S: the index of the first state of the same episode.
        n_frames: C.
        episodes: where episodes begin and how long they are.
    """

    frames_SHW: Tensor
    first_S: Tensor
    n_frames: int
    episodes: Episodes

    def __len__(self) -> int:
        return len(self.frames_SHW)

    def stack(self, indices_B: Tensor) -> Tensor:
        """The states (B, C, H, W), uint8, as the environment showed them: zeros before an episode's first frame."""
        back_C = torch.arange(1 - self.n_frames, 1, device=indices_B.device)
        at_BC = indices_B[:, None] + back_C
        before_BC = at_BC < self.first_S[indices_B][:, None]
        states = self.frames_SHW.index_select(0, at_BC.clamp_(min=0).flatten())
        states = states.view(len(indices_B), self.n_frames, FRAME, FRAME)
        states[before_BC] = 0
        return states

    def split(self, *fractions: float) -> list[range]:
        """Consecutive indices, part by part, never two parts of one episode.

        Each part ends with the episode in which it reaches its fraction of all states; what is over goes to no part
        unless the fractions add up to 1.

        Raises:
            ValueError: fractions that are not positive or add up to more than 1; fewer episodes than parts.
        """
        if min(fractions, default=0) <= 0 or sum(fractions) > 1 + 1e-9:
            raise ValueError(f"fractions are positive and add up to 1 at most, not {fractions}")
        ends = self.episodes.starts + self.episodes.lengths
        parts, start, wanted = [], 0, 0.0
        for fraction in fractions:
            wanted += fraction
            reached = np.searchsorted(ends, round(wanted * len(self)))
            stop = int(ends[min(reached, len(ends) - 1)])
            if stop <= start:
                raise ValueError(f"{len(ends)} episodes are too few for parts of {fractions}: record more states")
            parts.append(range(start, stop))
            start = stop
        return parts

    @classmethod
    def load(cls, path: str | Path, recording: Recording | None = None) -> RecordedStates:
        """Read what `record` wrote; with `recording`, nothing else is accepted.

        Raises:
            ValueError: a file that is missing, damaged or of another recording; names it.
            OSError: a file that may not be read.
        """
        path = Path(path)
        header = _read_header(path / "header.json")
        for key, value in (recording.description if recording else {}).items():
            if header[key] != value:
                raise ValueError(f"{path / 'header.json'}: {key} is {header[key]!r}, expected {value!r}")
        again = f"remove {path} to record it again"
        files = [path / name for name in header["shards"]]
        for file, checksum in zip(files, header["shards"].values(), strict=True):
            if not file.exists():
                raise ValueError(f"{file} is missing: {again}")
            _check_file(file, _shard_limit(header["environments"]))
            if sha256(file) != checksum:
                raise ValueError(f"{file} is not what was recorded: {again}")
        parts = [_read_shard(file, header, "alive")["alive"] for file in files]
        for file, part in zip(files[:-1], parts[:-1], strict=True):
            if len(part) != SHARD_STEPS:
                raise ValueError(f"{file} has {len(part)} steps, expected {SHARD_STEPS}: {again}")
        alive_TN = np.concatenate(parts)
        n = np.count_nonzero(alive_TN)
        if not n - np.count_nonzero(alive_TN[-1]) < header["states"] <= n:  # recording stops once it has so many
            raise ValueError(f"{path / 'header.json'} says {header['states']} states, its shards hold {n}: {again}")

        # Each state's step, environment and the step at which its episode began; states one step too many are left out.
        steps_S, environments_S = np.unravel_index(np.flatnonzero(alive_TN)[: header["states"]], alive_TN.shape)
        began_TN = alive_TN & ~np.vstack([np.zeros_like(alive_TN[:1]), alive_TN[:-1]])
        step_T1 = np.arange(len(alive_TN))[:, None]
        began_S = np.maximum.accumulate(np.where(began_TN, step_T1, 0))[steps_S, environments_S]
        order_S = np.lexsort((steps_S, environments_S, began_S))
        place_TN = np.full(alive_TN.shape, -1)
        place_TN[steps_S[order_S], environments_S[order_S]] = np.arange(len(order_S))

        frames_SHW = np.empty((len(order_S), FRAME, FRAME), np.uint8)
        step = 0
        for file in files:  # one at a time: unpacked they are large
            frames_TNHW = _read_shard(file, header, "frames", "alive")["frames"]
            place = place_TN[step : step + len(frames_TNHW)]
            frames_SHW[place[place >= 0]] = frames_TNHW[place >= 0]
            step += len(frames_TNHW)

        starts = np.flatnonzero(steps_S[order_S] == began_S[order_S])
        lengths = np.diff(starts, append=len(order_S))
        return cls(
            frames_SHW=torch.from_numpy(frames_SHW),
            first_S=torch.from_numpy(np.repeat(starts, lengths)),
            n_frames=header["options"]["stack"],
            episodes=Episodes(starts, lengths),
        )


def _read_header(file: Path) -> dict[str, Any]:
    """A header whose fields are all there, of their types and in range."""
    if not os.path.lexists(file):
        raise ValueError(f"{file.parent} holds no complete recording: it has no {file.name}")
    _check_file(file, HEADER_BYTES)
    try:
        header = json.loads(file.read_bytes())
        if not isinstance(header, dict) or set(header) != set(HEADER):
            raise ValueError(f"expected {', '.join(HEADER)}")
        for key, kind in HEADER.items():
            if type(header[key]) is not kind:
                raise ValueError(f"{key} is {header[key]!r:.100}, expected {kind.__name__}")
        if header["format"] != FORMAT:
            raise ValueError(f"format is {header['format']!r:.100}, expected {FORMAT!r}")
        AtariOptions.parse(header["options"])
        if min(header["states"], header["environments"], len(header["shards"])) < 1:
            raise ValueError("states, environments and shards must be 1 or more")
        if [*header["shards"]] != [_shard_name(i) for i in range(len(header["shards"]))]:
            raise ValueError(f"shards must be {_shard_name(0)} and on, without a gap")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no header of a recording ({error})") from None
    return header


def _read_shard(file: Path, description: dict[str, Any], *names: str) -> dict[str, np.ndarray]:
    """The named arrays (T, N, ...) of a shard, or all, which are what the recording's description says."""
    n, n_actions = description["environments"], len(description["options"]["actions"])
    _check_file(file, _shard_limit(n))
    try:
        with zipfile.ZipFile(file) as archive:
            shard = {name: _read_array(archive, name, n) for name in names or SHARD_ARRAYS}
        if len({len(array) for array in shard.values()}) > 1:
            raise ValueError("its arrays have different numbers of steps")
        if "actions" in shard and (largest := shard["actions"].max()) >= n_actions:
            raise ValueError(f"an action is {largest}, expected 0 to {n_actions - 1}")
        if "alive" in shard and shard["alive"].view(np.uint8).max() > 1:
            raise ValueError("alive has bytes that are neither 0 nor 1")
    except Exception as error:  # zipfile and zlib raise many kinds, and all mean this file
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is no shard of this recording ({reason}): remove it") from None
    return shard


def _read_array(archive: zipfile.ZipFile, name: str, n: int) -> np.ndarray:
    """An array of a shard. Its own header is read first, so that no more is allocated than a shard may hold."""
    dtype, shape = SHARD_ARRAYS[name]
    with archive.open(f"{name}.npy") as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{name} is not in version 1.0 of NumPy's format")
        found, fortran_order, found_dtype = np.lib.format.read_array_header_1_0(stream)
        if (found[1:], found_dtype, fortran_order) != ((n, *shape), dtype, False) or not 1 <= found[0] <= SHARD_STEPS:
            expected = f"{np.dtype(dtype)} ({', '.join(map(str, ('T', n, *shape)))}) with T from 1 to {SHARD_STEPS}"
            raise ValueError(f"{name} is {found_dtype} {found}, expected {expected}")
        size = prod(found) * found_dtype.itemsize
        content = stream.read(size + 1)  # to the end, where zipfile compares its checksum
    if len(content) != size:
        raise ValueError(f"{name} is not as long as it says")
    return np.frombuffer(content, dtype).reshape(found)


def _shard_name(index: int) -> str:
    return f"shard_{index:03}.npz"


def _shard_limit(n: int) -> int:
    """Twice the bytes that a shard of n environments holds: more than those that compression cannot make fewer."""
    return 2 * SHARD_STEPS * n * sum(np.dtype(dtype).itemsize * prod(shape) for dtype, shape in SHARD_ARRAYS.values())


def _check_file(file: Path, limit: int) -> None:
    """Refuse links, which may lead anywhere, pipes and devices, which may never end, and what no memory holds."""
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{file} is no regular file: remove it")
    if status.st_size > limit:
        raise ValueError(f"{file} has {status.st_size:,} bytes, expected {limit:,} at most: remove it")
