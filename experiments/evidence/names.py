"""The titles, looks and order of tasks and methods in figures and tables.

Each domain has a module `names` with the titles and looks of its own tasks and methods, and registers their order here.
An unregistered name, such as a user's own function or loss, is shown as it is in the rows. It comes after the
registered names, in alphabetical order, with a spare colour and marker.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

Look = dict[str, str]  # a line's colour and marker; each alone identifies it

# The methods that the paper compares in several domains.
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
    """Register `titles` as the order of a domain's tasks or methods; entries may be added to it later."""
    if not any(titles is known for known in _registered[column]):
        _registered[column].append(titles)


def in_order(column: str, entries: Iterable) -> list:
    """The distinct entries of a column: registered names first, in their order, then the others, sorted."""
    return sorted(set(entries), key=lambda entry: place(column, entry))


def place(column: str, entry: Any) -> tuple[int, Any]:
    """The sort key of a column's entry."""
    known = [*dict.fromkeys(itertools.chain.from_iterable(_registered.get(column, ())))]
    return known.index(entry) if entry in known else len(known), entry


def looks_of(names: Iterable[str], looks: Mapping[str, Look] = LOOKS) -> dict[str, Look]:
    """The look of each name: its entry in `looks`, else the next spare one."""
    spare = itertools.cycle(SPARE_LOOKS)
    return {name: looks.get(name) or next(spare) for name in names}
