"""Several processes that train one network together: torchrun --nproc-per-node 2 run.py experiment=...

Process 0 alone opens the run's folder, records and saves. The others compute with it.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed

BETWEEN_MEETINGS = 0.5  # seconds, about
MOST_STEPS = 16  # between meetings


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone by default."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  # where messages between them lie

    def all_reduce_max(self, *numbers: int) -> list[int]:
        """The largest of all processes' numbers, each by its place. All must call it alike; it waits for the last."""
        if self.count == 1:
            return [*numbers]
        largest = torch.tensor(numbers, device=self.device)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return largest.tolist()

    def shard(self, batch: Tensor) -> Tensor:
        """Every count-th sample from this process's on."""
        return batch[self.rank :: self.count]

    def all_reduce_sum(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums over all processes, by name."""
        if self.count == 1 or not sums:
            return sums
        values = torch.stack(list(sums.values())).double()
        distributed.all_reduce(values)
        return dict(zip(sums, values, strict=True))

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give every process what process 0 has, in place."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)


class Meetings:
    """Whether any process was asked to stop, as all of them learn it at the same step.

    To ask, a process waits for the others and for its GPU. So they ask each other about twice a second: they make the
    same steps, and agree on how many they make until the next meeting.
    """

    def __init__(self, ranks: Ranks):
        self._ranks = ranks
        self._steps = self._left = 1  # between the last meeting and the next, and from now to the next
        self._met = time.monotonic()

    def stop(self, asked: int) -> int:
        """The signal that one of the processes was asked by, 0 for none or no meeting. To be called once a step."""
        if self._ranks.count == 1:
            return asked
        self._left -= 1
        if self._left:
            return 0
        seconds_a_step = (time.monotonic() - self._met) / self._steps
        steps = int(min(MOST_STEPS, max(1, BETWEEN_MEETINGS / max(seconds_a_step, 1e-9))))
        stop, fewest = self._ranks.all_reduce_max(asked, -steps)
        self._steps = self._left = -fewest
        self._met = time.monotonic()
        return stop


def torchrun_ranks() -> tuple[int, int, int]:
    """(rank, number of processes, rank on this machine) as torchrun tells them; (0, 1, 0) without it."""
    rank, count, local = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return (int(rank), int(count), int(local)) if rank and count and local else (0, 1, 0)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Meet the other processes that torchrun has started, if it has."""
    rank, count, _ = torchrun_ranks()
    if count == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(rank, count, device)
    finally:
        # A wrapped network, kept by cycles of references, would keep the group's threads: they then outlive the
        # interpreter, and a message that one of them still holds ends the process with SIGABRT (pytorch#179291).
        gc.collect()
        distributed.destroy_process_group()
