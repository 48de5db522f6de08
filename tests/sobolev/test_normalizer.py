"""Units: what is scaled by what, and that derivatives come back as the user's."""

import itertools
import math

import pytest
import torch
from torch import nn

from sobolev import Derivatives, Normalizer, SobolevLoss, projections
from sobolev.derivatives import derivatives

UNEQUAL = torch.tensor([1e3, 1e-2, 1.0], dtype=torch.float64)


def samples(n: int = 40) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return 5 + torch.rand(n, 3, dtype=torch.float64, generator=rng) * UNEQUAL


def teacher(x: torch.Tensor) -> torch.Tensor:
    z = (x - 5) / UNEQUAL
    return torch.stack((1e4 * z[:, 0] ** 2 * z[:, 1] + 7, (z[:, 2] * z[:, 0]).sin() * 1e-3), -1)


def test_scaled_numbers_are_those_of_a_loop():
    x = samples()
    y, dy, hessian = derivatives(teacher, x, 2)
    units = Normalizer.fit(x, y, dy, hessian)
    found = units.targets(y, dy, hessian)
    sigma, tau = x.std(0, correction=0), y.std(0, correction=0)
    torch.testing.assert_close(units.inputs(x), (x - x.mean(0)) / sigma)
    for n, o in itertools.product(range(4), range(2)):
        assert found[0][n, o] == pytest.approx(float((y[n, o] - y[:, o].mean()) / tau[o]), rel=1e-9)
        for i, k in itertools.product(range(3), repeat=2):
            assert found[1][n, o, i] == pytest.approx(float(dy[n, o, i] * sigma[i] / tau[o]), rel=1e-9)
            expected = float(hessian[n, o, i, k] * sigma[i] * sigma[k] / tau[o])
            assert found[2][n, o, i, k] == pytest.approx(expected, rel=1e-9, abs=1e-15)
    for back, given in zip(units.inverse(*found), (y, dy, hessian), strict=True):
        torch.testing.assert_close(back, given)


@pytest.mark.parametrize("shapes", [((3,), (2,)), ((3,), ()), ((1, 2, 2), (2,)), ((), ())])
def test_scaled_derivatives_are_derivatives_of_the_scaled_function(shapes):
    """To the third order, of inputs and outputs of any shape."""
    inputs, outputs = shapes
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(6, *inputs, dtype=torch.float64, generator=rng) * 3 + 1
    mix = torch.randn(math.prod(inputs), math.prod(outputs), dtype=torch.float64, generator=rng)

    def f(x):
        return (x.reshape(len(x), -1) @ mix).sin().mul(5).add(2).reshape(len(x), *outputs)

    raw = derivatives(f, x, 3)
    units = Normalizer.fit(x, *raw)

    def scaled(x_hat):
        return (f(x_hat * units.x_scale + units.x_mean) - units.y_mean) / units.y_scale

    for found, expected in zip(units.targets(*raw), derivatives(scaled, units.inputs(x), 3), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_wrapped_model_has_values_and_derivatives_in_the_users_units():
    x = samples()
    y, dy = derivatives(teacher, x)
    units = Normalizer.fit(x, y, dy)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    inner = derivatives(model, units.inputs(x), 2)
    for found, expected in zip(Derivatives(units.wrap(model), 2).eval()(x), units.inverse(*inner), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    h = 1e-5 * UNEQUAL[1]
    ahead, behind = (units.wrap(model)(x + sign * h * torch.tensor([0, 1, 0])) for sign in (1, -1))
    gradient = Derivatives(units.wrap(model)).eval()(x)[1]
    torch.testing.assert_close((ahead - behind) / (2 * h), gradient[:, :, 1], rtol=1e-5, atol=1e-7)


def test_training_in_units_is_training_on_what_the_user_sees_divided_by_its_size():
    """Also under projections, which are then drawn in normalised units."""
    x = samples(10)
    y, dy = derivatives(teacher, x)
    units = Normalizer.fit(x, y, dy)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    y_raw, dy_raw = derivatives(units.wrap(model), x)
    by_hand = (((y_raw - y) / units.y_scale) ** 2).sum(1).mean()
    difference = (dy_raw - dy) * units.x_scale / units.y_scale[:, None]
    terms = SobolevLoss()(model, units.inputs(x), units.targets(y, dy))
    torch.testing.assert_close(terms.by_order[0], by_hand)
    torch.testing.assert_close(terms.by_order[1], difference.square().sum((1, 2)).mean())
    rng = torch.Generator().manual_seed(3)
    loss = SobolevLoss(projection=projections.Sphere(samples=4000), generator=rng)
    projected = loss(model, units.inputs(x), units.targets(y, dy)).by_order[1]
    full = terms.by_order[1].item()
    assert projected.item() == pytest.approx(full / 2, rel=0.1)  # E v v^T = 1/2 on the circle


def test_what_is_constant_keeps_its_unit_and_what_is_unknown_is_left_out():
    x = torch.stack((torch.arange(6.0), torch.full((6,), 0.1)), 1)
    y = torch.stack((torch.tensor([1.0, 2, 3, 4, 5, math.nan]), torch.full((6,), 3.3)), 1)
    units = Normalizer.fit(x, y)
    assert units.x_scale[1] == units.y_scale[1] == 1
    assert (units.y_mean[0], units.y_scale[0]) == (3, pytest.approx(math.sqrt(2)))
    dy = torch.full((6, 2, 2), math.nan)
    dy[2, 1] = torch.tensor([3.0, 4.0])
    scaled = Normalizer.fit(x, y, dy)
    assert scaled.y_scale[0] == units.y_scale[0]
    known = torch.tensor([3.0, 4.0]) * scaled.x_scale
    assert float(scaled.y_scale[1]) == pytest.approx(float(known.norm()), rel=1e-6)


def test_its_numbers_are_saved():
    units = Normalizer.fit(samples(), teacher(samples()))
    again = Normalizer((3,), (2,)).double()
    assert torch.equal(again.inputs(samples()), samples())
    again.load_state_dict(units.state_dict())
    assert torch.equal(again.inputs(samples()), units.inputs(samples()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((torch.ones(4, 3), torch.ones(5, 1)), "values have shape"),
        ((torch.ones(4, 3), torch.ones(4, 1), torch.ones(4, 3, 1)), r"order 1 have shape \(4, 3, 1\), expected"),
        ((torch.ones(0, 3), torch.ones(0, 1)), "no samples"),
        ((torch.full((4, 3), math.nan), torch.ones(4, 1)), "not finite"),
        ((torch.ones(4, 3), torch.full((4, 1), math.inf)), "infinite"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(arguments, said):
    with pytest.raises(ValueError, match=said) as caught:
        Normalizer.fit(*arguments)
    assert "\n" not in str(caught.value)
