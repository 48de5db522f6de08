"""Draw figures from recorded rows.

python -m scripts.figures [--results results] [--out results/figures] [--pdf] [names ...]

A figure is a function of recorded rows and arrays. Drawing trains nothing and needs no display or network. A figure
with any reduced row is marked. Figures without rows are reported and skipped, and damaged evidence in one domain does
not prevent the figures of another.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.evidence import drawing
from experiments.evidence.reading import EvidenceError
from experiments.registry import check_file_name, modules
from experiments.runner.command_line import one_line_errors


def parse(names: list[str], arguments: list[str] | None) -> argparse.Namespace:
    """The options: `names` (default: all), `results` and `out`. An unknown name ends the program with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.figures", description="Draw figures from recorded rows.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds */rows.csv.gz")
    parser.add_argument("--out", type=Path, help="folder for the figures (default: figures in --results)")
    parser.add_argument("--pdf", action="store_true", help="write each figure as a PDF as well")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in names:
            parser.error(f"there is no figure {name!r}; choose from {', '.join(names)}")
    options.out = options.out or options.results / "figures"
    return options


def main(arguments: list[str] | None = None) -> int:
    """Draw the figures, print the path of each file, and return the exit status."""
    figures = modules("figures")
    options = parse([name for module in figures.values() for name in module.NAMES], arguments)
    drawn, missing, failed = set(), [], False
    for module in figures.values():
        names = [name for name in module.NAMES if name in (options.names or module.NAMES)]
        try:
            for name, file_name, figure in module.drawn(names, options.results):
                check_file_name(file_name, module)
                drawing.save(figure, options.out / file_name, options.pdf)
                drawn.add(name)
        except EvidenceError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        if left := ", ".join(name for name in names if name not in drawn):
            missing.append(f"{left}: no rows under {options.results} to show; {module.REMEDY}")
    if not drawn and not failed and not options.names:
        missing = [f"error: there are no rows under {options.results}: `make quickstart` makes some"]
    for line in missing:
        print(line, file=sys.stderr)
    return int(failed or not drawn or not drawn.issuperset(options.names))


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
