"""One integer seeds everything, through named and independent generators."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def generator(seed: int, stream: str, *indices: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator for one purpose, independent of every other (seed, stream, indices).

    The stream's name enters the seed, so a new use of randomness never shifts an old one; `indices`
    (an epoch, a worker) make a stateless sequence: epoch 7's shuffle is known without epochs 0 to 6,
    which is what lets an interrupted run resume exactly. A stream takes the same number of indices wherever it
    is used: one that is left out counts as 0.

    Raises:
        ValueError: a negative seed.

    >>> torch.rand(1, generator=generator(0, "data")) == torch.rand(1, generator=generator(0, "data"))
    tensor([True])
    >>> torch.rand(1, generator=generator(0, "data")) == torch.rand(1, generator=generator(0, "init"))
    tensor([False])
    """
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    sequence = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), *indices])
    return torch.Generator(device).manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))
