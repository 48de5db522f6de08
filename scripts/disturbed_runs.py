"""The runs that `scripts.faults` disturbs, one of each kind, with their undisturbed rows and helpers to start them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sobolev.atari import AtariOptions, teacher_bytes
from sobolev.networks.atari_policies import teacher
from sobolev.seeding import generator

ROOT = Path(__file__).resolve().parents[1]
TEACHER = "teacher.safetensors"  # an untrained teacher, written before the student's run
# Each trains for a few seconds, with frequent checkpoints (`checkpoint_seconds` below). {runs} is the folder of the
# runs, and {above} its parent.
EXPERIMENTS = {
    "regression": "experiment=regression n_train=20 networks=2 n_test=200 model.hidden=[32,32] optimizer.steps=8000",
    "theory": "experiment=theory_points networks=2 n_test=200 optimizer.steps=8000",
    "synthetic_gradients": "experiment=synthetic_gradients optimizer.steps=150 gradient_samples=100",
    "train_teacher": "experiment=train_teacher teacher.environments=4 teacher.horizon=16 teacher.segment=512 "
    "teacher.steps=3072 evaluation_episodes=1 dataset.max_episode_frames=1000 compute.checkpoint_seconds=1",
    "distill_atari": "experiment=distill_atari dataset=atari/breakout dataset.folder={runs}/states "
    "dataset.n_states=2500 dataset.recording_environments=2 n_train=500 optimizer.steps=300 optimizer.batch_size=50 "
    "n_evaluate=200 n_gradients=20 evaluations=10 play_episodes=1 compute.checkpoint_seconds=1 "
    f"dataset.max_episode_frames=1000 dataset.teacher={{above}}/{TEACHER}",
    "surrogates": "experiment=surrogate_reactor dataset.folder={runs}/states dataset.n_samples=80 n_train=20 "
    "networks=2 network.hidden=[16] search.steps=200 optimizer.steps=1000",
}
COMMON = "compute.threads=1 compute.device=cpu compute.checkpoint_seconds=0.2"
PATIENCE = 600  # seconds for one command, on a machine that does much else


@dataclass(frozen=True)
class Bench:
    """One kind of run: its command, and its rows and duration when nothing disturbs it."""

    name: str
    overrides: list[str]
    folder: Path
    rows: bytes
    seconds: float  # from opening its folder to the end
    chance: random.Random

    def start(self, runs: Path, *more: str, **environment: str) -> subprocess.Popen:
        return start([*self.overrides, "recorder=disabled", *more], runs, **environment)

    def stopped(self, runs: Path, number: int) -> tuple[int, str]:
        """Send a signal at a random moment of the run; returns its exit status and stderr."""
        process = self.start(runs)
        wait_for_run(process, runs)
        time.sleep(self.chance.uniform(0, self.seconds))
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
        return process.returncode, said

    def ends_well(self, runs: Path) -> bool:
        """Whether repeating the command now ends with the undisturbed rows."""
        process = self.start(runs)
        _, said = process.communicate(timeout=PATIENCE)
        return process.returncode == 0 and "Traceback" not in said and rows_of(runs) == self.rows

    def somewhere(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{name}_", dir=self.folder))


def prepare(name: str, folder: Path, seed: int) -> Bench:
    """Run once undisturbed."""
    overrides = COMMON.split() + EXPERIMENTS[name].split()
    runs = folder / "undisturbed"
    if TEACHER in EXPERIMENTS[name]:
        write_teacher(folder / TEACHER)
    process = start([*overrides, "recorder=disabled"], runs)
    wait_for_run(process, runs)
    began = time.monotonic()
    _, said = process.communicate(timeout=PATIENCE)
    if process.returncode:
        sys.exit(f"error: {name} fails undisturbed: {said}")
    return Bench(name, overrides, folder, rows_of(runs), time.monotonic() - began, random.Random(seed))


def start(overrides: list[str], runs: Path, **environment: str) -> subprocess.Popen:
    asked = [o.replace("{runs}", str(runs)).replace("{above}", str(runs.parent)) for o in overrides]
    command = [sys.executable, "run.py", *asked, f"runs_dir={runs}"]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=os.environ | environment)


def write_teacher(path: Path) -> None:
    options = AtariOptions("breakout", ("noop", "fire", "right", "left"), max_episode_frames=1000)
    path.write_bytes(teacher_bytes(teacher(len(options.actions), generator(0, "teacher")), options))


def wait_for_run(process: subprocess.Popen, runs: Path) -> None:
    """Wait until this process has opened the run's folder, where it first rewrites the config."""
    began = time.time() - 1
    wait(process, lambda: any(config.stat().st_mtime > began for config in runs.glob("*/*/config.yaml")))


def wait(process: subprocess.Popen, until: Callable[[], bool]) -> None:
    """Wait for a condition, at most until the process ends."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline and not until():
        time.sleep(0.02)


def rows_of(runs: Path) -> bytes:
    (path,) = runs.glob("*/*/metrics.csv")
    return path.read_bytes()


def whole_files(runs: Path) -> bool:
    """Whether no file with a final name is empty. The lock and the rows do not count: they are written in place."""
    return all(
        path.stat().st_size
        for path in runs.glob("*/*/*")
        if path.is_file() and not path.name.startswith(".") and path.name not in ("metrics.csv", "error.txt")
    )
