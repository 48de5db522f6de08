"""What the programs that draw share: the style, the mark of reduced rows, logarithmic axes, files without dates."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from experiments.runner.curves import STYLE

matplotlib.style.use(STYLE)


def title(figure: Figure, title: str, detail: str, scale: str, mark: str = "REDUCED") -> None:
    """Name the figure, say in a second line what it shows and, where it is not whole, that it is reduced."""
    figure.suptitle(f"{title}\n{detail}", x=0.01, ha="left")
    if scale == "reduced":
        figure.text(0.99, 0.985, mark, color="#D55E00", ha="right", va="top", weight="bold")


def decades_axis(axes: Axes) -> None:
    """A logarithmic y axis with few labels, powers of ten. It shows one decade at least."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 10 * low:
        middle = (low * high) ** 0.5
        axes.set_ylim(middle / 10**0.5, middle * 10**0.5)
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_minor_formatter(NullFormatter())


def numbers_axis(axes: Axes, evenly_below: float, between_below: float, labels: int) -> None:
    """A logarithmic y axis that is labelled with plain numbers.

    Args:
        axes: The axes, which hold their curves already.
        evenly_below: Labels lie evenly spaced where the axis's ends have a ratio below this one.
        between_below: Labels are 1, 2 and 5 times powers of ten below this ratio, and powers of ten alone above.
        labels: How many there are, at most or about.
    """
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < evenly_below * low:  # 1, 2 and 5 would leave one label or none
        axes.yaxis.set_major_locator(MaxNLocator(4))
    else:
        axes.yaxis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if high < between_below * low else (1,), numticks=labels)
        )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


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
