"""Numbers, intervals and tables as Markdown, and tables as files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.evidence.rows import Estimate, Interval


def format_spread(mean: float, std: float) -> str:
    """`93.5 ± 0.01`, or only the mean if there is no standard deviation."""
    return f"{mean:.1f}" if np.isnan(std) else f"{mean:.1f} ± {std:.2f}"


def format_number(value: float) -> str:
    """Three significant digits: 0.0123, 45.6, 7.89e+04."""
    return f"{value:.3g}"


def format_interval(interval: Interval | Estimate) -> str:
    """`median [low, high]`, or only the median if there is no interval."""
    middle, low, high, _ = interval
    if np.isnan(low):
        return format_number(middle)
    return f"{format_number(middle)} [{format_number(low)}, {format_number(high)}]"


def format_factor(interval: Interval | Estimate) -> str:
    """An interval of log10 ratios, as a factor."""
    return format_interval(Interval(*(10**end for end in interval[:3]), interval.n))


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines))


def write(stem: Path, table: str, entries: Sequence[NamedTuple]) -> None:
    """Write `stem`.md and `stem`.csv, and print both paths. An unknown field is empty."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    as_markdown, as_csv = stem.with_name(f"{stem.name}.md"), stem.with_name(f"{stem.name}.csv")
    as_markdown.write_text(table + "\n")
    with as_csv.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(entries[0]._fields)
        for entry in entries:
            fields = [f"{value:.6g}" if isinstance(value, float) else value for value in entry]
            writer.writerow(["" if field == "nan" else field for field in fields])
    print(as_markdown, as_csv, sep="\n")
