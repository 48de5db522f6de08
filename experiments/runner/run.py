"""A run's folder and its lifecycle: resuming, recording, checkpoints and completion.

A run is the folder `runs/<experiment>/<run_id>/`:

    config.yaml     the resolved config
    manifest.json   revision, versions, device, threads, wall time, memory; checksums once the run is complete
    metrics.csv     the rows: experiment,task,method,n_train,seed,step,split,metric,value
    checkpoint.pt   state to resume from; removed when the run is complete
    curves.png      its metrics over training
    summary.json    written last: it marks the run as complete

`run_id` is a hash of the config without folders, recorder and compute, so the same question has the same folder: a
complete run is skipped and an interrupted one resumes. Every file but metrics.csv is written under a temporary name
and renamed. A checkpoint holds its run's id and the length and checksum of metrics.csv; resuming truncates the file to
that length, so that rows are neither lost nor duplicated wherever a run is killed. At SIGTERM (Slurm sends it) or
Ctrl-C a run saves a checkpoint and stops; at a second signal it stops at once.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from tqdm import tqdm

from experiments.runner.checkpoints import Checkpoint, Trial
from experiments.runner.code_identity import code_of, difference
from experiments.runner.errors import BadInput
from experiments.runner.identity import (
    COLUMNS,
    Damaged,
    read_summary,
    remove_partial,
    tidy,
)
from experiments.runner.limit import SAVING, Stopwatch, TimeUp
from experiments.runner.process import describe_process, end_by
from experiments.runner.ranks import Meetings, Ranks
from experiments.runner.scale import scale_of
from experiments.runner.settings import Precision, RunConfig
from experiments.runner.wandb_mirror import WandbMirror
from sobolev.files import naming, replacing, sha256


class Run:
    """One run's folder. An experiment calls `resume` first, then `record` and `checkpoint`.

    If several processes train together, each calls the same methods, and only rank 0 writes.
    """

    def __init__(self, config: RunConfig, directory: Path, device: torch.device, ranks: Ranks):
        self.config = config
        self.directory = directory
        self.device = device
        # bfloat16 means autocast, and tf32 rounds the factors of products; everything else stays in float32.
        precision = config.compute.precision
        self.dtype = torch.float64 if precision is Precision.float64 else torch.float32
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=precision is Precision.bfloat16)
        self.ranks = ranks
        self.code = [code_of(config)]
        self.together = 1  # the number of runs trained as one ensemble: `wall_seconds` is the time of all of them
        self.summary: dict[str, Any] = _summary_of(directory)
        self._mirror: WandbMirror | None = None
        self._rows: io.TextIOWrapper | None = None
        self._wall_before = 0.0
        self._started = self._checkpointed = time.monotonic()
        self._stop = 0  # the signal that asked to stop
        self._meetings = Meetings(ranks)
        self._stopwatch = Stopwatch()
        self._begun = False  # whether `resume` was called: from then on, stopping waits for a checkpoint
        self._trial: Trial | None = None  # of the resumed state

    @property
    def complete(self) -> bool:
        return bool(self.summary)

    @cached_property
    def scale(self) -> str:
        """`paper` if the settings are those of the shipped experiment, else `reduced`; noted in the run's summary."""
        return scale_of(self.config)

    @property
    def stop_at(self) -> float:
        """When the run must save and stop, on the monotonic clock; inf without a deadline."""
        deadline = self.config.limit.deadline
        return deadline - SAVING if deadline else math.inf

    @property
    def _metrics(self) -> Path:
        return self.directory / "metrics.csv"

    def record(self, step: int, rows: Iterable[tuple[int, str, str, float]]) -> None:
        """Append rows (seed, split, metric, value) measured after `step` updates."""
        self._stopwatch.evaluate()
        if self.ranks.rank:
            return
        labels = (self.config.name, self.config.labels.task, self.config.labels.method, self.config.labels.n_train)
        writer = csv.writer(self._rows, lineterminator="\n")
        with naming(self._metrics):
            for seed, split, metric, value in rows:
                writer.writerow((*labels, seed, step, split, metric, f"{value:.9g}"))
            self._rows.flush()
        self._mirror.check()

    def begin(self, start: int, stop: int) -> None:
        """Training starts at update `start` of `stop`."""
        if self._trial and self._trial.going and not 0 <= start < stop:
            raise ValueError(f"step {start} of {stop}")
        self._stopwatch.begin(start, stop)

    def progress(self, start: int, stop: int) -> tqdm:
        """A progress bar over range(start, stop), silent where stderr is not a terminal."""
        self.begin(start, stop)
        labels = self.config.labels
        description = f"{labels.task} {labels.method} n={labels.n_train}"
        return tqdm(range(start, stop), description, initial=start, total=stop, disable=None, mininterval=0.5)

    def resume(self) -> dict[str, Any] | None:
        """The state of the last checkpoint, or None to start from scratch."""
        self._begun = True
        state = None
        if not self.ranks.rank:
            state = self._resume()
            self.ranks.all_reduce_max(int(state is not None))
        elif any(self.ranks.all_reduce_max(0)):
            state = Checkpoint.read(self.directory / "checkpoint.pt").state
        if state is not None:
            self._trial = Trial(self.directory / "checkpoint.pt")
        return state

    def _resume(self) -> dict[str, Any] | None:
        try:
            saved = Checkpoint.read(self.directory / "checkpoint.pt")
        except Damaged as error:
            say(f"{error}; the run starts again")
            saved = None
        with naming(self._metrics):
            if self._metrics.is_fifo():  # opening it would wait for a reader
                raise OSError(errno.EINVAL, "no regular file", str(self._metrics))
            self._rows = self._metrics.open("a", newline="")
            self._rows.truncate(saved.metrics_bytes if saved else 0)
            if not saved:
                csv.writer(self._rows, lineterminator="\n").writerow(COLUMNS)
                self._rows.flush()
        self._mirror = WandbMirror(self.config, self.directory)
        if not saved:
            return None
        self._wall_before = saved.wall_seconds
        if other := difference(saved.code, *self.code):
            say(f"{self.directory} resumes with different {other}: remove the folder to start again")
        if saved.code != self.code:
            self.code = list(dict.fromkeys(saved.code + self.code))
        return saved.state

    def checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save `state()`, made of tensors, numbers and containers, if the last checkpoint is old enough.

        Call it once per step: a run that was asked to stop saves and stops here. Several processes do so together, at
        their next meeting.
        """
        due, stop = self.asked()
        if due:
            self.save(state())
        end_by(stop)

    def asked(self) -> tuple[bool, int]:
        """Whether the run must save now, and the signal that asks it to stop, 0 for none. Call it once per step."""
        old = time.monotonic() - self._checkpointed >= self.config.compute.checkpoint_seconds
        stop = self._meetings.stop(self._stop)
        self._stopwatch.tick()
        if 0 < self.config.limit.seconds < self._stopwatch.seconds:
            self._stop = self._stop or signal.SIGALRM
        if self._trial:
            self._trial.advance()
        saved = self._trial and self._trial.going  # the state is still the resumed one
        return (old or bool(stop)) and not self.ranks.rank and not saved, stop

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint."""
        length = self._sync_rows()
        Checkpoint(
            run_id=self.directory.name,
            state=state,
            metrics_bytes=length,
            metrics_sha256=sha256(self._metrics, length),
            wall_seconds=self._wall_seconds(),
            code=self.code,
        ).write(self.directory / "checkpoint.pt")
        self._checkpointed = time.monotonic()

    def _sync_rows(self) -> int:
        """Flush the rows to disk; returns their length in bytes."""
        with naming(self._metrics):
            self._rows.flush()
            os.fsync(self._rows.fileno())
            return os.fstat(self._rows.fileno()).st_size

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Save arrays that a figure needs besides the rows as `<name>.npz`."""
        if self.ranks.rank:
            return
        with replacing(self.directory / f"{name}.npz") as path, path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run complete.

        `summary` holds at least `objective`, the number that a sweep compares, and `scale`, `paper` or `reduced`.
        """
        if not math.isfinite(summary["objective"]):
            raise BadInput(f"training diverged: its objective is {summary['objective']}")
        self.summary = summary
        if self.ranks.rank:
            return
        self._sync_rows()
        content = json.dumps(summary, indent=2) + "\n"
        checksums = {
            "metrics_sha256": sha256(self._metrics),
            "summary_sha256": hashlib.sha256(content.encode()).hexdigest(),
        }
        self._write_manifest(checksums)
        self._draw(summary)
        with replacing(self.directory / "summary.json") as path:
            path.write_text(content)
        tidy(self.directory)

    def _draw(self, summary: dict[str, Any]) -> None:
        from experiments.runner.curves import draw_curves  # slow to import, and only needed here

        if figure := draw_curves(self._metrics, self.config, summary.get("scale")):
            with replacing(self.directory / "curves.png") as path:
                figure.savefig(path, format="png", metadata={"Software": None})

    def _open(self) -> None:
        remove_partial(self.directory)
        with replacing(self.directory / "config.yaml") as path:
            path.write_text(OmegaConf.to_yaml(OmegaConf.structured(self.config)))
        self._write_manifest({})
        (self.directory / "summary.json").unlink(missing_ok=True)  # a stale one: this run is not complete

    def _close(self, error: BaseException | None) -> None:
        """Close files and W&B. Nothing here may hide `error`, which is the cause of whatever else fails."""
        if self._trial:
            self._trial.end()
        with suppress(OSError):
            if self._rows:
                self._rows.close()
        if self._mirror:
            self._mirror.finish()
        if isinstance(error, TimeUp) and (pace := self._stopwatch.pace(getattr(self.config, "evaluations", 0))):
            with suppress(OSError):
                pace.write(self.directory)
        if isinstance(error, Exception):
            with suppress(OSError):
                (self.directory / "error.txt").write_text("".join(traceback.format_exception(error)))

    def _ask_to_stop(self, number: int, _: object) -> None:
        """Handle a signal: save at the next call of `checkpoint`. A second signal stops the run at once.

        Before `resume` there is nothing to save, so that the first signal stops the run too.
        """
        if self._stop or not self._begun:
            end_by(number)
        self._stop = number

    def _wall_seconds(self) -> float:
        return round(self._wall_before + time.monotonic() - self._started, 3)

    def _write_manifest(self, checksums: dict[str, str]) -> None:
        manifest = {
            "run_id": self.directory.name,
            **describe_process(self.device, self.ranks),
            "precision": self.config.compute.precision.name,
            "wall_seconds": self._wall_seconds(),
            "code": self.code,
            **({"runs_together": self.together} if self.together > 1 else {}),
            **checksums,
        }
        with replacing(self.directory / "manifest.json") as path:
            path.write_text(json.dumps(manifest, indent=2) + "\n")


def _summary_of(directory: Path) -> dict[str, Any]:
    try:
        return read_summary(directory)
    except Damaged as error:
        say(f"{error}; it is ignored")
        return {}


def say(message: str) -> None:
    """Print a line without breaking the progress bar."""
    tqdm.write(message, file=sys.stderr)
