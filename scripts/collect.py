"""From run folders to the evidence that ships: tidy rows, surfaces, and what each run was run with.

python -m scripts.collect                              every complete run under runs/
python -m scripts.collect --runs a/runs b/runs         from several machines' folders
python -m scripts.collect --results my_results regression

A cell is one experiment, task, method and training size, and all its seeds have the same settings: `settings.json`
has them. Rows already in the results stay unless a collected run answers the same question, cell and seed. A cell at
paper scale takes no reduced rows, and a run at paper scale replaces the reduced rows of its cell. Where rows of a run's
scale are there, one with other settings (another learning rate, say) is an experiment of yours and no evidence: it is
left out, unless --replace says that such runs take the whole cell. Of two collected runs that answer one question at
one scale the later is taken, and it says the settings of its cell. Whatever is left out is said, and so are rows that
differ from what their run wrote, cells that a grid lacks, and results of several revisions.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import math
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.identity import COLUMNS, OUTSIDE_IDENTITY, OUTSIDE_IDENTITY_OF_DATASETS
from sobolev.files import replacing

CELL = ("experiment", "task", "method", "n_train")
MANIFEST = (
    *("run_id", "revision", "dirty", "python", "torch", "numpy", "platform", "device", "threads", "precision"),
    "wall_seconds",
)

NO_GRID = {"train_teacher"}  # a teacher a game, each trained as long as it took
# The folder in the results of experiments whose name begins with a word; others have that of their first word.
DOMAINS = {"distill": "distillation", "train": "teachers", "synthetic": "synthetic_gradients"}
SCALES = ("paper", "reduced")
ARRAYS = {"surface.npz": "surfaces", "saliency.npz": "saliency"}  # what figures need besides rows, and where it goes

Rows = list[dict[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", help="folders of runs (default: runs)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where the evidence goes")
    parser.add_argument("--replace", action="store_true", help="let runs with other settings replace what is there")
    parser.add_argument("experiments", nargs="*", help="only these experiments")
    arguments = parser.parse_args()
    folders = arguments.runs or [Path("runs")]
    runs = [path for root in folders for path in sorted(root.glob("*/*/")) if (path / "config.yaml").exists()]
    if arguments.experiments:
        runs = [path for path in runs if path.parent.name in arguments.experiments]
    complete = [path for path in runs if (path / "summary.json").exists()]
    for path in sorted(set(runs) - set(complete)):
        print(f"not complete, left out: {path}", file=sys.stderr)
    if not complete:
        message = f"no complete run under {', '.join(map(str, folders))}: python run.py makes one"
        if arguments.runs:
            sys.exit(f"error: {message}")
        print(message, file=sys.stderr)  # `make figures` goes on, from what is in the results
    domains: dict[str, list[Path]] = {}
    for path in complete:
        domains.setdefault(domain(path.parent.name), []).append(path)
    for folder, members in domains.items():
        collect(members, arguments.results / folder, arguments.replace)
        print(f"{arguments.results / folder}: {len(members)} runs")


def domain(experiment: str) -> str:
    """The folder in the results where an experiment's rows go."""
    word = experiment.partition("_")[0]
    return DOMAINS.get(word, word)


def collect(runs: list[Path], folder: Path, replace: bool = False) -> None:
    """Merge complete runs of one domain into `folder`: rows.csv, runs.csv, settings.json, surfaces/ and saliency/."""
    results = Results.read(folder)
    candidates, settings_of = with_settings(candidates_of(runs), results, replace)
    chosen = choose(candidates, settings_of, results, replace)
    if replace:
        results = results.without(taken_whole(chosen, settings_of, results))
    rows = merged(results.rows, chosen)
    # Whose rows answer a question: a candidate's only where they were kept.
    kept = {key: candidate for key, candidate in chosen.items() if rows.get(key) is candidate.answers[key]}
    owners = results.owners() | {key: candidate.path.name for key, candidate in kept.items()}
    new = {(*each.cell, each.seeds): each.manifest() for each in dict.fromkeys(kept.values())}
    manifests = {
        key: row
        for key, row in (results.manifests | new).items()
        if any((*key[:-1], seed) in rows and owners.get((*key[:-1], seed)) == row["run_id"] for seed in key[-1].split())
    }

    ordered = [row for key in sorted(rows, key=order) for row in rows[key]]
    write_csv(folder / "rows.csv", (*COLUMNS, "scale"), ordered)
    write_settings(folder / "settings.json", {key[:-1]: settings_of.get(key[:-1]) for key in rows})
    copy_arrays(kept, rows, folder)
    write_csv(folder / "runs.csv", (*CELL, "seeds", "scale", *MANIFEST), [manifests[key] for key in sorted(manifests)])
    for line in gaps(list(manifests.values())):
        print(f"{folder}: {line}", file=sys.stderr)


