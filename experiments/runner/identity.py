"""Which folder is whose: the name of a run, and whether what lies in its folder is that run, complete.

A run is complete when `summary.json` was written. The manifest, written just before, names the run and holds the
checksums of rows and summary: a summary of another run, one laid beside rows that it was not written for, and one
without a finite objective complete nothing.
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
NEEDED_TO_RESUME = ("checkpoint.pt", "error.txt", "pace.json")  # what a complete run has no more


class Damaged(Exception):
    """A file is not what a run writes, or another run's. Its text says which and how."""


class Summary(BaseModel, extra="allow", strict=True):
    objective: FiniteFloat


class Manifest(BaseModel, strict=True):
    """What a manifest says about the files beside it; that of a run that goes on says nothing yet."""

    run_id: str
    metrics_sha256: str | None = None
    summary_sha256: str | None = None  # older manifests do not say


def folder_of(config: RunConfig) -> Path:
    return Path(config.runs_dir) / config.name / run_id(config)


def run_id(config: RunConfig) -> str:
    """A name for the question: its labels, its seed and a hash of all that is asked.

    Folders, recorder, compute and limit do not enter: where, how and for how long a run is computed is not what it
    asks. Precision is the exception, because rows depend on it.
    """
    asked = as_first_called(OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True))
    if (precision := asked["compute"]["precision"]) != "float32":
        asked["precision"] = precision
    for key in OUTSIDE_IDENTITY:
        del asked[key]
    for key in OUTSIDE_IDENTITY_OF_DATASETS:
        asked.get("dataset", {}).pop(key, None)
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:10]
    labels = asdict(config.labels)
    return f"{labels['task']}-{labels['method']}-n{labels['n_train']}-seed{config.seed}-{digest}".replace("/", "_")


def is_complete(folder: Path) -> bool:
    """Whether there is nothing left to do. A folder that cannot be read is a run to come, which will say why."""
    try:
        return bool(read_summary(folder))
    except (OSError, Damaged):
        return False


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a complete run, empty where there is none.

    Raises:
        Damaged: it is not the summary of this run and these rows.
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
    """Remove what a complete run needs no more: one that was killed at its very end could not. Best effort."""
    for name in NEEDED_TO_RESUME:
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
    remove_partial(folder)


def remove_partial(folder: Path) -> None:
    """Remove temporary files that a killed process left."""
    with suppress(OSError):
        for path in folder.glob(".*.partial"):
            path.unlink()


@contextmanager
def refusing_folder() -> Iterator[None]:
    """Say in one line that a folder of runs cannot be used."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        where = f"{error.filename} cannot be used ({error.strerror})"
        raise BadInput(f"{where}: name another folder as runs_dir") from None


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold the run's lock, in a folder that is made."""
    with ExitStack() as stack:
        with refusing_folder():
            directory.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(directory / ".lock", wait=False))
            except Busy as error:
                said = f"{directory} is being run by another process: wait for it, or change the config ({error})"
                raise RunBusy(said) from None
        yield
