"""The rules for the claims of RQ1 and RQ2, which are judged by training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments.evidence.markdown import format_factor, format_interval
from experiments.evidence.rows import BySeed, groups, levels, log_ratio, median_interval, select
from experiments.evidence.verdicts import Answer, Claim, Evidence, Finding, above, each, every, find
from experiments.theory.analysis import COMMAND, LEARNED, among, by_width, of_experiment, points_needed, rates

# The judged cells: those of sweep=theory/points with ReLU networks, and those of sweep=theory/approximation.
INPUTS = (1, 2, 3, 5, 8, 12, 20)
SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
WIDTHS = (8, 16, 32, 64, 128, 256)
TRAINED_INPUTS = (1, 2)
ACTIVATIONS = ("relu", "leaky_relu", "tanh")
METHODS = ("value", "sobolev")
TRAINED = tuple(itertools.product(TRAINED_INPUTS, ACTIVATIONS))


def needed_by_inputs(evidence: Evidence) -> tuple[Evidence, dict[int, list[BySeed]], str]:
    """The points that value-only and Sobolev Training need, by number of inputs, and a description of missing runs."""
    evidence = of_experiment(evidence, "theory_points")
    evidence = among(evidence, n_inputs=INPUTS, activation=("relu",), n_train=SIZES, matched=METHODS)
    missing, needed = "" if len(evidence.rows) else "the trainings", {}
    for n_inputs in () if missing else INPUTS:
        of_dimension = select(evidence.rows, n_inputs=n_inputs, metric="value_nmse")
        value, sobolev = (levels(select(of_dimension, matched=matched), "n_train") for matched in METHODS)
        # The points needed are capped at a method's largest size, so both methods must have the same sizes.
        if not value or value != sobolev:
            missing = f"both methods at the same sizes in {n_inputs} dimensions"
            break
        needed[n_inputs] = [points_needed(evidence.rows, n_inputs, matched) for matched in METHODS]
    return evidence, needed, missing


def fewer_points(evidence: Evidence) -> Finding:
    evidence, needed, missing = needed_by_inputs(evidence)
    ratios = {n_inputs: log_ratio(*both) for n_inputs, both in needed.items()}
    statements = {str(n_inputs): above(ratio, 0) for n_inputs, ratio in ratios.items()}
    words = [f"{n_inputs}: {format_factor(ratio)}" for n_inputs, ratio in ratios.items()]
    ours = "points needed, value only / Sobolev, by number of inputs: " + "; ".join(words)
    return find(evidence, lambda: every(statements.values()), missing, ours, because=lambda: each(statements, "inputs"))


def more_with_inputs(evidence: Evidence) -> Finding:
    """Whether the ratio of points needed grows with the number of inputs d: log ratio ~ p log d, for each seed."""
    evidence, needed, missing = needed_by_inputs(evidence)
    if missing:
        return find(evidence, lambda: None, missing, "")
    seeds = sorted(set.intersection(*(set(of_seeds) for both in needed.values() for of_seeds in both)))
    log_inputs = np.log(list(needed))
    power = median_interval(
        np.polyfit(log_inputs, [np.log(value[seed] / sobolev[seed]) for value, sobolev in needed.values()], 1)[0]
        for seed in seeds
    )
    ours = f"points needed, value only / Sobolev, as a power of the number of inputs: {format_interval(power)}"
    return find(evidence, lambda: above(power, 0), "", ours)


def of_trained(evidence: Evidence, methods: Sequence[str]) -> Evidence:
    """The rows of sweep=theory/approximation with these methods."""
    evidence = of_experiment(evidence, "theory_approximation")
    return among(evidence, n_inputs=TRAINED_INPUTS, activation=ACTIVATIONS, width=WIDTHS, matched=methods)


def missing_widths(rows: pd.DataFrame, methods: Sequence[str]) -> str:
    """A description of the first width that was not trained; empty if none is missing."""
    there = {key for key, _ in groups(rows, "n_inputs", "activation", "matched", "width")}
    for trained, method, width in itertools.product(TRAINED, methods, WIDTHS):
        if (*trained, method, width) not in there:
            n_inputs, activation = trained
            return f"{width} units of {activation} in {n_inputs} dimensions, method {method}"
    return ""


def approximated_together(evidence: Evidence) -> Finding:
    evidence = of_trained(evidence, ("sobolev",))
    fitted = {
        (n_inputs, activation): [
            rates(by_width(evidence.rows, metric, n_inputs=n_inputs, activation=activation, matched="sobolev"))
            for metric in ("value_l2", "gradient_l2")
        ]
        for n_inputs, activation in TRAINED
    }
    missing = missing_widths(evidence.rows, ("sobolev",))
    words = [
        f"{activation}, {n_inputs}-dimensional: " + " and ".join(map(format_interval, both))
        for (n_inputs, activation), both in fitted.items()
    ]
    return find(
        evidence,
        lambda: every(above(interval, 0) for both in fitted.values() for interval in both),
        missing,
        "" if missing else f"exponents r of width^-r, of values and of gradients: {'; '.join(words)}",
    )


def gradients_are_closer(evidence: Evidence) -> Finding:
    evidence = of_trained(evidence, METHODS)
    ratios = {}
    for n_inputs, activation in TRAINED:
        value, sobolev = (
            by_width(evidence.rows, "gradient_l2", n_inputs=n_inputs, activation=activation, matched=matched)
            for matched in METHODS
        )
        ratios[n_inputs, activation] = [log_ratio(value[width], sobolev[width]) for width in value if width in sobolev]
    missing = missing_widths(evidence.rows, METHODS)
    words = [
        f"{activation}, {n_inputs}-dimensional: {10 ** min(ratio.median for ratio in of_widths):.2g} to "
        f"{10 ** max(ratio.median for ratio in of_widths):.2g}"
        for (n_inputs, activation), of_widths in ratios.items()
        if of_widths
    ]
    return find(
        evidence,
        lambda: every(above(ratio, 0) for of_widths in ratios.values() for ratio in of_widths),
        missing,
        "" if missing else f"gradient error, value only / Sobolev, over widths: {'; '.join(words)}",
    )


def points_saved(evidence: Evidence) -> str:
    """For how many numbers of inputs fewer points suffice, and how many fewer."""
    rows = among(of_experiment(evidence, "theory_points"), n_inputs=INPUTS, activation=("relu",), n_train=SIZES).rows
    ratios = {}
    for n_inputs in levels(rows, "n_inputs"):
        if (ratio := log_ratio(*(points_needed(rows, n_inputs, matched) for matched in METHODS))).n:
            ratios[n_inputs] = ratio
    if not ratios:
        return ""
    fewer = [n_inputs for n_inputs, ratio in ratios.items() if above(ratio, 0)]
    words = "; ".join(f"{format_factor(ratio)} at {n_inputs}" for n_inputs, ratio in ratios.items())
    return (
        "ReLU networks learn a random teacher of tanh units from fewer points with derivatives, for "
        f"{len(fewer)} of {len(ratios)} numbers of inputs. Points needed, value-only over Sobolev: {words} inputs."
    )


def gradients_learned(evidence: Evidence) -> str:
    """How much smaller the error of gradients is, by activation, over widths and numbers of inputs."""
    rows = of_trained(evidence, METHODS).rows
    said = []
    for activation in ACTIVATIONS:
        medians = []
        for n_inputs in TRAINED_INPUTS:
            value, sobolev = (
                by_width(rows, "gradient_l2", n_inputs=n_inputs, activation=activation, matched=matched)
                for matched in METHODS
            )
            medians += [10 ** log_ratio(value[width], sobolev[width]).median for width in value if width in sobolev]
        if medians:
            said.append(f"{min(medians):.2g} to {max(medians):.2g} with {activation}")
    if not said:
        return ""
    return f"Error of gradients, value-only over Sobolev, for networks with one hidden layer: {', '.join(said)}."


ANSWERS = (
    Answer("Do fewer points suffice (RQ1)?", points_saved),
    Answer("Are derivatives learned, not only values (RQ2)?", gradients_learned),
)

CLAIMS: Sequence[Claim] = (
    Claim(
        "RQ1, in practice",
        "With derivatives, fewer points suffice.",
        "no number",
        f"A random teacher counts as learned when less than {LEARNED:.0%} of its variance is unexplained on test "
        "points. For ReLU networks, in every dimension from 1 to 20, the interval of the median ratio (value only / "
        "Sobolev, paired by seed) of the points needed lies above 1.",
        COMMAND,
        fewer_points,
    ),
    Claim(
        "RQ1, trend",
        "The more inputs there are, the more points a derivative saves. (Our reading of Proposition 3.)",
        "no number",
        "For each seed, a power of the number of inputs is fitted to the ratio of RQ1 in practice over the same "
        "dimensions (least squares of logarithms). The interval of the median power lies above 0.",
        COMMAND,
        more_with_inputs,
    ),
    Claim(
        "RQ2, both at once",
        "Values and derivatives are approximated together.",
        "Theorem 1; no number",
        "For each activation, in 1 and 2 dimensions, the root mean square errors of both values and gradients of "
        "Sobolev-trained networks fall with width: the interval of the fitted exponent lies above 0.",
        COMMAND,
        approximated_together,
    ),
    Claim(
        "RQ2, gradients",
        "Training on derivatives approximates the derivatives more closely than training on values alone.",
        "no number",
        "At every width, for each activation, in 1 and 2 dimensions, the interval of the ratio (value only / Sobolev, "
        "paired by seed) of the gradients' root mean square errors lies above 1.",
        COMMAND,
        gradients_are_closer,
    ),
)
