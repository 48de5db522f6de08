"""The run itself: identity, seeds, threads, checkpoint, recording.

A run is the folder `runs/<experiment>/<run_id>/`:

    config.yaml     the resolved config
    manifest.json   revision, versions, device, threads, wall time
    metrics.csv     the rows: experiment,task,method,n_train,seed,step,split,metric,value
    checkpoint.pt   state to resume from; gone when the run is complete
    summary.json    written last: its presence says that the run is complete

`run_id` comes from what is asked (the config without folders, recorder and compute), so the same question has
the same folder: a complete run is skipped and an interrupted one resumes. Every file but metrics.csv is written
under a temporary name and renamed. A checkpoint notes how long metrics.csv was, and resuming cuts the file back
to that length: rows are neither lost nor doubled wherever a run is killed.
"""

from __future__ import annotations

import csv
import ctypes
import fcntl
import hashlib
import importlib
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from tqdm import tqdm

from experiments.config import RunConfig
from experiments.errors import BadInput
from experiments.wandb_mirror import WandbMirror

COLUMNS = ("experiment", "task", "method", "n_train", "seed", "step", "split", "metric", "value")
OUTSIDE_IDENTITY = ("runs_dir", "recorder", "compute")


class Run:
    """One run's folder, and what an experiment does with it: `resume` first, then `record` and `checkpoint`."""

    def __init__(self, config: RunConfig, directory: Path, device: torch.device):
        self.config = config
        self.directory = directory
        self.device = device
        self.dtype = getattr(torch, config.compute.precision.name)
        self.summary: dict[str, Any] = _read_summary(directory)
        self._mirror: WandbMirror | None = None
        self._rows: io.TextIOWrapper | None = None
        self._wall_before = 0.0
        self._started = self._checkpointed = time.monotonic()

    @property
    def complete(self) -> bool:
        return bool(self.summary)

    def record(self, step: int, rows: Iterable[tuple[int, str, str, float]]) -> None:
        """Append rows (seed, split, metric, value) measured after `step` updates."""
        rows = list(rows)
        labels = (self.config.name, self.config.labels.task, self.config.labels.method, self.config.labels.n_train)
        writer = csv.writer(self._rows, lineterminator="\n")
        for seed, split, metric, value in rows:
            writer.writerow((*labels, seed, step, split, metric, f"{value:.9g}"))
        self._rows.flush()
        self._mirror.log(step, rows)

    def progress(self, start: int, stop: int) -> tqdm:
        """A progress bar over range(start, stop), silent where stderr is not a terminal."""
        labels = self.config.labels
        description = f"{labels.task} {labels.method} n={labels.n_train}"
        return tqdm(range(start, stop), description, initial=start, total=stop, disable=None, mininterval=0.5)

    def resume(self) -> dict[str, Any] | None:
        """The state of the last checkpoint, or None to begin at the beginning."""
        checkpoint = self._read_checkpoint()
        length = checkpoint["metrics_bytes"] if checkpoint else 0
        path = self.directory / "metrics.csv"
        if checkpoint and (not path.exists() or path.stat().st_size < length):
            _warn(f"{path} is shorter than its checkpoint says; the run begins again")
            checkpoint, length = None, 0
        self._rows = path.open("a", newline="")
        self._rows.truncate(length)
        if not checkpoint:
            csv.writer(self._rows, lineterminator="\n").writerow(COLUMNS)
            return None
        self._wall_before = checkpoint["wall_seconds"]
        return checkpoint["state"]

    def checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save `state()`, plain tensors, numbers and containers, if the last checkpoint is old enough."""
        if time.monotonic() - self._checkpointed < self.config.compute.checkpoint_seconds:
            return
        self._rows.flush()
        os.fsync(self._rows.fileno())
        saved = {
            "state": state(),
            "metrics_bytes": os.fstat(self._rows.fileno()).st_size,
            "wall_seconds": self._wall_seconds(),
        }
        with replacing(self.directory / "checkpoint.pt") as path:
            torch.save(saved, path)
        self._checkpointed = time.monotonic()

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Save what a figure needs besides rows as `<name>.npz`."""
        with replacing(self.directory / f"{name}.npz") as path, path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run complete. `summary` holds at least `objective`, the number that a sweep compares."""
        self._rows.flush()
        os.fsync(self._rows.fileno())
        _write_json(self.directory / "manifest.json", self._manifest())
        _write_json(self.directory / "summary.json", summary)
        self.summary = summary
        (self.directory / "checkpoint.pt").unlink(missing_ok=True)
        (self.directory / "error.txt").unlink(missing_ok=True)
        self._mirror.summarise(summary)

    def _open(self) -> None:
        with replacing(self.directory / "config.yaml") as path:
            path.write_text(OmegaConf.to_yaml(OmegaConf.structured(self.config)))
        _write_json(self.directory / "manifest.json", self._manifest())
        self._mirror = WandbMirror(self.config, self.directory)

    def _close(self, error: BaseException | None) -> None:
        if self._rows:
            self._rows.close()
        if self._mirror:
            self._mirror.finish(exit_code=0 if error is None else 1)
        if isinstance(error, Exception):
            trace = "".join(traceback.format_exception(error))
            (self.directory / "error.txt").write_text(trace)

    def _read_checkpoint(self) -> dict[str, Any] | None:
        path = self.directory / "checkpoint.pt"
        if not path.exists():
            return None
        try:
            return torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:
            _warn(f"{path} is damaged ({type(error).__name__}); the run begins again")
            return None

    def _wall_seconds(self) -> float:
        return round(self._wall_before + time.monotonic() - self._started, 1)

    def _manifest(self) -> dict[str, Any]:
        return {
            "run_id": self.directory.name,
            "revision": _git("rev-parse", "HEAD"),
            "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.machine(),
            "threads": torch.get_num_threads(),
            "precision": self.config.compute.precision.name,
            "wall_seconds": self._wall_seconds(),
        }


@contextmanager
def open_run(config: RunConfig) -> Iterator[Run]:
    """Open the folder of a run, alone, and close it whatever happens.

    Raises:
        BadInput: another process works on the same run, or the device does not exist.
    """
    device = _prepare_process(config)
    directory = Path(config.runs_dir) / config.name / run_id(config)
    directory.mkdir(parents=True, exist_ok=True)
    with _alone(directory):
        run = Run(config, directory, device)
        if run.complete:
            _warn(f"{directory} is complete: skipped")
            yield run
            return
        error: BaseException | None = None
        try:
            run._open()
            yield run
        except BaseException as caught:
            error = caught
            raise
        finally:
            run._close(error)
            if isinstance(error, BadInput) and not (directory / "metrics.csv").exists():
                shutil.rmtree(directory)  # refused before it began


def execute(config: RunConfig) -> float:
    """Do what a config asks, unless it is done already, and return the number a sweep compares."""
    module, _, function = config.entry.rpartition(".")
    if not module.startswith("experiments."):
        raise BadInput(f"entry={config.entry} is outside experiments/: expected experiments.<module>.<function>")
    entry = getattr(importlib.import_module(module), function)
    with open_run(config) as run:
        if not run.complete:
            run.finish(entry(config, run))
        return float(run.summary["objective"])


def run_id(config: RunConfig) -> str:
    """A name for the question: its labels, its seed and a hash of all that is asked.

    Folders, recorder and compute do not enter: where and how a run is computed is not what it asks.
    """
    asked = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    for key in OUTSIDE_IDENTITY:
        del asked[key]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:10]
    labels = asdict(config.labels)
    return f"{labels['task']}-{labels['method']}-n{labels['n_train']}-seed{config.seed}-{digest}".replace("/", "_")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name once it is whole and on the disk."""
    temporary = path.with_name(f".{path.name}.partial")
    yield temporary
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _prepare_process(config: RunConfig) -> torch.device:
    """Threads, memory and signals of this process, and the device that the run computes on."""
    compute = config.compute
    if compute.threads < 0:
        raise BadInput(f"compute.threads={compute.threads}: expected 0 (one a core) or a number of threads")
    prepare_cpu(compute.threads or len(os.sched_getaffinity(0)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    has_cuda = torch.cuda.is_available()
    try:
        device = torch.device(("cuda" if has_cuda else "cpu") if compute.device == "auto" else compute.device)
    except RuntimeError:
        raise BadInput(f"compute.device={compute.device}: expected cpu, cuda, cuda:<n> or auto") from None
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
def _alone(directory: Path) -> Iterator[None]:
    """Hold the run's lock; the kernel lets go of it however the process ends."""
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"{directory} is being run by another process: wait for it, or change the config") from None
        yield


def _read_summary(directory: Path) -> dict[str, Any]:
    try:
        return json.loads((directory / "summary.json").read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError:
        _warn(f"{directory / 'summary.json'} is damaged; the run begins again")
        return {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _git(*arguments: str) -> str | None:
    here = Path(__file__).parent
    try:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _warn(message: str) -> None:
    tqdm.write(message, file=sys.stderr)
