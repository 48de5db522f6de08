"""What `check` says of targets before training: errors that a loss cannot see are named, right data raise no alarm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sobolev import Derivatives, Normalizer, Projected, check
from sobolev.agreement import remedy_of
from sobolev.derivatives import derivatives
from sobolev.functions import BENCHMARKS, FUNCTIONS


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


def test_a_student_wrapped_for_training_is_its_model():
    check(Derivatives(lambda x: {"y": teacher(x)}, select="y"), X, (Y, DY))
    with pytest.raises(ValueError, match="negated"):
        check(Derivatives(teacher), X, (Y, -DY))


def test_arguments_of_another_type_are_refused():
    with pytest.raises(TypeError, match="x must be a floating-point tensor, not ndarray"):
        check(network(2), X.numpy())
    with pytest.raises(ValueError, match=r"there are no samples to check: x has shape \(0, "):
        check(network(2), X[:0], (Y[:0], DY[:0]))
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


def recorded(n: int = 110, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Two outputs in other units, of three inputs in other units."""

    def f(x: Tensor) -> Tensor:
        a, b, c = x.unbind(-1)
        return torch.stack(((2 * a).sin() * b + c / 20, (-a).exp() * c * b**2), -1)

    low, high = torch.tensor([[0.0, -1.0, 10.0], [1.0, 2.0, 50.0]], dtype=torch.float64)
    x = low + (high - low) * torch.rand(n, 3, dtype=torch.float64, generator=rng(seed))
    return x, *derivatives(f, x)


def shuffled(d: Tensor) -> Tensor:
    return d[torch.randperm(len(d), generator=rng(1))]


def of_output(o: int, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda d: torch.stack([change(each) if k == o else each for k, each in enumerate(d.unbind(1))], 1)


DISORDER = {
    "negated in output 2": of_output(1, torch.neg),
    "multiplied by 0.5 in output 1": of_output(0, lambda d: 2 * d),
    "with inputs in the order (2, 1, 3)": lambda d: d[..., [1, 0, 2]],
    "with inputs in the order (3, 1, 2)": lambda d: d[..., [1, 2, 0]],
    "with inputs in the order (2, 1, 3) in output 2": of_output(1, lambda d: d[..., [1, 0, 2]]),
    "with outputs in the order (2, 1)": lambda d: d.flip(1),
}


@pytest.mark.parametrize("remedy", DISORDER)
@pytest.mark.parametrize("n", [50, 110])
def test_another_order_or_one_wrong_output_is_named(remedy, n):
    x, y, dy = recorded(n)
    assert remedy_of(y, dy, x, 2) == ""
    found = remedy_of(y, DISORDER[remedy](dy), x, 2)
    if "multiplied" in remedy:
        assert float(found.split()[2]) == pytest.approx(0.5, rel=0.02)
        assert found.endswith("in output 1")
    else:
        assert found == remedy


def test_the_order_that_is_named_is_the_one_to_take():
    x, y, dy = recorded()
    found = remedy_of(y, dy[..., [1, 2, 0]], x, 2)
    order = [int(k) - 1 for k in found.partition("(")[2].rstrip(")").split(", ")]
    assert torch.equal(dy[..., [1, 2, 0]][..., order], dy)


def test_exchanges_of_two_among_many_inputs_or_outputs_are_named():
    x = torch.rand(150, 6, dtype=torch.float64, generator=rng())
    mix = torch.randn(6, 6, dtype=torch.float64, generator=rng(1))
    y, dy = derivatives(lambda x: (x @ mix).sin() + x, x)
    assert remedy_of(y, dy, x, 6) == ""
    exchanged = [0, 4, 2, 3, 1, 5]
    assert remedy_of(y, dy[..., exchanged], x, 6) == "with inputs in the order (1, 5, 3, 4, 2, 6)"
    assert remedy_of(y, dy[:, exchanged], x, 6) == "with outputs in the order (1, 5, 3, 4, 2, 6)"
    assert remedy_of(y, dy.mT, x, 6) == "transposed, from (samples, inputs, outputs)"
    assert remedy_of(y, of_output(3, torch.neg)(of_output(1, torch.neg)(dy)), x, 6) == "negated in outputs 2 and 4"


def test_a_black_box_tells_which_output_is_wrong():
    simulator = lambda x: teacher(x).numpy()  # noqa: E731
    with pytest.raises(ValueError, match="differences of its values: they would agree negated in output 2"):
        check(network(2), X, (simulator, of_output(1, torch.neg)(DY)))


@pytest.mark.parametrize("wrong", [shuffled, lambda d: d + 2 * d.std(0) * torch.randn(d.shape, generator=rng())])
def test_rows_in_another_order_and_noise_are_warned_of(wrong):
    x, y, dy = recorded()
    with pytest.warns(UserWarning, match=r"derivatives leave \d+% .* another order than the samples, or mostly noise"):
        assert remedy_of(y, wrong(dy), x, 2) == ""
    noisy = dy + 0.1 * dy.std(0) * torch.randn(dy.shape, generator=rng())
    assert remedy_of(y, noisy, x, 2) == ""


@pytest.mark.parametrize("n", [10, 30, 200])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_derivatives_raise_no_alarm(name, n):
    f, seeds = FUNCTIONS[name], range(3 if n < 200 else 1)
    for x in (f.sample(n, rng(seed)).double() for seed in seeds if (name, n) != ("ackley", 30)):  # waves far too short
        y, dy = f(x)[:, None], f.gradient(x)[:, None]
        both, d_both = torch.cat((y, f(x.flip(0))[:, None] * 0), 1), torch.cat((dy, 0 * dy), 1)
        for values, d in ((y, dy), (both, d_both), (y + 0.3 * y.std() * torch.randn(y.shape, generator=rng()), dy)):
            assert remedy_of(values, d, x, values.shape[1]) == ""
            assert remedy_of(values, d * 1e6, x / 1e6, values.shape[1]) == ""


@pytest.mark.parametrize("inputs", [1, 3, 20])
def test_lines_constants_and_symmetric_functions_raise_no_alarm(inputs):
    x = 2 * torch.rand(80, inputs, dtype=torch.float64, generator=rng()) - 1
    for f in (
        lambda x: torch.stack((x.sum(-1), 0 * x[:, 0] + 3), -1),
        lambda x: torch.stack((x.square().sum(-1), x.sum(-1).square()), -1),
        lambda x: torch.stack((x.abs().sum(-1), x.abs().amax(-1)), -1),
        lambda x: torch.stack((x.sin().sum(-1),) * 3, -1),
    ):
        y, dy = derivatives(f, x)
        assert remedy_of(y, dy, x, y.shape[1]) == ""
    repeated = torch.cat((x[:20],) * 4)
    assert remedy_of(f(repeated), derivatives(f, repeated)[1], repeated, 3) == ""


def test_pathwise_derivatives_of_noisy_values_raise_no_alarm():
    for n in (30, 100, 300):
        x = torch.randn(n, 4, dtype=torch.float64, generator=rng(n))
        excess = x.sum(-1) + 2 * torch.randn(n, generator=rng(n + 1))
        y, dy = excess.clamp_min(0)[:, None], (excess > 0).double()[:, None, None].expand(n, 1, 4)
        assert remedy_of(y, dy, x, 1) == ""
