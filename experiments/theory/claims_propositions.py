"""The rules for the claims of Propositions 1 to 3 and of the paper's statement on polynomials."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.evidence.markdown import format_interval
from experiments.evidence.rows import final, median_interval, select
from experiments.evidence.verdicts import Claim, Evidence, Finding, every, find
from experiments.theory.analysis import COMMAND, among, k_table, largest, number, numbers, of_part


def proposition_1(evidence: Evidence) -> Finding:
    evidence = of_part(evidence, "proposition_1")
    if not len(evidence.rows):
        return find(evidence, lambda: None, "the instances", "")
    errors = {name: largest(evidence.rows, f"{name}_error_") for name in ("value", "gradient")}
    count = len(evidence.rows) // 2
    return find(
        evidence,
        lambda: max(errors.values()) < 1e-6,
        "",
        f"{count:,} random instances in 1 to 10 dimensions; largest relative error {errors['value']:.1e} in values, "
        f"{errors['gradient']:.1e} in gradients",
    )


def proposition_2(evidence: Evidence) -> Finding:
    table = k_table(evidence)
    parts = {"polynomials": "polynomials", "gaussian": "Gaussian densities", "piecewise_linear": "the partitions"}
    missing = ", ".join(name for part, name in parts.items() if not len(of_part(evidence, part).rows))
    return find(
        among(evidence.of("theory_exact"), task=[*parts]),
        lambda: every(k_sob <= k_reg for _, k_reg, k_sob in table),
        missing,
        ""
        if missing
        else f"in all {len(table)} families computed; "
        f"K_reg / K_sob is {min(a / b for _, a, b in table):.3g} to {max(a / b for _, a, b in table):.3g}",
    )


def proposition_3_gaussian(evidence: Evidence) -> Finding:
    rows = (evidence := of_part(evidence, "gaussian")).rows
    if not len(evidence.rows):
        return find(evidence, lambda: None, "the densities", "")
    pair = [number(rows, f"twin_{name}") for name in ("mean", "std")]
    residual = largest(rows, "twin_residual_")
    worst = {name: largest(rows, name) for name in ("k_sob_1_error", "k_reg_3_error", "twin_error")}
    apart = float(select(rows, metric="twin_distance")["value"].min())
    return find(
        evidence,
        lambda: every(
            [
                abs(pair[0] - 2.847) < 1e-3,
                abs(pair[1] - 1.641) < 1e-3,
                residual < 1e-15,
                *(error < 1e-6 for error in worst.values()),
                apart > 1e-6,
            ]
        ),
        "",
        f"N(2, 1) and N({pair[0]:.8f}, {pair[1]:.8f}) agree at 0 and 3 to {residual:.0e}; over "
        f"{len(select(rows, metric='twin_error'))} random densities one value and slope recover the parameters to "
        f"{worst['k_sob_1_error']:.0e}, two values have a second solution to {worst['twin_error']:.0e} "
        f"at a distance of {apart:.2g} or more, three values recover them to "
        f"{worst['k_reg_3_error']:.0e}: K_sob = 1, K_reg = 3",
    )


def proposition_3_piecewise_linear(evidence: Evidence) -> Finding:
    rows = (evidence := of_part(evidence, "piecewise_linear")).rows
    missing, statements, words = "" if len(evidence.rows) else "the partitions", [], []
    for inputs, cells in numbers(rows, "cells_").items():
        dimension = int(inputs.removeprefix("d"))
        values = number(rows, f"values_a_cell_{inputs}")
        statements += [values == dimension + 1, number(rows, f"one_gradient_a_cell_determines_{inputs}") == 1]
        random = [median_interval(final(rows, metric=f"k_{kind}_random_{inputs}").values()) for kind in ("reg", "sob")]
        words.append(
            f"{dimension}-dimensional, {cells:.0f} cells: {values:.0f} values per cell, in general position, or 1 "
            f"gradient per cell are guaranteed to determine the function; where the points may be chosen, "
            f"{number(rows, f'k_reg_placed_{inputs}'):.0f} values or {number(rows, f'k_sob_placed_{inputs}'):.0f} "
            f"gradients suffice; at uniformly random points it takes {format_interval(random[0])} values or "
            f"{format_interval(random[1])} gradients"
        )
    return find(evidence, lambda: every(statements), missing, "; ".join(words))


def polynomials_as_printed(evidence: Evidence) -> Finding:
    rows = (evidence := of_part(evidence, "polynomials")).rows
    exact, printed = numbers(rows, "k_sob_d1_n"), numbers(rows, "k_sob_printed_d1_n")
    wrong = [degree for degree, k in exact.items() if k != printed[degree]]
    return find(
        evidence,
        lambda: not wrong,
        "" if len(evidence.rows) else "the polynomials",
        "K_sob by degree n: "
        + ", ".join(f"{n}: {k:.0f}{f' (printed: {printed[n]:.0f})' if n in wrong else ''}" for n, k in exact.items()),
    )


CLAIMS: Sequence[Claim] = (
    Claim(
        "Proposition 1",
        "For any values and any gradients on a finite set of points, some ReLU network has them.",
        "a proof",
        "On every random instance, the constructed network has them to a relative error of 1e-6 in float64.",
        COMMAND,
        proposition_1,
    ),
    Claim(
        "Proposition 2",
        "K_sob <= K_reg for any family of functions.",
        "a proof",
        "It holds in every family computed.",
        COMMAND,
        proposition_2,
    ),
    Claim(
        "Proposition 3, Gaussian",
        "K_sob = 1 and K_reg > 2 for Gaussian densities: N(2, 1) and N(2.847..., 1.641...) agree at 0 and 3.",
        "the pair to 4 digits",
        "The pair is found to those digits, with values equal to 1e-15. On random densities, one value and slope, and "
        "also three values, recover the parameters to 1e-6, and two values have a second, different solution to 1e-6.",
        COMMAND,
        proposition_3_gaussian,
    ),
    Claim(
        "Proposition 3, piecewise linear",
        "For continuous piecewise-linear functions on a fixed partition, one point per cell with its derivative is "
        "enough, while values need at least d + 1 points per cell.",
        "1 against d + 1",
        "On Kuhn's partitions in 1, 2 and 3 dimensions, exact ranks show that one point per cell with its gradient "
        "determines the function, and that some placement of d values per cell in general position does not.",
        COMMAND,
        proposition_3_piecewise_linear,
    ),
    Claim(
        "Polynomials, as printed",
        "A polynomial of degree n in one variable is determined by ceil(n / 2) points with derivatives.",
        "ceil(n / 2)",
        "Exact ranks give ceil(n / 2) for every degree from 1 to 9.",
        COMMAND,
        polynomials_as_printed,
    ),
)
