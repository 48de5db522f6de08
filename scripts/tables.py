"""Write tables from recorded rows, as Markdown and as CSV.

python -m scripts.tables [--results results] [--out results/tables]

The tables are the final test errors of each regression experiment, and Table 1 of synthetic gradients.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.evidence.markdown import write
from experiments.evidence.reading import EvidenceError, expected, rows_path
from experiments.registry import check_file_name, modules
from experiments.runner.command_line import one_line_errors


def main(arguments: list[str] | None = None) -> int:
    """Write the tables, print the path of each, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.tables", description="Tables from recorded rows.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds */rows.csv.gz")
    parser.add_argument("--out", type=Path, help="folder for the tables (default: tables in --results)")
    options = parser.parse_args(arguments)
    out = options.out or options.results / "tables"
    try:
        there = [tables for name, tables in modules("tables").items() if expected(rows_path(options.results / name))]
        if not there:
            raise EvidenceError(f"there are no rows under {options.results}: `make quickstart` makes some")
        for of_domain in there:
            for name, text, entries in of_domain.tables(options.results):
                check_file_name(name, of_domain)
                write(out / name, text, entries)
    except EvidenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
