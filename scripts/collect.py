"""Collect the evidence that ships from run folders: tidy rows, surfaces, and how each run was made.

python -m scripts.collect                              every complete run under runs/
python -m scripts.collect --runs a/runs b/runs.tgz     from several machines' folders, or bundles of runs
python -m scripts.collect --results my_results regression

Existing rows stay unless a collected run answers the same question. A run whose settings differ from its cell's is
skipped unless --replace is given. A run is reported and left out, and the exit status is 1, if its files are damaged,
its rows are not those that it wrote, or its labels do not match its settings. The files of a domain change together,
under a lock, with their checksums.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.evidence.collect import collect
from experiments.evidence.results import DECIDED, alone
from experiments.registry import results_folder
from experiments.runner.bundle import unpacked
from experiments.runner.command_line import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", help="folders of runs, or bundles (default: runs)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for the evidence")
    parser.add_argument("--replace", action="store_true", help="let runs with other settings replace existing cells")
    parser.add_argument("experiments", nargs="*", help="only these experiments")
    arguments = parser.parse_args()
    for decided in arguments.results.glob(f"*/{DECIDED}"):
        with alone(decided.parent):  # completes an interrupted change
            pass
    for missing in (path for path in arguments.runs or () if not path.exists()):
        sys.exit(f"error: there is no {missing}: --runs takes folders and bundles; experiments come before it")
    with unpacked(arguments.runs or [Path("runs")]) as folders:
        whole = collected(folders, arguments)
    if not whole:
        sys.exit("error: not everything could be collected, see above")


def collected(folders: list[Path], arguments: argparse.Namespace) -> bool:
    """Collect every complete run in these folders; returns False if one had to be left out."""
    runs = [path for root in folders for path in sorted(root.glob("*/*/")) if (path / "config.yaml").exists()]
    if arguments.experiments:
        runs = [path for path in runs if path.parent.name in arguments.experiments]
    complete = [path for path in runs if (path / "summary.json").exists()]
    for path in sorted(set(runs) - set(complete)):
        print(f"not complete, left out: {path}", file=sys.stderr)
    if not complete:
        message = f"no complete run under {', '.join(map(str, arguments.runs or folders))}: python run.py makes one"
        if arguments.runs:
            sys.exit(f"error: {message}")
        print(message, file=sys.stderr)  # no error: `make figures` continues with the existing results
    of_folder: dict[str, list[Path]] = {}
    for path in complete:
        of_folder.setdefault(results_folder(path.parent.name), []).append(path)
    return all([collect(members, arguments.results / name, arguments.replace) for name, members in of_folder.items()])


if __name__ == "__main__":
    with one_line_errors():
        main()
