"""The smooth fused step against autograd: activations, distances, depths and weights, and what it refuses."""

import pytest
import torch
from torch import nn

from sobolev.losses import SobolevLoss
from sobolev.networks import ACTIVATIONS, MLPEnsemble, SmoothSobolevStep
from sobolev.networks.smooth_step import DISTANCES, ORDERS
from tests.sobolev.test_ensemble import batch, make

SMOOTH = [name for name, kind in ACTIVATIONS.items() if kind in ORDERS]
SIZES = [(2, 16, 1), (3, 16, 12, 1), (2, 8, 6, 4, 1)]  # 1 to 3 hidden layers, of several widths
CHANGING = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64).view(3, 1, 1)


def by_autograd(ensemble: MLPEnsemble, data, distance: str, value_weight, gradient_weight):
    """Loss of each network (E,) and gradients of the parameters."""
    x, value, gradient = data
    loss = SobolevLoss(1, distances=["squared_l2", distance], reduction="none", batch_dims=2)
    values, gradients = loss(ensemble, x, (value, gradient.unsqueeze(2))).by_order.values()
    # Each network has its own parameters, so the sum over networks trains each on its own mean.
    one = torch.ones(len(ensemble), 1, 1, dtype=torch.float64)
    each = ((one * value_weight)[..., 0] * values + (one * gradient_weight)[..., 0] * gradients).mean(1)
    return each.detach(), torch.autograd.grad(each.sum(), [*ensemble.parameters()])


def agree(ensemble: MLPEnsemble, loss, expected):
    torch.testing.assert_close(loss, expected[0], rtol=1e-12, atol=0)
    for parameter, gradient in zip(ensemble.parameters(), expected[1], strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)


def test_it_is_for_every_activation_that_has_a_second_derivative():
    assert set(ACTIVATIONS) - set(SMOOTH) == {"relu", "leaky_relu"}


@pytest.mark.parametrize("activation", SMOOTH)
def test_orders_are_the_derivatives_of_the_activation(activation):
    z = torch.linspace(-6, 6, 41, dtype=torch.float64, requires_grad=True)
    value = ACTIVATIONS[activation]()(z)
    (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), z)
    *orders, second = ORDERS[ACTIVATIONS[activation]](z)
    for mine, expected in zip((*orders, second()), (value, slope, bend), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("activation", SMOOTH)
def test_it_equals_autograd(activation, distance, sizes):
    """With weights that differ between networks and change from one call to the next, as does the batch's size."""
    ensemble = make(sizes, activation=activation)
    step = SmoothSobolevStep(ensemble, distance, value_weight=0.3)
    for n, weight in ((7, 2.0), (5, CHANGING), (7, 0.1 * CHANGING)):
        data = batch(ensemble, n)
        agree(ensemble, step(*data, weight), by_autograd(ensemble, data, distance, 0.3, weight))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("sizes", SIZES)
def test_a_weight_of_0_leaves_gradients_out(sizes, distance):
    ensemble = make(sizes, activation="gelu")
    x, value, gradient = batch(ensemble)
    expected = by_autograd(ensemble, (x, value, gradient), distance, 1.0, 0.0)
    step = SmoothSobolevStep(ensemble, distance)
    agree(ensemble, step(x, value, gradient, 0.0), expected)
    agree(ensemble, step(x, value, gradient, torch.zeros(3, 1, 1)), expected)
    agree(ensemble, step(x, value), expected)
    agree(ensemble, step(x, value, gradient * torch.nan, 0.0), expected)  # nor are they read


def test_weights_of_values_may_differ_between_networks():
    ensemble = make(activation="tanh")
    data = batch(ensemble)
    loss = SmoothSobolevStep(ensemble, "l2", CHANGING)(*data, 1.0)
    agree(ensemble, loss, by_autograd(ensemble, data, "l2", CHANGING, 1.0))


def test_the_norm_of_nothing_has_a_gradient_of_zeros():
    """A constant network has a gradient of exactly 0, as its target's is here."""
    ensemble = make(activation="tanh")
    nn.init.zeros_(ensemble.weights[-1])
    x, value, gradient = batch(ensemble)
    SmoothSobolevStep(ensemble, "l2")(x, value, 0 * gradient)
    found = [parameter.grad.clone() for parameter in ensemble.parameters()]
    SmoothSobolevStep(ensemble, "l2")(x, value)
    assert all(map(torch.equal, found, [parameter.grad for parameter in ensemble.parameters()]))


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "relu"},
        {"activation": "leaky_relu"},
        {"activation": "gelu", "sizes": (2, 8, 2)},
        {"activation": "gelu", "sizes": (2, 1)},
    ],
)
def test_networks_that_it_does_not_take_are_refused(change):
    assert not SmoothSobolevStep.takes(make(**change))
    with pytest.raises(ValueError, match="Tanh, Softplus, SiLU, GELU with hidden layers and one output"):
        SmoothSobolevStep(make(**change))


@pytest.mark.parametrize("other", [nn.GELU(approximate="tanh"), nn.Softplus(beta=2.0)])
def test_another_function_of_the_same_name_is_refused(other):
    ensemble = make(activation="gelu")
    ensemble.activation = other
    with pytest.raises(ValueError, match="smooth step is for"):
        SmoothSobolevStep(ensemble)


def test_refusals_say_what_would_be_right():
    ensemble = make(activation="gelu")
    with pytest.raises(ValueError, match="distance must be squared_l2 or l2, not 'l1'"):
        SmoothSobolevStep(ensemble, "l1")
    step, (x, value, gradient) = SmoothSobolevStep(ensemble), batch(ensemble)
    with pytest.raises(ValueError, match=r"inputs of shape \(3, N, 2\), got \(7, 2\)"):
        step(x[0], value, gradient)
    with pytest.raises(ValueError, match=r"values of shape \(3, 7, 1\), got \(3, 7\)"):
        step(x, value[..., 0], gradient)
    with pytest.raises(ValueError, match=r"gradients of shape \(3, 7, 2\), got \(3, 7, 1\)"):  # it would broadcast
        step(x, value, gradient[..., :1])
    for shape in ((3,), (3, 1)):  # they would weight points or inputs
        with pytest.raises(ValueError, match=r"gradient_weight must be one number, or one per network of shape"):
            step(x, value, gradient, torch.ones(shape))
        with pytest.raises(ValueError, match=r"value_weight must be one number"):
            SmoothSobolevStep(ensemble, value_weight=torch.ones(shape))
