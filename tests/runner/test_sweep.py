"""Sweeps: a grid is one command, goes on where it stopped, and says how far it is."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import weakref

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from experiments.runner.identity import folder_of, is_complete
from experiments.runner.progress import Grid
from hydra_plugins import resuming_sweeper
from scripts.fuzz_configs import front_door as asked
from sobolev.files import locked, sha256
from tests import front_door
from tests.conftest import ROOT, TINY
from tests.front_door import FrontDoor

GRID = ["loss=value,sobolev", "n_train=20"]
LOCAL = "hydra/launcher=local"


def sweep(folder, *overrides):
    """`python run.py -m` with tiny runs in `folder`."""
    command = ["-m", *TINY["regression"], f"runs_dir={folder}", "recorder=disabled", "compute.threads=1", *overrides]
    if LOCAL not in overrides:
        return front_door.run(*command)
    # Workers begin with what the program was begun with, so it must be the program itself.
    command = [sys.executable, "run.py", *command]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def runs_of(folder):
    return sorted(folder.glob("regression/*/"))


@pytest.mark.parametrize(
    "launcher", [[], pytest.param([LOCAL, "hydra.launcher.n_jobs=2"], marks=pytest.mark.slow)], ids=["here", "local"]
)
def test_a_sweep_goes_on_and_repeats_nothing(tmp_path, launcher):
    first = sweep(tmp_path, *GRID, *launcher)
    assert first.returncode == 0, first.stderr
    assert "0 of 2 runs done, 0 running, 2 to come" in first.stderr
    assert "2 of 2 runs done" in first.stderr
    assert len(runs_of(tmp_path)) == 2
    assert all(f"{run} is complete" in first.stderr for run in runs_of(tmp_path))
    assert "%" not in first.stderr  # no progress bar where nobody looks
    edited = runs_of(tmp_path)[1] / "manifest.json"
    edited.write_text(json.dumps(json.loads(edited.read_text()) | {"code": ["edited"]}))
    before = {path: path.stat().st_mtime_ns for run in runs_of(tmp_path) for path in run.iterdir()}
    (runs_of(tmp_path)[0] / "summary.json").unlink()
    again = sweep(tmp_path, *GRID, *launcher)
    assert "1 of 2 runs done, 0 running, 1 to come" in again.stderr
    assert f"1 of 1 complete runs are from different code, first {edited.parent}" in again.stderr
    after = {path: path.stat().st_mtime_ns for run in runs_of(tmp_path)[1:] for path in run.iterdir()}
    assert after.items() <= before.items()


def test_a_run_that_fails_does_not_stop_the_others(tmp_path):
    done = sweep(tmp_path, "dataset=booth", "n_train=20,0,30,20")  # what is asked twice is one run
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: 1 of 3 runs failed; the first: n_train must be positive, not 0"
    assert len([run for run in runs_of(tmp_path) if (run / "summary.json").exists()]) == 2


def test_a_grid_of_no_runs_is_refused(tmp_path):
    done = sweep(tmp_path, "seed=range(2,0)")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: the grid has no runs: one of its ranges is empty"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=range(1000000000000)", "the grid has more than 100,000 runs"),
        ("seed=shuffle(range(1000000000000))", "the grid has more than 100,000 runs"),
        ("optimizer.learning_rate=range(0,1,1e-12)", "the grid has more than 100,000 runs"),
        ("seed=range(1,2,0)", "with a step that is not 0"),
        ("optimizer.learning_rate=range(0.0,1.0,nan)", "with a step that is not 0"),
    ],
)
def test_a_grid_that_nobody_waits_for_is_refused(override, said):
    refusal, started = asked("-m", "loss=value,sobolev", override)
    assert refusal.startswith(f"error: {override}: ")
    assert said in refusal
    assert not started


def test_a_grid_has_one_folder(tmp_path):
    said, started = asked("-m", f"runs_dir={tmp_path}/a,b", "loss=value,sobolev")
    assert said.startswith(f"error: runs_dir={tmp_path}/a,b: a grid has one folder")
    assert not started
    assert not list(tmp_path.iterdir())
    said, started = asked("-m", f"runs_dir='{tmp_path}/a,b'", "loss=value,sobolev")
    assert said == ""
    assert {one.runs_dir for one in started} == {f"{tmp_path}/a,b"}


def test_a_launcher_that_cannot_start_is_one_line(tmp_path):
    done = sweep(tmp_path, LOCAL, "hydra.launcher.n_jobs=0")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: local: n_jobs == 0 in Parallel has no meaning"


@pytest.mark.parametrize("clock", [10, -3600], ids=["goes on", "was put back"])
def test_the_picture_of_a_grid(tmp_path, clock):
    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "summary.json").write_text('{"objective": 1}')
    (folders[0] / "metrics.csv").touch()
    noted = {"run_id": "a", "wall_seconds": 600, "metrics_sha256": sha256(folders[0] / "metrics.csv")}
    (folders[0] / "manifest.json").write_text(json.dumps(noted))
    grid = Grid("figure_2", folders)
    assert str(grid.picture()) == "1 of 4 runs done, 0 running, 3 to come"
    later = time.time() + clock
    for folder, name in ((folders[1], "config.yaml"), (folders[2], "error.txt")):
        (folder / name).touch()
        os.utime(folder / name, (later, later))
    # One is half way, one to come, at ten minutes each.
    assert str(grid.picture()) == "1 of 4 runs done, 1 running, 1 failed, 1 to come, about 15 min left"
    os.utime(folders[1] / "config.yaml", (0, 0))  # none runs for a moment: one worker is still what there is
    assert str(grid.picture()) == "1 of 4 runs done, 0 running, 1 failed, 2 to come, about 20 min left"


def test_a_folder_that_nobody_can_make_is_a_run_to_come(tmp_path):
    grid = Grid("figure_2", [tmp_path / ("long" * 100)])
    assert str(grid.picture()) == "0 of 1 runs done, 0 running, 1 to come"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_a_run_saves_first(tmp_path, number):
    """Its checkpoint is newer than the asking, and the same command ends in the rows of an undisturbed run."""
    options = [*TINY["regression"], "recorder=disabled", "compute.threads=1", "optimizer.steps=100000000", "n_train=20"]
    process = FrontDoor(*options, f"runs_dir={tmp_path}")
    while not list(tmp_path.glob("regression/*/metrics.csv")):
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number], stderr
    assert "Traceback" not in stderr
    (run,) = runs_of(tmp_path)
    assert (run / "checkpoint.pt").exists()
    assert not (run / "summary.json").exists()


@pytest.mark.slow
def test_asked_to_stop_a_sweep_ends_its_workers(tmp_path):
    options = [
        *TINY["regression"],
        "recorder=disabled",
        "compute.threads=1",
        "n_train=20,30",
        "optimizer.steps=100000000",
    ]
    launcher = [LOCAL, "hydra.launcher.n_jobs=2"]
    command = [sys.executable, "run.py", "-m", *options, *launcher, f"runs_dir={tmp_path}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while len(list(tmp_path.glob("regression/*/metrics.csv"))) < 2:
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
    process.terminate()
    _, stderr = process.communicate(timeout=600)  # workers too would hold stderr open
    assert process.returncode == 143, stderr
    for run in runs_of(tmp_path):
        with (run / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where a worker goes on


def test_processes_share_a_sweep(tmp_path, make_config):
    """A run that another process works on is skipped and reported."""
    busy = folder_of(make_config("dataset=booth", "n_train=20"))
    there = tmp_path / "runs" / "regression" / busy.name
    there.mkdir(parents=True)
    with locked(there / ".lock"):
        done = sweep(tmp_path / "runs", "dataset=booth,beale", "n_train=20")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "sweep: 1 of 2 runs belong to other processes and were skipped"
    assert [is_complete(run) for run in runs_of(tmp_path / "runs")].count(True) == 1
    assert not is_complete(there)


def test_a_long_sweep_keeps_no_config_of_what_is_done():
    """Hydra's launcher would: a quarter of a MiB a run."""
    launched, kept = [], []

    class Launcher(resuming_sweeper.BasicLauncher):  # Hydra runs its plugins' modules anew: the name's latest class
        def launch(self, job_overrides, initial_job_idx):
            results = [JobReturn(status=JobStatus.COMPLETED) for _ in job_overrides]
            launched.extend(map(weakref.ref, results))
            kept.append(sum(result() is not None for result in launched))
            return results

    sweeper = object.__new__(resuming_sweeper.ResumingSweeper)
    sweeper.launcher = Launcher()
    sweeper.config = OmegaConf.create({"hydra": {"runtime": {"choices": {"hydra/launcher": "basic"}}}})
    assert list(sweeper._failures([["seed=0"]] * 200)) == []
    assert max(kept) < 50


SLOW_IMPORT = """
import pathlib, sys, time

class Slow:
    def find_spec(name, *_):
        if name == "torch._C":
            pathlib.Path({began!r}).touch()
            time.sleep(600)

sys.meta_path.insert(0, Slow)
"""


def test_interrupted_while_it_still_imports(tmp_path):
    """PyTorch, which is held up until the signal comes."""
    began = tmp_path / "began"
    (tmp_path / "sitecustomize.py").write_text(SLOW_IMPORT.format(began=str(began)))
    command = [sys.executable, "run.py", *TINY["regression"], f"runs_dir={tmp_path}"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)
    while not began.exists():
        time.sleep(0.01)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130
    assert said == "interrupted: the same command continues from the last checkpoint\n"
