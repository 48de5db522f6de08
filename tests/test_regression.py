"""The loss that the regression experiment trains with, against one written out by hand."""

import pytest
import torch

from experiments.regression import gradient_computer
from sobolev.networks import MLPEnsemble
from sobolev.seeding import generator

BY_HAND = {
    "squared_l2": lambda error: error.square().sum(-1),
    "l2": lambda error: error.square().sum(-1).sqrt(),
    "l1": lambda error: error.abs().sum(-1),
}


@pytest.mark.parametrize("activation", ["relu", "tanh"])
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
