"""The README's answers are those of the report, which another test holds against the shipped rows.

A number that is typed in the table of answers is taken from the report's own sentence once more, and a verdict from the
page that it links.
"""

import json
import re
from collections import defaultdict
from functools import partial

import pandas as pd
import pytest

from experiments.synthetic_gradients.names import TECHNIQUES
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "results"
VERDICT = re.compile(r"\[([^\]]+): (\w[\w ]*)\]\((results/report/\w+\.md)\)")
NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
INTERVAL = rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]"


def table(first: str) -> dict[str, list[str]]:
    """The rows of the README's table whose head begins with `first`, by their first cell."""
    lines = README.partition(f"\n| {first} ")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


ANSWERS = {VERDICT.search(verdict)[1]: answer for answer, verdict in table("do derivatives help?").values()}


def said(question: str) -> str:
    """The answer of the report's front page to a question."""
    return (RESULTS / "REPORT.md").read_text().partition(f"**{question}")[2].partition("\n\n**")[0]


def found(pattern: str, text: str) -> list[str]:
    return [number for groups in re.findall(pattern, text) for number in groups]


def functions_won() -> list[str]:
    head, _, *rows = [line.strip("| ").split(" | ") for line in said("Does Sobolev").splitlines() if "|" in line]
    on_the_way = head.index("30,000 updates")
    after = [number for row in rows for number in (row[0].removesuffix(" points"), row[on_the_way])]
    return ["30,000", *after, *(row[-1] for row in rows)]


def recipe(functions: int = 7) -> list[str]:
    won = rf"(\d) of {functions} functions at ([\d,]+) points \(geometric mean of all ratios ({NUMBER})"
    return found(won, said("With which recipe"))


def fewer_points() -> list[str]:
    answer = said("Do fewer points suffice")
    two, twenty = (re.findall(rf"{INTERVAL} at {inputs}(?: inputs)?[;.]", answer) for inputs in (2, 20))
    return [*two[0], "2", *twenty[0], "20"]


def gradients_learned() -> list[str]:
    return [
        number
        for activation in (" tanh", " relu")
        for number in found(rf"({NUMBER}) to ({NUMBER}) with{activation}", said("Are derivatives learned"))
    ]


def students() -> list[str]:
    return found(rf"({NUMBER}) to ({NUMBER}) from ([\d,]+) states", said("Are students closer"))


def table_1() -> list[str]:
    rows = pd.read_csv(RESULTS / "tables" / "table_1.csv")
    rows = rows[rows.task == "cifar10_30_epochs"].sort_values("mean", ascending=False)
    assert rows.set_index("technique").seeds.to_dict() == {
        name: 2 if name == "sobolev" else 3 for name in rows.technique
    }
    return [text for row in rows.itertuples() for text in (TECHNIQUES[row.technique].title, f"{row.mean:.1f}")]


SOURCES = {
    "R1, at the end": functions_won,
    "Recipe": recipe,
    "Recipe, unseen functions": partial(recipe, 5),
    "RQ1, in practice": fewer_points,
    "RQ2, gradients": gradients_learned,
    "D1": students,
    "S1, CIFAR-10, 30 epochs, reduced": table_1,
}


@pytest.mark.parametrize("claim", ANSWERS)
def test_an_answer_has_the_reports_numbers(claim):
    expected = SOURCES[claim]()
    assert len(expected) >= 4
    words = rf"([A-Za-z][A-Za-z ]*) ({NUMBER})" if claim.startswith("S1") else rf"({NUMBER})()"
    assert [text for text in found(words, ANSWERS[claim]) if text] == expected


def test_the_short_answer_has_no_number_but_the_tables():
    short = " ".join(README.partition("**In short:**")[2].partition("\n\n")[0].split())
    of_recipe = [sorted(recipe(functions)[2::3], key=float) for functions in (7, 5)]
    ranges = [*of_recipe, sorted(functions_won()[-3:])]
    assert re.findall(NUMBER, short) == [*(end for each in ranges for end in (each[0], each[-1])), "7"]


def test_the_scores_beside_the_moving_picture_are_those_of_its_runs():
    rows = pd.read_csv(RESULTS / "distillation" / "rows.csv.gz")
    shown = rows.query("experiment == 'distill_atari' and task == 'breakout' and n_train == 1000 and seed == 0")
    score = shown.query("split == 'play' and metric == 'score'").set_index("method").value
    teacher = json.loads((RESULTS / "teachers" / "breakout.json").read_text())["score"]["mean"]
    caption = README.partition("A Breakout teacher")[2].partition("`make playing`")[0]
    expected = [f"{shown.step.max():,}", "0", f"{score['value']:.1f}", f"{score['sobolev']:.1f}", f"{teacher:.0f}"]
    assert re.findall(NUMBER, caption) == ["1,000", *expected]


def test_a_verdict_is_that_of_the_page_it_links():
    shown = VERDICT.findall(README)
    assert len(shown) > 10
    for claim, verdict, page in shown:
        assert verdicts(page)[claim] == {verdict}, (claim, page)


def verdicts(page: str) -> dict[str, set[str]]:
    """Of every claim, in all protocols of the page."""
    listed = defaultdict(set)
    for claim, verdict in re.findall(r"^### (.+): ([\w ]+)$", (ROOT / page).read_text(), re.MULTILINE):
        listed[claim].add(verdict)
    return listed


@pytest.mark.parametrize(
    "row", [*table("do derivatives help?").items(), *table("in the paper").items()], ids=lambda r: r[0]
)
def test_what_is_reduced_says_so(row):
    for claim, _, page in VERDICT.findall(row[1][-1]):
        of_claim = (ROOT / page).read_text().partition(f"\n### {claim}: ")[2].partition("\n### ")[0]
        if "- Ours (reduced): " in of_claim:
            assert "reduced" in " ".join(row[1])
