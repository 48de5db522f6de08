"""Training that has diverged ends its run in one line, and no shipped row is beyond the rule."""

import csv
import gzip
import math
from collections import defaultdict

import pytest
import torch

from experiments.runner.divergence import IN_THE_END, ON_THE_WAY, check_convergence
from experiments.runner.errors import BadInput
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of, is_complete
from sobolev.functions import FUNCTIONS
from sobolev.seeding import generator
from tests.conftest import ROOT

DIVERGED = {  # each ended complete before, with an objective of 1e13 to 1e40 or rows that are not finite
    "regression": ("n_train=20", "optimizer.learning_rate=100"),
    "regression_normalised": ("n_train=20", "optimizer.learning_rate=1e5"),
    "regression_second_order": ("n_train=20", "optimizer.learning_rate=1e3"),
    "regression_descent": ("n_train=20", "optimizer.learning_rate=1e4"),
    "theory_mismatch": ("optimizer.learning_rate=1e8",),
    "theory_approximation": ("optimizer.learning_rate=1e8",),
    "theory_points": ("optimizer.learning_rate=1e3",),
    "synthetic_gradients": ("technique=critic", "optimizer.predictor_learning_rate=1e25"),
    "train_teacher": ("teacher.learning_rate=1e30",),
    "distill_atari": ("optimizer.learning_rate=1e6",),
}


@pytest.mark.parametrize("experiment", DIVERGED)
def test_training_that_diverged_is_not_complete_and_keeps_what_it_measured(make_config, experiment):
    config = make_config(f"experiment={experiment}", *DIVERGED[experiment])
    with pytest.raises(BadInput, match=r"^training diverged: at step \d+ .*: lower .*learning_rate$"):
        execute(config)
    assert not is_complete(folder_of(config))
    assert "training diverged" in (folder_of(config) / "error.txt").read_text()
    assert (folder_of(config) / "metrics.csv").read_text().startswith("experiment,task,")


def test_it_ends_where_it_is_measured_and_not_where_training_would(make_config):
    config = make_config("n_train=20", "optimizer.learning_rate=1e6", "optimizer.steps=1000")
    with pytest.raises(BadInput, match=r"at step 1 the relative error of seeds 0 and 1 \(of 2\) reaches \d.*e\+\d+: "):
        execute(config)
    assert (folder_of(config) / "metrics.csv").read_text().splitlines()[-1].split(",")[5] == "1"


def test_whose_networks_and_how_far():
    for errors, said in (
        ({3: 1e2, 4: 2e5}, r"at step 7 the relative error of seed 4 \(of 2\) reaches 2e\+05: lower it"),
        ({3: 2e5, 4: 3e5, 5: math.nan}, r"of seeds 3, 4 and 5 \(of 3\) reaches nan"),
    ):
        with pytest.raises(BadInput, match=said):
            check_convergence(7, False, errors, lower="it")
    check_convergence(7, False, {3: ON_THE_WAY}, [1.0])
    with pytest.raises(BadInput, match="reaches"):
        check_convergence(7, True, {3: ON_THE_WAY})
    with pytest.raises(BadInput, match="not every number is finite"):
        check_convergence(7, False, {3: 1.0}, [1.0, math.inf])


def test_no_shipped_network_is_beyond_the_rule():
    of_zeros = {}
    for name, function in FUNCTIONS.items():
        x = function.sample(10_000, generator(0, "test"), dtype=torch.float64)
        of_zeros[name] = function.value(x).square().mean().item()
    errors = defaultdict(dict)
    with gzip.open(ROOT / "results" / "regression" / "rows.csv.gz", "rt", newline="") as file:
        for row in csv.DictReader(file):
            if (row["split"], row["metric"]) == ("test", "value_mse"):
                network = tuple(row[key] for key in ("experiment", "task", "method", "n_train", "seed"))
                errors[network][int(row["step"])] = math.sqrt(float(row["value"]) / of_zeros[row["task"]])
    assert max(max(by_step.values()) for by_step in errors.values()) < ON_THE_WAY / 100
    assert max(by_step[max(by_step)] for by_step in errors.values()) < IN_THE_END / 5
