"""The claims of Sections 2 and 3, the paper's theory, and what a computation must show for each.

The rules were written down before the trained parts were run. Three were changed when results were known, and no
verdict changed: a construction's width is its actual number of units (Theorem 1), the second solution for two values
must differ from the first (Proposition 3), and grids must be complete. A theorem needs no experiment to be true; what
is judged here is whether a program reproduces the construction, the count or the lower bound that the paper states.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.evidence.verdicts import OURS_WHOLE, Claim, Part
from experiments.theory import claims_propositions, claims_questions, claims_theorems
from experiments.theory.claims_tables import tables

CLAIMS: Sequence[Claim] = (*claims_theorems.CLAIMS, *claims_propositions.CLAIMS, *claims_questions.CLAIMS)

THEORY = Part(
    title="The theory, made executable (Sections 2 and 3)",
    introduction="The paper proves; here each statement is a construction, an exact count, a closed form or an "
    "experiment. Targets, networks and budgets are ours. Three rules were made stricter or clearer when results were "
    "known (units that a construction has, a second solution that differs, whole grids); no verdict changed.",
    claims=CLAIMS,
    whole=OURS_WHOLE,
    appendix=tables,
)

PARTS = (THEORY,)  # of the report
ANSWERS = claims_questions.ANSWERS
CHANGED = (
    "Theory: three rules were made stricter or clearer: a construction counts the units that it has, a second solution "
    "has to be another one, and grids have to be whole. No verdict changed.",
    "Theory, RQ1: its verdict, inconclusive as before, says in which numbers of inputs fewer points suffice. That the "
    "points saved grow with the inputs has a rule and a verdict of its own, written with the medians known.",
)
