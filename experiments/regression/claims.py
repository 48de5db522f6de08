"""Section 4.1 of the paper, regression on optimisation benchmarks: its claims and our rules.

The rules were written down before any of the results existed. L is log10(value-only / Sobolev) of the test errors at
the end of training, paired by seed: above 0 Sobolev Training is better. A function is won where the 95% interval of the
median of L lies above 0, lost where it lies below, and tied otherwise; with too few seeds it is undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from experiments.evidence.markdown import format_factor, format_interval, markdown
from experiments.evidence.rows import (
    MIN_SEEDS,
    Interval,
    final,
    finals,
    groups,
    levels,
    log_ratio,
    loss_curve,
    median_interval,
    scale_of,
    select,
)
from experiments.evidence.verdicts import (
    Claim,
    Evidence,
    Finding,
    Part,
    Statement,
    above,
    at_least,
    every,
    find,
    negation,
)
from experiments.regression.names import METHODS, METRICS, TASKS
from experiments.regression.tables import Convergence, convergence, errors_table, final_errors

SIZES = (20, 100, 10_000)
# What the claims are about. TASKS may name a reader's own functions, too; they leave every verdict as it was.
PAPER_TASKS = ("ackley", "beale", "booth", "bukin", "mccormick", "rosenbrock", "styblinski_tang")
CELLS = [(task, n_train) for n_train in SIZES for task in PAPER_TASKS]
CAPTURED = 0.9  # share of the target's variance explained from which on a model has captured its shape
TRAINED_ON_BOTH = {  # experiments of value-only and Sobolev Training, and their protocols
    "regression": "the paper's, ReLU",
    "regression_normalised": "normalised, ReLU",
    "regression_second_order": "normalised, softplus",
}
STILL_MOVING = 0.1  # relative change of the median test error over the last part of training that counts as movement

Ratios = dict[tuple[str, int], Interval]  # {(task, n_train): L}


def log_ratios(rows: pd.DataFrame, metric: str = "value_mse") -> Ratios:
    """L of every function and size for which both methods were run, from the rows of one experiment."""
    errors = finals(select(rows, split="test", metric=metric), "n_train", "task", "method")
    ratios = {}
    for n_train, task in dict.fromkeys(key[:2] for key in errors):
        ratio = log_ratio(*(errors.get((n_train, task, method), {}) for method in ("value", "sobolev")))
        if ratio.n:
            ratios[task, n_train] = ratio
    return ratios


def mean_log_ratio(rows: pd.DataFrame, n_train: int, metric: str = "value_mse") -> dict[int, float]:
    """For each seed, L averaged over the functions at one size; for seeds with both methods on every function."""
    errors = finals(select(rows, split="test", metric=metric, n_train=n_train), "task", "method")
    tasks = dict.fromkeys(task for task, _ in errors)
    value, sobolev = ([errors.get((task, method), {}) for task in tasks] for method in ("value", "sobolev"))
    seeds = set.intersection(*(set(errors) for errors in value + sobolev)) if tasks else set()
    return {
        seed: float(np.mean([np.log10(v[seed] / s[seed]) for v, s in zip(value, sobolev, strict=True)]))
        for seed in sorted(seeds)
    }


def outcome(ratio: Interval) -> str:
    """Whether Sobolev Training won, lost or tied a cell, or too few seeds leave it undecided."""
    if ratio.n < MIN_SEEDS:
        return "undecided"
    return {True: "won", False: "lost", None: "tied"}[above(ratio, 0)]


def missing_cells(ratios: Ratios, needed: Iterable[tuple[str, int]]) -> str:
    """Which of the cells were not run, in words; empty if all were."""
    by_size: dict[int, list[str]] = {}
    for task, n_train in needed:
        if (task, n_train) not in ratios:
            by_size.setdefault(n_train, []).append(TASKS[task])
    return "; ".join(
        f"{'all functions' if len(titles) == len(PAPER_TASKS) else ', '.join(titles)} at {n_train:,} points"
        for n_train, titles in by_size.items()
    )


def by_size(ratios: Ratios, describe: Callable[[int, dict[str, Interval]], str]) -> str:
    """One description for each size there is, from L of its functions."""
    sizes = sorted({n_train for _, n_train in ratios})
    return ". ".join(
        f"{n_train:,} points: "
        + describe(n_train, {task: ratio for (task, n), ratio in ratios.items() if n == n_train})
        for n_train in sizes
    )


def won_six_of_seven(evidence: Evidence, metric: str = "value_mse") -> Finding:
    """R1, and for gradients RQ2."""
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

    return find(
        evidence,
        lambda: every(at_least(6, (above(ratios[task, n_train], 0) for task in PAPER_TASKS)) for n_train in SIZES),
        missing_cells(ratios, CELLS),
        by_size(ratios, describe),
    )


def orders_of_magnitude(evidence: Evidence) -> Finding:
    """R1's second half."""
    ratios = log_ratios(evidence.rows)

    def describe(n_train: int, of_size: dict[str, Interval]) -> str:
        more = [f"{TASKS[task]} {format_factor(ratio)}" for task, ratio in of_size.items() if above(ratio, 1)]
        return f"more than 10 times smaller on {len(more)} of {len(of_size)}" + (
            f" ({', '.join(more)})" if more else ""
        )

    return find(
        evidence,
        lambda: every(at_least(4, (above(ratios[task, n_train], 1) for task in PAPER_TASKS)) for n_train in SIZES),
        missing_cells(ratios, CELLS),
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


def stronger_with_little_data(evidence: Evidence) -> Finding:
    """R3."""
    ratios = log_ratios(evidence.rows)
    few, many = (mean_log_ratio(evidence.rows, n_train) for n_train in (20, 10_000))
    difference = median_interval(few[seed] - many[seed] for seed in sorted(few.keys() & many.keys()))
    persists = at_least(4, (above(ratio, 0) for (_, n_train), ratio in ratios.items() if n_train == 10_000))
    missing = missing_cells(ratios, [(task, n_train) for n_train in (20, 10_000) for task in PAPER_TASKS])
    at_20, at_10_000 = (format_factor(median_interval(means.values())) for means in (few, many))
    ours = (
        f"geometric mean over functions of value-only / Sobolev: {at_20} at 20 points, {at_10_000} at 10,000; "
        f"the first over the second {format_factor(difference)}"
    )
    return find(evidence, lambda: every((above(difference, 0), persists)), missing, "" if missing else ours)


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


def of_the_rules(evidence: Evidence) -> Evidence:
    """The cells that the rules name; a reader's own functions, methods and sizes are no part of a verdict."""
    rows = evidence.rows
    named = rows["task"].isin(PAPER_TASKS) & rows["method"].isin(["value", "sobolev"]) & rows["n_train"].isin(SIZES)
    return replace(evidence, rows=rows[named])


def claims(experiment: str, command: str) -> list[Claim]:
    """The claims of Section 4.1, judged on what one experiment left."""

    def left(evidence: Evidence) -> Evidence:
        return of_the_rules(evidence.of(experiment))

    return [
        Claim(
            key="R1",
            sentence="Sobolev Training has the lower test error on 6 of the 7 functions (all but Ackley).",
            paper="6 of 7 (Figure 2, right)",
            rule="At each of 20, 100 and 10,000 points at least 6 of the 7 functions are won.",
            command=command,
            judge=lambda evidence: won_six_of_seven(left(evidence)),
        ),
        Claim(
            key="R1, magnitude",
            sentence="Its errors are orders of magnitude smaller.",
            paper="orders of magnitude (no number)",
            rule="At each size the test error is more than 10 times smaller (the interval of L lies above 1) on at "
            "least 4 of the 7 functions. The factor 10 and the majority are ours.",
            command=command,
            judge=lambda evidence: orders_of_magnitude(left(evidence)),
        ),
        Claim(
            key="R2",
            sentence="On Ackley, value-only training is better with little data, and Sobolev Training with enough.",
            paper="no number (Figure 2, right)",
            rule="Ackley is lost at 20 points and won at 10,000.",
            command=command,
            judge=lambda evidence: ackley_crosses_over(left(evidence)),
        ),
        Claim(
            key="R3",
            sentence="The effect is stronger with little data and persists at 10,000 points.",
            paper="no number (Figure 2, right)",
            rule="L averaged over the 7 functions is larger at 20 points than at 10,000 (the interval of the median of "
            "the difference, paired by seed, lies above 0), and at least 4 of the 7 functions are won at 10,000.",
            command=command,
            judge=lambda evidence: stronger_with_little_data(left(evidence)),
        ),
        Claim(
            key="R4",
            sentence="From 20 and from 100 points, the Sobolev model of Styblinski-Tang has captured the shape of the "
            "function; the regular model has not.",
            paper="a picture (Figure 3)",
            rule=f"A model has captured the shape if it explains more than {CAPTURED} of the target's variance over "
            "the domain (1 - test MSE / variance; the number is ours). At both sizes the interval of the Sobolev "
            "models' median lies above it and that of the value-only models below.",
            command=command,
            judge=lambda evidence: captures_the_shape(left(evidence)),
        ),
        Claim(
            key="RQ2, gradients",
            sentence="Trained on gradients, the model's gradients generalise: their test error is smaller too.",
            paper="a picture (the gradient fields of Figure 3 and SM 5-11)",
            rule="R1's rule, with the test error of gradients in place of that of values.",
            command=command,
            judge=lambda evidence: won_six_of_seven(left(evidence), "gradient_mse"),
        ),
    ]


def tables(rows: pd.DataFrame) -> str:
    """The errors of one experiment; for each function and size the ratios, and how far its test errors still moved."""
    if not len(rows):
        return ""
    values, gradients = log_ratios(rows), log_ratios(rows, "gradient_mse")
    test = select(rows, split="test", metric="value_mse")
    moved = {
        (task, n_train, method): convergence(cell)
        for (task, n_train, method), cell in groups(test, "task", "n_train", "method")
        if method in ("value", "sobolev")
    }
    lines = [
        [
            TASKS.get(task, task),
            f"{n_train:,}",
            " / ".join(f"{updates:,}" for updates in _updates(moved, task, n_train)),
            *(entry for ratio in (values, gradients) for entry in _ratio_entries(ratio.get((task, n_train)))),
            *(
                f"{moved[key].change:+.1%}" if key in moved else "-"
                for key in ((task, n_train, "value"), (task, n_train, "sobolev"))
            ),
            scale_of(select(rows, task=task, n_train=n_train)),
        ]
        for task, n_train in dict.fromkeys(key[:2] for key in moved)
    ]
    still = sum(abs(cell.change) > STILL_MOVING for cell in moved.values())
    return (
        f"#### Test MSE at the end of training\n\n{errors_table(final_errors(rows))}\n\n"
        "#### Ratios (value only / Sobolev, paired by seed), and whether training has converged\n\n"
        "'Moved' is the relative change of the median test MSE of values over the second half of training, from the "
        f"last evaluation before it. It exceeds {STILL_MOVING:.0%} in {still} of {len(moved)} cells.\n\n"
        + markdown(
            [
                "function",
                "points",
                "updates",
                "values",
                "",
                "gradients",
                "",
                "value only moved",
                "Sobolev moved",
                "scale",
            ],
            lines,
        )
    )


def longer_training(rows: pd.DataFrame) -> str:
    """Errors and ratio on the way, of the functions and sizes that were trained for longer than the rest."""
    measured = groups(select(rows, split="test", metric="value_mse"), "task", "n_train")
    ends = {key: int(cell["step"].max()) for key, cell in measured}
    usual, lines = min(ends.values(), default=0), []
    for (task, n_train), cell in measured:
        end = ends[task, n_train]
        of_method = {method: select(cell, method=method) for method in ("value", "sobolev")}
        steps = np.setdiff1d(np.intersect1d(*(of["step"] for of in of_method.values())), 0)
        if end == usual or not len(steps):
            continue
        shown = np.geomspace(usual, end, 3)  # where the rest ends, between, and at the end
        for step in dict.fromkeys(steps[np.abs(np.log(steps / wanted)).argmin()] for wanted in shown):
            value, sobolev = (final(of, step=step) for of in of_method.values())
            errors = (format_interval(median_interval(errors.values())) for errors in (value, sobolev))
            ratio = _ratio_entries(log_ratio(value, sobolev))
            lines.append([TASKS.get(task, task), f"{n_train:,}", f"{step:,}", *errors, *ratio])
    if not lines:
        return ""
    return (
        f"#### Cells that were trained for more than {usual:,} updates, on the way\n\nTest MSE of values. The learning "
        "rate is constant, so training that had ended at a row's updates would have left what the row says.\n\n"
        + markdown(["function", "points", "updates", "value only", "Sobolev", "value only / Sobolev", ""], lines)
    )


def _updates(moved: dict[tuple[str, int, str], Convergence], task: str, n_train: int) -> list[int]:
    """How long a function and size was trained: one number, or each method's where they differ."""
    return sorted({cell.to_step for key, cell in moved.items() if key[:2] == (task, n_train)})


def _ratio_entries(ratio: Interval | None) -> tuple[str, str]:
    return (format_factor(ratio), outcome(ratio)) if ratio else ("-", "-")


def gradient_terms(rows: pd.DataFrame) -> str:
    """For each function, size and loss: L of values, gradients and Hessians against value-only training."""
    if not len(rows):
        return ""
    test, lines = select(rows, split="test"), []
    metrics = [metric for metric in METRICS if metric in levels(test, "metric")]
    for (task, n_train), cell in groups(test, "task", "n_train"):
        errors = finals(cell, "method", "metric")
        for method in levels(cell, "method"):
            value, ours = ([errors.get((m, metric), {}) for metric in metrics] for m in ("value", method))
            ratios = [log_ratio(*both) for both in zip(value, ours, strict=True)]
            if method != "value" and ratios[0].n:
                entries = [entry for ratio in ratios for entry in _ratio_entries(ratio if ratio.n else None)]
                label = TASKS.get(task, task), f"{n_train:,}", METHODS.get(method, method)
                lines.append([*label, *entries, scale_of(cell[cell["method"].isin(["value", method])])])
    heads = [entry for metric in metrics for entry in (METRICS[metric], "")]
    return "#### Ratios by loss (value only / this one, paired by seed)\n\n" + markdown(
        ["function", "points", "trained with", *heads, "scale"], lines
    )


def dominated(evidence: Evidence) -> str:
    """Cells whose training errors, of values and of gradients, are both smaller after value-only training.

    There Sobolev Training ends with the larger Sobolev loss, whatever the weights of its terms.
    """
    lines = []
    for experiment, protocol in TRAINED_ON_BOTH.items():
        rows, ratios = select(of_the_rules(evidence.of(experiment)).rows, split="train"), {}
        for key, cell in groups(rows, "task", "n_train"):
            if set(cell["method"]) == {"value", "sobolev"}:
                ratios[key] = [_train_ratio(cell, metric) for metric in ("value_mse", "gradient_mse")]
        found = {key: of_cell for key, of_cell in ratios.items() if all(outcome(ratio) == "lost" for ratio in of_cell)}
        listed = "; ".join(
            f"{TASKS.get(task, task)}, {n:,} ({format_factor(of[1])})" for (task, n), of in found.items()
        )
        if ratios:
            lines.append([protocol, f"{len(found)} of {len(ratios)}", listed or "-", scale_of(rows)])
    if not lines:
        return ""
    return (
        "#### Functions and sizes that value-only training fits more closely in values and in gradients\n\nOn the "
        "training points, at the end of training: the 95% intervals of both ratios, value-only / Sobolev, lie below 1. "
        "In parentheses the ratio of the gradients' errors.\n\n"
        + markdown(["protocol", "functions and sizes", "which", "scale"], lines)
    )


def _train_ratio(cell: pd.DataFrame, metric: str) -> Interval:
    """L of training errors, of which some are 0 to the precision of the run."""
    of_method = (final(cell, metric=metric, method=method) for method in ("value", "sobolev"))
    value, sobolev = ({seed: max(error, 1e-30) for seed, error in errors.items()} for errors in of_method)
    return log_ratio(value, sobolev)


def descent(rows: pd.DataFrame) -> str:
    """For each function, size and activation: the Sobolev loss after descent on it, over the one before."""
    if not len(rows):
        return ""
    activations, lines = levels(rows, "method"), []
    for (task, n_train), cell in groups(rows, "task", "n_train"):
        entries = []
        for activation in activations:
            loss_TS = loss_curve(cell, method=activation)[1]
            ratio = median_interval(np.log10(loss_TS[-1:].ravel()))
            word = {True: "rose", False: "fell", None: "open"}[above(ratio, 0)] if ratio.n >= MIN_SEEDS else "undecided"
            highest = median_interval(loss_TS.max(axis=0, initial=0))
            entries += [format_factor(ratio), word, format_interval(highest)] if ratio.n else ["-"] * 3
        lines.append([TASKS.get(task, task), f"{n_train:,}", *entries, scale_of(cell)])
    heads = [head for activation in activations for head in (METHODS.get(activation, activation), "", "highest")]
    return (
        "#### The Sobolev loss of the training points, at the end / where descent on it began\n\n'Highest' is the "
        "median over seeds of the largest such ratio on the way.\n\n"
        + markdown(["function", "points", *heads, "scale"], lines)
    )


PAPER_PROTOCOL = Part(
    title="Regression on optimisation benchmarks (Section 4.1), the paper's protocol",
    introduction="Raw values, Adam at 3e-5, weights 1:1. Initialisation, batch size and number of updates are ours. "
    "Cells where value-only training was still improving are trained again for longer, both methods, which was decided "
    "with the shorter results known (docs/regression.md).",
    claims=claims("regression", "make regression regression-longer report"),
    appendix=lambda evidence: "\n\n".join(
        filter(None, (part(evidence.of("regression").rows) for part in (tables, longer_training)))
    ),
)
NORMALISED_PROTOCOL = Part(
    title="The same claims, in the normalised protocol (ours)",
    introduction="Inputs scaled to [-1, 1], values standardised, Adam at 1e-3 with a cosine schedule: this is not the "
    "paper's setting, and a verdict here is no verdict on the paper's experiment.",
    claims=claims("regression_normalised", "make regression-normalised report"),
    appendix=lambda evidence: tables(evidence.of("regression_normalised").rows),
)
STEEP = Part(
    title="What the functions that Sobolev Training loses depend on",
    introduction="Bukin and Ackley in the normalised protocol, with gradient terms that are lighter or not squared. "
    "Bukin's gradient is unbounded at its ridge, |df/dy| = 50 / |y - 0.01 x^2|^(1/2), and the integral of its square "
    "diverges: the function is in no S_1 with squared norms, Theorem 1 does not speak of it, and a few points next to "
    "the ridge rule the squared term. Its norm has a finite mean. Ackley's gradient is bounded, but turns over within "
    "a length of 1, where 100 points lie 1 apart. The paper has no such experiment, so there is no claim to judge. "
    "`python run.py -m sweep=regression/steep` runs it.",
    claims=(),
    appendix=lambda evidence: gradient_terms(evidence.of("regression_steep").rows),
)
SECOND_ORDER = Part(
    title="Second-order Sobolev Training (Eq. 1 with K = 2)",
    introduction="Values, gradients and Hessians, in the normalised protocol with a smooth activation. The paper has "
    "no such experiment, so there is no claim to judge. `make second-order` runs it.",
    claims=(),
    appendix=lambda evidence: "\n\n".join(
        filter(None, (part(evidence.of("regression_second_order").rows) for part in (tables, gradient_terms)))
    ),
)
DESCENT = Part(
    title="Whether descent on the Sobolev loss makes it smaller",
    introduction="The gradient of a ReLU network is constant between its kinks. Moving a kink changes the expected "
    "loss of gradients, but at no single sample, so backpropagation does not see that part "
    "(`experiments/regression/descent.py` has the shortest example), and a step along what it sees may raise the loss. "
    "Here networks that were trained on "
    "values alone go on with values and gradients, weights 1:1, at a tenth of the learning rate, which falls to 0: "
    "with ReLU and, all else equal, with softplus, whose gradient lacks nothing. The paper has no such experiment, so "
    "there is no claim to judge. It was written after the other results, and after a look at Bukin from 100 points "
    "with other seeds; *rose* and *fell* say that the 95% interval of the median ratio lies above or below 1. `make "
    "descent` runs it.",
    claims=(),
    appendix=lambda evidence: "\n\n".join(
        filter(None, (dominated(evidence), descent(evidence.of("regression_descent").rows)))
    ),
)

PARTS = (PAPER_PROTOCOL, NORMALISED_PROTOCOL, STEEP, SECOND_ORDER, DESCENT)  # of the report
