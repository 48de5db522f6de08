"""One integer seeds everything, through named and independent generators."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def generator(seed: int, stream: str, *indices: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator for one purpose, independent of every other (seed, stream, indices).

    The stream's name is part of the seed, so that a new use of randomness does not change an old one. `indices` (an
    epoch, a worker) give one generator each, without state: the shuffle of epoch 7 needs no generator of epochs 0 to 6,
    so that an interrupted run can resume exactly. A stream must have the same number of indices wherever it is used,
    because a missing one counts as 0.

    Args:
        seed: the seed of a run.
        stream: what the generator is for, such as "init" or "shuffle".
        indices: for which epoch, worker or the like it is.
        device: the device of the generator.

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
