"""Proposition 1 and Theorem 1: the networks that the constructions write down do what the theorems say."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sobolev.theory.constructions import (
    Profile,
    cosine_network,
    fit_cosines,
    interpolating_network,
    piecewise_linear_network,
    ridge_network,
)

SLOPES = (0.0, 0.01, 0.3, -1.0)  # ReLU, PyTorch's leaky ReLU, a steeper one, and the absolute value


def value_and_gradient(network: nn.Module, x_NI: Tensor) -> tuple[Tensor, Tensor]:
    x_NI = x_NI.clone().requires_grad_()
    y_N = network(x_NI)[:, 0]
    return y_N.detach(), torch.autograd.grad(y_N.sum(), x_NI)[0]


def relative_error(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# --- Proposition 1 ---


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 40),
    n_inputs=st.integers(1, 10),
    on_lattice=st.booleans(),
    scale=st.sampled_from((1e-3, 1.0, 1e4)),
    negative_slope=st.sampled_from(SLOPES),
)
def test_proposition_1_fits_any_values_and_any_gradients(seed, n, n_inputs, on_lattice, scale, negative_slope):
    rng = torch.Generator().manual_seed(seed)
    x_NI = normal(rng, n, n_inputs)
    if on_lattice:  # points that share most of their coordinates
        x_NI = torch.randint(0, 3, (n, n_inputs), generator=rng).double().unique(dim=0)
    y_N, dy_NI = normal(rng, len(x_NI)), normal(rng, *x_NI.shape)
    network = interpolating_network(scale * x_NI, y_N, dy_NI / scale, negative_slope)
    h_N, dh_NI = value_and_gradient(network, scale * x_NI)
    assert relative_error(h_N, y_N) < 1e-6
    assert relative_error(dh_NI, dy_NI / scale) < 1e-6
    assert network[0].out_features == 4 * x_NI.numel()


def test_proposition_1_in_one_dimension_is_the_papers_sum_of_bumps():
    x_N, y_N, dy_N = (torch.tensor(v, dtype=torch.float64) for v in ([0.0, 1.0], [2.0, -1.0], [3.0, 5.0]))
    network = interpolating_network(x_N[:, None], y_N, dy_N[:, None])
    e = 1 / 5
    probe = torch.tensor([-2 * e, -e, -e / 2, e, 2 * e, 1 - 2 * e, 1 + e, 1 + 2 * e, 9.0], dtype=torch.float64)
    expected = torch.tensor([0, 2 - 3 * e, 2 - 1.5 * e, 2 + 3 * e, 0, 0, -1 + 5 * e, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(network(probe[:, None])[:, 0], expected, rtol=0, atol=1e-12)


def test_proposition_1_holds_in_a_whole_neighbourhood():
    """The network is affine around each point, so training data a little off still lie on the right tangent."""
    rng = torch.Generator().manual_seed(0)
    x_NI, y_N, dy_NI = normal(rng, 5, 3), normal(rng, 5), normal(rng, 5, 3)
    step_NI = 1e-6 * normal(rng, 5, 3)
    network = interpolating_network(x_NI, y_N, dy_NI)
    h_N, dh_NI = value_and_gradient(network, x_NI + step_NI)
    torch.testing.assert_close(h_N, y_N + (dy_NI * step_NI).sum(1), rtol=0, atol=1e-11)
    torch.testing.assert_close(dh_NI, dy_NI, rtol=1e-9, atol=1e-9)


def test_a_rotation_needs_its_transpose():
    """Slopes along the rows of Q solve Q^T s = dy; with Q in place of Q^T the gradient would be Q^2 dy."""
    x_NI = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)  # the axes do not separate
    dy_NI = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -3.0]], dtype=torch.float64)
    _, dh_NI = value_and_gradient(interpolating_network(x_NI, torch.zeros(3).double(), dy_NI), x_NI)
    torch.testing.assert_close(dh_NI, dy_NI, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "dy", "message"),
    [
        ([[0.0, 1.0], [0.0, 1.0]], [0.0, 0.0], [[0.0, 0.0], [0.0, 0.0]], "must be distinct"),
        ([[0.0], [1.0]], [0.0], [[0.0], [0.0]], r"values \(N,\)"),
        ([[0.0], [1.0]], [0.0, math.nan], [[0.0], [0.0]], "finite"),
    ],
)
def test_proposition_1_refuses_what_no_function_satisfies(x, y, dy, message):
    with pytest.raises(ValueError, match=message):
        interpolating_network(*(torch.tensor(v, dtype=torch.float64) for v in (x, y, dy)))


# --- Ridges ---


@pytest.mark.parametrize("negative_slope", SLOPES)
def test_a_ridge_network_is_the_sum_of_its_profiles(negative_slope):
    rng = torch.Generator().manual_seed(0)
    directions = normal(rng, 3, 4)
    profiles = [Profile(normal(rng, k).sort().values, normal(rng, k)) for k in (2, 5, 9)]
    x_NI = 2 * normal(rng, 200, 4)
    expected = sum(  # numpy's interp is the same profile, written by others
        torch.from_numpy(np.interp(x_NI @ a, *p)) for a, p in zip(directions, profiles, strict=True)
    )
    torch.testing.assert_close(ridge_network(directions, profiles, negative_slope)(x_NI)[:, 0], expected)


def test_ridge_networks_refuse_knots_that_do_not_increase_and_a_linear_activation():
    one, profile = torch.ones(1, 1), Profile(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="increasing knots"):
        ridge_network(one, [profile])
    with pytest.raises(ValueError, match="differ from 1"):
        ridge_network(one, [profile], negative_slope=1.0)


# --- Theorem 1 ---


@pytest.mark.parametrize("negative_slope", SLOPES)
@pytest.mark.parametrize("pieces", [1, 4, 32])
def test_theorem_1_constants_are_attained_by_a_parabola(pieces, negative_slope):
    network = piecewise_linear_network(lambda x: x**2, -1, 2, pieces, negative_slope)
    step = 3 / pieces
    x_N1 = (-1 + step * (torch.arange(pieces).double()[:, None] + torch.tensor([1e-9, 0.5, 1 - 1e-9]))).reshape(-1, 1)
    h_N, dh_N1 = value_and_gradient(network, x_N1)
    assert (h_N - x_N1[:, 0] ** 2).abs().max().item() == pytest.approx(step**2 / 8 * 2, rel=1e-6)
    assert (dh_N1 - 2 * x_N1).abs().max().item() == pytest.approx(step / 2 * 2, rel=1e-6)
    assert network[0].out_features == pieces + 1


def test_theorem_1_rates_for_a_smooth_function_and_for_one_that_is_only_c1():
    x_N1 = torch.linspace(-1, 1, 40_002, dtype=torch.float64)[1:-1, None]  # at the ends themselves h bends
    cases = {1.0: (torch.sin, torch.cos), 0.5: (lambda x: x.abs() ** 1.5, lambda x: 1.5 * x.sign() * x.abs() ** 0.5)}
    for rate, (f, df) in cases.items():
        errors = []
        for pieces in (15, 45, 135):  # odd: no knot at 0, where the second function's curvature is infinite
            _, dh_N1 = value_and_gradient(piecewise_linear_network(f, -1, 1, pieces), x_N1)
            errors.append((dh_N1 - df(x_N1)).abs().max().item())
        assert math.log(errors[0] / errors[2], 9) == pytest.approx(rate, abs=0.05)


def bump(x_NI: Tensor) -> tuple[Tensor, Tensor]:
    y_N = (-(x_NI**2).sum(1)).exp() * (2 * x_NI.sum(1)).sin()
    slope_N = (-(x_NI**2).sum(1)).exp() * 2 * (2 * x_NI.sum(1)).cos()
    return y_N, slope_N[:, None] - 2 * x_NI * y_N[:, None]


@pytest.mark.parametrize("n_inputs", [1, 2])
def test_cosines_fit_values_and_gradients(n_inputs):
    rng = torch.Generator().manual_seed(0)
    x_NI = 2 * torch.rand(1500, n_inputs, generator=rng, dtype=torch.float64) - 1
    cosines = fit_cosines(x_NI[:1000], *bump(x_NI[:1000]), degree=10)
    y_N, dy_NI = bump(x_NI[1000:])
    torch.testing.assert_close(cosines(x_NI[1000:]), y_N, rtol=0, atol=1e-4)
    torch.testing.assert_close(cosines.gradient(x_NI[1000:]), dy_NI, rtol=0, atol=1e-3)


@pytest.mark.parametrize("negative_slope", [0.0, 0.01])
def test_theorem_1_in_two_dimensions_obeys_its_bound_and_its_rate(negative_slope):
    rng = torch.Generator().manual_seed(0)
    x_NI = 2 * torch.rand(1000, 2, generator=rng, dtype=torch.float64) - 1
    cosines = fit_cosines(x_NI, *bump(x_NI), degree=6)
    share_R = (cosines.amplitude_R * cosines.frequency_RI.norm(dim=1) * cosines.frequency_RI.abs().sum(1)).sqrt()
    errors = []
    for width in (2000, 8000):
        network = cosine_network(cosines, width, negative_slope)
        assert abs(network[0].out_features - width) <= len(share_R)
        _, dh_NI = value_and_gradient(network, x_NI)
        errors.append((dh_NI - cosines.gradient(x_NI)).norm(dim=1).max().item())
        assert errors[-1] < 1.1 * share_R.sum() ** 2 / width  # a tenth for the rounding of pieces
    assert math.log(errors[0] / errors[1], 4) == pytest.approx(1, abs=0.25)


def test_theorem_1_refuses_widths_that_hold_nothing():
    with pytest.raises(ValueError, match="pieces >= 1"):
        piecewise_linear_network(torch.sin, 0, 1, 0)
    x_NI = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    with pytest.raises(ValueError, match="take a larger one"):
        cosine_network(fit_cosines(x_NI, *bump(x_NI), degree=5), width=1)


# --- Training ReLU networks on derivatives ---


def test_the_derivative_term_does_not_move_the_kinks_of_a_relu_network():
    """It depends on where the kinks are, but grad h = sum_k c_k w_k [w_k x + b_k > 0] has no derivative in b_k.

    Autograd therefore gives the hidden biases nothing from the gradients' error, at any number of samples: for ReLU the
    gradient of the derivative term is not an unbiased estimate of that of its mean, as it is for a smooth activation.
    """
    for activation, unbiased in ((nn.ReLU(), False), (nn.Tanh(), True)):
        rng = torch.Generator().manual_seed(0)
        network = nn.Sequential(nn.Linear(1, 5), activation, nn.Linear(5, 1)).double()
        for parameter in network.parameters():
            nn.init.normal_(parameter, generator=rng)
        x_N1 = torch.linspace(-2, 2, 400_001, dtype=torch.float64)[:, None].requires_grad_()  # the mean, nearly

        def derivative_term(network=network, x_N1=x_N1) -> Tensor:
            dh_N1 = torch.autograd.grad(network(x_N1).sum(), x_N1, create_graph=True)[0]
            return (dh_N1 - x_N1.detach().cos()).square().mean()

        bias_H = network[0].bias
        by_autograd = torch.autograd.grad(derivative_term(), bias_H, allow_unused=True, materialize_grads=True)[0]
        by_difference = torch.zeros_like(bias_H)
        for k in range(len(bias_H)):
            ends = []
            for step in (1e-3, -1e-3):
                with torch.no_grad():
                    bias_H[k] += step
                ends.append(derivative_term().item())
                with torch.no_grad():
                    bias_H[k] -= step
            by_difference[k] = (ends[0] - ends[1]) / 2e-3
        assert by_difference.abs().max() > 0.05
        if unbiased:
            torch.testing.assert_close(by_autograd, by_difference, rtol=1e-3, atol=1e-4)
        else:
            assert not by_autograd.any()
