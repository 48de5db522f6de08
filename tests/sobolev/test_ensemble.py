"""The ensemble against networks trained one by one, and the fused step against autograd."""

import copy

import pytest
import torch
from torch import nn

from sobolev.losses import SobolevLoss
from sobolev.networks import INITIALISATIONS, MLPEnsemble, ReLUSobolevStep
from sobolev.seeding import generator


def make(sizes=(2, 16, 16, 1), networks=3, **options) -> MLPEnsemble:
    return MLPEnsemble(sizes, [generator(seed, "init") for seed in range(networks)], **options).double()


def batch(ensemble: MLPEnsemble, n: int = 7):
    rng = generator(0, "data")
    e, i = len(ensemble), ensemble.sizes[0]
    x, value, gradient = (torch.randn(e, n, width, generator=rng, dtype=torch.float64) for width in (i, 1, i))
    return x, value, gradient


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_network_of_the_ensemble_is_the_sequential_one(activation):
    ensemble = make(activation=activation)
    x, _, _ = batch(ensemble)
    for e in range(len(ensemble)):
        torch.testing.assert_close(ensemble.network(e)(x[e]), ensemble(x)[e])


@pytest.mark.parametrize("initialisation", INITIALISATIONS)
def test_a_network_does_not_depend_on_its_neighbours(initialisation):
    together = make(initialisation=initialisation)
    alone = MLPEnsemble((2, 16, 16, 1), [generator(1, "init")], initialisation=initialisation).double()
    for many, one in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.equal(many[1:2], one)
        if many[:, 0].std(0).max() > 0:  # biases may start at zero
            assert not torch.equal(many[:1], one)


def test_a_part_is_in_the_memory_of_the_whole():
    ensemble = make()
    part = ensemble.part(slice(1, 3))
    x, _, _ = batch(ensemble)
    assert torch.equal(part(x[1:3]), ensemble(x)[1:3])
    first, later = ensemble(x)[0].clone(), ensemble(x)[1:].clone()
    with torch.no_grad():
        part.biases[-1].add_(1.0)
    assert torch.equal(ensemble(x)[0], first)
    torch.testing.assert_close(ensemble(x)[1:], later + 1.0)
    assert [name for name, _ in part.named_parameters()] == [name for name, _ in ensemble.named_parameters()]


def test_default_initialisation_is_that_of_linear():
    """Same bounds as nn.Linear, seen on a wide layer."""
    ensemble, linear = make((64, 512, 1), networks=1), nn.Linear(64, 512)
    assert ensemble.weights[0].abs().max() <= 64**-0.5
    torch.testing.assert_close(ensemble.weights[0].std().item(), linear.weight.std().item(), rtol=0.02, atol=0.0)


@pytest.mark.parametrize("sizes", [(2, 8, 1), (2, 16, 16, 1), (5, 8, 6, 4, 1)])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (1.0, 1.0), (0.3, 2.0), (0.0, 1.0)])
def test_fused_step_equals_autograd(sizes, weights):
    ensemble = make(sizes)
    x, value, gradient = batch(ensemble)
    ReLUSobolevStep(ensemble, x.shape[1], *weights)(x, value, gradient)
    fused = [parameter.grad.clone() for parameter in ensemble.parameters()]

    twin = make(sizes)
    loss = SobolevLoss(order=1, weights=weights, reduction="none", batch_dims=2)
    loss(twin, x, (value, gradient.unsqueeze(2))).total.mean(1).sum().backward()
    for mine, parameter in zip(fused, twin.parameters(), strict=True):
        expected = torch.zeros_like(mine) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)


def test_weights_may_differ_between_networks():
    ensemble = make()
    x, value, gradient = batch(ensemble)
    mixed = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64).view(3, 1, 1)
    ReLUSobolevStep(ensemble, x.shape[1], 1.0, mixed)(x, value, gradient)
    for e, weight in enumerate(mixed.flatten().tolist()):
        alone = make()
        ReLUSobolevStep(alone, x.shape[1], 1.0, weight)(x, value, gradient)
        for many, one in zip(ensemble.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(many.grad[e], one.grad[e])


@pytest.mark.parametrize("gradient_weight", [0.0, 1.0])
def test_gradients_that_an_optimiser_has_dropped_are_made_anew(gradient_weight):
    ensemble = make()
    step = ReLUSobolevStep(ensemble, 7, 1.0, gradient_weight)
    step(*batch(ensemble))
    before = [parameter.grad.clone() for parameter in ensemble.parameters()]
    torch.optim.Adam(ensemble.parameters()).zero_grad()
    step(*batch(ensemble))
    assert all(map(torch.equal, before, [parameter.grad for parameter in ensemble.parameters()]))


@pytest.mark.parametrize("gradient_weight", [0.0, 1.0])
def test_training_together_equals_training_alone(gradient_weight):
    """The loop anyone would write, one nn.Sequential at a time, with its own Adam."""
    ensemble = make()
    networks = [copy.deepcopy(ensemble.network(e)) for e in range(len(ensemble))]
    x, value, gradient = batch(ensemble, n=20)

    step = ReLUSobolevStep(ensemble, 20, 1.0, gradient_weight)
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=1e-2, fused=True)
    for _ in range(30):
        step(x, value, gradient)
        optimizer.step()

    for e, network in enumerate(networks):
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(30):
            x_e = x[e].clone().requires_grad_()
            y = network(x_e)
            (dy,) = torch.autograd.grad(y.sum(), x_e, create_graph=True)
            loss = ((y - value[e]) ** 2).sum(1) + gradient_weight * ((dy - gradient[e]) ** 2).sum(1)
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
        torch.testing.assert_close(ensemble(x)[e], network(x[e]), rtol=1e-6, atol=1e-8)


def test_refusals_say_what_would_be_right():
    with pytest.raises(ValueError, match="relu, leaky_relu, tanh"):
        make(activation="swish")
    with pytest.raises(ValueError, match="positive widths"):
        make((2,))
    with pytest.raises(ValueError, match="one generator per network"):
        MLPEnsemble((2, 4, 1), [])
    with pytest.raises(ValueError, match="ReLU networks"):
        ReLUSobolevStep(make(activation="tanh"), 4)
    ensemble = make()
    with pytest.raises(ValueError, match=r"\(3, 4, 2\)"):
        ReLUSobolevStep(ensemble, 4)(*batch(ensemble, n=5))
    x, value, gradient = batch(ensemble)
    with pytest.raises(ValueError, match=r"values of shape \(3, 7, 1\), got \(3, 7\)"):
        ReLUSobolevStep(ensemble, 7)(x, value[..., 0], gradient)
    with pytest.raises(ValueError, match=r"gradients of shape \(3, 7, 2\), got \(3, 7, 1\)"):  # it would broadcast
        ReLUSobolevStep(ensemble, 7)(x, value, gradient[..., :1])
