"""The descent experiment: where it begins, how it resumes, what it refuses and what it calls whole."""

import math

import pytest
import torch

import experiments.regression.descent
from experiments.regression.updates import shuffled_batches
from experiments.runner.errors import BadInput
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of
from experiments.runner.scale import scale_of
from sobolev.functions import BENCHMARKS
from sobolev.networks import MLPEnsemble
from sobolev.seeding import generator
from tests.regression.test_regression import shipped
from tests.runner.test_run import interrupted

DESCENT = ("experiment=regression_descent", "n_train=50")


def rows_of(config) -> dict[tuple[str, ...], float]:
    """{(seed, step, split, metric): value}"""
    execute(config)
    lines = (folder_of(config) / "metrics.csv").read_text().splitlines()[1:]
    return {tuple(line.split(",")[4:8]): float(line.split(",")[8]) for line in lines}


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_it_begins_where_value_only_training_ends(make_config, activation):
    """In raw units the terms of the loss are the errors that the regression experiment records."""
    raw = "normalise=false"
    descent = rows_of(make_config(*DESCENT, raw, f"activation={activation}"))
    regression = rows_of(
        make_config(
            *("experiment=regression_normalised", "dataset=bukin", "loss=value", "n_train=50", "optimizer.steps=20"),
            *(raw, f"model.activation={activation}"),
        )
    )
    for split in ("train", "test"):
        for seed in "01":
            for term, error in (("value_loss", "value_mse"), ("gradient_loss", "gradient_mse")):
                assert descent[seed, "0", split, term] == regression[seed, "20", split, error]


def test_both_trainings_against_ones_written_out_by_hand(make_config):
    """One network in float64: Adam from 1e-3 on values, then a new one from 1e-4 on both, each to 0."""
    config = make_config(*DESCENT, "networks=1", "compute.precision=float64")
    found = rows_of(config)
    function = BENCHMARKS["bukin"]
    x = function.sample(50, generator(0, "train"), dtype=torch.float64)
    f, df = function.value(x)[:, None], function.gradient(x)
    deviation = f.std(correction=0)
    low, high = torch.tensor(function.domain, dtype=torch.float64).unbind(-1)
    x, f, df = (2 * x - low - high) / (high - low), (f - f.mean()) / deviation, df * (high - low) / 2 / deviation
    network = MLPEnsemble((2, 16, 16, 1), [generator(0, "init")]).double()
    batches = shuffled_batches([x[None], f[None], df[None]], 32, range(1), 0)

    def terms(x, f, df):
        x = x.detach().requires_grad_()
        value = network(x)
        (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return (value - f).square().mean(), (gradient - df).square().sum(-1).mean()

    for rate, weight in ((1e-3, 0), (1e-4, 1)):
        optimizer = torch.optim.Adam(network.parameters(), lr=rate)
        for step in range(20):
            optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / 20)) / 2
            optimizer.zero_grad()
            value, gradient = terms(*next(batches))
            (value + weight * gradient).backward()
            optimizer.step()
        for term, expected in zip(experiments.regression.descent.TERMS, terms(x[None], f[None], df[None]), strict=True):
            assert found["0", "20" if weight else "0", "train", term] == pytest.approx(expected.item(), rel=1e-6)


def test_the_objective_is_how_far_the_loss_fell(make_config):
    """The loss with its weights, which is the sum of the rows."""
    config = make_config(*DESCENT, "networks=1", "loss=sobolev_light")
    rows = rows_of(config)
    whole = rows_of(make_config(*DESCENT, "networks=1"))
    assert rows["0", "0", "train", "gradient_loss"] == pytest.approx(0.1 * whole["0", "0", "train", "gradient_loss"])
    begin, end = (
        sum(rows["0", step, "train", term] for term in experiments.regression.descent.TERMS) for step in ("0", "20")
    )
    assert execute(config) == pytest.approx(end / begin)


@pytest.mark.parametrize("after", [7, 20, 21, 33])
def test_resumed_equals_uninterrupted_bit_for_bit(make_config, monkeypatch, after):
    """Stopped in either training, and where one becomes the other."""
    whole = rows_of(make_config(*DESCENT))
    config = make_config(*DESCENT, "compute.checkpoint_seconds=0", runs="parts")
    interrupted(config, monkeypatch, after, experiments.regression.descent)
    assert (folder_of(config) / "checkpoint.pt").exists()
    assert rows_of(config) == whole


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss=value", "expected squared norms"),
        ("loss=sobolev_norm", "expected squared norms"),
        ("start.steps=0", "start.steps"),
        ("model.activation=softplus", "with activation=relu: rows are labelled by activation"),
        ("start.batch_size=16", "the same batches"),
        ("start.learning_rate=1e30", "diverged"),
    ],
)
def test_what_it_cannot_answer_is_refused(make_config, override, message):
    with pytest.raises(BadInput, match=message):
        execute(make_config(*DESCENT, override))


def test_less_than_the_shipped_experiment_is_reduced():
    assert scale_of(shipped("regression_descent")) == "paper"
    assert scale_of(shipped("regression_descent", "activation=softplus", "n_train=10000", "dataset=ackley")) == "paper"
    for override in (
        *("networks=9", "n_test=1999", "optimizer.steps=4999", "start.steps=4999", "model.hidden=[256,255]"),
        *("normalise=false", "optimizer.learning_rate=0.01", "start.schedule=constant", "name=mine"),
    ):
        assert scale_of(shipped("regression_descent", override)) == "reduced", override
