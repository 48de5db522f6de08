"""Units: what is scaled by what, and that derivatives come back as the user's."""

import itertools
import math

import numpy as np
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


def test_its_numbers_keep_their_precision():
    """Seconds of a clock, in single precision, are off by more than they vary."""
    x = 1.7e9 + 30 * torch.randn(40, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    units = Normalizer.fit(x, x)
    again = Normalizer((1,), (1,))
    again.load_state_dict(units.state_dict())
    expected = (x - x.mean(0)) / x.std(0, correction=0)
    for other in (again, units.float(), units.to(torch.float32), units.half(), nn.Sequential(units).bfloat16()[0]):
        torch.testing.assert_close(other.inputs(x), expected, rtol=0, atol=1e-7)
        assert torch.equal(other.targets(x)[0], other.inputs(x))
    assert units.to("meta").x_mean.is_meta
    older = {name: held for name, held in again.state_dict().items() if name != "y_rounding"}
    assert not Normalizer((1,), (1,)).load_state_dict(older).missing_keys


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_comes_out_has_the_type_of_what_goes_in(dtype):
    x = samples()
    y, dy = derivatives(teacher, x)
    units = Normalizer.fit(x, y, dy)
    x, y, dy = x.to(dtype), y.to(dtype), dy.to(dtype)
    surrogate = units.wrap(nn.Linear(3, 2)).to(dtype)
    found = (units.inputs(x), *units.targets(y, dy), *units.inverse(y, dy), surrogate(x))
    assert {each.dtype for each in found} == {dtype}
    torch.testing.assert_close(units.inputs(x).double(), units.inputs(x.double()), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(
    ("mean", "deviation", "n", "dtype"),
    [
        (101325, 10, 10**6, torch.float32),
        (300, 0.003, 10**4, torch.float32),
        (1e9, 1e-4, 10**5, torch.float64),
        (300, 1, 10**4, torch.bfloat16),
    ],
)
def test_what_varies_little_varies_however_many_samples_there_are(mean, deviation, n, dtype):
    noise = torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = (mean + deviation * noise).to(dtype)
    units = Normalizer.fit(x, x)
    assert units.x_scale.item() == units.y_scale.item() == pytest.approx(float(x.double().std()), rel=1e-3)
    assert units.x_mean.item() == pytest.approx(float(x.double().mean()), rel=1e-12)


def test_one_sample_that_differs_is_enough():
    x = torch.full((10**5, 1), 300.0)
    x[7] += 0.01
    assert Normalizer.fit(x, x).x_scale.item() == pytest.approx(0.01 / math.sqrt(10**5), rel=1e-2)


def of_the_unit_circle(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points, their squared lengths, which are 1 but for rounding, and the gradients."""
    x = torch.randn(80, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x = x / x.norm(dim=1, keepdim=True)
    y = x.square().sum(1, keepdim=True)
    assert y.unique().numel() > 1
    return x, y, 2 * x[:, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_that_are_equal_but_for_rounding_are_constant(dtype):
    x, y, dy = of_the_unit_circle(dtype)
    for values in (y, torch.full_like(y, 0.1), torch.full((10**5, 1), 0.1, dtype=dtype)):
        assert Normalizer.fit(values, values).x_scale.item() == Normalizer.fit(values, values).y_scale.item() == 1
        assert not Normalizer.fit(values, values).targets(values)[0].any()
    units = Normalizer.fit(x, y, dy)
    y_hat, dy_hat = units.targets(y, dy)
    assert not y_hat.any()
    assert float(dy_hat.square().sum(-1).mean()) == pytest.approx(1, rel=1e-5)
    assert units.targets(y + 1)[0].all()
    with pytest.raises(ValueError, match="values are all the same"):
        SobolevLoss(weights="balanced").balance((y_hat, dy_hat), units.inputs(x))


@pytest.mark.parametrize("size", [1e200, 1e-200, 1e300, 1e-300])
def test_squares_that_are_no_numbers_are_not_needed(size):
    x = samples()
    y, dy = derivatives(teacher, x)
    usual, units = Normalizer.fit(x, y, dy), Normalizer.fit(x, y * size, dy * size)
    torch.testing.assert_close(units.y_scale / size, usual.y_scale)
    for found, expected in zip(units.targets(y * size, dy * size), usual.targets(y, dy), strict=True):
        torch.testing.assert_close(found, expected)
    for found, expected in zip(units.inverse(*usual.targets(y, dy)), (y, dy), strict=True):
        torch.testing.assert_close(found / size, expected)
    flat = torch.zeros_like(y)
    found = Normalizer.fit(x, flat, dy * size).y_scale
    torch.testing.assert_close(found / size, Normalizer.fit(x, flat, dy).y_scale)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((torch.ones(4, 3), torch.ones(5, 1)), "values have shape"),
        ((torch.ones(4, 3), torch.ones(4, 1), torch.ones(4, 3, 1)), r"order 1 have shape \(4, 3, 1\), expected"),
        ((torch.ones(0, 3), torch.ones(0, 1)), "no samples"),
        ((torch.full((4, 3), math.nan), torch.ones(4, 1)), "not finite"),
        ((torch.ones(4, 3), torch.full((4, 1), math.inf)), "y has infinite"),
        ((torch.ones(4, 3), torch.ones(4, 1), torch.full((4, 1, 3), math.inf)), "order 1 have infinite"),
        ((np.ones((4, 3)), torch.ones(4, 1)), "x must be a floating-point tensor, not ndarray"),
        ((torch.ones(4, 3), [1.0] * 4), "y must be a floating-point tensor, not list"),
        ((torch.ones(4, 3), torch.ones(4, 1), np.ones((4, 1, 3))), "order 1 must be a floating-point tensor"),
        ((torch.ones(4, 3), torch.ones(4, 1).int()), "y must be a floating-point tensor, not torch.int32"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(arguments, said):
    with pytest.raises((TypeError, ValueError), match=said) as caught:
        Normalizer.fit(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch_dims", [0, 3])
def test_samples_are_numbered(batch_dims):
    with pytest.raises(ValueError, match="batch_dims must be from 1 to 2"):
        Normalizer.fit(torch.ones(4, 3), torch.ones(4, 1), batch_dims=batch_dims)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda units: units.inputs(torch.ones(5, 1)), r"x has shape \(5, 1\), expected"),
        (lambda units: units.inputs(torch.tensor(1.0)), r"x has shape \(\), expected"),
        (lambda units: units.inputs(torch.ones(5, 3).int()), "x must be a floating-point tensor"),
        (lambda units: units.inputs(np.ones((5, 3))), "x must be a floating-point tensor"),
        (lambda units: units.targets(torch.ones(5, 1)), "values have shape"),
        (lambda units: units.targets(torch.ones(5, 2).int()), "y must be a floating-point tensor"),
        (lambda units: units.targets(torch.ones(5, 2), torch.ones(5, 2, 1)), "derivatives of order 1 have shape"),
        (lambda units: units.inverse(torch.tensor(1.0)), "values have shape"),
        (lambda units: units.inverse(torch.ones(5, 2), torch.ones(5, 3, 2)), "derivatives of order 1 have shape"),
        (lambda units: units.wrap(nn.Linear(3, 2))(torch.ones(5, 1)), r"x has shape \(5, 1\), expected"),
        (lambda units: units.wrap(nn.Linear(3, 1))(torch.ones(5, 3)), r"values have shape \(5, 1\), expected \(5, 2\)"),
        (lambda units: units.wrap(nn.Flatten(0))(torch.ones(2, 3)), r"values have shape \(6,\), expected \(2, 2\)"),
    ],
)
def test_other_shapes_than_it_has_units_for_are_refused(use, said):
    with pytest.raises((TypeError, ValueError), match=said) as caught:
        use(Normalizer((3,), (2,)))
    assert "\n" not in str(caught.value)
