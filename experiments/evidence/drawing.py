"""What the programs that draw share: the style, the mark of reduced rows, files without dates."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure
from PIL import Image

from experiments.runner.curves import STYLE

matplotlib.style.use(STYLE)


def title(figure: Figure, title: str, detail: str, scale: str, mark: str = "REDUCED") -> None:
    """Name the figure, say in a second line what it shows and, where it is not whole, that it is reduced."""
    figure.suptitle(f"{title}\n{detail}", x=0.01, ha="left")
    if scale == "reduced":
        figure.text(0.99, 0.985, mark, color="#D55E00", ha="right", va="top", weight="bold")


def save(figure: Figure, stem: Path, pdf: bool = False) -> None:
    """Write `stem`.png, and `stem`.pdf if it is asked for, and print each path.

    The PNG has a palette of 256 colours that covers those drawn: a third of the bytes, and no pixel is off by more than
    what an eye can tell (18 of 255 in the worst of the shipped figures). Without dates and versions, the same rows give
    the same file.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = stem.with_name(f"{stem.name}.png")
    with io.BytesIO() as drawn:
        figure.savefig(drawn, format="png")
        image = (
            Image.open(drawn).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        )
        image.save(path, optimize=True, dpi=(figure.dpi, figure.dpi))
    print(path)
    if pdf:
        figure.set_layout_engine("none")  # the layout of the first file serves both
        figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
        print(path.with_suffix(".pdf"))
