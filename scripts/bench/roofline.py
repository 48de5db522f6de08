"""The least time that a step takes on a machine: every operation as fast as its arithmetic or its memory allows.

Each operation of a real step reads its operands from memory and writes its results there. So its floor is

    max(operations / peak, bytes / bandwidth),

and the step's floor is the sum (`experiments.runner.operations`). Peak and bandwidth are measured: those of one large
matrix product in the precision of the operation's factors, and of one large copy. What is in a cache, or what one
kernel does of several operations, may be faster.

PyTorch has two libraries for products on a CPU. MKL, which multiplies matrices, takes AVX2 on processors of AMD though
they have AVX-512, and then comes to half of what oneDNN, which computes convolutions, comes to. The faster one is the
limit.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

import torch

PRODUCT = {"cpu": 1024, "cuda": 8192}  # the side of a matrix whose product comes to the machine's limit
COPIED = 2**28  # bytes of a copy that is in no cache


def copy(device: torch.device) -> Callable[[], None]:
    """A copy that reads `COPIED` bytes and writes as many."""
    source, target = (torch.ones(COPIED, dtype=torch.uint8, device=device) for _ in range(2))
    return lambda: target.copy_(source)


def matrix_product(dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """The product of two square matrices of side `PRODUCT`, by the fastest of PyTorch's ways."""
    size = PRODUCT[device.type]
    a, out = (make(size, size, device=device).to(dtype) for make in (torch.randn, torch.empty))
    if device.type == "cuda":
        return lambda: torch.mm(a, a, out=out)
    pixels = a.view(1, size, size // 32, 32).contiguous(memory_format=torch.channels_last)
    ways = [lambda: torch.mm(a, a, out=out), lambda: torch.conv2d(pixels, a.view(size, size, 1, 1))]
    return min(ways, key=lambda product: min(timeit.repeat(product, number=1, repeat=7)))
