"""From run folders to the evidence that ships: tidy rows, surfaces, and what each run was run with.

python -m scripts.collect                              every complete run under runs/
python -m scripts.collect --runs a/runs b/runs         from several machines' folders
python -m scripts.collect --results my_results regression

Rows already in the results stay unless a collected run answers the same question: the same experiment, task, method,
training size and seed. Of two runs for one question the one at paper scale is taken; two at the same scale are refused.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from pathlib import Path

from experiments.run import COLUMNS, replacing

KEY = ("experiment", "task", "method", "n_train", "seed")
MANIFEST_COLUMNS = ("revision", "dirty", "python", "torch", "numpy", "platform", "device", "threads", "precision")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", default=[Path("runs")], help="folders of runs")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where the evidence goes")
    parser.add_argument("experiments", nargs="*", help="only these experiments")
    arguments = parser.parse_args()
    runs = [path for root in arguments.runs for path in sorted(root.glob("*/*/")) if (path / "config.yaml").exists()]
    if arguments.experiments:
        runs = [path for path in runs if path.parent.name in arguments.experiments]
    complete = [path for path in runs if (path / "summary.json").exists()]
    for path in sorted(set(runs) - set(complete)):
        print(f"not complete, left out: {path}", file=sys.stderr)
    if not complete:
        sys.exit(f"error: no complete run under {', '.join(map(str, arguments.runs))}: python run.py makes one")
    domains: dict[str, list[Path]] = {}
    for path in complete:
        domains.setdefault(path.parent.name.partition("_")[0], []).append(path)
    for domain, members in domains.items():
        collect(members, arguments.results / domain)
        print(f"{arguments.results / domain}: {len(members)} runs")


def collect(runs: list[Path], folder: Path) -> None:
    """Merge complete runs of one domain into `folder`: rows.csv, runs.csv and surfaces/."""
    rows_by_key: dict[tuple, list[dict[str, str]]] = {}
    for row in read_csv(folder / "rows.csv"):
        rows_by_key.setdefault(tuple(row[column] for column in KEY), []).append(row)
    manifests = {row["run_id"]: row for row in read_csv(folder / "runs.csv")}
    source: dict[tuple, tuple[Path, str]] = {}
    surfaces: dict[str, Path] = {}
    for run in runs:
        scale = json.loads((run / "summary.json").read_text())["scale"]
        fresh: dict[tuple, list[dict[str, str]]] = {}
        for row in read_csv(run / "metrics.csv"):
            fresh.setdefault(tuple(row[column] for column in KEY), []).append(row | {"scale": scale})
        for key, rows in fresh.items():
            other, other_scale = source.get(key, (None, ""))
            if other and other_scale == scale:
                sys.exit(f"error: {other} and {run} both answer {' '.join(key)}: move one of them away")
            if other_scale != "paper":
                rows_by_key[key], source[key] = rows, (run, scale)
                surfaces["_".join(key[:4])] = run / "surface.npz"
        manifest = json.loads((run / "manifest.json").read_text())
        manifests[run.name] = {column: manifest[column] for column in ("run_id", *MANIFEST_COLUMNS, "wall_seconds")}
    write_csv(folder / "rows.csv", (*COLUMNS, "scale"), [row for key in order(rows_by_key) for row in rows_by_key[key]])
    write_csv(
        folder / "runs.csv",
        ("run_id", *MANIFEST_COLUMNS, "wall_seconds"),
        [manifests[name] for name in sorted(manifests)],
    )
    for name, path in surfaces.items():
        if path.exists():
            (folder / "surfaces").mkdir(exist_ok=True)
            shutil.copyfile(path, folder / "surfaces" / f"{name}.npz")


def order(keys) -> list[tuple]:
    """Keys sorted, with training size and seed as numbers."""
    return sorted(keys, key=lambda key: (*key[:3], int(key[3]), int(key[4])))


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
