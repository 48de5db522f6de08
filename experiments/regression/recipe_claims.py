"""Claims about the recipe, which are ours and not the paper's, and their parts of the report.

The rules were written down before the search had results (`experiments.regression.choosing`), and the paper's functions
are judged once. The rules for functions that played no part in any choice were committed before any network was
trained on them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import pandas as pd

from experiments.evidence.markdown import format_factor, markdown
from experiments.evidence.rows import median_interval
from experiments.evidence.verdicts import OURS_WHOLE, Answer, Claim, Evidence, Finding, Part
from experiments.regression.appendix import tables
from experiments.regression.choosing import (
    CELLS,
    CELLS_OF_NETWORKS,
    SEARCH,
    complete,
    errors_of,
    gain,
    mean_error,
    ranked,
    stage_1,
)
from experiments.regression.rules import (
    PAPER_TASKS,
    SIZES,
    log_ratios,
    mean_log_ratio,
    of_the_rules,
    orders_of_magnitude,
    outcome,
    won_so_many,
)

EXPERIMENT = "regression_recipe"
MAKE = "make recipes"
NEEDED = {20: 5, 100: 6, 10_000: 6}  # of the 7 functions, by size
UNSEEN = "regression_recipe_unseen"
MAKE_UNSEEN = "make recipe-unseen"
UNSEEN_TASKS = ("borehole", "otl_circuit", "piston", "robot_arm", "wing_weight")
NEEDED_UNSEEN = dict.fromkeys((20, 100, 1000, 10_000), 4)  # of the 5 functions, by size


def judged(rule: Callable[[Evidence], Finding], evidence: Evidence) -> Finding:
    return rule(of_the_rules(evidence.of(EXPERIMENT)))


def unseen(evidence: Evidence) -> Evidence:
    """The rows of the functions that played no part in any choice."""
    return of_the_rules(evidence.of(UNSEEN), UNSEEN_TASKS, NEEDED_UNSEEN)


def judged_unseen(metric: str, evidence: Evidence) -> Finding:
    return won_so_many(unseen(evidence), metric, NEEDED_UNSEEN, UNSEEN_TASKS)


CLAIMS = (
    Claim(
        key="Recipe",
        sentence="Ours: with one recipe, chosen on other functions, Sobolev Training has a lower test error than "
        "value-only training with its own best choice.",
        paper="none, the claim is ours",
        rule="At 100 and at 10,000 points at least 6 of the 7 functions are won, and at 20 at least 5.",
        command=MAKE,
        judge=partial(judged, partial(won_so_many, needed=NEEDED)),
    ),
    Claim(
        key="Recipe, magnitude",
        sentence="Ours: with 100 points, the test error is an order of magnitude lower on most functions.",
        paper="none, the claim is ours",
        rule="At 100 points the test error is more than 10 times smaller (the interval of L lies above 1) on at least "
        "4 of the 7 functions.",
        command=MAKE,
        judge=partial(judged, partial(orders_of_magnitude, sizes=(100,))),
    ),
    Claim(
        key="Recipe, gradients",
        sentence="Ours: the test error of gradients is lower too.",
        paper="none, the claim is ours",
        rule="The rule of Recipe, for the test error of gradients instead of that of values.",
        command=MAKE,
        judge=partial(judged, partial(won_so_many, metric="gradient_mse", needed=NEEDED)),
    ),
)

CLAIMS_UNSEEN = (
    Claim(
        key="Recipe, unseen functions",
        sentence="Ours: with the same recipe, Sobolev Training also has a lower test error on functions of 6 to 10 "
        "inputs that played no part in choosing it.",
        paper="none, the claim is ours",
        rule="At each of 20, 100, 1,000 and 10,000 points at least 4 of the 5 functions are won.",
        command=MAKE_UNSEEN,
        judge=partial(judged_unseen, "value_mse"),
    ),
    Claim(
        key="Recipe, unseen functions, gradients",
        sentence="Ours: on these functions, the test error of gradients is lower too.",
        paper="none, the claim is ours",
        rule="The same rule, for the test error of gradients instead of that of values.",
        command=MAKE_UNSEEN,
        judge=partial(judged_unseen, "gradient_mse"),
    ),
)


def networks(evidence: Evidence) -> str:
    """Stage 1 of the search: the best choice for each activation, without and with gradients."""
    errors = stage_1(errors_of(evidence.rows))
    whole, (value, recipes) = complete(errors, CELLS_OF_NETWORKS), ranked(errors, CELLS_OF_NETWORKS)
    if not value or not recipes:
        return ""
    lines = []
    for activation in dict.fromkeys(choice.activation for choice in recipes):
        alone, both = (next(c for c in choices if c.activation == activation) for choices in (value, recipes))
        lines.append(
            [
                activation,
                f"{alone.initialisation}, {alone.learning_rate}",
                f"{mean_error(whole[alone]):.3g}",
                f"{both.initialisation}, {both.learning_rate}",
                f"{mean_error(whole[both]):.3g}",
                f"{gain(whole[value[0]], whole[both]):.2f}",
            ]
        )
    return (
        "#### The search, stage 1: the best of 6 choices for each activation\n\nGradients are weighted 1:1. The "
        "mean error is the geometric mean over four functions, at 100 and 10,000 points, of the validation error of "
        "values. The gain is over the best of all value-only choices; in it, no cell counts for more than a factor of "
        "10.\n\n" + markdown(["activation", "value only", "mean error", "with gradients", "mean error", "gain"], lines)
    )


def search(evidence: Evidence) -> str:
    """Stage 2 of the search: the compared choices, best first."""
    errors = errors_of(evidence.rows)
    value, recipes = ranked(errors)
    if not value:
        return ""
    whole = complete(errors, CELLS)
    reference = whole[value[0]]
    lines = [
        *(["value only", "-".join(c[:4]), f"{mean_error(whole[c]):.3g}", "-"] for c in value),
        *(["recipe", "-".join(c), f"{mean_error(whole[c]):.3g}", f"{gain(reference, whole[c]):.2f}"] for c in recipes),
    ]
    return (
        f"#### The search, stage 2: {len(value)} value-only choices and {len(recipes)} recipes\n\nThe same for six "
        "functions, at 20, 100 and 10,000 points.\n\n" + markdown(["", "choice", "mean error", "gain"], lines)
    )


def wins(rows: pd.DataFrame, tasks: Collection[str], sizes: Collection[int]) -> str:
    """By size: how many functions the recipe wins, and by how much on average. Empty if it was not run."""
    ratios, said = log_ratios(rows), []
    for n_train in sizes:
        outcomes = [outcome(ratios[task, n_train]) for task in tasks if (task, n_train) in ratios]
        if outcomes:
            mean = median_interval(mean_log_ratio(rows, n_train).values())
            of_size = f"{outcomes.count('won')} of {len(outcomes)} functions at {n_train:,} points"
            said.append(f"{of_size} (geometric mean of all ratios {format_factor(mean)})")
    return ", ".join(said)


def won(evidence: Evidence) -> str:
    """How often the recipe wins, on the paper's functions and on those that played no part in any choice."""
    of_paper = wins(of_the_rules(evidence.of(EXPERIMENT)).rows, PAPER_TASKS, SIZES)
    of_others = wins(unseen(evidence).rows, UNSEEN_TASKS, NEEDED_UNSEEN)
    words = (
        "A search on other functions chose a recipe, which is compared with the best value-only training of that "
        "search. Sobolev Training has the lower test error on "
    )
    further = f" On engineering models that played no part in choosing the recipe: {of_others}." if of_others else ""
    ending = "Ratios are value-only over Sobolev; docs/recipes.md describes the recipe."
    return f"{words}{of_paper}.{further} {ending}" if of_paper else ""


