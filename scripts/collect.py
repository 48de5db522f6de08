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
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.run import COLUMNS, OUTSIDE_IDENTITY, OUTSIDE_IDENTITY_OF_DATASETS, replacing

CELL = ("experiment", "task", "method", "n_train")
MANIFEST = (
    *("run_id", "revision", "dirty", "python", "torch", "numpy", "platform", "device", "threads", "precision"),
    "wall_seconds",
)

# The folder in the results of experiments whose name begins with a word; others have that of their first word.
DOMAINS = {"distill": "distillation", "train": "teachers", "synthetic": "synthetic_gradients"}
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
    shipped: dict[tuple, Rows] = {}
    for row in read_csv(folder / "rows.csv"):
        shipped.setdefault(question(row), []).append(row)
    manifests = {(*cell(row), row["seeds"]): row for row in read_csv(folder / "runs.csv")}
    shipped_by = {(*key[:-1], seed): row for key, row in manifests.items() for seed in key[-1].split()}
    shipped_scales = {key[:-1]: rows[0]["scale"] for key, rows in shipped.items()}
    settings_of = read_settings(folder / "settings.json")

    # What comes later replaces: reduced before paper, then by the time of completion.
    usable = []
    for run in sorted(runs, key=lambda run: (scale(run) == "paper", (run / "summary.json").stat().st_mtime_ns)):
        if reason := unusable(run):
            print(f"left out, {reason}: {run}", file=sys.stderr)
            continue
        answers: dict[tuple, Rows] = {}
        for row in read_csv(run / "metrics.csv"):
            answers.setdefault(question(row), []).append(row | {"scale": scale(run)})
        there = [shipped_by[key] for key in answers if key in shipped_by]
        (of_cell,) = {key[:-1] for key in answers}
        asked = settings_of_cell(run)
        if shipped_scales.get(of_cell) == scale(run) and not replace:
            if of_cell not in settings_of and any(row["run_id"] != run.name for row in there):
                other = f"its settings are not those of {there[0]['run_id']} (--replace takes it)"
                print(f"left out, {other}: {run}", file=sys.stderr)
                continue
            if there:  # the same question: so these are the settings of a cell from before they were noted
                settings_of.setdefault(of_cell, asked)
        elif shipped_scales.get(of_cell) != "paper" or scale(run) == "paper":
            settings_of[of_cell] = asked
        usable.append((run, of_cell, answers, asked))

    fresh: dict[tuple, tuple[Rows, Path]] = {}
    for run, of_cell, answers, asked in usable:
        if differ := differences(asked, settings_of.get(of_cell)):
            remedy = " (--replace takes it)" if of_cell in shipped_scales and not replace else ""
            print(f"left out, {differ}{remedy}: {run}", file=sys.stderr)
            continue
        replaced = {other for key in answers if (other := fresh.get(key, (None, run))[1]) != run}
        for other in sorted(replaced):
            print(f"{other} answers what {run} answers, and is left out", file=sys.stderr)
        fresh |= {key: (rows, run) for key, rows in answers.items()}
    if replace:  # a cell with other settings, or with settings that nobody noted, is taken as a whole
        before = read_settings(folder / "settings.json")
        taken = {key[:-1] for key in fresh} & settings_of.keys()
        same = {c for c in taken & before.keys() if not differences(settings_of[c], before[c])}
        shipped = {key: rows for key, rows in shipped.items() if key[:-1] not in taken - same}
    for key, (rows, _) in fresh.items():
        if rows[0]["scale"] == "paper" or shipped.get(key, rows)[0]["scale"] != "paper":
            shipped[key] = rows
    at_paper_scale = {key[:-1] for key, rows in shipped.items() if rows[0]["scale"] == "paper"}
    kept = {k: rows for k, rows in shipped.items() if k[:-1] not in at_paper_scale or rows[0]["scale"] == "paper"}
    write_csv(folder / "rows.csv", (*COLUMNS, "scale"), [row for key in sorted(kept, key=order) for row in kept[key]])
    write_settings(folder / "settings.json", {key[:-1]: settings_of.get(key[:-1]) for key in kept})

    owners = {key: row["run_id"] for key, row in shipped_by.items()}  # whose rows answer a question
    owners |= {key: run.name for key, (rows, run) in fresh.items() if kept.get(key) is rows}
    for run in {run for _, run in fresh.values() if run.name in owners.values()}:
        rows = read_csv(run / "metrics.csv")
        seeds = sorted({int(row["seed"]) for row in rows})
        of_run = dict(zip(CELL, cell(rows[0]), strict=True)) | {"seeds": " ".join(map(str, seeds)), "scale": scale(run)}
        manifest = json.loads((run / "manifest.json").read_text())
        manifests[*cell(rows[0]), of_run["seeds"]] = of_run | {name: manifest[name] for name in MANIFEST}
        first = min(int(key[-1]) for key in kept if key[:-1] == cell(rows[0]))
        for name, arrays in ARRAYS.items():
            if (run / name).exists() and seeds[0] == first:  # a cell's arrays are those of its first seed
                (folder / arrays).mkdir(exist_ok=True)
                shutil.copyfile(run / name, folder / arrays / f"{'_'.join(cell(rows[0]))}.npz")
    known = {
        key: row
        for key, row in manifests.items()
        if any(owners[*key[:-1], seed] == row["run_id"] for seed in key[-1].split() if (*key[:-1], seed) in kept)
    }
    write_csv(folder / "runs.csv", (*CELL, "seeds", "scale", *MANIFEST), [known[key] for key in sorted(known)])
    for line in gaps(list(known.values())):
        print(f"{folder}: {line}", file=sys.stderr)


def unusable(run: Path) -> str:
    """Why a complete run is no evidence; empty if it may be."""
    if not intact(run):
        return "metrics.csv is not what the run wrote"
    if "evaluate_on: validation" in (run / "config.yaml").read_text().splitlines():
        return "it was measured on validation data"
    if not all(math.isfinite(float(row["value"])) for row in read_csv(run / "metrics.csv")):
        return "not every value is finite"
    return ""


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
    """What all seeds of a run's cell have in common."""
    asked = settings(OmegaConf.load(run / "config.yaml"))
    return {key: value for key, value in asked.items() if key not in ("seed", "networks")}


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
    for experiment in sorted({run["experiment"] for run in runs}):
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


def scale(run: Path) -> str:
    return json.loads((run / "summary.json").read_text())["scale"]


def cell(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[column] for column in CELL)


def question(row: dict[str, str]) -> tuple[str, ...]:
    return (*cell(row), row["seed"])


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
