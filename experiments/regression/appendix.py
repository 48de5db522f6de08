"""The report's appendix on regression: tables of errors and ratios for all functions and methods."""

from __future__ import annotations

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
from experiments.evidence.verdicts import Evidence, above
from experiments.regression.names import METHODS, METRICS, TASKS
from experiments.regression.rules import log_ratios, named_by_the_rules, of_the_rules, outcome
from experiments.regression.tables import Convergence, convergence, errors_table, final_errors

TRAINED_ON_BOTH = {  # the protocols of experiments with both value-only and Sobolev Training
    "regression": "the paper's, ReLU",
    "regression_normalised": "normalised, ReLU",
    "regression_second_order": "normalised, softplus",
}
STILL_MOVING = 0.1  # a relative change of the median test error above this counts as not converged


def tables(rows: pd.DataFrame) -> str:
    """The errors of one experiment, the ratios for each function and size, and how much test errors still changed."""
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
        "'Moved' is the relative change of the median test MSE of values from the last evaluation in the first half of "
        f"training to the end. It exceeds {STILL_MOVING:.0%} in {still} of {len(moved)} cells.\n\n"
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
    """Errors and ratios during training, for the cells that were trained for longer than the rest.

    The rest are the cells that the rules name, so that a user's own short training does not change which are longer.
    """
    errors_on_the_way = select(rows, split="test", metric="value_mse")
    measured = groups(errors_on_the_way, "task", "n_train")
    ends = {key: int(cell["step"].max()) for key, cell in measured}
    named = {key for key, _ in groups(named_by_the_rules(errors_on_the_way), "task", "n_train")} or ends.keys()
    usual, lines = min((ends[key] for key in named), default=0), []
    for (task, n_train), cell in measured:
        end = ends[task, n_train]
        of_method = {method: select(cell, method=method) for method in ("value", "sobolev")}
        steps = np.setdiff1d(np.intersect1d(*(of["step"] for of in of_method.values())), 0)
        if end <= usual or not len(steps):
            continue
        shown = np.geomspace(usual, end, 3)  # where the rest ends, halfway, and at the end
        for step in dict.fromkeys(steps[np.abs(np.log(steps / wanted)).argmin()] for wanted in shown):
            value, sobolev = (final(of, step=step) for of in of_method.values())
            errors = (format_interval(median_interval(errors.values())) for errors in (value, sobolev))
            ratio = _ratio_entries(log_ratio(value, sobolev))
            lines.append([TASKS.get(task, task), f"{n_train:,}", f"{step:,}", *errors, *ratio])
    if not lines:
        return ""
    return (
        f"#### Cells that were trained for more than {usual:,} updates, during training\n\nTest MSE of values. The "
        "learning rate is constant, so each row is also what training for that many updates gives.\n\n"
        + markdown(["function", "points", "updates", "value only", "Sobolev", "value only / Sobolev", ""], lines)
    )


def _updates(moved: dict[tuple[str, int, str], Convergence], task: str, n_train: int) -> list[int]:
    """The number of updates of a function and size: one number, or one per method if they differ."""
    return sorted({cell.to_step for key, cell in moved.items() if key[:2] == (task, n_train)})


def _ratio_entries(ratio: Interval | None) -> tuple[str, str]:
    return (format_factor(ratio), outcome(ratio)) if ratio else ("-", "-")


def gradient_terms(rows: pd.DataFrame) -> str:
    """For each function, size and loss: L of values, gradients and Hessians relative to value-only training."""
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
            budget = "whole" if scale_of(rows) == "paper" else "reduced"
            lines.append([protocol, f"{len(found)} of {len(ratios)}", listed or "-", budget])
    if not lines:
        return ""
    return (
        "#### Functions and sizes where value-only training fits both values and gradients more closely\n\nOn the "
        "training points at the end of training, the 95% intervals of both ratios, value-only / Sobolev, lie below 1. "
        "Parentheses show the ratio of the gradients' errors.\n\n"
        + markdown(["protocol", "functions and sizes", "which", "budget"], lines)
    )


def _train_ratio(cell: pd.DataFrame, metric: str) -> Interval:
    """L of training errors; some are 0 in the run's precision and are clipped."""
    of_method = (final(cell, metric=metric, method=method) for method in ("value", "sobolev"))
    value, sobolev = ({seed: max(error, 1e-30) for seed, error in errors.items()} for errors in of_method)
    return log_ratio(value, sobolev)


def descent(rows: pd.DataFrame) -> str:
    """For each function, size and activation: the ratio of the Sobolev loss after and before descent on it."""
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
        "#### The Sobolev loss on the training points: at the end / at the start of descent on it\n\n'Highest' is the "
        "median over seeds of the largest such ratio during the descent.\n\n"
        + markdown(["function", "points", *heads, "scale"], lines)
    )
