"""Lower bounds on the time and memory of a run, from its config alone; a run that cannot finish is refused.

The memory is what a run certainly holds at one moment, and the speed is one that no training here reaches.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from experiments.runner.errors import BadInput
from experiments.runner.settings import Precision, RunConfig

A_SECOND = 10_000  # updates, or emulator steps for one network: faster than any training here
YEAR = 365 * 24 * 3600
A_GENERATOR, A_MEASUREMENT, A_PROCESS = 2_500, 100, 50 * 2**20  # bytes
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_updates(**settings: int) -> None:
    """Refuse what would take more than a year."""
    for key, number in settings.items():
        if (years := number // (A_SECOND * YEAR)) > 0:
            raise BadInput(f"{key}={number} would take {years:,} years or more at {A_SECOND:,} a second: lower it")


def check_evaluations(evaluations: int, steps: int) -> None:
    """Refuse more evaluations than updates. Up to 1000 are accepted: a short training is then evaluated at each."""
    if evaluations > max(steps, 1000):
        raise BadInput(f"evaluations={evaluations} is more than there are updates, {steps}: lower it")


def check_memory(needs: dict[str, float]) -> None:
    """Refuse a run that needs more bytes than this machine has. `needs` maps settings to the bytes that they cause."""
    needed, there = sum(needs.values()), memory()
    if needed > there:
        most = max(needs, key=needs.get)
        raise BadInput(
            f"this run would take {needed / 2**30:,.0f} GiB of memory or more, and the machine has "
            f"{there / 2**30:.0f}; most is for {most}: lower them"
        )


def memory() -> int:
    """Bytes of memory that this process may use, as far as the system reports it."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # "max" is no number
            limits.append(int(Path(path).read_text()))
    return min(limits)


def mlp_bytes(config: RunConfig, sizes: Sequence[int], networks: int, batch_size: int) -> int:
    """Bytes of an ensemble: weights, gradients and Adam's two moments; a batch's activations; its generators."""
    parameters = sum((below + 1) * above for below, above in pairwise(sizes))
    return networks * (number_bytes(config) * (4 * parameters + 2 * batch_size * sum(sizes[1:-1])) + A_GENERATOR)


def number_bytes(config: RunConfig) -> int:
    return 8 if config.compute.precision is Precision.float64 else 4
