"""The regression experiment: its loss against one written out by hand, what it measures, and what it calls whole."""

import subprocess
import sys

import pytest
import torch

from experiments.regression.updates import gradient_computer
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of
from experiments.runner.scale import scale_of
from sobolev.networks import MLPEnsemble
from sobolev.seeding import generator
from tests.conftest import CONFIGS, ROOT, composed

BY_HAND = {
    "squared_l2": lambda error: error.square().sum(-1),
    "l2": lambda error: error.square().sum(-1).sqrt(),
    "l1": lambda error: error.abs().sum(-1),
}


@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus"])
@pytest.mark.parametrize("distance", BY_HAND)
def test_gradients_are_those_of_the_loss_that_the_config_names(distance, activation):
    """(f - m)^2 + 0.1 d(grad f, grad m), a mean over the samples of each network."""
    ensemble = MLPEnsemble((2, 8, 8, 1), [generator(seed, "init") for seed in (0, 1)], activation=activation).double()
    x, f, df = (torch.randn(2, 5, n, generator=generator(n, "data"), dtype=torch.float64) for n in (2, 1, 2))
    gradient_computer(ensemble, 5, [1.0, 0.1], ["squared_l2", distance])(x, f, df)
    found = [parameter.grad.clone() for parameter in ensemble.parameters()]

    x.requires_grad_()
    value = ensemble(x)
    (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    loss = (f - value).square().squeeze(-1) + 0.1 * BY_HAND[distance](df - gradient)
    expected = torch.autograd.grad(loss.mean(1).sum(), list(ensemble.parameters()), materialize_grads=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


SHIPPED = ("regression", "regression_normalised", "regression_steep", "regression_second_order")


def shipped(experiment: str, *overrides: str):
    return composed(f"experiment={experiment}", *overrides)


@pytest.mark.parametrize("experiment", SHIPPED)
def test_another_protocol_than_an_experiments_own_is_not_called_paper(experiment):
    assert scale_of(shipped(experiment)) == "paper"
    other = "false" if shipped(experiment).normalise else "true"
    for override in (
        *("networks=9", "n_test=9999", "optimizer.steps=4999", "model.hidden=[256,255]", "name=mine"),
        *(f"normalise={other}", "optimizer.learning_rate=0.01", "model.activation=tanh"),
    ):
        assert scale_of(shipped(experiment, override)) == "reduced", override


def test_ranges_are_refused_where_settings_are_built_and_before_torch_is_loaded():
    program = f"""
import sys
from hydra import compose, initialize_config_dir
from experiments.registry import register_settings
from experiments.runner.errors import BadInput
from omegaconf import OmegaConf

register_settings()
with initialize_config_dir({str(CONFIGS)!r}, version_base="1.3"):
    config = compose("config", ["n_train=0"])
try:
    OmegaConf.to_object(config)
except BadInput as error:
    print(error, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "n_train must be positive, not 0 False"


def test_hessians_are_measured_where_they_do_not_vanish(make_config):
    """Also of a method that was not trained on them: they are what it is compared by."""
    for activation, metrics in (("softplus", 3), ("relu", 2)):
        config = make_config("experiment=regression", "loss=value", f"model.activation={activation}")
        execute(config)
        rows = (folder_of(config) / "metrics.csv").read_text().splitlines()[1:]
        assert len({row.split(",")[7] for row in rows}) == metrics
