"""What the words in rows are called in figures and tables, how they look there, and in which order they stand.

Each domain has a module `names` with the titles and looks of its own tasks and methods, and registers their order here.
A word that nobody registered, such as a function or a loss of one's own, is shown under the name that it has in the
rows, after the registered ones in alphabetical order, and takes a spare colour and marker.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

Look = dict[str, str]  # of a line: its colour and its marker, each of which tells it apart on its own

# The trainings that the paper compares, in several domains.
METHODS = {"value": "value only", "sobolev": "Sobolev", "derivative": "derivatives only"}
LOOKS: dict[str, Look] = {
    "value": {"color": "#0072B2", "marker": "o"},
    "sobolev": {"color": "#D55E00", "marker": "s"},
    "derivative": {"color": "#CC79A7", "marker": "D"},
}
SPARE_LOOKS: tuple[Look, ...] = (
    {"color": "#56B4E9", "marker": "v"},
    {"color": "#E69F00", "marker": "P"},
    {"color": "#000000", "marker": "X"},
)

_registered: dict[str, list[Mapping[str, Any]]] = {"task": [], "method": [METHODS]}


def register(column: str, titles: Mapping[str, Any]) -> None:
    """Let a domain's tasks or methods stand in the order of `titles`, also those that are added to it later."""
    if not any(titles is known for known in _registered[column]):
        _registered[column].append(titles)


def in_order(column: str, entries: Iterable) -> list:
    """The distinct entries of a column of rows: registered names first, in their order, all else sorted."""
    return sorted(set(entries), key=lambda entry: place(column, entry))


def place(column: str, entry: Any) -> tuple[int, Any]:
    """Where an entry of a column stands, as a key to sort by."""
    known = [*dict.fromkeys(itertools.chain.from_iterable(_registered.get(column, ())))]
    return known.index(entry) if entry in known else len(known), entry


def looks_of(names: Iterable[str], looks: Mapping[str, Look] = LOOKS) -> dict[str, Look]:
    """The look of each name: the one that it has in `looks`, or else the spare ones in turn."""
    spare = itertools.cycle(SPARE_LOOKS)
    return {name: looks.get(name) or next(spare) for name in names}
