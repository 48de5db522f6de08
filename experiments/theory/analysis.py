"""Computations on rows for claims, tables and figures.

A user's own runs add cells to those of the shipped grids. Figures and tables show all of them; each claim is judged on
the cells that it names (`among`), so that no other cell changes a verdict.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pandas as pd

from experiments.evidence.rows import (
    BySeed,
    Interval,
    finals,
    levels,
    median_interval,
    select,
    with_settings,
)
from experiments.evidence.verdicts import Evidence
from experiments.theory.names import plural

COMMAND = "make theory report"
LEARNED = 0.1  # a teacher counts as learned at this share of unexplained variance; our choice
# Settings of cells that are added to their rows as columns: {experiment: {column: (setting, type)}}.
# `matched` is what a network was trained to match: `value`, `sobolev` (values and derivatives) or `differences`.
SETTINGS: dict[str, dict[str, tuple[str, type]]] = {
    "theory_construction": {"n_inputs": ("n_inputs", int), "width": ("width", int)},
    "theory_approximation": {
        **{"n_inputs": ("n_inputs", int), "width": ("width", int)},
        **{"activation": ("activation", str), "matched": ("method", str)},
    },
    "theory_mismatch": {"domain": ("domain", str), "delta": ("delta", float)},
    "theory_points": {
        **{"n_inputs": ("n_inputs", int), "activation": ("activation", str), "matched": ("loss.name", str)},
    },
}
POINTS = {"theory_construction": 3_000, "theory_approximation": 4_096, "theory_mismatch": 256}  # of the shipped sweeps


def number(rows: pd.DataFrame, metric: str) -> float:
    """The single value of a metric; several runs must agree on it."""
    (value,) = set(select(rows, metric=metric)["value"].tolist())
    return value


def numbers(rows: pd.DataFrame, prefix: str) -> dict[str, float]:
    """The values of metrics that begin with a prefix, keyed by the rest of the metric's name."""
    found = zip(rows["metric"].tolist(), rows["value"].tolist(), strict=True)
    return {metric.removeprefix(prefix): value for metric, value in found if metric.startswith(prefix)}


def largest(rows: pd.DataFrame, prefix: str) -> float:
    """The largest value over all metrics that begin with a prefix and all instances."""
    return float(rows.loc[rows["metric"].str.startswith(prefix), "value"].max())


def of_experiment(evidence: Evidence, experiment: str) -> Evidence:
    """The evidence of one experiment, its rows with the columns of `SETTINGS`.

    Rows of experiments in `POINTS` are of one training size: that of the sweep or, without rows of it, the largest.
    """
    evidence = evidence.of(experiment)
    rows, sizes = evidence.rows, levels(evidence.rows, "n_train")
    if experiment in POINTS and sizes:
        rows = select(rows, n_train=POINTS[experiment] if POINTS[experiment] in sizes else max(sizes))
    return replace(evidence, rows=with_settings(rows, evidence.settings, SETTINGS.get(experiment, {})))


def of_part(evidence: Evidence, part: str) -> Evidence:
    """The rows of one part of `theory_exact`."""
    return Evidence(select(evidence.of("theory_exact").rows, task=part), {})


def among(evidence: Evidence, **cells: Collection) -> Evidence:
    """The rows whose columns have one of these values: ``among(evidence, n_inputs=(1, 2), width=(64, 128))``."""
    keep = np.ones(len(evidence.rows), dtype=bool)
    for column, entries in cells.items():
        keep &= evidence.rows[column].isin(entries).to_numpy()
    return replace(evidence, rows=evidence.rows[keep])


def present(rows: pd.DataFrame, column: str, names: Collection[str]) -> list[str]:
    """The names that occur in a column, in their given order."""
    there = set(rows[column])
    return [name for name in names if name in there]


def by_width(rows: pd.DataFrame, metric: str, **cell: object) -> dict[int, BySeed]:
    """Errors {width: {seed: value}} of the construction, or of trained networks, with these settings.

    A construction has somewhat fewer units than the requested width; its actual number of units counts. Two requested
    widths may give the same network, which then appears once.
    """
    rows = select(rows, **cell)
    built = select(rows, metric="hidden_units")
    units = dict(zip(built["width"].tolist(), built["value"].astype(int).tolist(), strict=True))
    errors = finals(select(rows, metric=metric, split="test"), "width")
    of_units = {units.get(width, width): of_seeds for (width,), of_seeds in errors.items()}
    return dict(sorted(of_units.items()))


def rates(errors: dict[int, BySeed], from_width: int = 0) -> Interval:
    """The exponent r of error ~ width^-r, fitted by least squares for each seed: median and interval."""
    errors = {width: of_seeds for width, of_seeds in errors.items() if width >= from_width}
    seeds = set.intersection(*map(set, errors.values())) if len(errors) > 1 else set()
    log_width = np.log(list(errors))
    return median_interval(
        -np.polyfit(log_width, np.log([of_seeds[seed] for of_seeds in errors.values()]), 1)[0] for seed in sorted(seeds)
    )


def points_needed(rows: pd.DataFrame, n_inputs: int, matched: str, activation: str = "relu") -> BySeed:
    """For each seed, the number of points at which the test error first reaches `LEARNED`.

    It is interpolated between sizes on logarithmic scales. A seed that never reaches `LEARNED` counts as the largest
    size, which is an underestimate; one that reaches it at the smallest size counts as that size.
    """
    rows = select(rows, n_inputs=n_inputs, matched=matched, activation=activation, metric="value_nmse", split="test")
    errors = {n: of_seeds for (n,), of_seeds in finals(rows, "n_train").items()}
    sizes, needed = np.array(list(errors)), {}
    for seed in sorted(set.intersection(*map(set, errors.values()))) if errors else ():
        curve = np.array([of_seeds[seed] for of_seeds in errors.values()])
        reached = np.flatnonzero(curve <= LEARNED)
        if not len(reached) or reached[0] == 0:
            needed[seed] = float(sizes[-1] if not len(reached) else sizes[0])
            continue
        k = reached[0]
        x, y = np.log(sizes[k - 1 : k + 1]), np.log(curve[k - 1 : k + 1])
        needed[seed] = float(np.exp(np.interp(np.log(LEARNED), y[::-1], x[::-1])))
    return needed


def k_table(evidence: Evidence) -> list[tuple[str, float, float]]:
    """(family, K_reg, K_sob) of every family that was computed."""
    polynomials, partitions = (of_part(evidence, part).rows for part in ("polynomials", "piecewise_linear"))
    table = []
    for family, k_reg in numbers(polynomials, "k_reg_").items():
        inputs, degree = family.split("_n")
        name = f"polynomials of degree {degree} in {plural(int(inputs.removeprefix('d')), 'variable')}"
        table.append((name, k_reg, number(polynomials, f"k_sob_{family}")))
    if len(of_part(evidence, "gaussian").rows):  # proposition_3_gaussian says whether these numbers hold
        table.append(("Gaussian densities", 3, 1))
    for inputs, cells in numbers(partitions, "cells_").items():
        dimension = f"piecewise linear in {inputs.removeprefix('d')}-D, {cells:.0f} cells"
        worst = number(partitions, f"values_a_cell_{inputs}") * cells
        if number(partitions, f"one_gradient_a_cell_determines_{inputs}"):
            table.append((f"{dimension}, points in general position in their cells", worst, cells))
        placed = [number(partitions, f"k_{kind}_placed_{inputs}") for kind in ("reg", "sob")]
        table.append((f"{dimension}, points where they help most", *placed))
    return table
