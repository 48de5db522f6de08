"""Numbers that a page of docs/ states, held against numbers that were computed: what the tests of these pages share."""

import re
from collections.abc import Sequence
from functools import cache

import pandas as pd

from tests.conftest import ROOT

NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
RESULTS = ROOT / "results"


@cache
def rows(domain: str) -> pd.DataFrame:
    """The shipped rows of a domain. They are read as a user would; another test checks the file."""
    return pd.read_csv(RESULTS / domain / "rows.csv.gz")


@cache
def page(name: str) -> str:
    """A page of docs/ on one line."""
    return " ".join((ROOT / "docs" / f"{name}.md").read_text().split())


def passage(name: str, begins: str, ends: str) -> str:
    """What a page says from one phrase, which occurs once, to the next occurrence of another, without both."""
    assert page(name).count(begins) == 1, f"{name}: {begins!r} occurs {page(name).count(begins)} times"
    said, found, _ = page(name).partition(begins)[2].partition(ends)
    assert found, f"{name}: nothing after {begins!r} ends with {ends!r}"
    return said


def cell(name: str, of_row: str, column: int = 2) -> str:
    """A cell of a page's table, by the first cell of its row."""
    lines = [line.strip("|").split("|") for line in (ROOT / "docs" / f"{name}.md").read_text().splitlines()]
    (found,) = [entries for entries in lines if entries[0].strip() == of_row]
    return found[column]


def states(said: str, expected: Sequence[float | str]) -> None:
    """Check that the numbers in a text are the expected ones: text as it is, a number as it is rounded in the text."""
    shown = re.findall(NUMBER, said.replace("1:1", ""))
    assert len(shown) == len(expected), f"{said!r} has {shown}, but {expected} were computed"
    for of_page, of_rows in zip(shown, expected, strict=True):
        holds = of_page == of_rows if isinstance(of_rows, str) else rounds_to(of_rows, of_page)
        assert holds, f"{said!r} has {of_page}, but {of_rows} was computed"


def rounds_to(value: float, shown: str) -> bool:
    """Whether a number is shown correctly rounded; from 100 on, zeros at the end need not count, but two digits do."""
    digits, _, decimals = shown.replace(",", "").partition(".")
    zeros = 0 if decimals else min(len(digits) - len(digits.rstrip("0")), max(0, len(digits) - 2))
    unit = 10.0 ** (zeros - len(decimals))
    return abs(value - float(shown.replace(",", ""))) <= unit / 2 * (1 + 1e-9)
