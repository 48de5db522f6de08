"""The complete runs that may become evidence: their files are intact and their labels match their settings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.evidence.reading import (
    ARRAYS_LIMIT,
    EvidenceError,
    Rows,
    inside,
    parse_arrays,
    parse_csv,
    read_bytes,
)
from experiments.evidence.runs import CompleteRun, check_labels, left_out
from experiments.evidence.schemas import CELL, MEASURED, PREDICTIONS, RUN_NOTES, SALIENCY, SCALES, SURFACE

# The arrays that figures need: {file of a run: (its schema, its folder in the results)}.
ARRAYS = {
    "surface.npz": (SURFACE, "surfaces"),
    "saliency.npz": (SALIENCY, "saliency"),
    "predictions.npz": (PREDICTIONS, "predictions"),
}


@dataclass(frozen=True, eq=False)
class Candidate:
    """A complete run that may become evidence."""

    path: Path
    scale: Any
    cell: tuple[str, ...]
    answers: dict[tuple, Rows]  # by question
    settings: dict[str, Any]  # shared by all seeds of its cell
    manifest: dict[str, Any]
    arrays: dict[str, bytes]  # {folder in the results: the npz file}
    unfit: str  # why its rows are not collected although no file is damaged; empty if they are

    @classmethod
    def read(cls, path: Path) -> Candidate:
        """Read a complete run.

        Raises:
            EvidenceError: a file is damaged or belongs to another run, or a label does not match the settings.
        """
        run = CompleteRun.read(path)
        if run.config["name"] != path.parent.name:
            raise EvidenceError(f"{path / 'config.yaml'} belongs to {run.config['name']}")
        check_labels(run.config)
        content = read_bytes(inside(path, "metrics.csv"))
        if run.manifest.metrics_sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise EvidenceError("metrics.csv is not what the run wrote")
        rows = parse_csv(content, path / "metrics.csv", MEASURED)
        of_cell = (run.config["name"], *(str(run.config["labels"][key]) for key in ("task", "method", "n_train")))
        by_instance = run.config["name"] == "theory_exact"  # its rows number instances of one seed
        seeds = range(run.config["seed"], run.config["seed"] + run.config.get("networks", 1))
        if any(cell(row) != of_cell or not (by_instance or int(row["seed"]) in seeds) for row in rows):
            raise EvidenceError("metrics.csv has rows of another run")
        if len({(row["seed"], row["step"], row["split"], row["metric"]) for row in rows}) < len(rows):
            raise EvidenceError("metrics.csv has a row twice")
        free = ("networks",) if by_instance else ("seed", "networks")
        return cls(
            path=path,
            scale=run.summary.scale,
            cell=of_cell,
            answers=by_question(row | {"scale": run.summary.scale} for row in rows),
            settings={key: value for key, value in run.settings.items() if key not in free},
            manifest=run.manifest.model_dump(),
            arrays=arrays_left(path),
            unfit=unfit(run, rows),
        )

    @property
    def seeds(self) -> str:
        return " ".join(map(str, sorted(int(key[-1]) for key in self.answers)))

    def noted(self) -> dict[str, str]:
        """The row of this run in runs.csv."""
        of_cell = dict(zip(CELL, self.cell, strict=True)) | {"seeds": self.seeds, "scale": self.scale}
        return of_cell | {name: "" if (note := self.manifest[name]) is None else str(note) for name in RUN_NOTES}


def unfit(run: CompleteRun, rows: Rows) -> str:
    """Why the rows of a run with intact files are not collected; empty if they are."""
    if run.summary.scale not in SCALES:
        return f"its summary gives no scale ({' or '.join(SCALES)})"
    if run.config.get("evaluate_on") == "validation":
        return "it was measured on validation data"
    if not all(math.isfinite(float(row["value"])) for row in rows):
        return "not every value is finite"
    return "" if rows else "it recorded no rows"


def arrays_left(run: Path) -> dict[str, bytes]:
    """The npz files of a run that figures need, each validated against its schema."""
    left = {}
    for name, (schema, folder) in ARRAYS.items():
        if (path := inside(run, name)).exists():
            left[folder] = read_bytes(path, ARRAYS_LIMIT)
            parse_arrays(left[folder], path, schema)
    return left


def candidates_of(runs: list[Path]) -> tuple[list[Candidate], bool]:
    """The runs that may become evidence, and whether any other run has a damaged file.

    Later candidates replace earlier ones: reduced ones come before paper scale, then by time of completion.
    """
    candidates, damaged = [], False
    for path in runs:
        try:
            candidate = Candidate.read(path)
        except (EvidenceError, OSError) as error:
            left_out(path, error)
            damaged = True
            continue
        if candidate.unfit:
            left_out(path, candidate.unfit)
        else:
            candidates.append(candidate)
    candidates.sort(key=lambda each: (each.scale == "paper", (each.path / "summary.json").stat().st_mtime_ns))
    return candidates, damaged


def cell(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[column] for column in CELL)


def question(row: dict[str, str]) -> tuple[str, ...]:
    return (*cell(row), row["seed"])


def by_question(rows: Iterable[dict[str, str]]) -> dict[tuple, Rows]:
    answers: dict[tuple, Rows] = {}
    for row in rows:
        answers.setdefault(question(row), []).append(row)
    return answers
