"""What the programs that draw share: the style, the command line, the mark of reduced rows, files without dates."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

from experiments.runner.curves import STYLE

matplotlib.style.use(STYLE)


def parse(program: str, names: Collection[str], domain: str, arguments: list[str] | None) -> argparse.Namespace:
    """The options of a program that draws one domain's figures: `names` (all by default), `results` and `out`.

    Ends the program with one line and status 2 where a name is unknown.
    """
    parser = argparse.ArgumentParser(prog=f"python -m scripts.{program}", description=f"Draw the figures of {domain}.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--results", type=Path, default=Path("results"), help=f"folder that holds {domain}/rows.csv.gz")
    parser.add_argument("--out", type=Path, help="folder for the figures (default: figures in --results)")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in names:
            parser.error(f"there is no figure {name!r}; choose from {', '.join(names)}")
    options.out = options.out or options.results / "figures"
    return options


def title(figure: Figure, title: str, detail: str, scale: str, mark: str = "REDUCED") -> None:
    """Name the figure, say in a second line what it shows and, where it is not whole, that it is reduced."""
    figure.suptitle(f"{title}\n{detail}", x=0.01, ha="left")
    if scale == "reduced":
        figure.text(0.99, 0.985, mark, color="#D55E00", ha="right", va="top", weight="bold")


def save(figure: Figure, stem: Path) -> None:
    """Write `stem`.png and `stem`.pdf, and print both paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for path in (stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")):
        # Without dates and versions, the same rows give the same file.
        figure.savefig(path, metadata={"Software": None} if path.suffix == ".png" else {"CreationDate": None})
        figure.set_layout_engine("none")  # the layout of the first file serves both
        print(path)
