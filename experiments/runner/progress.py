"""The progress of a sweep: how many runs of its grid are done or running, and how long the rest will take.

It is read from the run folders alone, so it is the same whether this process, local workers, a cluster or several
machines that share `runs_dir` compute.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from experiments.runner.bundle import pack
from experiments.runner.identity import is_complete
from experiments.runner.limit import PACE, wall_seconds

POLL_SECONDS = 5.0
PACK_SECONDS = 30.0


@dataclass
class Grid:
    """The run folders of a grid.

    Attributes:
        name: The name shown with its progress.
        folders: One folder per run.
    """

    name: str
    folders: Sequence[Path]
    _before: dict[Path, float] = field(init=False)  # when each run's files had last changed as the grid started
    _seconds: dict[Path, float | None] = field(default_factory=dict)  # wall time of each complete run, read once
    _beside: int = 0  # runs in parallel, when there last were any

    def __post_init__(self) -> None:
        self._before = {
            path: _changed(path) for folder in self.folders for path in (folder / "error.txt", folder / "config.yaml")
        }

    def picture(self) -> Picture:
        running = failed = 0
        for folder in self.folders:
            if folder in self._seconds:
                continue
            if _changed(folder / "summary.json") and is_complete(folder):
                self._seconds[folder] = wall_seconds(folder)
            elif self._is_new(folder / "error.txt"):
                failed += 1
            elif self._is_new(opened := folder / "config.yaml") and _changed(opened) > _changed(folder / PACE):
                running += 1
        self._beside = running or self._beside  # when several end at once, none runs for a moment
        return Picture(len(self.folders), len(self._seconds), running, failed, self._estimate(running, failed))

    def _is_new(self, path: Path) -> bool:
        """Whether a file was written since the sweep started, by comparing file times only and no clock."""
        return _changed(path) not in (0.0, self._before[path])

    def _estimate(self, running: int, failed: int) -> float | None:
        """Seconds for the rest, at the average cost of this grid's complete runs and the present parallelism."""
        seconds = [cost for cost in self._seconds.values() if cost is not None]
        left = len(self.folders) - len(self._seconds) - failed
        if not seconds or not left or not self._beside:
            return None
        return sum(seconds) / len(seconds) * (left - running / 2) / self._beside


@dataclass(frozen=True)
class Picture:
    total: int
    done: int
    running: int
    failed: int
    seconds: float | None  # estimated to the end; None until complete runs show what one costs

    def __str__(self) -> str:
        parts = [f"{self.done} of {self.total} runs done", f"{self.running} running"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        parts.append(f"{self.total - self.done - self.running - self.failed} to come")
        if self.seconds is not None:
            parts.append(f"about {_duration(self.seconds)} left")
        return ", ".join(parts)


class Watch:
    """Show the grid's progress while the launcher works: a bar on a terminal, elsewhere a line whenever a run ends.

    If a bundle is asked for, the rows are packed into it periodically and at the end.
    """

    def __init__(self, grid: Grid, bundle: str = ""):
        self._grid, self._bundle, self._packed = grid, Path(bundle) if bundle else None, time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._pack()
        say(self._grid)

    def _follow(self) -> None:
        done = self._grid.picture().done
        with tqdm(total=len(self._grid.folders), desc=self._grid.name, initial=done, disable=None, position=1) as bar:
            while not self._over.wait(POLL_SECONDS):
                picture = self._grid.picture()
                bar.set_postfix_str(str(picture).partition(", ")[2])
                bar.update(picture.done - bar.n)
                if bar.disable and picture.done > done:
                    done = picture.done
                    say(self._grid)
                if time.monotonic() - self._packed > PACK_SECONDS:
                    self._pack()

    def _pack(self) -> None:
        """Pack the rows again. An error, such as a full disk, is printed and stops no run; packing is retried."""
        if not self._bundle:
            return
        try:
            pack(self._grid.folders, self._bundle)
        except OSError as error:
            tqdm.write(f"{self._bundle} could not be written: {error}", file=sys.stderr)
        self._packed = time.monotonic()


def say(grid: Grid) -> None:
    tqdm.write(f"{grid.name}: {grid.picture()}", file=sys.stderr)


def _changed(path: Path) -> float:
    """The modification time; 0 if it cannot be read, because the run itself reports such errors better."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "a minute"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
