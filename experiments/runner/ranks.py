"""Several processes that train one network together: torchrun --nproc-per-node 2 run.py experiment=...

Process 0 alone opens the run's folder, records and saves. The others compute with it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone by default."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  # where messages between them lie

    def all_reduce_max(self, number: int) -> int:
        """The largest of all processes' numbers. All must call it alike; it waits for the last."""
        if self.count == 1:
            return number
        largest = torch.tensor(number, device=self.device)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def shard(self, batch: Tensor) -> Tensor:
        """Every count-th sample from this process's on."""
        return batch[self.rank :: self.count]

    def all_reduce_sum(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums over all processes, by name."""
        if self.count == 1 or not sums:
            return sums
        values = torch.stack([value.double() for value in sums.values()])
        distributed.all_reduce(values)
        return dict(zip(sums, values, strict=True))

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give every process what process 0 has, in place."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)


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
