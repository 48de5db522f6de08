"""A command that may take so long: runs are asked to save in time, and the most wanted ones of a grid come first.

A run hears of the deadline as it hears of any other end, by a signal: at first it saves and stops, and if it is not at
a place where it can, in the middle of an evaluation say, it stops soon after with its last checkpoint. How fast it was
stays in its folder, in `pace.json`, so that a grid can say beforehand how much of it fits into a time.
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
began = time.time()  # when this command did: run.py knows it better
SAVING = 8.0  # seconds before its end in which a run saves and what follows it ends
TRIAL = 3.0  # seconds of training at least for which a kind of run is tried, to learn its pace
TRIALS = 0.25  # of all the time, at most, for such trials
YEAR = 365 * 24 * 3600


class TimeUp(BaseException):
    """The time is up. Like a KeyboardInterrupt it is no error, so that nothing in between takes it for one."""


def check_limit(config: RunConfig) -> None:
    """Refuse a time that no command has."""
    if not 0 <= config.limit.seconds <= YEAR:
        raise BadInput(
            f"limit.seconds={config.limit.seconds:g}: expected 0, for as long as it takes, to a year's {YEAR}"
        )


@contextmanager
def ringing(at: float) -> Iterator[None]:
    """Send this process SIGALRM at a time, in seconds since the epoch, and again if it does not stop by then."""
    if at < math.inf:
        signal.setitimer(signal.ITIMER_REAL, max(at - time.time(), 0.001), SAVING / 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@dataclass(frozen=True)
class Pace:
    """How fast a run was that was stopped, in seconds; how many updates and evaluations it has, and had done."""

    starting: FiniteFloat  # until it trained
    per_update: FiniteFloat
    updates: int
    updated: int
    per_evaluation: FiniteFloat
    evaluations: int
    evaluated: int

    @property
    def whole(self) -> float:
        """Seconds that all of it takes."""
        return self.starting + self.per_update * self.updates + self.per_evaluation * self.evaluations

    @property
    def left(self) -> float:
        """Seconds that the rest of it takes."""
        return self.whole - self.per_update * self.updated - self.per_evaluation * self.evaluated

    def write(self, folder: Path) -> None:
        with replacing(folder / PACE) as path:
            path.write_text(json.dumps(vars(self)) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Pace | None:
        """What was noted in a run's folder; None where there is nothing of use."""
        with suppress(OSError, ValidationError):
            return TypeAdapter(cls).validate_json((folder / PACE).read_bytes())
        return None


class Stopwatch:
    """Times a run's updates, those apart that it is measured in."""

    def __init__(self) -> None:
        self._made = self._began = self._last = time.monotonic()
        self._first = self._updates = 0
        self._updating = self._evaluating = False
        self._seconds: dict[bool, list[float]] = {False: [], True: []}  # of updates, by whether it was measured

    def begin(self, first: int, updates: int) -> None:
        """Its updates begin, with number `first` of so many."""
        self._first, self._updates = first, updates
        self._began = self._last = time.monotonic()
        self._updating = False

    def evaluate(self) -> None:
        self._evaluating = True

    def tick(self) -> None:
        """An update begins, and the one before it, if there was one, has ended."""
        now = time.monotonic()
        if self._updating:
            self._seconds[self._evaluating].append(now - self._last)
        self._last, self._updating, self._evaluating = now, True, False

    @property
    def seconds(self) -> float:
        """Since its updates began; 0 until there is an update that tells how fast it is."""
        return self._last - self._began if self._seconds[False] else 0.0

    def pace(self, evaluations: int) -> Pace | None:
        """None where no update has ended yet that was not measured."""
        plain, measured = self._seconds[False], self._seconds[True]
        if not plain:
            return None
        per_update = sum(plain) / len(plain)
        extra = max(0.0, sum(measured) / len(measured) - per_update) if measured else 0.0
        updated = self._first + len(plain) + len(measured)
        return Pace(self._began - self._made, per_update, self._updates, updated, extra, evaluations, len(measured))


class Timetable:
    """What of a grid is run in the time that it has, on so many workers side by side.

    A first seed of the whole grid is wanted before a second one. What a run costs follows from those of its kind, which
    is all that it asks but its seed: complete ones, or one that was tried for a while, which keeps what it learned.
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
        """The first run of each kind that nobody knows the cost of, as many as there is time for, and seconds of each.

        A run that has none is thought to cost what the others do.
        """
        first: dict[str, Path] = {}
        for folder in self.in_order(folders):
            first.setdefault(self._kind_of[folder], folder)
        untried = [folder for folder in first.values() if self._cost(folder) is None]
        seconds = TRIALS * self._left() * self._workers
        return untried[: int(seconds / TRIAL)], max(TRIAL, seconds / max(len(untried), 1))

    def begun_in_time(self, folders: Sequence[Path]) -> list[Path]:
        """Those of the runs, in this order, that may begin before the deadline. Costs are estimates: some more."""
        begins = [begin for begin, _ in self._spans(folders)]
        return [folder for folder, begin in zip(folders, begins, strict=True) if begin / 2 < self._left()]

    def outlook(self, folders: Sequence[Path]) -> str:
        """How much of what is left fits, in words."""
        left = self._left()
        if folders and all(self._cost(folder) is None for folder in folders):
            return f"{left:.0f} s are left for {len(folders)} runs, and no run of theirs says yet what one takes"
        fit = sum(end < left for _, end in self._spans(folders))
        return f"{left:.0f} s are left, and about {fit} of {len(folders)} runs end in them"

    @property
    def over(self) -> bool:
        return not self._left()

    def _left(self) -> float:
        """Seconds in which runs may train."""
        return max(0.0, self.deadline - SAVING - time.time())

    def _spans(self, folders: Sequence[Path]) -> list[tuple[float, float]]:
        """When runs begin and end, in seconds from now, if each goes to the worker that is free first."""
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
        """Seconds that a run still takes; None where no run of its kind tells."""
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
    """Of a complete run; None where it is none, or does not say."""
    with suppress(OSError, ValidationError):
        if (folder / "summary.json").exists():
            return _Noted.model_validate_json((folder / "manifest.json").read_bytes()).wall_seconds
    return None
