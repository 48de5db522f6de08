"""The claims R1 and R3 as functions of the training budget: our rules for what holds during training.

They were written when the final results and the figure `functions_won` were known. They choose no budget: a claim holds
during training if it holds at more than half of the evaluations between 1,000 updates and the end, which are evenly
spaced in the logarithm of updates. After n updates each cell has its last measurement up to n.

A test error is useless if its median over seeds exceeds the variance of the target, which is the error of the best
constant. A function may be won by networks of which neither has learned anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

import numpy as np
import pandas as pd

from experiments.evidence.markdown import format_factor, markdown
from experiments.evidence.rows import Interval, finals, groups, levels, median_interval, select
from experiments.evidence.verdicts import Evidence, Finding, Statement, above, at_least, each, every, find
from experiments.regression.names import TASKS
from experiments.regression.rules import (
    CELLS,
    MAJORITY,
    PAPER_TASKS,
    SIX_OF_SEVEN,
    Ratios,
    difference_of_means,
    log_ratios,
    mean_log_ratio,
    missing_cells,
    of_the_rules,
    outcome,
)

FROM = 1_000  # updates
UPDATES = (1_000, 3_000, 10_000, 30_000, 100_000)  # at which wins are counted during training


def budgets(rows: pd.DataFrame, start: int = 1) -> list[int]:
    """The updates at which the longest-trained cell was measured, from `start` on; at least its last one."""
    longest = max((cell["step"].unique() for _, cell in groups(rows, "task", "method", "n_train")), key=np.max)
    return sorted(int(step) for step in longest if step >= min(start, longest.max()))


def on_the_way(rows: pd.DataFrame, n_train: int, start: int = 1) -> dict[int, tuple[Ratios, Interval]]:
    """L of each function and its mean over functions, after each number of updates in `budgets`.

    `rows` are test errors of one training size.
    """
    found = {}
    for updates in budgets(rows, start):
        until = rows[rows["step"] <= updates]
        found[updates] = log_ratios(until), median_interval(mean_log_ratio(until, n_train).values())
    return found


def mostly(statements: Iterable[Statement]) -> Statement:
    """True if more than half of the statements are true, false if open ones could not make it so, else open."""
    statements = list(statements)
    return at_least(len(statements) // 2 + 1, statements)


def value_errors(evidence: Evidence, *sizes: int) -> pd.DataFrame:
    """The test errors of values at these training sizes."""
    rows = select(evidence.rows, split="test", metric="value_mse")
    return rows[rows["n_train"].isin(sizes)]


def when(by_updates: Mapping[int, Statement]) -> str:
    """A description of when a statement is true: at how many evaluations, and in which intervals of updates."""
    spells = [(holds, list(updates)) for holds, updates in groupby(by_updates, key=by_updates.get)]
    stretches = [f"{updates[0]:,} to {updates[-1]:,}" for holds, updates in spells if holds is True]
    said = f"at {sum(holds is True for holds in by_updates.values())} of {len(by_updates)} evaluations"
    if stretches:
        said += f", from {' and from '.join(stretches)} updates"
    still_open = sum(holds is None for holds in by_updates.values())
    return said + (f" (open at {still_open})" if still_open else "")


def won_during_training(evidence: Evidence, needed: Mapping[int, int] = SIX_OF_SEVEN) -> Finding:
    """R1 during training: at each size, at least `needed` functions are won at more than half of the budgets."""
    missing = missing_cells(log_ratios(evidence.rows), CELLS)
    if missing:
        return find(evidence, lambda: None, missing, "")
    holds: dict[int, dict[int, Statement]] = {}
    for n_train, k in needed.items():
        by_updates = on_the_way(value_errors(evidence, n_train), n_train, FROM)
        holds[n_train] = {
            updates: at_least(k, (above(ratios[task, n_train], 0) for task in PAPER_TASKS))
            for updates, (ratios, _) in by_updates.items()
        }
    by_size = {f"{n_train:,}": mostly(of.values()) for n_train, of in holds.items()}
    words = [f"{n_train:,} points: {needed[n_train]} or more won {when(of)}" for n_train, of in holds.items()]
    ours = ". ".join([*words, useless_until(evidence)])
    return find(evidence, lambda: every(by_size.values()), "", ours, because=lambda: each(by_size, "points"))


def stronger_during_training(evidence: Evidence) -> Finding:
    """R3, first half, during training: at more than half of the budgets, mean L is larger at 20 points."""
    needed = [(task, n_train) for n_train in (20, 10_000) for task in PAPER_TASKS]
    if missing := missing_cells(log_ratios(evidence.rows), needed):
        return find(evidence, lambda: None, missing, "")
    rows = value_errors(evidence, 20, 10_000)
    differences = {n: difference_of_means(rows[rows["step"] <= n]) for n in budgets(rows, FROM)}
    holds = {updates: above(difference, 0) for updates, difference in differences.items()}
    words = "; ".join(f"{format_factor(difference)} after {n:,}" for n, difference in differences.items())
    ours = (
        "geometric mean over functions of value-only / Sobolev: larger at 20 points than at 10,000 "
        f"{when(holds)}. The ratio of the two is {words} updates"
    )
    return find(evidence, lambda: mostly(holds.values()), "", ours)


def persists_during_training(evidence: Evidence) -> Finding:
    """R3, second half, during training: most functions are won at 10,000 points at more than half of the budgets."""
    if missing := missing_cells(log_ratios(evidence.rows), [(task, 10_000) for task in PAPER_TASKS]):
        return find(evidence, lambda: None, missing, "")
    by_updates = on_the_way(value_errors(evidence, 10_000), 10_000, FROM)
    holds = {n: at_least(MAJORITY, (above(r, 0) for r in ratios.values())) for n, (ratios, _) in by_updates.items()}
    ours = f"{MAJORITY} or more functions won {when(holds)}"
    return find(evidence, lambda: mostly(holds.values()), "", ours)


# --- What a win is worth ---


def variances(evidence: Evidence) -> dict[str, float]:
    """The variance of each target over its domain, for targets that have a surface."""
    return {task: surface.target_variance for (_, task, *_), surface in evidence.surfaces.items()}


def useless(rows: pd.DataFrame, of_target: Mapping[str, float]) -> set[str]:
    """Functions on which both methods' final median test error exceeds the variance; rows of one size."""
    medians = {key: np.median(list(errors.values())) for key, errors in finals(rows, "task", "method").items()}
    return {
        task
        for task, variance in of_target.items()
        if all(medians.get((task, method), 0) > variance for method in ("value", "sobolev"))
    }


