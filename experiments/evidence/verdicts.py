"""Claims of the paper, and how a verdict on each follows from intervals.

A claim is a statement that is true, false or open, in Kleene's three-valued logic. It is built from comparisons of an
interval with a number: true if the whole interval lies above the number, false if it lies below, and open if it
contains the number or has too few seeds. Each domain has its claims in a module `claims`.

Some claims have a premise, for example that teachers are uniform or that students overfit. If the premise does not hold
for our networks, they cannot test the claim, whatever the comparisons say. If the premise is open, so is the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd
from pydantic import JsonValue

from experiments.evidence.rows import MIN_SEEDS, MIN_SEEDS_OF_MEAN, Cell, Estimate, Interval, Surfaces, scale_of, select

Statement = bool | None

VERDICTS = {True: "reproduced", False: "not reproduced", None: "inconclusive"}
NOT_TESTABLE = "not testable"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Evidence:
    """What claims are judged by: rows, surfaces and the settings of cells."""

    rows: pd.DataFrame
    surfaces: Surfaces
    settings: Mapping[Cell, Mapping[str, JsonValue]] = field(default_factory=dict)

    def of(self, experiment: str) -> Evidence:
        """The rows of one experiment, with all surfaces, from which claims take properties of the targets."""
        return replace(self, rows=select(self.rows, experiment=experiment))


@dataclass(frozen=True)
class Finding:
    """What the evidence says about one claim.

    Attributes:
        verdict: One of ``VERDICTS``' values, ``NOT_TESTABLE`` or ``NOT_RUN``.
        ours: Our numbers, as Markdown.
        scale: `paper` or `reduced`; empty if nothing was run.
        because: A clause with the reason for the verdict; empty if the numbers suffice.
    """

    verdict: str
    ours: str
    scale: str = ""
    because: str = ""


@dataclass(frozen=True)
class Premise:
    """A condition that an experiment must meet to test a claim.

    Attributes:
        holds: Whether our rows meet it.
        otherwise: A clause that says why there is no verdict if they do not, or if that is open.
    """

    holds: Callable[[], Statement]
    otherwise: str


def find(
    evidence: Evidence,
    statement: Callable[[], Statement],
    missing: str,
    ours: str,
    premise: Premise | None = None,
    because: Callable[[], str] = str,
) -> Finding:
    """The verdict on a statement. If evidence is missing, neither the statement nor its premise is evaluated."""
    scale = scale_of(evidence.rows) if len(evidence.rows) else ""
    if missing:
        return Finding(NOT_RUN, ". ".join(filter(None, (ours, f"Missing: {missing}"))), scale)
    if premise and (holds := premise.holds()) is not True:
        return Finding(VERDICTS[None] if holds is None else NOT_TESTABLE, ours, scale, premise.otherwise)
    return Finding(VERDICTS[statement()], ours, scale, because())


def each(statements: Mapping[str, Statement], unit: str) -> str:
    """The verdicts on several statements in words: `reproduced with 1 input; inconclusive with 2, 3 inputs`."""
    by_verdict = {v: [name for name, s in statements.items() if s is decided] for decided, v in VERDICTS.items()}
    return "; ".join(
        f"{verdict} with {', '.join(names)} {unit.removesuffix('s') if names == ['1'] else unit}"
        for verdict, names in by_verdict.items()
        if names
    )


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        key: Its short name: R1, R2, ...
        sentence: What the paper claims.
        paper: The paper's number, or a note that it gives none.
        rule: When it counts as reproduced, written down before there were results.
        command: The command that produces the evidence and judges it.
        judge: The rule as code.
        limit: What the evidence cannot tell; empty if there is nothing to add.
    """

    key: str
    sentence: str
    paper: str
    rule: str
    command: str
    judge: Callable[[Evidence], Finding]
    limit: str = ""


OURS_WHOLE = "ours, whole"  # our own protocol at its full budget


@dataclass(frozen=True)
class Part:
    """A part of the report: its claims, and Markdown that follows them (tables, figures, what was tried)."""

    title: str
    introduction: str
    claims: Sequence[Claim]
    appendix: Callable[[Evidence], str]
    of_paper: bool = True  # whether its claims are judged in the paper's own protocol
    whole: str = "paper"  # the name of the full scale: `paper`, or `OURS_WHOLE` for our own protocol


@dataclass(frozen=True)
class Answer:
    """One line of the report's front page: a reader's question, and the answer from the rows."""

    question: str
    say: Callable[[Evidence], str]  # '' if there are no rows for it


def above(interval: Interval, threshold: float) -> Statement:
    """True if the whole interval lies above the threshold, false if it lies below, else open."""
    if interval.n < MIN_SEEDS or interval.low <= threshold <= interval.high:
        return None
    return bool(interval.low > threshold)


def exceeds(estimate: Estimate, threshold: float = 0.0) -> Statement:
    """`above` for Student's interval of a mean, which takes fewer seeds; without an interval it is open."""
    if estimate.n < MIN_SEEDS_OF_MEAN or not estimate.low < estimate.high:
        return None
    return None if estimate.low <= threshold <= estimate.high else bool(estimate.low > threshold)


def negation(statement: Statement) -> Statement:
    """True for false, false for true, open for open."""
    return None if statement is None else not statement


def at_least(k: int, statements: Iterable[Statement]) -> Statement:
    """True if k of the statements are true, false if fewer than k are true or open, else open."""
    statements = list(statements)
    certain = sum(statement is True for statement in statements)
    possible = sum(statement is not False for statement in statements)
    return True if certain >= k else False if possible < k else None


def every(statements: Iterable[Statement]) -> Statement:
    """True if all are true, false if one is false, else open."""
    statements = list(statements)
    return at_least(len(statements), statements)
