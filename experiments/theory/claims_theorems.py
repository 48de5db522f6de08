"""The rules for the claims of Theorems 1 and 2."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from experiments.evidence.markdown import format_number
from experiments.evidence.rows import final, groups, select
from experiments.evidence.verdicts import Claim, Evidence, Finding, every, find
from experiments.theory.analysis import COMMAND, among, by_width, number, of_experiment, rates

# The judged cells: those of sweep=theory/construction, and those of sweep=theory/mismatch with a mismatch above 0.
BUILT_INPUTS = (1, 2, 3)
BUILT_WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
DOMAINS = ("interval", "disc")
MISMATCHES = (0.125, 0.25, 0.5, 1.0, 2.0)


def theorem_1(evidence: Evidence) -> Finding:
    evidence = among(of_experiment(evidence, "theory_construction"), n_inputs=BUILT_INPUTS, width=BUILT_WIDTHS)
    missing, statements, words = "" if len(evidence.rows) else "the constructions", [], []
    for n_inputs in () if missing else BUILT_INPUTS:
        errors = {name: by_width(evidence.rows, f"{name}_sup", n_inputs=n_inputs) for name in ("gradient", "value")}
        widest = max(errors["gradient"], default=0)
        fitted = {name: rates(of_name, from_width=512) for name, of_name in errors.items()}
        if widest < 3_500 or not all(rate.n for rate in fitted.values()):
            missing = f"widths from 512 up to 4096 in {n_inputs} dimensions"
            break
        fitted = {name: rate.median for name, rate in fitted.items()}
        statements += [fitted["gradient"] > 0.5, fitted["value"] > 0.5]
        gradient, value = (max(errors[name][widest].values()) for name in ("gradient", "value"))
        words.append(
            f"{n_inputs}-dimensional: rates {fitted['gradient']:.2f} of gradients and {fitted['value']:.2f} of values, "
            f"largest errors {format_number(gradient)} and {format_number(value)} with {widest:,} units"
        )
    return find(evidence, lambda: every(statements), missing, "; ".join(words))


def theorem_2(evidence: Evidence) -> Finding:
    evidence = among(of_experiment(evidence, "theory_mismatch"), domain=DOMAINS, delta=MISMATCHES)
    above_floor: dict[str, dict[str, list[float]]] = {domain: {} for domain in DOMAINS}  # by metric: errors / floor
    there = dict(groups(evidence.rows, "domain", "delta"))
    for (domain, _), of_both in there.items():
        for metric in ("joint_mse", "joint_sup"):
            floor = number(select(of_both, split="exact"), metric)
            trained = final(of_both, split="test", metric=metric).values()
            above_floor[domain].setdefault(metric, []).extend(x / floor for x in trained)
    asked = itertools.product(DOMAINS, MISMATCHES)
    missing = [f"a mismatch of {delta} on the {domain}" for domain, delta in asked if (domain, delta) not in there]
    words = [
        f"{domain}: {min(ratios['joint_mse']):.4f} to {max(ratios['joint_mse']):.4f} times the smallest possible "
        f"mean square error, {min(ratios['joint_sup']):.2f} to {max(ratios['joint_sup']):.2f} times the "
        "smallest possible maximum error"
        for domain, ratios in above_floor.items()
        if ratios
    ]
    return find(
        evidence,
        lambda: every(
            [min(ratio) > 0.99 for ratios in above_floor.values() for ratio in ratios.values()]
            + [max(ratios["joint_mse"]) < 1.1 for ratios in above_floor.values()]
        ),
        missing[0] if missing else "",
        "" if missing else "; ".join(words),
    )


CLAIMS: Sequence[Claim] = (
    Claim(
        "Theorem 1",
        "A ReLU (or leaky ReLU) network with one hidden layer approximates any C1 function on a compact set, with its "
        "derivative, to any accuracy.",
        "a proof, no rate",
        "For a smooth target in 1, 2 and 3 dimensions, the largest errors of the constructed network's gradients and "
        "values over test points fall faster than width^-1/2 from 512 units on.",
        COMMAND,
        theorem_1,
    ),
    Claim(
        "Theorem 2",
        "No C1 function matches both a function and a derivative that is wrong for it: the joint error has a floor.",
        "a proof; the floor is not given",
        "For every mismatch above 0, no trained network ends below the closed-form floors (minus 1%, because it is "
        "evaluated on points), and in mean square every network ends within 10% of the floor. So the floor exists and "
        "has this value.",
        COMMAND,
        theorem_2,
    ),
)
