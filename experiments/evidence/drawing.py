"""Shared drawing code: the style, the mark of reduced rows, logarithmic axes, and files without dates."""

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
    """Give a figure its title and a second line of detail, and mark it if its scale is reduced."""
    figure.suptitle(f"{title}\n{detail}", x=0.01, ha="left")
    if scale == "reduced":
        figure.text(0.99, 0.985, mark, color="#D55E00", ha="right", va="top", weight="bold")


def counted(seeds: Iterable[int], spread: str, more: str = "") -> str:
    """The number of seeds and what is shown of them: `6 seeds: median and quartiles`, but only `1 seed` for one.

    Args:
        seeds: The number of seeds of each cell.
        spread: What lines, bars and bands show.
        more: Text after the number, such as `, 5,000 updates`.
    """
    fewest, most = min(counts := [*seeds]), max(counts)
    if most == 1:
        return f"1 seed{more}"
    return f"{most if fewest == most else f'{fewest} to {most}'} seeds{more}: {spread}"


def some(count: int, markers: int = 5) -> slice:
    """Select about `markers` points of a line, including the last, for markers that identify it without colour."""
    every = max(1, (count - 1) // (markers - 1))
    return slice((count - 1) % every, None, every)


def decades_axis(axes: Axes) -> None:
    """A logarithmic y axis of at least one decade, with few labels.

    Labels are powers of ten; on a short axis they also include three times a power of ten.
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
    """10^k or 3 x 10^k, as mathtext."""
    digits, power = f"{number:.0e}".split("e")
    times = "" if digits == "1" else rf"{digits}\times "
    return f"${times}10^{{{int(power)}}}$"


def numbers_axis(axes: Axes, evenly_below: float, between_below: float, labels: int, which: str = "y") -> None:
    """A logarithmic axis labelled with plain numbers.

    Args:
        axes: The axes, with their curves already drawn.
        evenly_below: Labels are evenly spaced if the ratio of the axis's ends is below this.
        between_below: Below this ratio labels are 1, 2 and 5 times powers of ten, above it powers of ten only.
        labels: The approximate maximum number of labels.
        which: `y` or `x`.
    """
    axes.set(**{f"{which}scale": "log"})
    axis, (low, high) = getattr(axes, f"{which}axis"), getattr(axes, f"get_{which}lim")()
    if high < evenly_below * low:  # with 1, 2 and 5 there would be at most one label
        axis.set_major_locator(MaxNLocator(4))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < between_below * low else (1,), numticks=labels))
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, stem: Path, pdf: bool = False) -> None:
    """Write `stem`.png, and `stem`.pdf if asked for, and print each path.

    The PNG has a palette of 256 colours, which takes a third of the bytes without a visible difference (at most 18 of
    255 per channel in the shipped figures). It has no dates or versions, so that the same rows give the same file.
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
