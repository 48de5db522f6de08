"""Read a .csv file of samples by the names of its columns, with one-line errors.

`dy/dx1` is the derivative of column y by column x1. Outputs are the columns y, y1, y2, ... and those that have such a
derivative column; all others are inputs. Columns are separated by commas, and numbers have decimal points.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path

import numpy as np

from experiments.runner.errors import BadInput

DERIVATIVE = re.compile(r"d(?P<output>.+)/d(?P<input>.+)")
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*")
Line = tuple[int, list[str]]  # line number and cells


def read_csv(
    path: Path, asked: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """x (N, I), y (N, O) and dy (N, O, I), with NaN for empty cells, and the names of inputs and outputs.

    Args:
        path: The file.
        asked: The columns that are outputs; if empty, they follow from the naming convention.

    Raises:
        BadInput: the content is not as expected.
    """
    lines = _lines(path)
    if not lines:
        raise BadInput(f"{path} is empty: its first line names the columns, as x1,x2,y,dy/dx1,dy/dx2")
    (_, header), *rows = lines
    header = [name.strip() for name in header]
    _check_header(header, path)
    inputs, outputs, derivatives = columns(header, asked, path)
    if not rows:
        raise BadInput(f"{path} has a header and no samples")
    try:
        numbers = np.array([[_number(cell) for cell in row] for _, row in rows], dtype=np.float64)
    except ValueError:
        numbers = None
    if numbers is None or numbers.shape[1] != len(header):
        number, said = next((number, said) for number, row in rows if (said := _fault(row, len(header))))
        raise BadInput(f"{path}, line {number}: expected {len(header)} numbers, as in its header, and {said}")
    at = {name: numbers[:, k] for k, name in enumerate(header)}
    x, y = (np.stack([at[name] for name in names], 1) for names in (inputs, outputs))
    known = [at[name] if derivatives else np.full(len(x), np.nan) for name in names_of_derivatives(outputs, inputs)]
    return x, y, np.stack(known, 1).reshape(len(x), len(outputs), len(inputs)), inputs, outputs


def _lines(path: Path) -> list[Line]:
    """The lines that are not blank."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
        except csv.Error as error:
            raise BadInput(f"{path}, line {reader.line_num}: {error}: is a quotation mark left open?") from None


def _check_header(header: list[str], path: Path) -> None:
    """Refuse empty and repeated names, and separators other than commas."""
    if len(header) == 1 and (other := re.search(r"[;\t|]", header[0])):
        said = {"\t": "tabs", ";": "semicolons", "|": "bars"}[other[0]]
        raise BadInput(f"{path}: its columns are separated by {said}: expected commas, and numbers with points")
    for number, name in enumerate(header, 1):
        if re.fullmatch(r"(Unnamed: \d+)?", name):  # pandas' name for an unnamed index column
            said = "does its line end with a comma?" if number == len(header) else "is it an index? pandas: index=False"
            raise BadInput(f"{path}: column {number} has no name: {said}")
    if repeated := [name for name in header if header.count(name) > 1]:
        raise BadInput(f"{path} has the column {repeated[0]} twice")


def columns(header: Sequence[str], asked: Sequence[str], path: Path) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """The inputs, the outputs, and whether there are derivatives: then every output has one by every input.

    Raises:
        BadInput: a column is missing, or its name is ambiguous.
    """
    found = {name: match for name in header if (match := DERIVATIVE.fullmatch(name))}
    derived = {match["output"] for match in found.values()}
    plain = [name for name in header if name not in found]
    outputs = tuple(
        name for name in plain if (name in asked if asked else re.fullmatch(r"y\d*", name) or name in derived)
    )
    inputs = tuple(name for name in plain if name not in outputs)
    named = ", ".join(header) or "nothing"
    if missing := [name for name in asked if name not in plain]:
        raise BadInput(f"{path} has no column {missing[0]}, which dataset.outputs names, but {named}")
    for name, meant in _meant(plain).items():
        if name not in asked:
            raise BadInput(f"{path}: the column {name} looks like a derivative, and would be an input: name it {meant}")
    for name, match in found.items():
        for role, names in (("output", outputs), ("input", inputs)):
            if match[role] not in names:
                raise BadInput(
                    f"{path}: the column {name} is a derivative, but {match[role]} is no {role} of its header"
                )
    if not outputs or not inputs:
        which = "output" if not outputs else "input"
        raise BadInput(
            f"{path} has no {which} among {named}: name columns as x1,x2,y,dy/dx1,dy/dx2 or set dataset.outputs"
        )
    if found and (missing := [name for name in names_of_derivatives(outputs, inputs) if name not in found]):
        raise BadInput(f"{path} has no column {missing[0]}: where it is not known, leave its cells empty")
    return inputs, outputs, bool(found)


def names_of_derivatives(outputs: Sequence[str], inputs: Sequence[str]) -> list[str]:
    return [f"d{output}/d{name}" for output, name in product(outputs, inputs)]


def _meant(plain: Sequence[str]) -> dict[str, str]:
    """Columns that look like misspelt derivatives of one column by another: {"dlift_da": "dlift/da"}."""
    suspects = {name: said for name in plain if (said := _letters(name)).startswith("d")}
    if not suspects:
        return {}
    meant = {}
    for output, by in permutations([name for name in plain if _letters(name)], 2):
        meant[_letters(f"d{output}d{by}")] = meant[_letters(f"d{output}{by}"), "apart"] = f"d{output}/d{by}"
    found = {}
    for name, said in suspects.items():
        apart = re.search(r"[\W_]", name)  # as in dlift_a; "day" is not a derivative by a
        if derivative := meant.get(said) or (apart and meant.get((said, "apart"))):
            found[name] = derivative
    return found


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


def _number(cell: str) -> float:
    return float(cell.strip() or "nan")


def _fault(row: list[str], width: int) -> str:
    """Why a line is not `width` numbers; empty if it is."""
    for cell in row:
        try:
            _number(cell)
        except ValueError:
            comma = bool(DECIMAL_COMMA.fullmatch(cell))
            return f"{cell.strip()[:40]!r} {'has a decimal comma: write a point' if comma else 'is none'}"
    if len(row) == width:
        return ""
    return f"it has {len(row)}" + (": do its numbers have decimal commas?" if len(row) == 2 * width else "")
