"""The name of a run, and whether its folder holds that run, complete.

A run is complete once `summary.json` exists. The manifest, written just before, names the run and holds the checksums
of its rows and summary. A summary does not count if it belongs to another run or other rows, or if its objective is
not finite.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import BaseModel, FiniteFloat, ValidationError

from experiments.runner.errors import FULL, BadInput, RunBusy
from experiments.runner.former_names import as_first_called
from experiments.runner.settings import RunConfig
from sobolev.files import Busy, locked, read, sha256

COLUMNS = ("experiment", "task", "method", "n_train", "seed", "step", "split", "metric", "value")
OUTSIDE_IDENTITY = ("runs_dir", "recorder", "compute", "limit")
OUTSIDE_IDENTITY_OF_DATASETS = ("folder", "download", "workers")
NEEDED_TO_RESUME = ("checkpoint.pt", "error.txt", "pace.json")  # removed when a run is complete


class Damaged(Exception):
    """A file of a run is corrupt, or belongs to another run. The message names the file and the reason."""


class Summary(BaseModel, extra="allow", strict=True):
    objective: FiniteFloat


class Manifest(BaseModel, strict=True):
    """What a manifest says about the files beside it. The checksums are missing until the run is complete."""

    run_id: str
    metrics_sha256: str | None = None
    summary_sha256: str | None = None  # missing from older manifests


def folder_of(config: RunConfig) -> Path:
    return Path(config.runs_dir) / config.name / run_id(config)


def run_id(config: RunConfig) -> str:
    """The name of a run: its labels, its seed and a hash of its settings.

    Folders, recorder, compute and limit are left out, because where and for how long a run is computed does not change
    the question. Precision is included, because rows depend on it.
    """
    digest = digest_of(OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True))
    labels = asdict(config.labels)
    return f"{labels['task']}-{labels['method']}-n{labels['n_train']}-seed{config.seed}-{digest}".replace("/", "_")


def digest_of(asked: dict[str, Any]) -> str:
    """The hash of a run's resolved config, with which its name ends."""
    asked = as_first_called(asked)
    if (precision := asked.get("compute", {}).get("precision", "float32")) != "float32":
        asked["precision"] = precision
    for key in OUTSIDE_IDENTITY:
        asked.pop(key, None)
    for key in OUTSIDE_IDENTITY_OF_DATASETS:
        asked.get("dataset", {}).pop(key, None)
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:10]


def is_complete(folder: Path) -> bool:
    """Whether the run is complete. A folder that cannot be read counts as incomplete: its run will report the error."""
    try:
        return bool(read_summary(folder))
    except (OSError, Damaged):
        return False


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a complete run; empty if there is none.

    Raises:
        Damaged: the summary does not belong to this run and these rows.
    """
    path = folder / "summary.json"
    try:
        content = read(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    try:
        summary = Summary.model_validate_json(content)
    except ValidationError as error:
        raise Damaged(f"{path} is damaged ({error.errors()[0]['msg']})") from None
    try:
        noted = Manifest.model_validate_json(read(folder / "manifest.json"))
        belongs = noted.run_id == folder.name and noted.metrics_sha256 == sha256(folder / "metrics.csv")
    except (FileNotFoundError, ValidationError):
        belongs = False
    if not belongs or noted.summary_sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise Damaged(f"{path} was not written for this run and these rows")
    return summary.model_dump()


def tidy(folder: Path) -> None:
    """Remove files that a complete run no longer needs, in case it was killed before it could. Best effort."""
    for name in NEEDED_TO_RESUME:
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
    remove_partial(folder)


def remove_partial(folder: Path) -> None:
    """Remove temporary files that a killed process left behind."""
    with suppress(OSError):
        for path in folder.glob(".*.partial"):
            path.unlink()


@contextmanager
def refusing_folder() -> Iterator[None]:
    """Turn a system error into one line that says that the folder of runs cannot be used."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        where = f"{error.filename} cannot be used ({error.strerror})"
        raise BadInput(f"{where}: name another folder as runs_dir") from None


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Create the run's folder and hold its lock."""
    with ExitStack() as stack:
        with refusing_folder():
            directory.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(directory / ".lock", wait=False))
            except Busy as error:
                said = f"{directory} is being run by another process: wait for it, or change the config ({error})"
                raise RunBusy(said) from None
        yield
