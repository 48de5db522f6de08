"""What docs/regression.md says of softplus, from the rows that ship."""

from __future__ import annotations

import re

import numpy as np

from experiments.evidence.rows import finals, log_ratio, read_rows, select
from tests.conftest import ROOT

EXPERIMENTS = {"relu": "regression_normalised", "softplus": "regression_second_order"}
FUNCTIONS = {
    20: ("booth", "mccormick", "rosenbrock", "styblinski_tang"),
    100: ("beale", "booth", "mccormick", "rosenbrock", "styblinski_tang"),
}


def test_the_docs_say_what_gradients_give_with_softplus_and_best_against_best() -> None:
    rows = select(read_rows(ROOT / "results" / "regression" / "rows.csv.gz"), split="test", metric="value_mse")
    errors = {
        activation: finals(select(rows, experiment=experiment), "n_train", "task", "method")
        for activation, experiment in EXPERIMENTS.items()
    }
    text = " ".join((ROOT / "docs" / "regression.md").read_text().split())
    said = re.search(
        r"(\d+) to (\d+) times smaller on four functions at 20 points, and (\d+) to (\d+) times on five at 100"
        r".* of the medians: (\d+) to (\d+) times on the same four .*, and (\d+) to (\d+) times on five at 100",
        text,
    )
    assert said
    paired, best = [], []
    for n_train, tasks in FUNCTIONS.items():
        softplus = [
            10 ** log_ratio(*(errors["softplus"][n_train, task, method] for method in ("value", "sobolev"))).median
            for task in tasks
        ]
        least = [
            [
                min(np.median([*errors[activation][n_train, task, method].values()]) for activation in EXPERIMENTS)
                for task in tasks
            ]
            for method in ("value", "sobolev")
        ]
        ratios = np.divide(*least)
        paired += [min(softplus), max(softplus)]
        best += [ratios.min(), ratios.max()]
    assert [int(number) for number in said.groups()] == [round(float(number)) for number in paired + best]
