"""From complete runs to rows that ship: which runs take which cells, and one domain's files from then on.

A cell is one experiment, task, method and training size, and all its seeds have the same settings: `settings.json`
has them. Rows that are there stay unless a collected run answers the same question: the same cell and seed. A cell at
paper scale takes no reduced rows, and a run at paper scale replaces the reduced rows of its cell. A run whose settings
differ from its cell's is skipped unless --replace is given; then such runs take the whole cell. Of two collected runs
that answer one question at one scale the later is taken, with its settings. Whatever is left out is said, and so are
cells that a grid lacks, and rows of several revisions.
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

NO_GRID = {"train_teacher"}  # a teacher a game, each trained as long as it took
# Tables and figures of their own show these. Nothing reads their arrays, which would be 10 MB and more.
NOT_DRAWN = {
    *("distill_longer", "distill_float32"),
    *("regression_steep", "regression_recipes", "regression_recipe_limits"),
}


def collect(runs: list[Path], folder: Path, replace: bool = False) -> bool:
    """Merge complete runs of one domain into `folder`: rows.csv.gz, runs.csv, settings.json, surfaces/ and saliency/.

    False where a file was at fault: a run's, which is left out, or one of the results, which then stay as they are.
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
    """Put what the candidates say in its place among the results. The rows of runs.csv from then on."""
    results = Results.read(folder)
    admitted, settings_of = with_settings(candidates, results, replace)
    chosen = choose(admitted, settings_of, results, replace)
    if replace:
        results = results.without(taken_whole(chosen, settings_of, results))
    rows = merged(results.rows, chosen)
    # Whose rows answer a question: a candidate's only where they were kept.
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
    """What lies in the folder of one domain."""

    rows: dict[tuple, Rows]  # by question
    manifests: dict[tuple, dict[str, str]]  # the rows of runs.csv, by cell and seeds
    settings: dict[tuple, dict[str, Any]]  # by cell

    @classmethod
    def read(cls, folder: Path) -> Results:
        """What is there, all of it or none.

        Raises:
            EvidenceError: a file is damaged, cut or gone.
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
    """The settings of each cell, as far as anyone noted them, and the candidates that a cell without may take."""
    settings_of, admitted = dict(results.settings), []
    owners, scales = results.owners(), results.scales()
    for candidate in candidates:
        there = [owners[key] for key in candidate.answers if key in owners]
        before = scales.get(candidate.cell)
        if before == candidate.scale and not replace:
            if candidate.cell not in settings_of and any(owner != candidate.path.name for owner in there):
                left_out(candidate.path, f"its settings are not those of {there[0]} (--replace takes it)")
                continue
            if there:  # the same question: so these are the settings of a cell from before they were noted
                settings_of.setdefault(candidate.cell, candidate.settings)
        elif before != "paper" or candidate.scale == "paper":
            settings_of[candidate.cell] = candidate.settings
        admitted.append(candidate)
    return admitted, settings_of


def choose(
    candidates: list[Candidate], settings_of: dict[tuple, dict[str, Any]], results: Results, replace: bool
) -> dict[tuple, Candidate]:
    """For each question the last candidate that answers it with the settings of its cell."""
    chosen: dict[tuple, Candidate] = {}
    scales = results.scales()
    for candidate in candidates:
        if differ := differences(candidate.settings, settings_of.get(candidate.cell)):
            remedy = " (--replace takes it)" if candidate.cell in scales and not replace else ""
            left_out(candidate.path, differ + remedy)
            continue
        replaced = {chosen[key].path for key in candidate.answers if key in chosen} - {candidate.path}
        for other in sorted(replaced):
            print(f"{other} answers what {candidate.path} answers, and is left out", file=sys.stderr)
        chosen |= dict.fromkeys(candidate.answers, candidate)
    return chosen


def taken_whole(
    chosen: dict[tuple, Candidate], settings_of: dict[tuple, dict[str, Any]], results: Results
) -> set[tuple]:
    """The cells whose settings change, or were noted by nobody: none of their rows stay."""
    taken = {key[:-1] for key in chosen} & settings_of.keys()
    return {c for c in taken if c not in results.settings or differences(settings_of[c], results.settings[c])}


def merged(there: dict[tuple, Rows], chosen: dict[tuple, Candidate]) -> dict[tuple, Rows]:
    """Rows by question: those that are there and the chosen ones, reduced ones only in cells without paper scale."""
    rows = dict(there)
    for key, candidate in chosen.items():
        if candidate.scale == "paper" or key not in rows or rows[key][0]["scale"] != "paper":
            rows[key] = candidate.answers[key]
    at_paper_scale = {key[:-1] for key, of_key in rows.items() if of_key[0]["scale"] == "paper"}
    return {
        key: of_key for key, of_key in rows.items() if key[:-1] not in at_paper_scale or of_key[0]["scale"] == "paper"
    }


def arrays_of(kept: dict[tuple, Candidate], rows: dict[tuple, Rows]) -> dict[str, bytes]:
    """What figures need besides rows: the arrays of a cell are those of the run that has its first seed."""
    files = {}
    for of_cell in dict.fromkeys(key[:-1] for key in kept if key[0] not in NOT_DRAWN):
        first = min(int(key[-1]) for key in rows if key[:-1] == of_cell)
        if candidate := kept.get((*of_cell, str(first))):
            files |= {f"{folder}/{'_'.join(of_cell)}.npz": arrays for folder, arrays in candidate.arrays.items()}
    return files


def differences(asked: dict[str, Any], expected: dict[str, Any] | None) -> str:
    """Where settings differ, in words; empty if they do not, or if nothing is known of the cell's.

    A key that only one of them has came or went with a version of the code, and is no difference.
    """
    common = sorted(asked.keys() & expected.keys()) if expected is not None else []
    words = [f"{key} is {asked[key]}, not {expected[key]}" for key in common if asked[key] != expected[key]]
    return f"{words[0]} as in the other runs of its cell" if words else ""


def as_settings(settings_of: dict[tuple, dict[str, Any] | None]) -> bytes:
    """The content of settings.json: one line per cell."""
    lines = [f"{json.dumps(' '.join(key))}: {json.dumps(value)}" for key, value in sorted(settings_of.items()) if value]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def gaps(runs: Rows) -> list[str]:
    """What a reader should know: cells that an experiment's tasks, methods and sizes span but lack, mixed revisions."""
    lines = []
    for experiment in sorted({run["experiment"] for run in runs} - NO_GRID):
        of_experiment = [run for run in runs if run["experiment"] == experiment]
        spanned = set(itertools.product(*({run[column] for run in of_experiment} for column in CELL)))
        sizes = {(run["task"], run["n_train"]) for run in of_experiment}
        if len(sizes) == len({task for task, _ in sizes}):  # data sets, each of its own size
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
    """Sorts questions with training size and seed as numbers."""
    return (*key[:3], int(key[3]), int(key[4]))


def compressed(content: bytes) -> bytes:
    """The content of a .gz file: without a date, so that the same rows give the same file."""
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
