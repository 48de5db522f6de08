"""Judge the paper's claims:  python -m scripts.report [--results results] [--out results/REPORT.md]"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.evidence.reading import EvidenceError
from experiments.evidence.report import read_evidence, report
from experiments.evidence.verdicts import Part
from experiments.registry import modules
from experiments.runner.command_line import one_line_errors


def all_parts() -> list[Part]:
    """The parts of the report, in its order."""
    return [part for claims in modules("claims").values() for part in claims.PARTS]


def main(arguments: list[str] | None = None) -> int:
    """Write the report, print its path, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.report", description="Judge the paper's claims.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds */rows.csv.gz")
    parser.add_argument("--out", type=Path, help="where to write (default: REPORT.md in --results)")
    options = parser.parse_args(arguments)
    out = options.out or options.results / "REPORT.md"
    try:
        evidence = read_evidence(options.results)
        text = report(evidence, all_parts())
    except EvidenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(out)
    return 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
