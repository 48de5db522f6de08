"""What the programs that draw share: the style, the mark of reduced rows, logarithmic axes, files without dates."""

from __future__ import annotations

import io
from collections.abc import Iterable
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


def counted(seeds: Iterable[int], spread: str, more: str = "") -> str:
    """How many seeds cells have, and what is shown of them: `6 seeds: median and quartiles`, but `1 seed` alone.

    Args:
        seeds: How many seeds each cell has.
        spread: What lines, bars and bands are. Of one seed they are that seed.
        more: What follows the number, `, 5,000 updates`.
    """
    fewest, most = min(counts := [*seeds]), max(counts)
    if most == 1:
        return f"1 seed{more}"
    return f"{most if fewest == most else f'{fewest} to {most}'} seeds{more}: {spread}"


def some(count: int, markers: int = 5) -> slice:
    """About so many of the points of a line, the last among them, to mark: in grey, colours do not tell lines apart."""
    every = max(1, (count - 1) // (markers - 1))
    return slice((count - 1) % every, None, every)


def decades_axis(axes: Axes) -> None:
    """A logarithmic y axis with few labels: powers of ten and, where there would be one, three times them.

    It shows one decade at least.
    """
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 10 * low:
        middle = (low * high) ** 0.5
        axes.set_ylim(middle / 10**0.5, middle * 10**0.5)
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3) if high < 30 * low else (1,), numticks=5))
    axes.yaxis.set_major_formatter(FuncFormatter(_scientific))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _scientific(number: float, _: int) -> str:
    """10^k or 3 x 10^k, as a formula."""
    digits, power = f"{number:.0e}".split("e")
    times = "" if digits == "1" else rf"{digits}\times "
    return f"${times}10^{{{int(power)}}}$"


def numbers_axis(axes: Axes, evenly_below: float, between_below: float, labels: int, which: str = "y") -> None:
    """A logarithmic axis that is labelled with plain numbers.

    Args:
        axes: The axes, which hold their curves already.
        evenly_below: Labels lie evenly spaced where the axis's ends have a ratio below this one.
        between_below: Labels are 1, 2 and 5 times powers of ten below this ratio, and powers of ten alone above.
        labels: How many there are, at most or about.
        which: `y` or `x`.
    """
    axes.set(**{f"{which}scale": "log"})
    axis, (low, high) = getattr(axes, f"{which}axis"), getattr(axes, f"get_{which}lim")()
    if high < evenly_below * low:  # 1, 2 and 5 would leave one label or none
        axis.set_major_locator(MaxNLocator(4))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < between_below * low else (1,), numticks=labels))
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axis.set_minor_formatter(NullFormatter())


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
