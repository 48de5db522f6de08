"""The rule by which the recipe is chosen from the search's rows. It was written before any of these rows were seen.

The rows come from `experiment=regression_recipes`: functions outside the paper's, other seeds, validation points. A
cell is a function and a number of training points. The error of a choice in a cell is the median over seeds of the
final mean squared error of values.

1. A choice counts only if it has every cell of its stage. One whose training diverged anywhere is excluded.
2. Value-only training is the choice with the least geometric mean of errors over the cells.
3. The recipe is the choice with the greatest gain: the geometric mean over the cells of (error of 2) / error, with each
   ratio clipped to [1/10, 10]. So a recipe must help nearly everywhere: a thousandfold gain on one function does not
   make up for losses on two others.

Stage 1 (`sweep=regression/recipes_networks`) varies the network and the learning rate, with 30 choices for value-only
and 30 for Sobolev Training. The best choices of two activations enter stage 2 for each. Stage 2
(`sweep=regression/recipes_value` and `recipes_terms`) has all functions and sizes and decides by the same rule. Its
grid was fixed after the results of stage 1 were seen, and is smaller than first written.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.evidence.rows import finals, select

SEARCH = "regression_recipes"
LIMITS = "regression_recipe_limits"  # the chosen recipe with other weights and with noise
PROJECTIONS = "regression_projections"  # the chosen recipe with projected Jacobians
POINTS = 100  # the training size of the shipped cells of LIMITS and PROJECTIONS
FUNCTIONS_CHOSEN_ON = ("branin", "eggholder", "friedman", "hartmann_6", "levy", "six_hump_camel")
CELLS = frozenset((task, n_train) for task in FUNCTIONS_CHOSEN_ON for n_train in (20, 100, 10_000))
CELLS_OF_NETWORKS = frozenset(  # stage 1
    (task, n_train) for task in ("branin", "eggholder", "friedman", "levy") for n_train in (100, 10_000)
)
RATES_OF_NETWORKS = ("0.001", "0.003", "0.01")  # stage 1, with batches of 32 and the paper's loss
MOST = 10.0  # the largest ratio that counts for a cell


class Choice(NamedTuple):
    """The settings of a trial, as they appear in the method of its rows."""

    activation: str
    initialisation: str
    learning_rate: str
    batch_size: str
    weight: str
    falls: str
    distance: str
    derivative: str

    @classmethod
    def of(cls, method: str) -> Choice:
        """The choice that a method names, such as `tanh-he_spread-0.003-32-unit-flat-square-exact`."""
        # Python writes a small learning rate as 1e-05, with a dash of its own.
        return cls(*re.split(r"(?<!\de)-", method))

    @property
    def learns_gradients(self) -> bool:
        return self.weight != "none"

    @property
    def of_stage_1(self) -> bool:
        printed = self[4:] in (("unit", "flat", "square", "exact"), ("none", "flat", "square", "exact"))
        return printed and self.batch_size == "32" and self.learning_rate in RATES_OF_NETWORKS

    @property
    def settings(self) -> dict[str, str]:
        """The settings by the keys of a run's config."""
        network = {key: getattr(self, key) for key in ("activation", "initialisation")}
        optimizer = {f"optimizer.{key}": getattr(self, key) for key in ("learning_rate", "batch_size")}
        term = {f"gradient.{key}": getattr(self, key) for key in ("weight", "falls", "distance", "derivative")}
        return network | optimizer | term


Cell = tuple[str, int]  # (task, n_train)
Errors = dict[Choice, dict[Cell, float]]


def of_one_size(rows: pd.DataFrame, experiment: str) -> tuple[pd.DataFrame, int]:
    """The rows of LIMITS or PROJECTIONS at one training size, and the size: `POINTS` or, without it, the largest.

    A user's own cells may have other sizes.
    """
    rows = select(rows, experiment=experiment)
    sizes = set(rows["n_train"].tolist())
    size = POINTS if POINTS in sizes else max(sizes, default=POINTS)
    return select(rows, n_train=size), size


def errors_of(rows: pd.DataFrame, metric: str = "value_mse") -> Errors:
    """The error of each choice in each cell; rows of other experiments are ignored."""
    measured = select(rows, experiment=SEARCH, split="validation", metric=metric)
    errors: Errors = {}
    for (method, task, n_train), by_seed in finals(measured, "method", "task", "n_train").items():
        errors.setdefault(Choice.of(method), {})[task, n_train] = float(np.median([*by_seed.values()]))
    return errors


def complete(errors: Errors, cells: Collection[Cell]) -> Errors:
    """The choices that have every one of these cells, restricted to them."""
    return {
        choice: {cell: of_choice[cell] for cell in sorted(cells)}
        for choice, of_choice in errors.items()
        if of_choice.keys() >= set(cells)
    }


def mean_error(of_choice: Mapping[Cell, float]) -> float:
    """The geometric mean over cells."""
    return float(np.exp(np.mean(np.log([*of_choice.values()]))))


def gain(reference: Mapping[Cell, float], of_choice: Mapping[Cell, float], most: float = MOST) -> float:
    """The geometric mean over cells of reference / error, each ratio clipped to [1/most, most]."""
    ratios = np.array([reference[cell] / error for cell, error in of_choice.items()])
    return float(np.exp(np.mean(np.log(np.clip(ratios, 1 / most, most)))))


def ranked(errors: Errors, cells: Collection[Cell] = CELLS) -> tuple[list[Choice], list[Choice]]:
    """Value-only choices and recipes, each sorted by the rule above, best first."""
    whole = complete(errors, cells)
    value = sorted((c for c in whole if not c.learns_gradients), key=lambda choice: mean_error(whole[choice]))
    if not value:
        return [], []
    recipes = [choice for choice in whole if choice.learns_gradients]
    return value, sorted(recipes, key=lambda choice: -gain(whole[value[0]], whole[choice]))


def stage_1(errors: Errors) -> Errors:
    """The choices of stage 1 only, so that stage 2 does not change its outcome."""
    return {choice: of_choice for choice, of_choice in errors.items() if choice.of_stage_1}


def two_activations(choices: list[Choice]) -> list[Choice]:
    """The best choice, and the best one with another activation: these enter stage 2."""
    return choices[:1] + [choice for choice in choices if choice.activation != choices[0].activation][:1]