def useless_until(evidence: Evidence) -> str:
    """A description of the number of updates up to which errors are useless, by training size."""
    of_target = variances(evidence)
    if not set(PAPER_TASKS) <= of_target.keys():
        return (
            "Where errors are useless is not known, because there are no surfaces that give the variance of the targets"
        )
    said = []
    for (n_train,), rows in groups(value_errors(evidence, *SIX_OF_SEVEN), "n_train"):
        until = {n: useless(rows[rows["step"] <= n], of_target) for n in budgets(rows, FROM)}
        last = {task: max(n for n, tasks in until.items() if task in tasks) for task in set.union(*until.values())}
        tasks = ", ".join(f"{TASKS[task]} {last[task]:,}" for task in PAPER_TASKS if task in last)
        said += [f"at {n_train:,} points {tasks}"] if tasks else []
    if not said:
        return "At none of these evaluations are both methods' errors above the target's variance"
    return (
        "Last evaluation, in updates, at which both methods' errors are above the target's variance and so useless: "
        + "; ".join(said)
    )


def won_by_updates(evidence: Evidence) -> str:
    """How many of the seven functions are won, by training size, during training and at the end."""
    evidence = of_the_rules(evidence.of("regression"))
    rows = value_errors(evidence, *SIX_OF_SEVEN)
    if not len(rows):
        return ""
    of_target = variances(evidence)
    last = int(rows["step"].max())
    updates = sorted({*(n for n in UPDATES if n < last), last})
    lines, some_useless = [], False
    for n_train in levels(rows, "n_train"):
        entries = []
        for n in updates:
            until = rows[(rows["n_train"] == n_train) & (rows["step"] <= n)]
            won = {task for (task, _), ratio in log_ratios(until).items() if outcome(ratio) == "won"}
            worthless = len(won & useless(until, of_target))
            some_useless |= worthless > 0
            entries.append(f"{len(won)} ({worthless})" if worthless else f"{len(won)}")
        lines.append([f"{n_train:,} points", *entries])
    table = markdown(["won after", *(f"{n:,} updates" for n in updates)], lines)
    words = f"Number of the {len(PAPER_TASKS)} functions on which it does, with the last measurement of cells that "
    words += "were trained for fewer updates."
    if some_useless:
        words += " Parentheses count wins where neither method explains any of the function's variance yet."
    return f"{words}\n\n{table}"
