"""The process that a run computes in: its device, threads and memory, the signals that stop it, and its description."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from experiments.runner.errors import BadInput
from experiments.runner.limit import TimeUp
from experiments.runner.ranks import Ranks, torchrun_ranks
from experiments.runner.revision import revision
from experiments.runner.settings import Precision, RunConfig

MOST_THREADS = 1024  # OpenMP aborts the process if it cannot start its threads
AMPERE = (8, 0)  # the first compute capability with TF32


def prepare_process(config: RunConfig) -> torch.device:
    """Set the threads, memory and precision of this process; returns the device that the run computes on."""
    compute = config.compute
    if not 0 <= compute.threads <= MOST_THREADS:
        said = f"expected 0 (one per core) or a number of threads up to {MOST_THREADS:,}"
        raise BadInput(f"compute.threads={compute.threads}: {said}")
    if not compute.checkpoint_seconds >= 0:
        raise BadInput(f"compute.checkpoint_seconds={compute.checkpoint_seconds}: expected 0 (each step) or more")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    # The cores that this process may use, if the system can tell.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    prepare_cpu(compute.threads or max(1, cores // processes))
    device = device_of(config)
    tf32 = compute.precision is Precision.tf32
    if tf32:
        check_tf32(device)
    prepare_gpu(tf32=tf32, fixed_shapes=config.fixed_shapes)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # the one whose streams CUDA graphs are recorded on
    return device


def device_of(config: RunConfig) -> torch.device:
    """The device that a run computes on.

    Raises:
        BadInput: the config names no device, or one that this machine does not have.
    """
    asked, has_cuda = config.compute.device, torch.cuda.is_available()
    if asked == "auto":
        if has_cuda and not config.on_gpu:
            say_once(f"compute.device=auto: cpu, because {config.name} is small (compute.device=cuda uses the GPU)")
        asked = "cuda" if has_cuda and config.on_gpu else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise BadInput(f"compute.device={asked}: expected cpu, cuda, cuda:<n> or auto") from None
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torchrun_ranks()[2])
    if device.type not in ("cpu", "cuda") or (
        device.type == "cuda" and not (has_cuda and (device.index or 0) < torch.cuda.device_count())
    ):
        raise BadInput(f"compute.device={asked} is not on this machine: use cpu or auto")
    return device


@cache
def say_once(message: str) -> None:
    """Print a line to standard error, once per sweep and on rank 0 only."""
    if not torchrun_ranks()[0]:
        tqdm.write(message, file=sys.stderr)


def check_tf32(device: torch.device) -> None:
    """Refuse TF32 on a device that would compute in float32, because rows would claim TF32.

    Raises:
        BadInput: TF32 is not available; the message says why and what to use instead.
    """
    if device.type != "cuda":
        why = f"{device.type} does not compute in TF32, which only NVIDIA GPUs do"
    elif torch.cuda.get_device_capability(device) < AMPERE:
        why = f"{torch.cuda.get_device_name(device)} does not compute in TF32, which came with compute capability 8.0"
    elif os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        why = "NVIDIA_TF32_OVERRIDE=0 in the environment forbids it"
    else:
        return
    raise BadInput(f"compute.precision=tf32: {why}; use compute.precision=float32")


def prepare_gpu(tf32: bool = False, fixed_shapes: bool = False) -> None:
    """Set how CUDA libraries compute float32 products and convolutions. The library itself never changes this.

    By default cuDNN rounds the factors of a float32 convolution to TF32, whose 10 bits change gradients by 2%. Here
    float32 means float32; TF32 must be asked for by name and is part of a run's identity.

    Args:
        tf32: Whether factors are rounded to TF32.
        fixed_shapes: Whether cuDNN times its algorithms at each new shape of a convolution and uses the fastest.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = fixed_shapes


def prepare_cpu(threads: int) -> None:
    """Set the number of threads, and two options without which small steps cost several times their arithmetic.

    Denormal numbers are flushed to zero: Adam's moments of a dead ReLU decay into them within a thousand steps, and a
    product with one takes a hundred times as long. Freed memory stays with the process: glibc would return large
    blocks to the kernel and fault them in again at the next step. (Without glibc this is a no-op.)
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
    """Report a lack of memory in one line. NumPy, PyTorch on CPU and PyTorch on CUDA raise different errors for it."""
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
    """Send signals that ask to stop to `handler`, and restore the previous handlers afterwards."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)  # SIGALRM: the time limit
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def end_by(number: int) -> None:
    """End this process, or the sweep, as the signal of this number would; 0 means no signal."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number == signal.SIGALRM:
        raise TimeUp
    if number:
        sys.exit(128 + number)


def describe_process(device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """The code, versions and hardware for a run's manifest, never the environment."""
    made_by = revision()
    return {
        "revision": made_by.name,
        "dirty": made_by.dirty,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": ranks.count,
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
