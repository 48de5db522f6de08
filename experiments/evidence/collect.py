"""Merge complete runs into the results of a domain: decide which run provides which cell, and write the files.

A cell is one experiment, task, method and training size. All its seeds have the same settings, which `settings.json`
holds. A question is a cell and a seed. Existing rows stay unless a collected run answers the same question. A cell at
paper scale accepts no reduced rows, and a run at paper scale replaces its cell's reduced rows. A run whose settings
differ from its cell's is skipped unless --replace is given; then such runs replace the whole cell. If two collected
runs answer one question at one scale, the later one counts, with its settings. Skipped runs are reported, and so are
missing cells of a grid and rows from several revisions.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.evidence.candidates import Candidate, by_question, candidates_of, cell
from experiments.evidence.reading import ROWS_FILE, EvidenceError, Rows, expected, read_csv, read_json, rows_path
from experiments.evidence.results import alone, replace_together
from experiments.evidence.runs import left_out
from experiments.evidence.schemas import CELL, ROWS, RUNS, Settings
from experiments.runner.former_names import as_called_today

NO_GRID = {"train_teacher"}  # one teacher per game, each trained as long as it took
# These have their own tables and figures. Nothing reads their arrays, which would be more than 10 MB.
NOT_DRAWN = {
    *("distill_longer", "distill_float32"),
    *("regression_steep", "regression_recipes", "regression_recipe_limits"),
}


def collect(runs: list[Path], folder: Path, replace: bool = False) -> bool:
    """Merge complete runs of one domain into `folder`: rows.csv.gz, runs.csv, settings.json, surfaces/ and saliency/.

    Returns:
        False if a file is damaged: a run with one is skipped, and results with one stay unchanged.
    """
    try:
        candidates, damaged = candidates_of(runs)
        if candidates:
            with alone(folder):
                manifests = merge(candidates, folder, replace)
            for line in gaps(manifests):
                print(f"{folder}: {line}", file=sys.stderr)
    except (EvidenceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    print(f"{folder}: {len(runs)} runs")
    return not damaged


def merge(candidates: list[Candidate], folder: Path, replace: bool) -> Rows:
    """Merge the candidates into the results; returns the new rows of runs.csv."""
    results = Results.read(folder)
    admitted, settings_of = with_settings(candidates, results, replace)
    chosen = choose(admitted, settings_of, results, replace)
    if replace:
        results = results.without(taken_whole(chosen, settings_of, results))
    rows = merged(results.rows, chosen)
    # The candidates whose rows were kept, by question.
    kept = {key: candidate for key, candidate in chosen.items() if rows.get(key) is candidate.answers[key]}
    for outdone in sorted({*chosen.values()} - {*kept.values()}, key=lambda each: each.path):
        left_out(outdone.path, "it is reduced, and the rows of its cell are at the paper's scale")
    owners = results.owners() | {key: candidate.path.name for key, candidate in kept.items()}
    new = {(*each.cell, each.seeds): each.noted() for each in dict.fromkeys(kept.values())}
    manifests = {
        key: row
        for key, row in (results.manifests | new).items()
        if any((*key[:-1], seed) in rows and owners.get((*key[:-1], seed)) == row["run_id"] for seed in key[-1].split())
    }
    noted = [manifests[key] for key in sorted(manifests)]
    files = {
        ROWS_FILE: compressed(as_csv(ROWS, (row for key in sorted(rows, key=order) for row in rows[key]))),
        "settings.json": as_settings({key[:-1]: settings_of.get(key[:-1]) for key in rows}),
        "runs.csv": as_csv(RUNS, noted),
    }
    replace_together(folder, files | arrays_of(kept, rows))
    return noted


@dataclass(frozen=True)
class Results:
    """The contents of a domain's results folder."""

    rows: dict[tuple, Rows]  # by question
    manifests: dict[tuple, dict[str, str]]  # the rows of runs.csv, by cell and seeds
    settings: dict[tuple, dict[str, Any]]  # by cell

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Read the folder; empty if there are no results yet.

        Raises:
            EvidenceError: a file is damaged, truncated or missing.
        """

        def read(reader: Callable[[Path, Any], Any], path: Path, schema: Any) -> Any:
            return reader(path, schema) if expected(path) else {}

        rows = by_question(read(read_csv, rows_path(folder), ROWS))
        runs = read(read_csv, folder / "runs.csv", RUNS)
        settings = read(read_json, folder / "settings.json", Settings)
        for run in runs:
            if not any((*cell(run), seed) in rows for seed in run["seeds"].split()):
                raise EvidenceError(f"{rows_path(folder)} has no rows of {run['run_id']}, which runs.csv names")
        manifests = {(*cell(run), run["seeds"]): run for run in runs}
        today = {tuple(key.split()): as_called_today(value) for key, value in settings.items()}
        return cls(rows, manifests, today)

    def owners(self) -> dict[tuple, str]:
        """The run that answered each question."""
        return {(*key[:-1], seed): row["run_id"] for key, row in self.manifests.items() for seed in key[-1].split()}

    def scales(self) -> dict[tuple, str]:
        """The scale of each cell."""
        return {key[:-1]: rows[0]["scale"] for key, rows in self.rows.items()}

    def without(self, cells: set[tuple]) -> Results:
        rows = {key: rows for key, rows in self.rows.items() if key[:-1] not in cells}
        return Results(rows, self.manifests, self.settings)


def with_settings(
    candidates: list[Candidate], results: Results, replace: bool
) -> tuple[list[Candidate], dict[tuple, dict[str, Any]]]:
    """The candidates that may be merged, and the settings of each cell, if they were noted.

    A cell without noted settings accepts a candidate at its own scale only if that run itself answered a question of
    it, or if there is no answer to the candidate's questions.
    """
    settings_of, admitted = dict(results.settings), []
    owners, scales = results.owners(), results.scales()
    for candidate in candidates:
        there = [owners[key] for key in candidate.answers if key in owners]
        before = scales.get(candidate.cell)
        if before == candidate.scale and not replace:
            if candidate.cell not in settings_of and any(owner != candidate.path.name for owner in there):
                left_out(candidate.path, f"its settings are not those of {there[0]} (--replace takes it)")
                continue
            if there:  # the run that is already in the cell: its settings are those of the cell
                settings_of.setdefault(candidate.cell, candidate.settings)
        elif before != "paper" or candidate.scale == "paper":
            settings_of[candidate.cell] = candidate.settings
        admitted.append(candidate)
    return admitted, settings_of


def choose(
    candidates: list[Candidate], settings_of: dict[tuple, dict[str, Any]], results: Results, replace: bool
) -> dict[tuple, Candidate]:
    """For each question, the last candidate that answers it with the settings of its cell."""
    chosen: dict[tuple, Candidate] = {}
    scales = results.scales()
    for candidate in candidates:
        if differ := differences(candidate.settings, settings_of.get(candidate.cell)):
            remedy = " (--replace takes it)" if candidate.cell in scales and not replace else ""
            left_out(candidate.path, differ + remedy)
            continue
        replaced = {chosen[key].path for key in candidate.answers if key in chosen} - {candidate.path}
        for other in sorted(replaced):
            print(f"{other} answers the same question as {candidate.path} and is left out", file=sys.stderr)
        chosen |= dict.fromkeys(candidate.answers, candidate)
    return chosen


def taken_whole(
    chosen: dict[tuple, Candidate], settings_of: dict[tuple, dict[str, Any]], results: Results
) -> set[tuple]:
    """The cells whose settings change or were never noted: all of their old rows are dropped."""
    taken = {key[:-1] for key in chosen} & settings_of.keys()
    return {c for c in taken if c not in results.settings or differences(settings_of[c], results.settings[c])}


def merged(there: dict[tuple, Rows], chosen: dict[tuple, Candidate]) -> dict[tuple, Rows]:
    """Existing and chosen rows by question. Reduced rows are dropped from cells that have rows at paper scale."""
    rows = dict(there)
    for key, candidate in chosen.items():
        if candidate.scale == "paper" or key not in rows or rows[key][0]["scale"] != "paper":
            rows[key] = candidate.answers[key]
    at_paper_scale = {key[:-1] for key, of_key in rows.items() if of_key[0]["scale"] == "paper"}
    return {
        key: of_key for key, of_key in rows.items() if key[:-1] not in at_paper_scale or of_key[0]["scale"] == "paper"
    }


def arrays_of(kept: dict[tuple, Candidate], rows: dict[tuple, Rows]) -> dict[str, bytes]:
    """The arrays that figures need: for each cell, those of the run with its first seed."""
    files = {}
    for of_cell in dict.fromkeys(key[:-1] for key in kept if key[0] not in NOT_DRAWN):
        first = min(int(key[-1]) for key in rows if key[:-1] == of_cell)
        if candidate := kept.get((*of_cell, str(first))):
            files |= {f"{folder}/{'_'.join(of_cell)}.npz": arrays for folder, arrays in candidate.arrays.items()}
    return files


def differences(asked: dict[str, Any], expected: dict[str, Any] | None) -> str:
    """A message on the first difference between settings; empty if there is none, or the cell's are unknown.

    A key that only one of them has was added or removed with a version of the code, and is not a difference.
    """
    common = sorted(asked.keys() & expected.keys()) if expected is not None else []
    words = [f"{key} is {asked[key]}, not {expected[key]}" for key in common if asked[key] != expected[key]]
    return f"{words[0]} as in the other runs of its cell" if words else ""


def as_settings(settings_of: dict[tuple, dict[str, Any] | None]) -> bytes:
    """The content of settings.json: one line per cell."""
    lines = [f"{json.dumps(' '.join(key))}: {json.dumps(value)}" for key, value in sorted(settings_of.items()) if value]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def gaps(runs: Rows) -> list[str]:
    """Warnings: missing cells of the grid of an experiment's tasks, methods and sizes, and mixed revisions."""
    lines = []
    for experiment in sorted({run["experiment"] for run in runs} - NO_GRID):
        of_experiment = [run for run in runs if run["experiment"] == experiment]
        spanned = set(itertools.product(*({run[column] for run in of_experiment} for column in CELL)))
        sizes = {(run["task"], run["n_train"]) for run in of_experiment}
        if len(sizes) == len({task for task, _ in sizes}):  # data sets, each with its own size
            spanned = {key for key in spanned if (key[1], key[3]) in sizes}
        if missing := sorted(spanned - {cell(run) for run in of_experiment}):
            shown = ", ".join(" ".join(key[1:]) for key in missing[:3])
            lines.append(
                f"{experiment} lacks {len(missing)} cells of its grid: {shown}{', ...' if missing[3:] else ''}"
            )
        if unknown := [run for run in of_experiment if not run["revision"]]:
            what = f"{len(unknown)} of its runs {'are' if unknown[1:] else 'is'} of unknown revision"
            lines.append(f"{experiment}: {what}; `make revision` notes it for a copy without .git")
        if len(revisions := {revision_of(run) for run in of_experiment}) > 1:
            lines.append(f"{experiment} is from {len(revisions)} revisions: {', '.join(sorted(revisions))}")
    return lines


def revision_of(run: Mapping[str, str]) -> str:
    return (run["revision"][:7] or "unknown") + "-dirty" * (run["dirty"] == "True")


def order(key: tuple[str, ...]) -> tuple:
    """Sort key of a question, with training size and seed as numbers."""
    return (*key[:3], int(key[3]), int(key[4]))


def compressed(content: bytes) -> bytes:
    """The content of a .gz file without a date, so that the same rows give the same file."""
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=9, mtime=0) as file:
        file.write(content)
    return packed.getvalue()


def as_csv(columns: Iterable[str], rows: Iterable[Mapping[str, str]]) -> bytes:
    """The content of a CSV file."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, tuple(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
