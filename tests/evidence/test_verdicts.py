"""From intervals to verdicts: premises, clauses, and the words that the report has for them."""

from __future__ import annotations

import pytest

from experiments.evidence.report import Domain, reports
from experiments.evidence.rows import as_rows
from experiments.evidence.verdicts import OURS_WHOLE, Claim, Evidence, Part, Premise, each, find

ROWS = as_rows([("e", "t", "m", 1, 0, 0, "test", "mse", 1.0, "paper")])


def part_of(holds: bool | None, statement: bool | None, missing: str = "", **of_part: object) -> Part:
    def judge(evidence: Evidence):
        return find(evidence, lambda: statement, missing, "1 mm", Premise(lambda: holds, "the earth is round"))

    claim = Claim("E1", "The earth's edge is far.", "no number", "It is far.", "make earth", judge, "Seen from a hill.")
    return Part("Earth", "Flat.", (claim,), lambda _: "| a | paper |", **of_part)


def pages(part: Part) -> tuple[str, str]:
    return tuple(reports(Evidence(ROWS, {}), [Domain("earth", (part,), (), ())]).values())


@pytest.mark.parametrize(
    ("holds", "statement", "verdict"),
    [
        (True, True, "reproduced"),
        (True, False, "not reproduced"),
        (True, None, "inconclusive"),
        (None, True, "inconclusive"),
        (None, False, "inconclusive"),
        (False, True, "not testable"),
        (False, False, "not testable"),
    ],
)
def test_a_claim_is_decided_where_its_premise_holds(holds: bool | None, statement: bool | None, verdict: str) -> None:
    front, details = pages(part_of(holds, statement))
    assert f"\n1 {verdict}.\n" in front  # the counts
    assert f"### E1: {verdict}\n" in details
    assert ("- Verdict: the earth is round\n" in details) == (holds is not True)
    assert (f"| **{verdict}**: the earth is round | paper |" in front) == (holds is not True)
    assert "- Limit: Seen from a hill.\n" in details
    assert "**not testable**: the claim's premise" in front  # the legend


def test_what_was_not_run_has_no_premise() -> None:
    front, _ = pages(part_of(None, None, missing="the edge"))
    assert "\n1 not run.\n" in front
    assert "the earth is round" not in front


def test_full_scale_is_the_papers_in_its_own_protocol_alone() -> None:
    front, details = pages(part_of(True, True))
    assert "| **reproduced** | paper |" in front
    assert "| a | paper |" in details
    front, details = pages(part_of(True, True, whole=OURS_WHOLE))
    assert "| **reproduced** | ours, whole |" in front
    assert "- Ours (ours, whole): 1 mm\n" in details
    assert "| a | ours, whole |" in details


def test_verdicts_by_what_they_depend_on() -> None:
    assert each({"1": True, "2": None, "3": True, "5": False}, "inputs") == (
        "reproduced with 1, 3 inputs; not reproduced with 5 inputs; inconclusive with 2 inputs"
    )
    assert each({}, "inputs") == ""
