"""The process that a run computes in: its device, threads and memory, the signals that stop it, and what it is."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.runner.errors import BadInput
from experiments.runner.limit import TimeUp
from experiments.runner.ranks import Ranks, torchrun_ranks
from experiments.runner.settings import ComputeConfig

MOST_THREADS = 1024  # a library that cannot start its threads ends the process


def prepare_process(compute: ComputeConfig) -> torch.device:
    """Threads, memory and precision of this process, and the device that the run computes on."""
    if not 0 <= compute.threads <= MOST_THREADS:
        said = f"expected 0 (one a core) or a number of threads up to {MOST_THREADS:,}"
        raise BadInput(f"compute.threads={compute.threads}: {said}")
    if not compute.checkpoint_seconds >= 0:
        raise BadInput(f"compute.checkpoint_seconds={compute.checkpoint_seconds}: expected 0 (each step) or more")
    _, _, local_rank = torchrun_ranks()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    # What this process may use, where the system can say it.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    prepare_cpu(compute.threads or max(1, cores // processes))
    # By default cuDNN rounds the factors of a float32 convolution to TF32, and gradients would be off by 2%.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    has_cuda = torch.cuda.is_available()
    try:
        device = torch.device(("cuda" if has_cuda else "cpu") if compute.device == "auto" else compute.device)
    except RuntimeError:
        raise BadInput(f"compute.device={compute.device}: expected cpu, cuda, cuda:<n> or auto") from None
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", local_rank)
    if device.type not in ("cpu", "cuda") or (
        device.type == "cuda" and not (has_cuda and (device.index or 0) < torch.cuda.device_count())
    ):
        raise BadInput(f"compute.device={compute.device} is not on this machine: use cpu or auto")
    return device


def prepare_cpu(threads: int) -> None:
    """Threads, and two settings without which small steps cost several times their arithmetic.

    Denormal numbers count as zero: Adam's moments of a dead ReLU decay into them within a thousand steps, and a
    product with one takes a hundred times as long. Freed memory stays with the process: glibc would give large
    blocks back to the kernel, to fault them in again at the next step. (Without glibc that part is a no-op.)
    """
    torch.set_flush_denormal(True)  # first: threads inherit it when they start
    torch.set_num_threads(threads)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(-4, 0)  # M_MMAP_MAX: no block is mapped on its own
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the top of the heap stays


@contextmanager
def refusing_memory() -> Iterator[None]:
    """Say in one line that there is not enough memory: numpy, PyTorch's CPU and CUDA each have an error for it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = next(iter(str(error).splitlines()), "")
        lacks = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in said
        if not lacks:
            raise
        raise BadInput(f"there is not enough memory: {said or 'Python got none'}") from error


@contextmanager
def handling_signals(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Signals that ask to stop go to `handler`, and to whoever had them once the run is over."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)  # the last one rings when its time is up
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def end_by(number: int) -> None:
    """End this process, or the sweep, as a signal of this number would; 0 is none."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number == signal.SIGALRM:
        raise TimeUp
    if number:
        sys.exit(128 + number)


def describe_process(device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """What computes, for a run's manifest: never the environment."""
    return {
        "revision": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": ranks.count,
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def _git(*arguments: str) -> str | None:
    """What git says of this project. The environment may not lead it elsewhere, nor name a program for it to start."""
    here = ["git", "-C", str(Path(__file__).parent), "-c", "core.fsmonitor=false", *arguments]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(here, capture_output=True, text=True, timeout=20, env=plain)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
