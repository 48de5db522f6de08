"""R1 and R3 during training, and what wins are worth, on rows that are made here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments.evidence.rows import as_rows
from experiments.evidence.verdicts import Evidence
from experiments.regression.budget_rules import budgets, mostly, useless_until, when, won_by_updates
from experiments.regression.claims import claims
from experiments.regression.rules import PAPER_TASKS, SIZES
from tests.regression.test_evidence import make_surface

STEPS = (0, 100, 1_000, 2_000, 4_000, 8_000, 16_000)  # five of them from 1,000 on


def rows_on_the_way(log10_ratio: Callable[[int, int], float], seeds: int = 6) -> pd.DataFrame:
    """Test errors that fall from 100 as 1 / updates; Sobolev Training's are smaller by what is asked for."""
    rows = []
    for task in PAPER_TASKS:
        for n_train in SIZES:
            for step in STEPS:
                for seed in range(seeds):
                    error = 100 / max(step / 1_000, 1) * (1 + seed / 100)
                    for method, ratio in (("value", 0.0), ("sobolev", log10_ratio(n_train, step))):
                        value = error * 10 ** -(ratio * (1 + seed / 100))
                        row = ("regression", task, method, n_train, seed, step, "test", "value_mse", value, "paper")
                        rows.append(row)
    return as_rows(rows)


def verdicts(log10_ratio: Callable[[int, int], float], seeds: int = 6) -> dict[str, str]:
    evidence = Evidence(rows_on_the_way(log10_ratio, seeds), {})
    judged = [claim for claim in claims("regression", "make it") if "during" in claim.key or "at the end" in claim.key]
    return {claim.key: claim.judge(evidence).verdict for claim in judged}


def until(last: int) -> Callable[[int, int], float]:
    """Ahead up to an evaluation, twice as far at 20 points; then behind."""
    return lambda n_train, step: (2.0 if n_train == 20 else 1.0) if step <= last else -1.0 - (n_train == 20)


def test_a_claim_holds_during_training_where_it_holds_at_most_evaluations_and_at_the_end_where_it_ends() -> None:
    during = {"R1, during training", "R3, little data, during training", "R3, persists, during training"}
    found = verdicts(until(4_000))  # three of five
    assert {key for key, verdict in found.items() if verdict == "reproduced"} == during
    assert {verdict for key, verdict in found.items() if key not in during} == {"not reproduced"}
    assert set(verdicts(until(2_000)).values()) == {"not reproduced"}  # two of five
    assert set(verdicts(until(16_000)).values()) == {"reproduced"}
    assert set(verdicts(until(16_000), seeds=5).values()) == {"inconclusive"}


def test_open_evaluations_leave_it_open_where_they_could_make_it_most() -> None:
    assert mostly([True, True, None, False]) is None
    assert mostly([True, True, True, False]) is True
    assert mostly([True, None, False, False]) is False


def test_stretches_of_training_are_named() -> None:
    holds = {1_000: True, 2_000: True, 4_000: None, 8_000: False, 16_000: True}
    assert when(holds) == "at 3 of 5 evaluations, from 1,000 to 2,000 and from 16,000 to 16,000 updates (open at 1)"
    assert when({1_000: False}) == "at 0 of 1 evaluations"


def test_what_came_before_a_thousand_updates_is_not_judged_unless_there_is_no_more() -> None:
    rows = rows_on_the_way(until(4_000))
    assert budgets(rows) == [100, 1_000, 2_000, 4_000, 8_000, 16_000]
    assert budgets(rows, 1_000) == [1_000, 2_000, 4_000, 8_000, 16_000]
    assert budgets(rows[rows["step"] <= 100], 1_000) == [100]


def test_wins_by_networks_that_explain_no_variance_are_counted_apart() -> None:
    """Sobolev Training is ahead by a factor of 10. On Beale even its error is above the variance up to 4,000."""
    rows = rows_on_the_way(lambda *_: 1.0)
    surface = make_surface()
    wanted = {task: 2.0 if task == "beale" else 1_000.0 for task in PAPER_TASKS}
    surfaces = {
        ("regression", task, "value", 20): replace(
            surface, target_value_GG=np.sqrt(variance / surface.target_variance) * surface.target_value_GG
        )
        for task, variance in wanted.items()
    }
    said = useless_until(Evidence(rows, surfaces))
    assert said.endswith("at 20 points Beale 4,000; at 100 points Beale 4,000; at 10,000 points Beale 4,000")
    table = won_by_updates(Evidence(rows, surfaces))
    assert "Parentheses" in table
    assert "| 20 points | 7 (1) | 7 (1) | 7 | 7 |" in table  # after 1,000, 3,000, 10,000 and 16,000
    unknown = Evidence(rows, {})
    assert "there are no surfaces" in useless_until(unknown)
    assert "Parentheses" not in won_by_updates(unknown)
    assert "| 20 points | 7 | 7 | 7 | 7 |" in won_by_updates(unknown)


@pytest.mark.parametrize("lacking", ["booth", "ackley"])
def test_a_function_that_was_not_run_leaves_them_not_run(lacking: str) -> None:
    rows = rows_on_the_way(until(4_000))
    evidence = Evidence(rows[rows["task"] != lacking], {})
    judged = [claim for claim in claims("regression", "make it") if "during" in claim.key]
    assert {claim.judge(evidence).verdict for claim in judged} == {"not run"}
