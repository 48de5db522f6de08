"""Runs that train together: their networks are one ensemble, and each run has its own folder, rows and checkpoint.

`python run.py -m sweep=... hydra/launcher=together` sorts the runs of a grid by what they have in common, and the
experiment's `train_together` makes one loop of each group; nothing but the manifest of a run tells that it was in one.

An experiment that can has beside `main` two functions: `in_common(config)`, which is equal for runs that may train
together, and `train_together(configs, runs)`, which gives each run with its outcome, a summary or why it ended.
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

Outcome = float | Exception  # what a sweep compares, or what a run ended with


def progress(runs: Sequence[Run], start: int, stop: int) -> tqdm:
    """`Run.progress` of several runs."""
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
    """`Run.checkpoint` of several runs: all save at the same step or none does, and then all stop.

    Runs that go on from one step can go on together.
    """
    if len(states) == 1:
        ((run, state),) = states.items()
        return run.checkpoint(state)
    asked = [run.asked() for run in states]
    if any(due for due, _ in asked):
        for run, state in states.items():
            run.save(state())
    end_by(max(stop for _, stop in asked))


def execute_together(configs: Sequence[RunConfig]) -> list[Outcome]:
    """`execute` of each config: those that have enough in common train together, one group after another.

    Raises:
        BadInput: an experiment trains its runs one by one.
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
                if run.complete:  # since a moment ago
                    outcomes[run.directory] = float(run.summary["objective"])
                else:
                    runs.append(run)
            if runs:
                _train(module, runs, outcomes)
    except Exception as error:  # it is that of all runs that have not ended
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
    end_by(runs[0]._stop)  # asked after the last checkpoint


def _close(opened: AbstractContextManager, run: Run, outcomes: dict[Path, Outcome], *raised: Any) -> None:
    """Close a run with the error that it ended with itself, if it did, and not with what the others end with."""
    outcome = outcomes.get(run.directory)
    if isinstance(outcome, Exception):
        raised = (type(outcome), outcome, outcome.__traceback__)
    elif outcome is not None:
        raised = (None, None, None)
    opened.__exit__(*raised)


def _explained(run: Run, error: Exception) -> Exception:
    """The error, or that the run's checkpoint has caused it."""
    try:
        if run._trial:
            run._trial.refuse(error)
    except BadInput as better:
        return better
    return error
