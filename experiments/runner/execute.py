"""Execute a config: find its experiment, lock and open the run's folder, and close it whatever happens."""

from __future__ import annotations

import importlib
import inspect
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiments.runner.code_identity import other_code
from experiments.runner.command_line import explain
from experiments.runner.errors import BadInput, OutOfTime, check_names
from experiments.runner.identity import Damaged, alone, folder_of, is_complete, read_summary, tidy
from experiments.runner.limit import SAVING, TimeUp, ringing
from experiments.runner.process import end_by, handling_signals, prepare_process, refusing_memory
from experiments.runner.ranks import joined, torchrun_ranks
from experiments.runner.run import Run, say
from experiments.runner.settings import RunConfig


@contextmanager
def open_run(config: RunConfig) -> Iterator[Run]:
    """Lock and open the folder of a run, and close it whatever happens.

    Raises:
        RunBusy: another process works on the same run.
        BadInput: the folder cannot be created, the device does not exist, or a name or label is not one word.
    """
    if torchrun_ranks()[1] > 1 and not config.several_processes:
        raise BadInput(f"{config.name} trains in one process: start it without torchrun")
    check_names(config)
    directory, device = folder_of(config), prepare_process(config)
    with joined(device) as ranks:
        run = partial(Run, config, directory, device, ranks)
        with _follow(run) if ranks.rank else _lead(run, directory) as opened:
            yield opened


@contextmanager
def _lead(make_run: Callable[[], Run], directory: Path) -> Iterator[Run]:
    run, new = make_run(), False
    with ExitStack() as stack:
        if not run.complete:  # a complete run may lie on a read-only disk
            new = not directory.exists()
            stack.enter_context(alone(directory))
            with suppress(Damaged):
                run.summary = read_summary(directory)  # another process may just have completed it
        if run.complete:
            tidy(directory)
            say(f"{directory} is complete: skipped{other_code(directory, run.config)}")
            yield run
            return
        error: BaseException | None = None
        try:
            with handling_signals(run._ask_to_stop), ringing(run.stop_at):
                run._open()
                yield run
        except BaseException as caught:
            error = caught
            raise
        finally:
            run._close(error)
            if isinstance(error, BadInput) and new and not run._metrics.exists():
                shutil.rmtree(directory, ignore_errors=True)  # refused before it started


@contextmanager
def _follow(make_run: Callable[[], Run]) -> Iterator[Run]:
    run = make_run()
    with handling_signals(run._ask_to_stop), ringing(run.stop_at):
        yield run


def execute(config: RunConfig) -> float:
    """Execute a config, unless its run is complete, and return the objective that a sweep compares.

    Raises:
        OutOfTime: the time limit was reached.
    """
    if (
        config.limit.deadline
        and time.monotonic() > config.limit.deadline - SAVING
        and not is_complete(folder_of(config))
    ):
        raise OutOfTime(f"{folder_of(config)} was not started: the time limit was reached")
    try:
        return _execute(config)
    except TimeUp:
        raise OutOfTime(f"{folder_of(config)}: the time limit was reached; the same command continues") from None


def checked_entry(config: RunConfig) -> Callable[[RunConfig, Run], dict[str, Any]]:
    """The experiment that a config names, after its `check` has accepted the config."""
    entry = find_entry(config)
    check = getattr(sys.modules[entry.__module__], "check", None)
    if check and not is_complete(folder_of(config)):  # a run that a larger machine completed is skipped as well
        check(config)
    return entry


def finish(run: Run, summary: dict[str, Any]) -> None:
    """Mark a run complete and report it."""
    run.finish({"scale": run.scale} | summary)
    if not run.ranks.rank:
        say(f"{run.directory} is complete")


def _execute(config: RunConfig) -> float:
    entry, run = checked_entry(config), None
    try:
        with open_run(config) as run:
            if not run.complete:
                try:
                    with refusing_memory():
                        summary = entry(config, run)
                except Exception as error:
                    if run._trial:
                        run._trial.refuse(error)
                    raise
                finish(run, summary)
    except Exception as error:
        if run and run._stop in (signal.SIGTERM, signal.SIGINT):  # it could not save, but the sweep must stop too
            say(f"error: {explain(error)}")
            end_by(run._stop)
        raise
    if run._stop != signal.SIGALRM:  # the time limit passed, but the run is complete
        end_by(run._stop)  # a signal after the last checkpoint; without this a sweep would start the next run
    return float(run.summary["objective"])


def find_entry(config: RunConfig) -> Callable[[RunConfig, Run], dict[str, Any]]:
    """Import the experiment that a config names: a function of (config, run) in the domain of its settings' type.

    A config cannot name anything else, because configs are untrusted.
    """
    module, _, function = config.entry.rpartition(".")
    domain = type(config).__module__.rpartition(".")[0]  # empty for a type outside a package, which has no experiments
    ours = domain and module.rpartition(".")[0] == domain and find_spec(module) is not None
    entry = getattr(importlib.import_module(module), function, None) if ours else None
    if getattr(entry, "__module__", None) != module or [*inspect.signature(entry).parameters] != ["config", "run"]:
        expected = f"{domain or '<domain>'}.<module>.<function>, a function of (config, run)"
        raise BadInput(f"entry={config.entry}: expected {expected}")
    return entry
