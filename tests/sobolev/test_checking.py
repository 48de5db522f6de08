"""What `check` says of targets before training: errors that a loss cannot see are named, right data raise no alarm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sobolev import Derivatives, Normalizer, Projected, check
from sobolev.agreement import remedy_of
from sobolev.derivatives import derivatives
from sobolev.functions import BENCHMARKS


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def teacher(x: Tensor) -> Tensor:
    return torch.stack((x[..., 0].sin() * x[..., 1], x[..., 0] + 2 * x[..., 1] ** 2), -1)


def three(x: Tensor) -> Tensor:
    return torch.cat((teacher(x), x[..., :1] * x[..., 1:]), -1)


def network(outputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, outputs))


X = torch.rand(60, 2, dtype=torch.float64, generator=rng())
Y, DY, D2Y = derivatives(teacher, X, 2)
WRONG = {
    "negated": lambda dy: -dy,
    r"multiplied by 0\.5": lambda dy: 2 * dy,
    r"multiplied by -100": lambda dy: -dy / 100,
    r"transposed, from \(samples, inputs, outputs\)": lambda dy: dy.mT.reshape(dy.shape),
    r"transposed, from \(samples, inputs, outputs\) and negated": lambda dy: -dy.mT.reshape(dy.shape),
    r"multiplied by \(0\.1, 3\), one number an input": lambda dy: dy * torch.tensor([10, 1 / 3]).to(dy),
}


@pytest.mark.parametrize("f", [teacher, three], ids=["square", "more outputs"])
@pytest.mark.parametrize("values", ["recorded", "function"])
@pytest.mark.parametrize("remedy", WRONG)
def test_a_wrong_jacobian_is_named_with_its_remedy(remedy, values, f):
    y, dy = derivatives(f, X)
    student, recorded = network(y.shape[-1]), {"recorded": y, "function": f}[values]
    check(student, X, (recorded, dy))
    with pytest.raises(ValueError, match="derivatives of order 1 contradict") as caught:
        check(student, X, (recorded, WRONG[remedy](dy)))
    message = str(caught.value)
    assert "\n" not in message
    found = message.partition("would agree ")[2]
    kind, _, numbers = remedy.replace("\\", "").partition("by ")
    assert found.startswith(kind)
    if numbers:
        said, expected = (
            [float(part) for part in text.partition("by ")[2].partition(", one")[0].strip("()").split(",")]
            for text in (found, remedy.replace("\\", ""))
        )
        assert said == pytest.approx(expected, rel=0.05)
    else:
        assert found == kind


def test_a_jacobian_in_another_layout_is_named_before_its_shape_is_refused():
    y, dy = derivatives(three, X)
    with pytest.raises(ValueError, match="would agree transposed"):
        check(network(3), X, (y, dy.mT))
    with pytest.raises(ValueError, match=r"order 1 is of shape \(60, 3\), expected \(60, 3, 2\)"):
        check(network(3), X, (y, dy[..., 0]))
    with pytest.raises(ValueError, match=r"order 0 is of shape \(60,\), expected \(60, 3\)"):
        check(network(3), X, (y[:, 0], dy))


def test_a_wrong_hessian_is_named():
    check(network(2), X, (Y, DY, D2Y), order=2)
    with pytest.raises(ValueError, match=r"order 2 contradict its values at near samples: they would agree negated"):
        check(network(2), X, (Y, DY, -D2Y), order=2)
    check(network(2), X, (Y, DY, -D2Y), order=1)


def test_a_black_box_may_have_the_values():
    simulator = lambda x: teacher(x).numpy().astype(np.float64)  # noqa: E731
    check(network(2), X, (simulator, DY))
    with pytest.raises(ValueError, match="contradict differences of its values: they would agree negated"):
        check(network(2), X, (simulator, -DY))


def test_a_target_that_is_a_function_is_checked_like_the_student():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, grad):
            return 3 * ctx.saved_tensors[0] * grad

    for target in (teacher, Derivatives(network(2))):
        check(network(2), X, target)
    with pytest.raises(ValueError, match="of the target: the derivative of order 1 is wrong"):
        check(network(2), X, lambda x: Wrong.apply(x))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_rough_data_that_are_right_raise_no_alarm_and_wrong_signs_do(name):
    """100 samples, as in the paper. Ackley's and Bukin's waves and ridges are far finer than the samples lie."""
    f, caught = BENCHMARKS[name], 0
    for seed in range(3):
        x = f.sample(100, rng(seed))
        y, dy, d2y = f(x)[:, None], f.gradient(x)[:, None], f.hessian(x)[:, None]
        check(network(1), x, (y, dy, d2y), order=2)
        caught += remedy_of(y, -dy, x, 1) == "negated"
        assert name == "ackley" or remedy_of(y, 2 * dy, x, 1).startswith("multiplied by 0.")
    assert caught == 3 or name == "ackley"


@pytest.mark.parametrize("outputs", [1, 3])
def test_noise_raises_no_alarm(outputs):
    for seed in range(20):
        x, y = torch.randn(100, 2, generator=rng(seed)), torch.randn(100, outputs, generator=rng(seed + 1000))
        assert remedy_of(y, torch.randn(100, outputs, 2, generator=rng(seed + 2000)), x, outputs) == ""
    noisy = derivatives(three, X)[0] + 0.02 * torch.randn(60, 3, generator=rng())
    assert remedy_of(noisy, derivatives(three, X)[1], X, 3) == ""


def test_waves_on_a_regular_grid_do_not_look_like_a_wrong_scale():
    """Differences of sin(k x) over a step h are sin(kh/2) / (kh/2) of what derivatives say, at every sample."""
    x = torch.arange(200.0, dtype=torch.float64)[:, None]
    for k in (0.5, 1.0, 1.5, 2.0, 2.6, 3.0):
        assert remedy_of((k * x).sin(), (k * (k * x).cos())[:, None], x, 1) == ""


def test_what_is_not_known_or_constant_or_few_says_nothing():
    unknown = DY.clone()
    unknown[::2] = float("nan")
    assert remedy_of(Y, unknown, X, 2) == ""
    assert remedy_of(Y, -unknown.nan_to_num(float("nan")), X, 2) in ("", "negated")
    check(network(2), X, (Y * 0, DY * 0))
    check(network(2), X[:3], (Y[:3], -DY[:3]))
    check(network(2), X[:1].repeat(60, 1), (Y[:1].repeat(60, 1), -DY[:1].repeat(60, 1, 1)))
    check(network(2), X, (Y, Projected(Y, DY[:, 0])))
    check(network(2), X, (Y, None))
    constant = torch.cat((X, torch.ones(60, 1).double()), -1)  # an input that never varies
    assert remedy_of(Y, torch.cat((-DY, torch.ones(60, 2, 1)), -1), constant, 2).startswith("negated")


def test_networks_of_an_ensemble_and_images():
    x = torch.stack((X, X))
    f = lambda x: teacher(x) * torch.tensor([1.0, 5.0]).view(2, 1, 1)[: len(x)]  # noqa: E731
    y, dy = derivatives(f, x, batch_dims=2)
    check(f, x, (y, dy), batch_dims=2)
    with pytest.raises(ValueError, match="negated"):
        check(f, x, (y, -dy), batch_dims=2)
    image = lambda x: (x.flatten(1) @ torch.arange(4.0).view(4, 1)).sin().view(-1, 1, 1)  # noqa: E731
    x = torch.rand(100, 2, 2, generator=rng())
    y, dy = derivatives(image, x)
    check(image, x, (y, dy))
    with pytest.raises(ValueError, match="negated"):
        check(image, x, (y, -dy))


def test_arguments_of_another_type_are_refused():
    with pytest.raises(TypeError, match="give the order by its name, order=2"):
        check(network(2), X, 2)
    with pytest.raises(TypeError, match="target must be a function, or recorded tensors"):
        check(network(2), X, {"y": Y})


class Twice(torch.autograd.Function):
    """sin, with a backward pass that is wrong by a factor of 2."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0].cos()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-7, 1e-4, 1e4, 1e9])
def test_units_of_the_inputs_do_not_matter(scale, dtype):
    x = ((2 * X - 1) * scale).to(dtype)
    check(lambda x: (x / scale).sin(), x, order=2)
    with pytest.raises(ValueError, match="the derivative of order 1 is wrong"):
        check(lambda x: Twice.apply(x / scale), x)
    units = Normalizer.fit(x, Y.to(dtype))
    check(units.wrap(network(2).to(dtype)), x, order=2)


def test_samples_that_mix_are_found_whatever_the_units_of_the_outputs():
    with pytest.raises(ValueError, match="f mixes the samples of a batch"):
        check(lambda x: 1e-8 * (x - x.mean(0)), X)
