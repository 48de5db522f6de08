"""The roofline of a step: its least time on a machine, limited by arithmetic or memory.

Each operation of a step reads its operands from memory and writes its results there. Its least time is

    max(operations / peak, bytes / bandwidth),

and the step's is the sum over its operations (`experiments.runner.operations`). The peak is measured with one large
matrix product in the precision of the operation's factors, and the bandwidth with one large copy. Data in a cache, or
several operations fused in one kernel, may be faster.

PyTorch has two libraries for products on a CPU. MKL, which multiplies matrices, uses only AVX2 on AMD processors with
AVX-512, and then reaches half the speed of oneDNN, which computes convolutions. The faster one is the limit.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

import torch

PRODUCT = {"cpu": 1024, "cuda": 8192}  # the side of a matrix whose product reaches the machine's limit
COPIED = 2**28  # bytes of a copy that fits in no cache


def copy(device: torch.device) -> Callable[[], None]:
    """A copy that reads and writes `COPIED` bytes."""
    source, target = (torch.ones(COPIED, dtype=torch.uint8, device=device) for _ in range(2))
    return lambda: target.copy_(source)


def matrix_product(dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """The product of two square matrices of side `PRODUCT`, by PyTorch's fastest implementation."""
    size = PRODUCT[device.type]
    a, out = (make(size, size, device=device).to(dtype) for make in (torch.randn, torch.empty))
    if device.type == "cuda":
        return lambda: torch.mm(a, a, out=out)
    pixels = a.view(1, size, size // 32, 32).contiguous(memory_format=torch.channels_last)
    ways = [lambda: torch.mm(a, a, out=out), lambda: torch.conv2d(pixels, a.view(size, size, 1, 1))]
    return min(ways, key=lambda product: min(timeit.repeat(product, number=1, repeat=7)))
