"""Our rules for the claims of Section 4.1: how a verdict follows from the test errors of both methods.

L is log10(value-only / Sobolev) of the final test errors, paired by seed. Above 0, Sobolev Training is better. A
function is won if the 95% interval of the median of L lies above 0, lost if it lies below, and tied otherwise. With too
few seeds it is undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from experiments.evidence.markdown import format_factor, format_interval
from experiments.evidence.rows import (
    MIN_SEEDS,
    Interval,
    final,
    finals,
    log_ratio,
    median_interval,
    seed_ratios,
    select,
)
from experiments.evidence.verdicts import Evidence, Finding, Statement, above, at_least, each, every, find, negation
from experiments.regression.names import METHODS, TASKS

SIZES = (20, 100, 10_000)
# The functions of the claims. A user's own functions appear in figures and tables but change no verdict.
PAPER_TASKS = ("ackley", "beale", "booth", "bukin", "mccormick", "rosenbrock", "styblinski_tang")
CELLS = [(task, n_train) for n_train in SIZES for task in PAPER_TASKS]
SIX_OF_SEVEN = dict.fromkeys(SIZES, 6)
MAJORITY = 4  # of the 7 functions
CAPTURED = 0.9  # a model has captured the shape if it explains more than this share of the target's variance

Ratios = dict[tuple[str, int], Interval]  # {(task, n_train): L}


def of_the_rules(evidence: Evidence, tasks: Collection[str] = PAPER_TASKS, sizes: Collection[int] = SIZES) -> Evidence:
    """The cells that the rules name, without a user's own functions, methods and sizes."""
    return replace(evidence, rows=named_by_the_rules(evidence.rows, tasks, sizes))


def named_by_the_rules(
    rows: pd.DataFrame, tasks: Collection[str] = PAPER_TASKS, sizes: Collection[int] = SIZES
) -> pd.DataFrame:
    """The rows of these functions, both methods and these sizes."""
    return rows[rows["task"].isin(tasks) & rows["method"].isin(["value", "sobolev"]) & rows["n_train"].isin(sizes)]


def log_ratios(rows: pd.DataFrame, metric: str = "value_mse") -> Ratios:
    """L for every function and size for which both methods were run, from the rows of one experiment."""
    errors = finals(select(rows, split="test", metric=metric), "n_train", "task", "method")
    ratios = {}
    for n_train, task in dict.fromkeys(key[:2] for key in errors):
        ratio = log_ratio(*(errors.get((n_train, task, method), {}) for method in ("value", "sobolev")))
        if ratio.n:
            ratios[task, n_train] = ratio
    return ratios


def mean_log_ratio(rows: pd.DataFrame, n_train: int, metric: str = "value_mse") -> dict[int, float]:
    """L averaged over the functions at one size, for each seed that has both methods on every function."""
    errors = finals(select(rows, split="test", metric=metric, n_train=n_train), "task", "method")
    tasks = dict.fromkeys(task for task, _ in errors)
    of_tasks = [seed_ratios(*(errors.get((task, method), {}) for method in ("value", "sobolev"))) for task in tasks]
    seeds = set.intersection(*map(set, of_tasks)) if of_tasks else set()
    return {seed: float(np.mean([ratios[seed] for ratios in of_tasks])) for seed in sorted(seeds)}


def outcome(ratio: Interval) -> str:
    """Whether Sobolev Training won, lost or tied a cell; undecided with too few seeds."""
    if ratio.n < MIN_SEEDS:
        return "undecided"
    return {True: "won", False: "lost", None: "tied"}[above(ratio, 0)]


def missing_cells(ratios: Ratios, needed: Iterable[tuple[str, int]]) -> str:
    """A description of the cells that were not run; empty if all were."""
    by_size: dict[int, list[str]] = {}
    needed = list(needed)
    every_task = len({task for task, _ in needed})
    for task, n_train in needed:
        if (task, n_train) not in ratios:
            by_size.setdefault(n_train, []).append(TASKS[task])
    return "; ".join(
        f"{'all functions' if len(titles) == every_task > 1 else ', '.join(titles)} at {n_train:,} points"
        for n_train, titles in by_size.items()
    )


def by_size(ratios: Ratios, describe: Callable[[int, dict[str, Interval]], str]) -> str:
    """One description per size, from L of its functions."""
    sizes = sorted({n_train for _, n_train in ratios})
    return ". ".join(
        f"{n_train:,} points: "
        + describe(n_train, {task: ratio for (task, n), ratio in ratios.items() if n == n_train})
        for n_train in sizes
    )


