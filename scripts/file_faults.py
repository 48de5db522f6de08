"""Inject a fault at each file operation of a run, for `scripts.faults`.

A small C library, which needs a compiler and is preloaded, counts the file operations below a run's folder and makes
one of them fail: the process is killed before it, a write is torn in half, or the system returns an error. One process
executes a whole run first, so that everything is imported, and then forks a child for each trial.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from experiments.runner.settings import RunConfig

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path(__file__).with_name("faulty_files.c")
KILL, TORN = -1, -2


class Trial(NamedTuple):
    """One disturbance: whether the run starts from scratch or a checkpoint, the operation that fails, and how."""

    begins: str
    name: str
    number: int
    fault: int


UNDISTURBED = Trial("", "", 0, 0)


class Ended(NamedTuple):
    status: int  # negative: the number of the signal
    said: str
    operations: int


def build(folder: Path) -> Path | None:
    """The library, or None without a compiler."""
    if not (compiler := shutil.which("cc") or shutil.which("gcc")):
        return None
    library = folder / "faulty_files.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def survived(
    overrides: list[str], folder: Path, faults: list[int], name: str = "", most: int | None = None
) -> Iterator[bool]:
    """Whether each trial was survived. There is one per operation (called `name`, if given) and fault, or `most`."""
    if not (library := build(folder)):
        print("file operations: not tried, because there is no C compiler", file=sys.stderr)
        return
    asked = json.dumps([overrides, str(folder), faults, name, most])
    command = [sys.executable, "-m", "scripts.file_faults", asked]
    environment = os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        sys.exit("error: the file operations could not be tried")


def main(overrides: list[str], folder: Path, faults: list[int], name: str, most: int | None) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        call(overrides, folder / "imported")
    whole, stopped = folder / "whole", folder / "stopped"
    total = run(overrides, whole).operations
    run(overrides, stopped, Trial("nothing", "", total * 6 // 10, KILL))
    if not any(stopped.glob("*/*/checkpoint.pt")):
        sys.exit("error: the stopped run has no checkpoint")
    trials = []
    for begins in ("nothing", "checkpoint"):
        runs = beginning(begins, stopped, folder)
        count = run(overrides, runs, Trial(begins, name, 0, 0)).operations
        trials += [Trial(begins, name, 1 + number, fault) for number in range(count) for fault in faults]
    if most:
        trials = [trials[k * len(trials) // most] for k in range(most)]
    for trial in trials:
        print(json.dumps(is_survived(trial, overrides, folder, stopped, whole)), flush=True)


def is_survived(trial: Trial, overrides: list[str], folder: Path, stopped: Path, whole: Path) -> bool:
    """Whether the run reports the error in one line, loses nothing, and ends with the same rows when repeated."""
    runs = beginning(trial.begins, stopped, folder)
    first = run(overrides, runs, trial)
    left = sorted(path.name for path in runs.glob("*/*/*.p*"))
    errors = [line for line in first.said.splitlines() if line.startswith("error: ")]
    if trial.fault in (KILL, TORN):
        clear = first.status == -signal.SIGKILL
    else:
        clear = first.status == 0 or (first.status == 1 and len(errors) == 1 and str(runs) in errors[0])
    again = run(overrides, runs)
    files = [path.name for path in runs.glob("*/*/.*.partial")] + [path.name for path in runs.glob("*/*/checkpoint.pt")]
    ended = again.status == 0 and rows_of(runs) == rows_of(whole) and not files
    good = clear and ended and "Traceback" not in first.said + again.said
    if not good:
        print(f"{trial}: {first}, left {left}; then {again}, left {files}", file=sys.stderr)
    shutil.rmtree(runs)
    return good


def run(overrides: list[str], runs: Path, trial: Trial = UNDISTURBED) -> Ended:
    """Execute a run in a child process, disturbed as in the trial."""
    library, (reading, writing) = ctypes.CDLL(None), os.pipe()
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if not child:
            os.dup2(said.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            library.fault_arm(str(runs).encode(), trial.name.encode(), trial.number, trial.fault)
            status = call(overrides, runs)
            os.write(writing, str(library.fault_count()).encode())
            os._exit(status)
        os.close(writing)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with os.fdopen(reading) as file:
            operations = int(file.read() or 0)
        said.seek(0)
        return Ended(status, said.read(), operations)


def call(overrides: list[str], runs: Path) -> int:
    """Do what `python run.py` does after composing a config; returns the exit status that the interpreter would."""
    from experiments.runner.command_line import one_line_errors
    from experiments.runner.execute import execute

    try:
        with one_line_errors():
            execute(composed(tuple(overrides), runs))
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
            return 1
        return error.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()
    return 0


def composed(overrides: tuple[str, ...], runs: Path) -> RunConfig:
    return dataclasses.replace(_compose(overrides), runs_dir=str(runs))


@lru_cache
def _compose(overrides: tuple[str, ...]) -> RunConfig:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from experiments.registry import register_settings

    register_settings()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return OmegaConf.to_object(compose("config", [*overrides]))


def beginning(begins: str, stopped: Path, folder: Path) -> Path:
    """A new folder of runs: an empty one, or one with a stopped run."""
    new = Path(tempfile.mkdtemp(dir=folder))
    return Path(shutil.copytree(stopped, new / "runs")) if begins == "checkpoint" else new


def rows_of(runs: Path) -> bytes:
    (path,) = runs.glob("*/*/metrics.csv")
    return path.read_bytes()


if __name__ == "__main__":
    of_all, where, *how = json.loads(sys.argv[1])
    main(of_all, Path(where), *how)
