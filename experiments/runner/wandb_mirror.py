"""Mirrors the rows to Weights & Biases. Whatever happens to W&B, the run and its CSV go on.

W&B runs in a separate process, which reads the rows from the run's folder. A run waits only for that process to end,
for at most PATIENCE seconds. After one failure, W&B is not tried again in the same process.

Each group of rows is one W&B step, counted from 0. No step is sent twice, so that an interrupted run continues the
same W&B run, and `make wandb-sync` can send what is missing at any later time.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from experiments.runner.settings import RunConfig, WandbMode

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ("*.npz", "*.safetensors", "*.png")  # what a run may leave besides rows
PATIENCE = 10.0  # seconds
POLL_SECONDS = 1.0


class WandbMirror:
    """One W&B run per run, with the same id, so that resuming continues it."""

    left_out = False  # whether W&B has failed and is skipped for the rest of this process

    def __init__(self, config: RunConfig, directory: Path):
        self._process: subprocess.Popen | None = None
        if config.recorder.wandb is not WandbMode.online or WandbMirror.left_out:
            return
        try:
            self._start(directory)
        except OSError as error:
            _leave_out(str(error))

    def _start(self, directory: Path) -> None:
        self._own = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        with (Path(self._own.name) / "said").open("wb") as said:
            command = [sys.executable, "-m", "experiments.runner.wandb_mirror"]
            self._process = subprocess.Popen(
                [*command, str(directory.resolve()), self._own.name, str(PATIENCE)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,  # Ctrl-C goes to the run only, which then ends this process
            )

    def check(self) -> None:
        """Report a failure of W&B during the run."""
        if self._process and self._process.poll() is not None:
            self._end(self._reason())

    def finish(self) -> None:
        """Wait until everything has been sent."""
        if not self._process:
            return
        try:
            self._process.communicate(b"over", timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return self._end(f"no answer within {PATIENCE:.0f} s")
        self._end(self._reason() if self._process.returncode else None)

    def _end(self, failure: str | None) -> None:
        if failure:
            _leave_out(failure)
        self._process = None
        self._own.cleanup()

    def _reason(self) -> str:
        said = (Path(self._own.name) / "said").read_text(errors="replace").strip().splitlines()
        return said[-1] if said else "its process was killed"


def _leave_out(reason: str) -> None:
    print(f"W&B is skipped from here on (`make wandb-sync` sends the rows): {reason}", file=sys.stderr)
    WandbMirror.left_out = True


def mirror(folder: Path, own: Path, ended: threading.Event, mode: str = "online") -> None:
    """Send a run's rows to W&B as they come, then its summary and files, until `ended` is set and all is sent.

    W&B's own files go to `own`. Only a note of what was sent is written to the run's folder.
    """
    import wandb  # slow to import

    os.environ["WANDB_DATA_DIR"] = str(own)
    config = yaml.safe_load((folder / "config.yaml").read_text())  # unresolved: an interpolation might name a secret
    run = wandb.init(
        project=config["recorder"]["project"],
        group=config["recorder"]["group"],
        name=folder.name,
        id=folder.name,
        resume="allow" if mode == "online" else None,
        dir=str(own),
        mode=mode,
        config=config,
        # Send nothing about the machine, its user, the command line or folders.
        settings=wandb.Settings(
            init_timeout=30,
            console="off",
            silent=True,
            host="hidden",
            disable_git=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_stats=True,
        ),
    )
    sent, over, complete = run.step, False, False
    while not over:
        over = ended.wait(POLL_SECONDS)
        complete = (folder / "summary.json").exists()
        groups = read_groups(folder)
        for number in range(sent, len(groups) - (not complete)):  # the last step may still get rows
            run.log(groups[number], step=number)
            sent = number + 1
    if complete:
        run.summary.update(json.loads((folder / "summary.json").read_text()))
        _send_files(run, folder)
    run.finish(exit_code=0 if complete else 1)
    if complete:
        _note_path(folder).write_text(_version(folder))


def _send_files(run: Any, folder: Path) -> None:
    """Send surfaces, weights and figures as one artifact. Links are skipped, because they may lead to a secret."""
    import wandb

    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", folder.name)[:128], type="run")
    found = [path for pattern in ARTIFACTS for path in sorted(folder.glob(pattern))]
    if files := [path for path in found if path.is_file() and not path.is_symlink()]:
        for path in files:
            artifact.add_file(str(path))
        run.log_artifact(artifact)


def read_groups(folder: Path) -> list[dict[str, float]]:
    """The measurements of each step: every seed's value, and the median over seeds under the metric's own name."""
    path = folder / "metrics.csv"
    whole, _, _ = (path.read_text() if path.exists() else "").rpartition("\n")  # the last line may be incomplete
    groups = []
    for step, rows in itertools.groupby(csv.DictReader(whole.splitlines()), lambda row: row["step"]):
        values, over_seeds = {}, defaultdict(list)
        for row in rows:
            name, value = f"{row['split']}/{row['metric']}", float(row["value"])
            values[f"seed_{row['seed']}/{name}"] = value
            over_seeds[name].append(value)
        groups.append({"step": int(step), **values, **{name: median(seen) for name, seen in over_seeds.items()}})
    return groups


def is_sent(folder: Path) -> bool:
    """Whether W&B has all of a complete run."""
    note = _note_path(folder)
    return note.exists() and note.read_text() == _version(folder)


def _note_path(folder: Path) -> Path:
    return folder / ".wandb-sent"


def _version(folder: Path) -> str:
    """What identifies the content of a complete run: its manifest, with the checksums of its rows and summary."""
    return (folder / "manifest.json").read_text()


def main() -> None:
    """Mirror one run until standard input closes, which it does however the run ends."""
    folder, own, patience = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    ended = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read(1)
        ended.set()
        time.sleep(patience)  # if the run was killed, nothing else ends this process
        os._exit(1)

    threading.Thread(target=wait_for_end, daemon=True).start()
    try:
        mirror(folder, own, ended)
    except Exception as error:
        print(next(iter(str(error).splitlines()), type(error).__name__), file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # a normal exit would wait for W&B's own process


if __name__ == "__main__":
    main()
