"""Judge the paper's claims:  python -m scripts.report [--results results] [--out results]"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.evidence.reading import EvidenceError
from experiments.evidence.report import Domain, read_evidence, reports
from experiments.registry import modules
from experiments.runner.command_line import one_line_errors


def all_domains() -> list[Domain]:
    """Each domain's contribution to the report, in order."""
    return [
        Domain(name, claims.PARTS, getattr(claims, "ANSWERS", ()), getattr(claims, "CHANGED", ()))
        for name, claims in modules("claims").items()
    ]


def main(arguments: list[str] | None = None) -> int:
    """Write the pages of the report, print the path of the front page, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.report", description="Judge the paper's claims.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds */rows.csv.gz")
    parser.add_argument("--out", type=Path, help="folder for REPORT.md and report/ (default: --results)")
    options = parser.parse_args(arguments)
    out = options.out or options.results
    try:
        evidence = read_evidence(options.results)
        figures = {path.name for path in (options.results / "figures").glob("*.png")}
        pages = reports(evidence, all_domains(), figures)
    except EvidenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, text in pages.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    print(out / "REPORT.md")
    return 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
