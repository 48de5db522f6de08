"""The run itself: identity, seeds, threads, checkpoint, recording.

A run is the folder `runs/<experiment>/<run_id>/`:

    config.yaml     the resolved config
    manifest.json   revision, versions, device, threads, wall time, memory
    metrics.csv     the rows: experiment,task,method,n_train,seed,step,split,metric,value
    checkpoint.pt   state to resume from; gone when the run is complete
    curves.png      its metrics over training
    summary.json    written last: its presence says that the run is complete

`run_id` comes from what is asked (the config without folders, recorder and compute), so the same question has
the same folder: a complete run is skipped and an interrupted one resumes. Every file but metrics.csv is written
under a temporary name and renamed. A checkpoint notes how long metrics.csv was and what it held, and resuming cuts
the file back to that length: rows are neither lost nor doubled wherever a run is killed. Asked to stop (SIGTERM, as
Slurm sends it, or Ctrl-C) a run saves a checkpoint first; asked twice it stops at once.
"""

from __future__ import annotations

import csv
import ctypes
import fcntl
import hashlib
import importlib
import inspect
import io
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from tqdm import tqdm

from experiments.config import Precision, RunConfig
from experiments.errors import FULL, BadInput, check_names
from experiments.ranks import Ranks, joined, torchrun_ranks
from experiments.wandb_mirror import WandbMirror

COLUMNS = ("experiment", "task", "method", "n_train", "seed", "step", "split", "metric", "value")
OUTSIDE_IDENTITY = ("runs_dir", "recorder", "compute")
ARTIFACTS = ("*.npz", "*.safetensors", "*.png")  # what a run may leave besides rows
OUTSIDE_IDENTITY_OF_DATASETS = ("folder", "download", "workers")
# Settings that are newer than shipped runs: with these values they ask what was asked before there were any.
AS_BEFORE = {("loss", "distances"): ["squared_l2"] * 3}


