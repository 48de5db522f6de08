"""Several processes that train one network together: torchrun --nproc-per-node 2 run.py experiment=...

Only rank 0 opens the run's folder, records and saves.
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

BETWEEN_MEETINGS = 0.5  # approximate seconds
MOST_STEPS = 16  # between two meetings


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone by default."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  # where collectives' tensors lie

    def all_reduce_max(self, *numbers: int) -> list[int]:
        """The elementwise maximum over all processes. Every process must call it, and it waits for the last one."""
        if self.count == 1:
            return [*numbers]
        largest = torch.tensor(numbers, device=self.device)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return largest.tolist()

    def shard(self, batch: Tensor) -> Tensor:
        """This process's samples of a batch: every `count`-th one, starting at `rank`."""
        return batch[self.rank :: self.count]

    def all_reduce_sum(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums over all processes, by name."""
        if self.count == 1 or not sums:
            return sums
        values = torch.stack(list(sums.values())).double()
        distributed.all_reduce(values)
        return dict(zip(sums, values, strict=True))

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copy the tensors of rank 0 to every process, in place."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)


class Meetings:
    """Lets all processes learn at the same step that one of them was asked to stop.

    Each exchange waits for the other processes and for the GPU, so it happens only about twice per second. All
    processes make the same steps, and agree at each meeting on the number of steps until the next one.
    """

    def __init__(self, ranks: Ranks):
        self._ranks = ranks
        self._steps = self._left = 1  # steps between the last meeting and the next; steps left until the next
        self._met = time.monotonic()

    def stop(self, asked: int) -> int:
        """The signal that one of the processes received; 0 for none, or between meetings. Call it once per step."""
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
    """(rank, number of processes, rank on this machine) as torchrun sets them; (0, 1, 0) without torchrun."""
    rank, count, local = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return (int(rank), int(count), int(local)) if rank and count and local else (0, 1, 0)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the process group of the other processes, if torchrun has started any."""
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
        # A DDP-wrapped network in a reference cycle would keep the group's threads alive past the interpreter's end,
        # where a pending message aborts the process with SIGABRT (pytorch#179291).
        gc.collect()
        distributed.destroy_process_group()
