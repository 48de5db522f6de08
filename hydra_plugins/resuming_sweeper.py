"""The sweeper behind `python run.py -m`: Hydra's basic grid without the runs that are complete.

Hydra finds sweepers only in the package `hydra_plugins`, hence this folder.
"""

from __future__ import annotations

import copy
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobStatus
from omegaconf import DictConfig, flag_override

if TYPE_CHECKING:
    from experiments.runner.errors import BadInput
    from experiments.runner.settings import RunConfig

OF_THE_GRID = {
    "runs_dir": "folder; quote a name with a comma: \"runs_dir='a,b'\"",
    "limit.seconds": "time limit",
    "recorder.bundle": "bundle; quote a name with a comma: \"recorder.bundle='a,b'\"",
}

SERIAL_BATCH = 20
MOST_RUNS = 100_000


class ResumingSweeper(BasicSweeper):
    """Launches the incomplete runs of a grid, and reports failures once all have ended."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def sweep(self, arguments: list[str]) -> None:
        # Imported here because Hydra imports every plugin for every command, and `--help` must stay fast.
        from experiments.runner.command_line import explain
        from experiments.runner.errors import BadInput

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        if not (folder := str(self.config.hydra.sweep.dir)).isprintable():  # launchers write it into scripts
            raise BadInput(f"runs_dir={folder!r}: expected text on one line")
        check_grid(overrides)
        (jobs,) = self.split_arguments(overrides, max_batch_size=None)
        if not jobs:
            raise BadInput("the grid has no runs: one of its ranges is empty")
        asked, refused = self._asked(jobs)
        if not asked:
            raise refused[0]

        # These import torch, which takes seconds; bad input has been refused by now.
        from experiments.runner.code_identity import other_code
        from experiments.runner.identity import folder_of, is_complete, refusing_folder, tidy
        from experiments.runner.progress import Grid, Watch, say
        from experiments.runner.ranks import torchrun_ranks

        if torchrun_ranks()[1] > 1:
            raise BadInput("torchrun starts one run: start those of a sweep one by one, or a sweep on each device")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a normal exit ends local workers too
        signal.signal(signal.SIGINT, signal.default_int_handler)
        folders: dict[Path, list[str]] = {}  # a config that appears twice runs once
        configs: dict[Path, RunConfig] = {}
        for config, job in asked:
            folders.setdefault(folder := folder_of(config), job)
            configs[folder] = config
        name = next((str(o.value()) for o in overrides if o.get_key_element() == "sweep"), "sweep")
        grid = Grid(name, list(folders))
        with refusing_folder():
            Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
            say(grid)
            complete = {folder for folder in folders if is_complete(folder)}
        for folder in complete:
            tidy(folder)
        if stale := [folder for folder in folders if folder in complete and other_code(folder, configs[folder])]:
            said = f"{len(stale)} of {len(complete)} complete runs are from different code, first {stale[0]}"
            print(f"{name}: {said}: remove their folders to run them again", file=sys.stderr)
        waiting = [folder for folder in folders if folder not in complete]
        any_run, _ = asked[0]
        if not waiting and not refused and not any_run.recorder.bundle:
            return
        with Watch(grid, any_run.recorder.bundle):
            try:
                if waiting and any_run.limit.seconds:
                    failures = self._within_time(name, asked, waiting)
                else:
                    failures = [error for _, error in self._failures([folders[folder] for folder in waiting])]
            except (RuntimeError, ValueError) as error:  # of the launcher: no Slurm, or a worker was killed
                raise BadInput(f"{self._chosen_launcher}: {explain(error)}") from error
        report(name, len(waiting), refused, failures)

    def _asked(self, jobs: list[list[str]]) -> tuple[list[tuple[RunConfig, list[str]]], list[BadInput]]:
        """The config of each valid job, with the job, whose `auto` precision is resolved; and the errors of the others.

        Invalid jobs do not stop the other runs of the grid.
        """
        from experiments.runner.errors import BadInput
        from experiments.runner.precision import settled
        from experiments.runner.trust import settings

        asked, refused = [], []
        for job in jobs:
            composed = self._compose(job)
            try:
                config = settings(composed)
            except BadInput as error:
                refused.append(error)
                continue
            job += settled(composed, config)
            asked.append((config, job))
        return asked, refused

    def _within_time(self, name: str, asked: list[tuple[RunConfig, list[str]]], waiting: list[Path]) -> list[Exception]:
        """Launch the waiting runs within the time limit, first seeds first; returns the errors of those that failed."""
        from experiments.runner.errors import BadInput, OutOfTime, RunBusy
        from experiments.runner.identity import folder_of, is_complete
        from experiments.runner.limit import Timetable

        if self._chosen_launcher == "slurm":
            raise BadInput("limit.seconds is for runs on this machine: a cluster has hydra.launcher.timeout_min")
        if self._chosen_launcher == "together":
            raise BadInput("limit.seconds needs the time of each run, but these are trained together: leave one out")
        jobs = {folder_of(config): job for config, job in asked}
        configs = {folder_of(config): config for config, _ in asked}
        table = Timetable(configs, self.config.hydra.launcher.get("n_jobs", 1))

        def launched(folders: list[Path], seconds: float) -> dict[Path, Exception]:
            limits = [f"limit.seconds={seconds:.1f}", f"limit.deadline={table.deadline}"]
            with_limits = [[*jobs[folder], *limits] for folder in folders]
            return {folders[place]: error for place, error in self._failures(with_limits, until=lambda: table.over)}

        tried = launched(*table.trials(waiting))
        failed = {folder for folder, error in tried.items() if not isinstance(error, OutOfTime | RunBusy)}
        left = [folder for folder in table.in_order(waiting) if folder not in failed and not is_complete(folder)]
        print(f"{name}: {table.outlook(left)}", file=sys.stderr)
        begun = table.begun_in_time(left)
        earlier = [error for folder, error in tried.items() if folder not in begun]
        return [*earlier, *launched(begun, 0).values()]

    def _failures(
        self, jobs: list[list[str]], until: Callable[[], bool] | None = None
    ) -> Iterator[tuple[int, Exception]]:
        """Launch jobs and yield the place and error of each that fails; stop launching once `until`, if given, is true.

        Hydra's own launcher keeps the composed config of every run, a quarter of a MiB each, until it returns.
        Therefore it gets a few jobs at a time.
        """
        from experiments.runner.slurm import failing_alone

        one_by_one = isinstance(self.launcher, BasicLauncher)
        at_once = (1 if until else SERIAL_BATCH) if one_by_one else max(len(jobs), 1)
        for first in range(0, len(jobs), at_once):
            if until and until():
                return
            with failing_alone() if self._chosen_launcher == "slurm" else nullcontext():
                results = self.launcher.launch(jobs[first : first + at_once], initial_job_idx=first)
            for place, result in enumerate(results, first):
                if result.status is not JobStatus.COMPLETED:
                    yield place, result._return_value

    @property
    def _chosen_launcher(self) -> str:
        return self.config.hydra.runtime.choices["hydra/launcher"]

    def _compose(self, job: list[str]) -> DictConfig:
        """The config of one job, as Hydra would compose it.

        Composing takes 0.1 s, so jobs that choose the same config files share its result and differ only in values.
        """
        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(job)
        files = tuple(o.input_line for o in overrides if loader.repository.group_exists(o.key_or_group))
        if files not in self._composed:
            config: DictConfig = loader.load_sweep_config(self.config, list(files))
            with flag_override(config, ["struct", "readonly"], False):
                del config["hydra"]
            self._composed[files] = config
        config = copy.deepcopy(self._composed[files])
        loader._apply_overrides_to_config([o for o in overrides if o.input_line not in files], config)
        return config


def report(name: str, n_waiting: int, refused: Sequence[Exception], failures: Sequence[Exception]) -> None:
    """Report skipped runs, and raise an error if runs failed. Reaching the time limit is not a failure."""
    from experiments.runner.command_line import explain
    from experiments.runner.errors import BadInput, OutOfTime, RunBusy

    if busy := sum(isinstance(error, RunBusy) for error in failures):
        print(f"{name}: {busy} of {n_waiting} runs belong to other processes and were skipped", file=sys.stderr)
    errors = [error for error in (*refused, *failures) if not isinstance(error, RunBusy | OutOfTime)]
    if errors:
        raise BadInput(f"{len(errors)} of {n_waiting + len(refused)} runs failed; the first: {explain(errors[0])}")


def check_grid(overrides: list[Override]) -> None:
    """Refuse a grid that is too large and a range that never ends, before the grid is expanded."""
    from experiments.runner.errors import BadInput

    n_runs = 1
    for override in overrides:
        if override.is_sweep_override() and override.key_or_group in OF_THE_GRID:
            raise BadInput(f"{override.input_line}: a grid has one {OF_THE_GRID[override.key_or_group]}")
        if not override.is_discrete_sweep():
            continue
        try:
            # `sweep_iterator` would expand a shuffled range as a whole.
            values = override.value().range() if override.is_range_sweep() else override.sweep_iterator()
            n_runs *= sum(1 for _ in islice(values, MOST_RUNS + 1))
        except (ValueError, ArithmeticError):
            said = "expected range(start,stop,step) with a step that is not 0"
            raise BadInput(f"{override.input_line}: {said}") from None
        if n_runs > MOST_RUNS:
            said = f"the grid has more than {MOST_RUNS:,} runs: run a part of it at a time"
            raise BadInput(f"{override.input_line}: {said}")