class Run:
    """One run's folder, and what an experiment does with it: `resume` first, then `record` and `checkpoint`.

    Where several processes train together, each calls the same methods; `ranks.rank` 0 alone writes.
    """

    def __init__(self, config: RunConfig, directory: Path, device: torch.device, ranks: Ranks):
        self.config = config
        self.directory = directory
        self.device = device
        # bfloat16 means autocast: weights, optimisers and losses stay in float32.
        reduced = config.compute.precision is Precision.bfloat16
        self.dtype = torch.float32 if reduced else getattr(torch, config.compute.precision.name)
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=reduced)
        self.ranks = ranks
        self.summary: dict[str, Any] = _read_summary(directory)
        self._mirror: WandbMirror | None = None
        self._rows: io.TextIOWrapper | None = None
        self._wall_before = 0.0
        self._started = self._checkpointed = time.monotonic()
        self._stop = 0  # the signal that asked to stop
        self._begun = False  # `resume` was called: from there on stopping waits for a checkpoint

    @property
    def complete(self) -> bool:
        return bool(self.summary)

    def record(self, step: int, rows: Iterable[tuple[int, str, str, float]]) -> None:
        """Append rows (seed, split, metric, value) measured after `step` updates."""
        if self.ranks.rank:
            return
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
        self._begun = True
        if self.ranks.rank:
            return self._read_checkpoint()["state"] if self.ranks.agree(0) else None
        state = self._resume()
        self.ranks.agree(int(state is not None))
        return state

    def _resume(self) -> dict[str, Any] | None:
        checkpoint = self._read_checkpoint()
        length = checkpoint["metrics_bytes"] if checkpoint else 0
        path = self.directory / "metrics.csv"
        if checkpoint and (not path.exists() or _sha256(path, length) != checkpoint["metrics_sha256"]):
            _say(f"{path} is not what its checkpoint says; the run begins again")
            checkpoint, length = None, 0
        self._rows = path.open("a", newline="")
        self._rows.truncate(length)
        if not checkpoint:
            csv.writer(self._rows, lineterminator="\n").writerow(COLUMNS)
            return None
        self._wall_before = checkpoint["wall_seconds"]
        return checkpoint["state"]

    def checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save `state()`, plain tensors, numbers and containers, if the last checkpoint is old enough.

        Call it once a step: where the run was asked to stop, it saves and stops here.
        """
        old = time.monotonic() - self._checkpointed >= self.config.compute.checkpoint_seconds
        stop = self.ranks.agree(self._stop)
        if (old or stop) and not self.ranks.rank:
            self._save(state())
        _end_by(stop)

    def _save(self, state: dict[str, Any]) -> None:
        self._rows.flush()
        os.fsync(self._rows.fileno())
        length = os.fstat(self._rows.fileno()).st_size
        buffer = io.BytesIO()  # torch would hide what the disk says behind an error of its own
        torch.save(
            {
                "state": state,
                "metrics_bytes": length,
                "metrics_sha256": _sha256(self.directory / "metrics.csv", length),
                "wall_seconds": self._wall_seconds(),
            },
            buffer,
        )
        with replacing(self.directory / "checkpoint.pt") as path:
            path.write_bytes(buffer.getbuffer())
        self._checkpointed = time.monotonic()

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Save what a figure needs besides rows as `<name>.npz`."""
        if self.ranks.rank:
            return
        with replacing(self.directory / f"{name}.npz") as path, path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run complete. `summary` holds at least `objective`, the number that a sweep compares.

        For rows that are to be collected it also says their `scale`, paper or reduced.
        """
        self.summary = summary
        if self.ranks.rank:
            return
        self._rows.flush()
        os.fsync(self._rows.fileno())
        rows = {"metrics_sha256": _sha256(self.directory / "metrics.csv")}
        _write_json(self.directory / "manifest.json", self._manifest() | rows)
        self._draw(summary)
        _write_json(self.directory / "summary.json", summary)
        (self.directory / "checkpoint.pt").unlink(missing_ok=True)
        (self.directory / "error.txt").unlink(missing_ok=True)
        left = [path for pattern in ARTIFACTS for path in sorted(self.directory.glob(pattern))]
        self._mirror.summarise(summary, left)

    def _draw(self, summary: dict[str, Any]) -> None:
        from experiments.curves import draw_curves  # slow to import, and needed once

        labels = self.config.labels
        title = f"{self.config.name}: {labels.task}, {labels.method}, {labels.n_train:,} training points"
        marked = f"{title} ({summary['scale']})" if "scale" in summary else title
        if figure := draw_curves(self.directory / "metrics.csv", marked):
            with replacing(self.directory / "curves.png") as path:
                figure.savefig(path, format="png", metadata={"Software": None})

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
            with suppress(OSError):  # a full disk is told in one line, with or without this file
                (self.directory / "error.txt").write_text("".join(traceback.format_exception(error)))

    def _ask_to_stop(self, number: int, _: object) -> None:
        """Handles a signal. Saving waits for the next call of `checkpoint`; a second signal does not.

        Before training there is nothing to save, and nothing to wait for.
        """
        if self._stop or not self._begun:
            _end_by(number)
        self._stop = number

    def _read_checkpoint(self) -> dict[str, Any] | None:
        path = self.directory / "checkpoint.pt"
        if not path.exists():
            return None
        content = io.BytesIO(path.read_bytes())  # a file that cannot be read now is not damaged, and not begun over
        try:
            with zipfile.ZipFile(content) as archive:
                if damaged := archive.testzip():  # torch does not compare the checksums that it writes
                    raise zipfile.BadZipFile(damaged)
            content.seek(0)
            return torch.load(content, weights_only=True, map_location="cpu")
        except Exception as error:
            _say(f"{path} is damaged ({type(error).__name__}); the run begins again")
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
            "processes": self.ranks.count,
            "precision": self.config.compute.precision.name,
            "wall_seconds": self._wall_seconds(),
            "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),  # of the process
        }


@contextmanager
def open_run(config: RunConfig) -> Iterator[Run]:
    """Open the folder of a run, alone, and close it whatever happens.

    Raises:
        BadInput: another process works on the same run, its folder cannot be made, the device does not exist, or a
            name or label is not one word.
    """
    if torchrun_ranks()[1] > 1 and not config.several_processes:
        raise BadInput(f"{config.name} trains in one process: start it without torchrun")
    check_names(config)
    directory, device = folder_of(config), _prepare_process(config)
    with joined(device) as ranks:
        run = partial(Run, config, directory, device, ranks)
        with _follow(run) if ranks.rank else _lead(run, directory) as opened:
            yield opened


@contextmanager
def _lead(make_run: Callable[[], Run], directory: Path) -> Iterator[Run]:
    with refusing_folder():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ".lock").touch()
    with _alone(directory):
        run = make_run()
        if run.complete:
            _say(f"{directory} is complete: skipped")
            yield run
            return
        error: BaseException | None = None
        try:
            with _handling_signals(run._ask_to_stop):
                run._open()
                yield run
        except BaseException as caught:
            error = caught
            raise
        finally:
            run._close(error)
            if isinstance(error, BadInput) and not (directory / "metrics.csv").exists():
                shutil.rmtree(directory)  # refused before it began


@contextmanager
def refusing_folder() -> Iterator[None]:
    """Say in one line that a folder of runs cannot be used."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        where = f"{error.filename} cannot be used ({error.strerror})"
        raise BadInput(f"{where}: name another folder as runs_dir") from None


