"""A time limit for a command: runs save before it, and the runs of a grid are started in order of importance.

The deadline reaches a run as a signal. At the first signal the run saves a checkpoint and stops. If it cannot save, as
in the middle of an evaluation, a second signal soon stops it with its last checkpoint. `pace.json` in its folder keeps
its speed, so that a sweep can estimate how much of a grid fits into a time limit. Deadlines are times of the monotonic
clock, which all processes of a machine share and nobody sets: a laptop may correct its own clock at any time.
"""

from __future__ import annotations

import heapq
import json
import math
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, FiniteFloat, TypeAdapter, ValidationError

from experiments.runner.errors import BadInput
from experiments.runner.identity import run_id
from experiments.runner.settings import RunConfig
from sobolev.files import replacing

PACE = "pace.json"
began = time.monotonic()  # the start of this command; run.py sets it more precisely
SAVING = 8.0  # seconds kept back before the deadline to save and finish
TRIAL = 3.0  # the least seconds for which a kind of run is trained to learn its pace
TRIALS = 0.25  # the largest fraction of the time limit spent on such trials
YEAR = 365 * 24 * 3600


class TimeUp(BaseException):
    """The time limit was reached. Like KeyboardInterrupt it is no Exception, so no `except Exception` swallows it."""


def check_limit(config: RunConfig) -> None:
    """Refuse a time limit that is negative, not finite or longer than a year."""
    if not 0 <= config.limit.seconds <= YEAR:
        raise BadInput(
            f"limit.seconds={config.limit.seconds:g}: expected 0 (no limit), or up to {YEAR} seconds (a year)"
        )


