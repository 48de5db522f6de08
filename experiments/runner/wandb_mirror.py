"""Weights & Biases as a mirror of the rows: whatever happens to it, the run and its CSV go on.

W&B works in a process of its own, which reads the rows from the run's folder. A run waits for nothing but that
process's end, for PATIENCE seconds at most, and a process that leaves W&B out once does not try it again.

Every group of rows is one of W&B's steps, counted from 0: what W&B has already is not sent twice, so that an
interrupted run goes on as the same W&B run, and `make wandb-sync` sends what is missing at any later time.
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
    """One W&B run a run of ours, with our run's id, so that resuming continues it and a sweep keeps them apart."""

    left_out = False  # for the rest of this process

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
                start_new_session=True,  # Ctrl-C is for the run, which then says that it has ended
            )

    def check(self) -> None:
        """Say where W&B has failed on the way."""
        if self._process and self._process.poll() is not None:
            self._end(self._reason())

    def finish(self) -> None:
        """Wait until W&B has all of the run."""
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
    print(f"W&B is left out from here on (`make wandb-sync` sends the rows): {reason}", file=sys.stderr)
    WandbMirror.left_out = True


def mirror(folder: Path, own: Path, ended: threading.Event, mode: str = "online") -> None:
    """Send a run's rows to W&B as they come, and its summary and files, until `ended` is set and all are sent.

    W&B's own files go to `own`, and nothing to the run's folder but a note of what was sent.
    """
    import wandb  # slow to import

    os.environ["WANDB_DATA_DIR"] = str(own)
    config = yaml.safe_load((folder / "config.yaml").read_text())  # as it stands: an interpolation might name a secret
    run = wandb.init(
        project=config["recorder"]["project"],
        group=config["recorder"]["group"],
        name=folder.name,
        id=folder.name,
        resume="allow" if mode == "online" else None,
        dir=str(own),
        mode=mode,
        config=config,
        # Neither the machine nor its user, command line and folders: they are not what was asked.
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
        for number in range(sent, len(groups) - (not complete)):  # more rows of the last step may come
            run.log(groups[number], step=number)
            sent = number + 1
    if complete:
        run.summary.update(json.loads((folder / "summary.json").read_text()))
        _send_files(run, folder)
    run.finish(exit_code=0 if complete else 1)
    if complete:
        _note_path(folder).write_text(_version(folder))


def _send_files(run: Any, folder: Path) -> None:
    """As one artifact what the run leaves besides rows: surfaces, weights, figures. A link may lead to a secret."""
    import wandb

    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", folder.name)[:128], type="run")
    found = [path for pattern in ARTIFACTS for path in sorted(folder.glob(pattern))]
    if files := [path for path in found if path.is_file() and not path.is_symlink()]:
        for path in files:
            artifact.add_file(str(path))
        run.log_artifact(artifact)


def read_groups(folder: Path) -> list[dict[str, float]]:
    """What was measured at each step: every seed's value, and the median over seeds under the metric's own name."""
    path = folder / "metrics.csv"
    whole, _, _ = (path.read_text() if path.exists() else "").rpartition("\n")  # the last line may be half written
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
    """The manifest of a complete run holds the checksums of its rows and summary."""
    return (folder / "manifest.json").read_text()


def main() -> None:
    """Mirror one run until the end of standard input says that it has ended, however it did."""
    folder, own, patience = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    ended = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read(1)
        ended.set()
        time.sleep(patience)  # where the run was killed, nobody else ends this process
        os._exit(1)

    threading.Thread(target=wait_for_end, daemon=True).start()
    try:
        mirror(folder, own, ended)
    except Exception as error:
        print(next(iter(str(error).splitlines()), type(error).__name__), file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # at the interpreter's end W&B would wait for its own process


if __name__ == "__main__":
    main()
