"""The run itself: what an experiment does with its folder.

A run is the folder `runs/<experiment>/<run_id>/`:

    config.yaml     the resolved config
    manifest.json   revision, versions, device, threads, wall time, memory; of a complete run checksums too
    metrics.csv     the rows: experiment,task,method,n_train,seed,step,split,metric,value
    checkpoint.pt   state to resume from; gone when the run is complete
    curves.png      its metrics over training
    summary.json    written last: with it the run is complete

`run_id` comes from what is asked (the config without folders, recorder and compute), so the same question has
the same folder: a complete run is skipped and an interrupted one resumes. Every file but metrics.csv is written
under a temporary name and renamed. A checkpoint notes whose it is, and how long metrics.csv was and what it held;
resuming cuts the file back to that length: rows are neither lost nor doubled wherever a run is killed. Asked to stop
(SIGTERM, as Slurm sends it, or Ctrl-C) a run saves a checkpoint first; asked twice it stops at once.
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
    """One run's folder, and what an experiment does with it: `resume` first, then `record` and `checkpoint`.

    Where several processes train together, each calls the same methods; `ranks.rank` 0 alone writes.
    """

    def __init__(self, config: RunConfig, directory: Path, device: torch.device, ranks: Ranks):
        self.config = config
        self.directory = directory
        self.device = device
        # bfloat16 means autocast, and tf32 that products round their factors: all else stays in float32.
        precision = config.compute.precision
        self.dtype = torch.float64 if precision is Precision.float64 else torch.float32
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=precision is Precision.bfloat16)
        self.ranks = ranks
        self.code = [code_of(config)]
        self.together = 1  # runs whose networks learn in the same steps: `wall_seconds` is that of all
        self.summary: dict[str, Any] = _summary_of(directory)
        self._mirror: WandbMirror | None = None
        self._rows: io.TextIOWrapper | None = None
        self._wall_before = 0.0
        self._started = self._checkpointed = time.monotonic()
        self._stop = 0  # the signal that asked to stop
        self._meetings = Meetings(ranks)
        self._stopwatch = Stopwatch()
        self._begun = False  # `resume` was called: from there on stopping waits for a checkpoint
        self._trial: Trial | None = None  # of the state that it goes on from

    @property
    def complete(self) -> bool:
        return bool(self.summary)

    @cached_property
    def scale(self) -> str:
        """`paper`, or `reduced` where this is not what the shipped experiment asks; a run's summary says it."""
        return scale_of(self.config)

    @property
    def stop_at(self) -> float:
        """When it is to save and stop, in seconds since the epoch: inf where nobody set a deadline."""
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
        """Updates begin, with number `start` of `stop`."""
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
        """The state of the last checkpoint, or None to begin at the beginning."""
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
            say(f"{error}; the run begins again")
            saved = None
        with naming(self._metrics):
            if self._metrics.is_fifo():  # to open it would wait for a reader
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
            say(f"{self.directory} goes on with other {other} than it began with: remove the folder to begin again")
        if saved.code != self.code:
            self.code = list(dict.fromkeys(saved.code + self.code))
        return saved.state

    def checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save `state()`, plain tensors, numbers and containers, if the last checkpoint is old enough.

        Call it once a step: where the run was asked to stop, it saves and stops here. Several processes do so at the
        next step at which they ask each other.
        """
        due, stop = self.asked()
        if due:
            self.save(state())
        end_by(stop)

    def asked(self) -> tuple[bool, int]:
        """Whether it is to save, and the signal that it is to stop by, 0 for none. To be asked once a step."""
        old = time.monotonic() - self._checkpointed >= self.config.compute.checkpoint_seconds
        stop = self._meetings.stop(self._stop)
        self._stopwatch.tick()
        if 0 < self.config.limit.seconds < self._stopwatch.seconds:
            self._stop = self._stop or signal.SIGALRM
        if self._trial:
            self._trial.advance()
        saved = self._trial and self._trial.going  # it is what was saved
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
        """Bring the rows to the disk; returns their bytes."""
        with naming(self._metrics):
            self._rows.flush()
            os.fsync(self._rows.fileno())
            return os.fstat(self._rows.fileno()).st_size

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Save what a figure needs besides rows as `<name>.npz`."""
        if self.ranks.rank:
            return
        with replacing(self.directory / f"{name}.npz") as path, path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run complete.

        `summary` holds at least `objective`, the number that a sweep compares, and `scale`, paper or reduced.
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
        from experiments.runner.curves import draw_curves  # slow to import, and needed once

        if figure := draw_curves(self._metrics, self.config, summary.get("scale")):
            with replacing(self.directory / "curves.png") as path:
                figure.savefig(path, format="png", metadata={"Software": None})

    def _open(self) -> None:
        remove_partial(self.directory)
        with replacing(self.directory / "config.yaml") as path:
            path.write_text(OmegaConf.to_yaml(OmegaConf.structured(self.config)))
        self._write_manifest({})
        (self.directory / "summary.json").unlink(missing_ok=True)  # not this run's, or it would be complete

    def _close(self, error: BaseException | None) -> None:
        """Never in the way of `error`: that says better what is wrong than what follows from it."""
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
        """Handles a signal. Saving waits for the next call of `checkpoint`; a second signal does not.

        Before training there is nothing to save, and nothing to wait for.
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
        say(f"{error}; the run goes on without it")
        return {}


def say(message: str) -> None:
    """A line beside the progress bar."""
    tqdm.write(message, file=sys.stderr)