@contextmanager
def ringing(at: float) -> Iterator[None]:
    """Send this process SIGALRM at a time of the monotonic clock, then again every SAVING / 2 seconds."""
    if at < math.inf:
        signal.setitimer(signal.ITIMER_REAL, max(at - time.monotonic(), 0.001), SAVING / 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@dataclass(frozen=True)
class Pace:
    """The speed of a run that was stopped, in seconds, and how much of it was done."""

    starting: FiniteFloat  # seconds before its first update
    per_update: FiniteFloat
    updates: int  # in total
    updated: int  # done so far
    per_evaluation: FiniteFloat
    evaluations: int  # in total
    evaluated: int  # done so far

    @property
    def whole(self) -> float:
        """The estimated seconds of the whole run."""
        return self.starting + self.per_update * self.updates + self.per_evaluation * self.evaluations

    @property
    def left(self) -> float:
        """The estimated seconds of the rest of the run."""
        return self.whole - self.per_update * self.updated - self.per_evaluation * self.evaluated

    def write(self, folder: Path) -> None:
        with replacing(folder / PACE) as path:
            path.write_text(json.dumps(vars(self)) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Pace | None:
        """The pace noted in a run's folder; None if there is none or it is unreadable."""
        with suppress(OSError, ValidationError):
            return TypeAdapter(cls).validate_json((folder / PACE).read_bytes())
        return None


class Stopwatch:
    """Times the updates of a run; those during which it is evaluated are timed separately."""

    def __init__(self) -> None:
        self._made = self._began = self._last = time.monotonic()
        self._first = self._updates = 0
        self._updating = self._evaluating = False
        self._seconds: dict[bool, list[float]] = {False: [], True: []}  # per update, by whether it was an evaluation

    def begin(self, first: int, updates: int) -> None:
        """Training starts at update `first` of `updates`."""
        self._first, self._updates = first, updates
        self._began = self._last = time.monotonic()
        self._updating = False

    def evaluate(self) -> None:
        self._evaluating = True

    def tick(self) -> None:
        """An update starts; if there was one before it, that one has ended."""
        now = time.monotonic()
        if self._updating:
            self._seconds[self._evaluating].append(now - self._last)
        self._last, self._updating, self._evaluating = now, True, False

    @property
    def seconds(self) -> float:
        """Seconds since training started; 0 until an update without an evaluation has been timed."""
        return self._last - self._began if self._seconds[False] else 0.0

    def pace(self, evaluations: int) -> Pace | None:
        """The pace so far; None until an update without an evaluation has been timed."""
        plain, measured = self._seconds[False], self._seconds[True]
        if not plain:
            return None
        per_update = sum(plain) / len(plain)
        extra = max(0.0, sum(measured) / len(measured) - per_update) if measured else 0.0
        updated = self._first + len(plain) + len(measured)
        return Pace(self._began - self._made, per_update, self._updates, updated, extra, evaluations, len(measured))


class Timetable:
    """Which runs of a grid are executed within a time limit, on several parallel workers.

    The first seed of the whole grid comes before any second one. The cost of a run is estimated from runs of its kind,
    which have the same settings except for the seed: complete ones, or one that was trained for a short trial. A trial
    leaves a checkpoint, so its work is not lost.
    """

    def __init__(self, configs: Mapping[Path, RunConfig], workers: int):
        self._configs = configs
        self._workers = workers if workers > 0 else os.cpu_count() or 1
        self._seconds = next(iter(configs.values())).limit.seconds
        self.deadline = began + self._seconds
        self._kinds: dict[str, list[Path]] = {}
        self._kind_of = {folder: run_id(replace(config, seed=0)) for folder, config in configs.items()}
        for folder, kind in self._kind_of.items():
            self._kinds.setdefault(kind, []).append(folder)

    def in_order(self, folders: Iterable[Path]) -> list[Path]:
        return sorted(folders, key=lambda folder: self._configs[folder].seed)

    def trials(self, folders: Iterable[Path]) -> tuple[list[Path], float]:
        """The first run of each kind whose cost is unknown, as many as there is time for, and the seconds for each.

        A kind without a trial is assumed to cost the average of the others.
        """
        first: dict[str, Path] = {}
        for folder in self.in_order(folders):
            first.setdefault(self._kind_of[folder], folder)
        untried = [folder for folder in first.values() if self._cost(folder) is None]
        seconds = TRIALS * self._left() * self._workers
        return untried[: int(seconds / TRIAL)], max(TRIAL, seconds / max(len(untried), 1))

    def begun_in_time(self, folders: Sequence[Path]) -> list[Path]:
        """The runs, in this order, that may start before the deadline, with a margin because costs are estimates."""
        begins = [begin for begin, _ in self._spans(folders)]
        return [folder for folder, begin in zip(folders, begins, strict=True) if begin / 2 < self._left()]

    def outlook(self, folders: Sequence[Path]) -> str:
        """A message about how many of these runs fit into the time that is left."""
        left = self._left()
        if folders and all(self._cost(folder) is None for folder in folders):
            return f"{left:.0f} s are left for {len(folders)} runs, and how long a run takes is not known yet"
        fit = sum(end < left for _, end in self._spans(folders))
        return f"{left:.0f} s are left, enough for about {fit} of {len(folders)} runs"

    @property
    def over(self) -> bool:
        return not self._left()

    def _left(self) -> float:
        """Seconds left for training."""
        return max(0.0, self.deadline - SAVING - time.monotonic())

    def _spans(self, folders: Sequence[Path]) -> list[tuple[float, float]]:
        """When runs start and end, in seconds from now, if each goes to the first free worker."""
        costs = [self._cost(folder) for folder in folders]
        known = [cost for cost in costs if cost is not None]
        usual = sum(known) / len(known) if known else 0.0
        free, spans = [0.0] * self._workers, []
        for cost in costs:
            begin = heapq.heappop(free)
            spans.append((begin, begin + (usual if cost is None else cost)))
            heapq.heappush(free, spans[-1][1])
        return spans

    def _cost(self, folder: Path) -> float | None:
        """The seconds that a run still needs; None if no run of its kind has been timed."""
        if own := Pace.read(folder):
            return own.left
        of_kind = self._kinds[self._kind_of[folder]]
        paces = (Pace.read(each) for each in of_kind)
        known = [seconds for each in of_kind if (seconds := wall_seconds(each)) is not None] or [
            pace.whole for pace in paces if pace
        ]
        return sum(known) / len(known) if known else None


class _Noted(BaseModel, strict=True):
    wall_seconds: FiniteFloat


def wall_seconds(folder: Path) -> float | None:
    """The wall time of a complete run; None if it is not complete or its manifest has no wall time."""
    with suppress(OSError, ValidationError):
        if (folder / "summary.json").exists():
            return _Noted.model_validate_json((folder / "manifest.json").read_bytes()).wall_seconds
    return None