@contextmanager
def _follow(make_run: Callable[[], Run]) -> Iterator[Run]:
    run = make_run()
    with _handling_signals(run._ask_to_stop):
        yield run


def execute(config: RunConfig) -> float:
    """Do what a config asks, unless it is done already, and return the number a sweep compares."""
    entry = find_entry(config.entry)
    with open_run(config) as run:
        if not run.complete:
            run.finish(entry(config, run))
            if not run.ranks.rank:
                _say(f"{run.directory} is complete")
    _end_by(run._stop)  # asked after the last checkpoint: or a sweep would go on with the next run
    return float(run.summary["objective"])


def find_entry(name: str) -> Callable[[RunConfig, Run], dict[str, Any]]:
    """An experiment of a module in experiments/, and nothing else it may hold: a config is text from anyone."""
    module, _, function = name.rpartition(".")
    ours = {f"experiments.{path.stem}" for path in Path(__file__).parent.glob("*.py")}
    entry = getattr(importlib.import_module(module), function, None) if module in ours else None
    if getattr(entry, "__module__", None) != module or [*inspect.signature(entry).parameters] != ["config", "run"]:
        raise BadInput(f"entry={name}: expected experiments.<module>.<function>, a function of (config, run)")
    return entry


def folder_of(config: RunConfig) -> Path:
    return Path(config.runs_dir) / config.name / run_id(config)


def is_complete(folder: Path) -> bool:
    return bool(_read_summary(folder))


def run_id(config: RunConfig) -> str:
    """A name for the question: its labels, its seed and a hash of all that is asked.

    Folders, recorder and compute do not enter: where and how a run is computed is not what it asks. Precision is the
    exception, because rows depend on it.
    """
    asked = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    if (precision := asked["compute"]["precision"]) != "float32":
        asked["precision"] = precision
    for key in OUTSIDE_IDENTITY:
        del asked[key]
    for key in OUTSIDE_IDENTITY_OF_DATASETS:
        asked.get("dataset", {}).pop(key, None)
    for (group, key), value in AS_BEFORE.items():
        if asked.get(group, {}).get(key) == value:
            del asked[group][key]
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
    """Threads and memory of this process, and the device that the run computes on."""
    compute = config.compute
    if compute.threads < 0:
        raise BadInput(f"compute.threads={compute.threads}: expected 0 (one a core) or a number of threads")
    _, _, local_rank = torchrun_ranks()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    # What this process may use, where the system can say it.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    prepare_cpu(compute.threads or max(1, cores // processes))
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


def _end_by(number: int) -> None:
    """End this process, or the sweep, as a signal of this number would; 0 is none."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number:
        sys.exit(128 + number)


@contextmanager
def _handling_signals(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Signals that ask to stop go to `handler`, and to whoever had them once the run is over."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


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
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError:  # not JSON, or not even text
        _say(f"{directory / 'summary.json'} is damaged; the run begins again")
        return {}


def _sha256(path: Path, length: int | None = None) -> str:
    """Of a file's first `length` bytes."""
    return hashlib.sha256(path.read_bytes()[:length]).hexdigest()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _git(*arguments: str) -> str | None:
    """What git says of this project. The environment may not lead it elsewhere, nor name a program for it to start."""
    here = ["git", "-C", str(Path(__file__).parent), "-c", "core.fsmonitor=false", *arguments]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(here, capture_output=True, text=True, timeout=20, env=plain)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _say(message: str) -> None:
    tqdm.write(message, file=sys.stderr)