@dataclass(frozen=True)
class Results:
    """What lies in the folder of one domain."""

    rows: dict[tuple, Rows]  # by question
    manifests: dict[tuple, dict[str, str]]  # the rows of runs.csv, by cell and seeds
    settings: dict[tuple, dict[str, Any]]  # by cell

    @classmethod
    def read(cls, folder: Path) -> Results:
        manifests = {(*cell(row), row["seeds"]): row for row in read_csv(folder / "runs.csv")}
        return cls(by_question(read_csv(folder / "rows.csv")), manifests, read_settings(folder / "settings.json"))

    def owners(self) -> dict[tuple, str]:
        """The run that answered each question."""
        return {(*key[:-1], seed): row["run_id"] for key, row in self.manifests.items() for seed in key[-1].split()}

    def scales(self) -> dict[tuple, str]:
        """The scale of each cell."""
        return {key[:-1]: rows[0]["scale"] for key, rows in self.rows.items()}

    def without(self, cells: set[tuple]) -> Results:
        rows = {key: rows for key, rows in self.rows.items() if key[:-1] not in cells}
        return Results(rows, self.manifests, self.settings)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A complete run that may be evidence."""

    path: Path
    scale: str
    cell: tuple[str, ...]
    answers: dict[tuple, Rows]  # by question
    settings: dict[str, Any]  # those that all seeds of its cell have in common

    @classmethod
    def read(cls, path: Path) -> Candidate:
        answers = by_question(row | {"scale": scale(path)} for row in read_csv(path / "metrics.csv"))
        (of_cell,) = {key[:-1] for key in answers}
        return cls(path, scale(path), of_cell, answers, settings_of_cell(path))

    @property
    def seeds(self) -> str:
        return " ".join(map(str, sorted(int(key[-1]) for key in self.answers)))

    def manifest(self) -> dict[str, Any]:
        """Its row of runs.csv."""
        noted = json.loads((self.path / "manifest.json").read_text())
        of_cell = dict(zip(CELL, self.cell, strict=True)) | {"seeds": self.seeds, "scale": self.scale}
        return of_cell | {name: noted[name] for name in MANIFEST}


def candidates_of(runs: list[Path]) -> list[Candidate]:
    """The runs that may be evidence. What comes later replaces: reduced before paper, then by time of completion."""
    candidates = []
    for run in runs:
        if reason := unusable(run):
            left_out(run, reason)
        else:
            candidates.append(Candidate.read(run))
    return sorted(candidates, key=lambda each: (each.scale == "paper", (each.path / "summary.json").stat().st_mtime_ns))


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


def copy_arrays(kept: dict[tuple, Candidate], rows: dict[tuple, Rows], folder: Path) -> None:
    """What figures need besides rows: the arrays of a cell are those of the run that has its first seed."""
    for of_cell in dict.fromkeys(key[:-1] for key in kept):
        first = min(int(key[-1]) for key in rows if key[:-1] == of_cell)
        if not (candidate := kept.get((*of_cell, str(first)))):
            continue
        for name, arrays in ARRAYS.items():
            if (candidate.path / name).exists():
                (folder / arrays).mkdir(exist_ok=True)
                with replacing(folder / arrays / f"{'_'.join(of_cell)}.npz") as temporary:
                    shutil.copyfile(candidate.path / name, temporary)


def left_out(run: Path, reason: str) -> None:
    print(f"left out, {reason}: {run}", file=sys.stderr)


def unusable(run: Path) -> str:
    """Why a complete run is no evidence; empty if it may be."""
    try:
        if not intact(run):
            return "metrics.csv is not what the run wrote"
        if scale(run) not in SCALES:
            return f"its summary says no scale ({' or '.join(SCALES)})"
        if "evaluate_on: validation" in (run / "config.yaml").read_text().splitlines():
            return "it was measured on validation data"
        rows = read_csv(run / "metrics.csv")
        if not all(math.isfinite(float(row["value"])) for row in rows):
            return "not every value is finite"
    except (OSError, ValueError, KeyError, TypeError) as error:  # a file is missing, cut short or not what it was
        return f"its files are damaged ({type(error).__name__}: {error})"
    return "" if rows else "it recorded no rows"


def settings(config: DictConfig) -> dict[str, Any]:
    """What a run's rows depend on, {"optimizer.steps": 5000, ...}; labels repeat it and are left out."""
    asked = OmegaConf.to_container(config)
    asked["precision"] = asked.get("compute", {}).get("precision")
    for key in (*OUTSIDE_IDENTITY, "labels"):
        asked.pop(key, None)
    for key in OUTSIDE_IDENTITY_OF_DATASETS:
        asked.get("dataset", {}).pop(key, None)
    flat = {}
    for name, value in asked.items():
        flat |= {f"{name}.{key}": entry for key, entry in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def settings_of_cell(run: Path) -> dict[str, Any]:
    """What all seeds of a run's cell have in common. Rows of `theory_exact` are by instance, all of one seed."""
    asked = settings(OmegaConf.load(run / "config.yaml"))
    free = ("networks",) if asked.get("name") == "theory_exact" else ("seed", "networks")
    return {key: value for key, value in asked.items() if key not in free}


def differences(asked: dict[str, Any], expected: dict[str, Any] | None) -> str:
    """Where settings differ, in words; empty if they do not, or if nothing is known of the cell's.

    A key that only one of them has came or went with a version of the code, and is no difference.
    """
    common = sorted(asked.keys() & expected.keys()) if expected is not None else []
    words = [f"{key} is {asked[key]}, not {expected[key]}" for key in common if asked[key] != expected[key]]
    return f"{words[0]} as in the other runs of its cell" if words else ""


def read_settings(path: Path) -> dict[tuple, dict[str, Any]]:
    """{cell: its settings}, of the cells that have some."""
    return {tuple(key.split()): value for key, value in json.loads(path.read_text()).items()} if path.exists() else {}


def write_settings(path: Path, settings_of: dict[tuple, dict[str, Any] | None]) -> None:
    """A line a cell."""
    lines = [f"{json.dumps(' '.join(key))}: {json.dumps(value)}" for key, value in sorted(settings_of.items()) if value]
    with replacing(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")


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
        if len(revisions := {run["revision"][:7] + "-dirty" * (run["dirty"] == "True") for run in of_experiment}) > 1:
            lines.append(f"{experiment} is from {len(revisions)} revisions: {', '.join(sorted(revisions))}")
    return lines


def intact(run: Path) -> bool:
    """Whether a run's rows are those that its manifest was written for. Older manifests do not say."""
    written = json.loads((run / "manifest.json").read_text()).get("metrics_sha256")
    return written in (None, hashlib.sha256((run / "metrics.csv").read_bytes()).hexdigest())


def scale(run: Path) -> str | None:
    return json.loads((run / "summary.json").read_text()).get("scale")


def cell(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[column] for column in CELL)


def question(row: dict[str, str]) -> tuple[str, ...]:
    return (*cell(row), row["seed"])


def by_question(rows: Iterable[dict[str, str]]) -> dict[tuple, Rows]:
    answers: dict[tuple, Rows] = {}
    for row in rows:
        answers.setdefault(question(row), []).append(row)
    return answers


def order(key: tuple[str, ...]) -> tuple:
    """Sorts questions with training size and seed as numbers."""
    return (*key[:3], int(key[3]), int(key[4]))


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, columns: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
