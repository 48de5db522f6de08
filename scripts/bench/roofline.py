"""The least time that a step takes on a machine: every operation as fast as its arithmetic or its memory allows.

Each operation of a real step reads its operands from memory and writes its results there. So its floor is

    max(operations / peak, bytes / bandwidth),

and the step's floor is the sum (`experiments.runner.operations`). Peak and bandwidth are measured: those of one large
matrix product in the precision of the operation's factors, and of one large copy. What is in a cache, or what one
kernel does of several operations, may be faster.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

COPIED = 2**28  # bytes of a copy that is in no cache


def copy(device: torch.device) -> Callable[[], None]:
    """A copy that reads `COPIED` bytes and writes as many."""
    source, target = (torch.ones(COPIED, dtype=torch.uint8, device=device) for _ in range(2))
    return lambda: target.copy_(source)