ANSWER = Answer("With which recipe do derivatives help (ours)?", won)
RECIPE = Part(
    title="A recipe with which derivatives help, compared with the best value-only training (ours)",
    introduction="The loss as printed in the paper does not always help, so we searched for activation, "
    f"initialisation, learning rate and gradient term (`experiment={SEARCH}`). The search used six functions that are "
    "not the paper's, other seeds and validation points, and tried as many choices for value-only training as for "
    "Sobolev Training. What it chose was then trained once on the paper's functions. docs/recipes.md says how to use "
    "it. These claims are ours, so no verdict here is one on the paper's experiment.",
    claims=CLAIMS,
    of_paper=False,
    whole=OURS_WHOLE,
    appendix=lambda evidence: "\n\n".join(
        filter(None, (networks(evidence), search(evidence), tables(evidence.of(EXPERIMENT).rows)))
    ),
)
NO_CHOICE = Part(
    title="The recipe on functions that played no part in choosing it (ours)",
    introduction="Five engineering models from the literature, with 6 to 10 inputs; their sources are in "
    "`sobolev/functions/engineering.py`. They, the sizes and these rules were fixed before any network was trained on "
    "them. "
    "The recipe and the value-only training are those above, with no setting changed. These claims are ours, too.",
    claims=CLAIMS_UNSEEN,
    of_paper=False,
    whole=OURS_WHOLE,
    appendix=lambda evidence: tables(evidence.of(UNSEEN).rows),
)
