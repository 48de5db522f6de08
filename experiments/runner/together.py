"""Train several runs together: their networks form one ensemble, but each run has its own folder, rows and checkpoint.

`python run.py -m sweep=... hydra/launcher=together` groups the runs of a grid that can share one ensemble, and the
experiment's `train_together` trains each group in one loop. Only the manifest shows that a run was part of a group.

An experiment supports this with two functions beside `main`: `in_common(config)`, which is equal for runs that can
train together, and `train_together(configs, runs)`, which yields each run with its summary or its error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

from experiments.runner.command_line import explain
from experiments.runner.errors import BadInput
from experiments.runner.execute import checked_entry, find_entry, finish, open_run
from experiments.runner.identity import folder_of
from experiments.runner.process import end_by, handling_signals, refusing_memory
from experiments.runner.run import Run, say
from experiments.runner.settings import RunConfig

Outcome = float | Exception  # a run's objective, or the error that ended it


def progress(runs: Sequence[Run], start: int, stop: int) -> tqdm:
    """`Run.progress` for several runs."""
    first, *others = runs
    for run in runs:
        run.together = len(runs)
    for run in others:
        run.begin(start, stop)
    steps = first.progress(start, stop)
    if others:
        steps.set_description(f"{len(runs)} runs n={first.config.labels.n_train}", refresh=False)
    return steps


def checkpoint(states: Mapping[Run, Callable[[], dict[str, Any]]]) -> None:
    """`Run.checkpoint` for several runs: all save and stop at the same step, so that they can resume together."""
    if len(states) == 1:
        ((run, state),) = states.items()
        return run.checkpoint(state)
    asked = [run.asked() for run in states]
    if any(due for due, _ in asked):
        for run, state in states.items():
            run.save(state())
    end_by(max(stop for _, stop in asked))


def execute_together(configs: Sequence[RunConfig]) -> list[Outcome]:
    """`execute` for each config: configs with equal `in_common` train together, one group after another.

    Raises:
        BadInput: an experiment cannot train runs together.
    """
    groups: dict[tuple[ModuleType, str], list[RunConfig]] = {}
    outcomes: dict[Path, Outcome] = {}
    for config in configs:
        module = import_module(find_entry(config).__module__)
        if not hasattr(module, "train_together"):
            raise BadInput(f"hydra/launcher=together: {config.name} trains its runs one by one: leave it out")
        try:
            checked_entry(config)
            groups.setdefault((module, module.in_common(config)), []).append(config)
        except BadInput as error:
            outcomes[folder_of(config)] = error
    for (module, _), group in groups.items():
        _execute_group(module, group, outcomes)
    return [outcomes[folder_of(config)] for config in configs]


def _execute_group(module: ModuleType, configs: Sequence[RunConfig], outcomes: dict[Path, Outcome]) -> None:
    runs: list[Run] = []
    try:
        with ExitStack() as stack:
            for config in configs:
                try:
                    run = (opened := open_run(config)).__enter__()
                except Exception as error:
                    outcomes[folder_of(config)] = error
                    continue
                stack.push(partial(_close, opened, run, outcomes))
                if run.complete:  # another process may just have completed it
                    outcomes[run.directory] = float(run.summary["objective"])
                else:
                    runs.append(run)
            if runs:
                _train(module, runs, outcomes)
    except Exception as error:  # it ends every run that is still open
        for run in runs:
            outcomes.setdefault(run.directory, _explained(run, error))


def _train(module: ModuleType, runs: Sequence[Run], outcomes: dict[Path, Outcome]) -> None:
    def ask_to_stop(number: int, frame: object) -> None:
        for run in runs:
            run._ask_to_stop(number, frame)

    with handling_signals(ask_to_stop), refusing_memory():
        for run, outcome in module.train_together([run.config for run in runs], runs):
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                finish(run, outcome)
                outcomes[run.directory] = float(run.summary["objective"])
            except Exception as error:
                outcomes[run.directory] = _explained(run, error)
                say(f"{run.directory}: {explain(outcomes[run.directory])}")
    end_by(runs[0]._stop)  # a signal after the last checkpoint


def _close(opened: AbstractContextManager, run: Run, outcomes: dict[Path, Outcome], *raised: Any) -> None:
    """Close a run with its own error, if it has one, rather than that of the group."""
    outcome = outcomes.get(run.directory)
    if isinstance(outcome, Exception):
        raised = (type(outcome), outcome, outcome.__traceback__)
    elif outcome is not None:
        raised = (None, None, None)
    opened.__exit__(*raised)


def _explained(run: Run, error: Exception) -> Exception:
    """The error, or one that blames the run's checkpoint for it."""
    try:
        if run._trial:
            run._trial.refuse(error)
    except BadInput as better:
        return better
    return error