def won_so_many(
    evidence: Evidence,
    metric: str = "value_mse",
    needed: Mapping[int, int] = SIX_OF_SEVEN,
    tasks: Collection[str] = PAPER_TASKS,
) -> Finding:
    """R1, and RQ2 for gradients: at each size, at least `needed` functions are won."""
    ratios = log_ratios(evidence.rows, metric)

    def describe(n_train: int, of_size: dict[str, Interval]) -> str:
        outcomes = [outcome(ratio) for ratio in of_size.values()]
        mean = median_interval(mean_log_ratio(evidence.rows, n_train, metric).values())
        return (
            ", ".join(
                f"{outcomes.count(word)} {word}" for word in ("won", "tied", "lost", "undecided") if word in outcomes
            )
            + "".join(
                f"; {TASKS[task]} {format_factor(ratio)}" for task, ratio in of_size.items() if outcome(ratio) != "won"
            )
            + f"; geometric mean of all ratios {format_factor(mean)}"
        )

    def statements() -> dict[str, Statement]:
        return {
            f"{n_train:,}": at_least(k, (above(ratios[task, n_train], 0) for task in tasks))
            for n_train, k in needed.items()
        }

    return find(
        evidence,
        lambda: every(statements().values()),
        missing_cells(ratios, [(task, n_train) for n_train in needed for task in tasks]),
        by_size(ratios, describe),
        because=lambda: each(statements(), "points"),
    )


def orders_of_magnitude(evidence: Evidence, sizes: tuple[int, ...] = SIZES) -> Finding:
    """R1's second half."""
    ratios = {cell: ratio for cell, ratio in log_ratios(evidence.rows).items() if cell[1] in sizes}

    def describe(n_train: int, of_size: dict[str, Interval]) -> str:
        more = [f"{TASKS[task]} {format_factor(ratio)}" for task, ratio in of_size.items() if above(ratio, 1)]
        return f"more than 10 times smaller on {len(more)} of {len(of_size)} functions" + (
            f" ({', '.join(more)})" if more else ""
        )

    return find(
        evidence,
        lambda: every(
            at_least(MAJORITY, (above(ratios[task, n_train], 1) for task in PAPER_TASKS)) for n_train in sizes
        ),
        missing_cells(ratios, [(task, n_train) for task, n_train in CELLS if n_train in sizes]),
        by_size(ratios, describe),
    )


def ackley_crosses_over(evidence: Evidence) -> Finding:
    """R2."""
    ratios = {cell: ratio for cell, ratio in log_ratios(evidence.rows).items() if cell[0] == "ackley"}
    return find(
        evidence,
        lambda: every((negation(above(ratios["ackley", 20], 0)), above(ratios["ackley", 10_000], 0))),
        missing_cells(ratios, [("ackley", 20), ("ackley", 10_000)]),
        by_size(ratios, lambda _, of_size: f"value-only / Sobolev {format_factor(of_size['ackley'])}"),
    )


def difference_of_means(rows: pd.DataFrame) -> Interval:
    """L averaged over the functions at 20 points minus that at 10,000, paired by seed."""
    few, many = (mean_log_ratio(rows, n_train) for n_train in (20, 10_000))
    return median_interval(few[seed] - many[seed] for seed in sorted(few.keys() & many.keys()))


def stronger_with_little_data(evidence: Evidence) -> Finding:
    """R3, first half."""
    missing = missing_cells(log_ratios(evidence.rows), [(task, n) for n in (20, 10_000) for task in PAPER_TASKS])
    difference = difference_of_means(evidence.rows)
    at_20, at_10_000 = (
        format_factor(median_interval(mean_log_ratio(evidence.rows, n_train).values())) for n_train in (20, 10_000)
    )
    ours = (
        f"geometric mean over functions of value-only / Sobolev: {at_20} at 20 points, {at_10_000} at 10,000; "
        f"ratio of the two {format_factor(difference)}"
    )
    return find(evidence, lambda: above(difference, 0), missing, "" if missing else ours)


def persists(evidence: Evidence) -> Finding:
    """R3, second half."""
    ratios = {cell: ratio for cell, ratio in log_ratios(evidence.rows).items() if cell[1] == 10_000}
    outcomes = [outcome(ratio) for ratio in ratios.values()]
    return find(
        evidence,
        lambda: at_least(MAJORITY, (above(ratio, 0) for ratio in ratios.values())),
        missing_cells(ratios, [(task, 10_000) for task in PAPER_TASKS]),
        f"{outcomes.count('won')} won, {outcomes.count('tied')} tied, {outcomes.count('lost')} lost" if ratios else "",
    )


def captures_the_shape(evidence: Evidence) -> Finding:
    """R4."""
    variances = {s.target_variance for key, s in evidence.surfaces.items() if key[1] == "styblinski_tang"}
    rows = select(evidence.rows, split="test", metric="value_mse", task="styblinski_tang")
    explained: dict[tuple[str, int], Interval] = {}
    missing = []
    for n_train in (20, 100):
        for method in ("sobolev", "value"):
            errors = final(rows, method=method, n_train=n_train)
            if errors and variances:
                explained[method, n_train] = median_interval(1 - e / max(variances) for e in errors.values())
            else:
                missing.append(f"{METHODS[method]} at {n_train} points")

    def statement() -> Statement:
        captured = {cell: above(share, CAPTURED) for cell, share in explained.items()}
        return every(negation(is_so) if method == "value" else is_so for (method, _), is_so in captured.items())

    ours = "share of variance explained: " + "; ".join(
        f"{METHODS[method]} at {n_train} points {format_interval(share)}"
        for (method, n_train), share in explained.items()
    )
    return find(evidence, statement, ", ".join(missing), ours if explained else "")
