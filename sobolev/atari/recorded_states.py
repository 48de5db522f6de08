"""Recorded states, read from the files that `sobolev.atari.recording` writes.

Shape suffixes: S states in total, B states in a batch, E episodes, T steps, N environments, C frames of a state,
H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sobolev.atari import shards
from sobolev.atari.recording import Recording
from sobolev.networks.atari_policies import FRAME


@dataclass(frozen=True)
class Episodes:
    """Episodes (E,) in the order in which they started. The end of the recording truncates each environment's last one.

    Attributes:
        starts: the index of each episode's first state.
        lengths: the number of states in each episode.
    """

    starts: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class RecordedStates:
    """States in the order of their episodes: those of one episode follow each other.

    Attributes:
        frames_SHW: the newest frame of each state, uint8.
        first_S: the index of the first state of the same episode.
        n_frames: C, the number of frames in a state.
        episodes: the starts and lengths of episodes.
    """

    frames_SHW: Tensor
    first_S: Tensor
    n_frames: int
    episodes: Episodes

    def __len__(self) -> int:
        return len(self.frames_SHW)

    def stack(self, indices_B: Tensor) -> Tensor:
        """The states (B, C, H, W), uint8, as in the environment, with zeros before an episode's first frame."""
        back_C = torch.arange(1 - self.n_frames, 1, device=indices_B.device)
        at_BC = indices_B[:, None] + back_C
        before_BC = at_BC < self.first_S[indices_B][:, None]
        states = self.frames_SHW.index_select(0, at_BC.clamp_(min=0).flatten())
        states = states.view(len(indices_B), self.n_frames, FRAME, FRAME)
        states[before_BC] = 0
        return states

    def split(self, *fractions: float) -> list[range]:
        """One range of consecutive indices per fraction. No episode is in two ranges.

        Each range ends with the episode in which it reaches its fraction of all states. If the fractions add up to
        less than 1, the states after the last range are in no range.

        Raises:
            ValueError: fractions are not positive or add up to more than 1, or there are fewer episodes than fractions.
        """
        if min(fractions, default=0) <= 0 or sum(fractions) > 1 + 1e-9:
            raise ValueError(f"fractions are positive and add up to 1 at most, not {fractions}")
        ends = self.episodes.starts + self.episodes.lengths
        ranges, start, wanted = [], 0, 0.0
        for fraction in fractions:
            wanted += fraction
            reached = np.searchsorted(ends, round(wanted * len(self)))
            stop = int(ends[min(reached, len(ends) - 1)])
            if stop <= start:
                raise ValueError(f"{len(ends)} episodes are too few to split by {fractions}: record more states")
            ranges.append(range(start, stop))
            start = stop
        return ranges

    @classmethod
    def load(cls, path: str | Path, recording: Recording | None = None) -> RecordedStates:
        """Read what `record` wrote into the folder `path`. If `recording` is given, the folder must hold that one.

        Raises:
            ValueError: a file is missing, damaged or from another recording. The message names it.
            OSError: a file cannot be read.
        """
        path = Path(path)
        header = shards.read_header(path / "header.json")
        for key, value in (shards.DEVICE | recording.description if recording else {}).items():
            if header[key] != value:
                raise ValueError(f"{path / 'header.json'}: {key} is {header[key]!r}, expected {value!r}")
        files = shards.checked_files(path, header)
        alive = [shards.read_shard(file, header, "alive")["alive"] for file in files]
        again = f"remove {path} to record it again"
        for file, array in zip(files[:-1], alive[:-1], strict=True):
            if len(array) != shards.SHARD_STEPS:
                raise ValueError(f"{file} has {len(array)} steps, expected {shards.SHARD_STEPS}: {again}")
        alive_TN = np.concatenate(alive)
        n = np.count_nonzero(alive_TN)
        # Recording stops at the step at which there are enough states.
        if not n - np.count_nonzero(alive_TN[-1]) < header["states"] <= n:
            raise ValueError(f"{path / 'header.json'} says {header['states']} states, its shards hold {n}: {again}")

        # Each state's step and environment, and the step at which its episode started. The last step may have recorded
        # more states than were asked for; these are dropped.
        steps_S, environments_S = np.unravel_index(np.flatnonzero(alive_TN)[: header["states"]], alive_TN.shape)
        began_TN = alive_TN & ~np.vstack([np.zeros_like(alive_TN[:1]), alive_TN[:-1]])
        step_T1 = np.arange(len(alive_TN))[:, None]
        began_S = np.maximum.accumulate(np.where(began_TN, step_T1, 0))[steps_S, environments_S]
        order_S = np.lexsort((steps_S, environments_S, began_S))
        place_TN = np.full(alive_TN.shape, -1)
        place_TN[steps_S[order_S], environments_S[order_S]] = np.arange(len(order_S))

        frames_SHW = np.empty((len(order_S), FRAME, FRAME), np.uint8)
        step = 0
        for file in files:  # one at a time, because they are large once they are unpacked
            frames_TNHW = shards.read_shard(file, header, "frames", "alive")["frames"]
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
