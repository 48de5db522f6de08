"""The benchmark functions: closed forms against autograd and finite differences, minima, sampling, singular points."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sobolev.functions import BENCHMARKS, BenchmarkFunction

# The paper's table, typed a second time.
DOMAINS = {
    "ackley": ((-5, 5), (-5, 5)),
    "beale": ((-4.5, 4.5), (-4.5, 4.5)),
    "booth": ((-10, 10), (-10, 10)),
    "bukin": ((-15, -5), (-3, 3)),
    "mccormick": ((-1.5, 4), (-3, 4)),
    "rosenbrock": ((-2, 2), (-2, 2)),
    "styblinski_tang": ((-5, 5), (-5, 5)),
}
# The global minimum over the domain: every point that attains it, and the value there.
# With s = x + y and d = x - y, McCormick's is sin(s) + s/2 + (d - 1)^2: least where cos(s) = -1/2 and d = 1. Both
# coordinates of Styblinski-Tang's are the lowest of the three roots of 2 z^3 - 16 z + 2.5.
LOWEST_ROOT = -2.0 * math.sqrt(8 / 3) * math.cos(math.acos(1.25 / 2 / (8 / 3) ** 1.5) / 3)
MINIMA = {
    "ackley": ([(0.0, 0.0)], 0.0),
    "beale": ([(3.0, 0.5)], 0.0),
    "booth": ([(1.0, 3.0)], 0.0),
    "bukin": ([(-10.0, 1.0)], 0.0),
    "mccormick": ([(0.5 - math.pi / 3, -0.5 - math.pi / 3)], -math.sqrt(3) / 2 - math.pi / 3),
    "rosenbrock": ([(1.0, 1.0)], 0.0),
    "styblinski_tang": ([(LOWEST_ROOT, LOWEST_ROOT)], LOWEST_ROOT**4 - 16 * LOWEST_ROOT**2 + 5 * LOWEST_ROOT),
}
SINGULAR_POINTS = {
    "ackley": [[0.0, 0.0]],
    # On the ridge where x^2/100 is exact, on x = -10 off the ridge, and at the minimum, which is on both.
    "bukin": [[-12.5, 1.5625], [-10.0, -2.0], [-10.0, 1.0]],
}

each_function = pytest.mark.parametrize("function", BENCHMARKS.values(), ids=BENCHMARKS)
singular_functions = pytest.mark.parametrize("name", SINGULAR_POINTS)
unit_square = st.tuples(st.floats(0, 1), st.floats(0, 1))


def from_unit_square(function: BenchmarkFunction, u: tuple[float, float]) -> torch.Tensor:
    low, high = torch.tensor(function.domain, dtype=torch.float64).unbind(-1)
    return low + (high - low) * torch.tensor(u, dtype=torch.float64)


def distance_to_singular_set(function: BenchmarkFunction, x: torch.Tensor) -> torch.Tensor:
    if function.name == "ackley":
        return x.norm(dim=-1)
    if function.name == "bukin":
        ridge = (x[..., 1] - 0.01 * x[..., 0] ** 2).abs()
        return torch.minimum(ridge, (x[..., 0] + 10).abs())
    return torch.full(x.shape[:-1], torch.inf, dtype=x.dtype)


def sample(function: BenchmarkFunction, n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return function.sample(n, torch.Generator().manual_seed(seed), dtype)


def test_names_order_and_domains_are_the_papers() -> None:
    assert {name: function.domain for name, function in BENCHMARKS.items()} == DOMAINS
    assert list(BENCHMARKS) == list(DOMAINS)
    assert all(function.name == name for name, function in BENCHMARKS.items())


@pytest.mark.parametrize(
    ("name", "point", "value"),
    [
        ("ackley", (1.0, 0.0), 20 - 20 * 2.718281828459045 ** (-0.2 * 0.5**0.5)),
        ("beale", (1.0, 2.0), 2.5**2 + 5.25**2 + 9.625**2),
        ("booth", (0.0, 0.0), 49 + 25),
        ("bukin", (-5.0, 0.0), 50.05),
        ("mccormick", (0.0, 0.0), 1.0),
        ("rosenbrock", (-2.0, -2.0), 100 * 36 + 9),
        ("styblinski_tang", (1.0, 2.0), 0.5 * (1 - 16 + 5 + 16 - 64 + 10)),
    ],
)
def test_value_by_hand(name: str, point: tuple[float, float], value: float) -> None:
    x = torch.tensor(point, dtype=torch.float64)
    assert BENCHMARKS[name](x).item() == pytest.approx(value, rel=1e-12)


@each_function
@settings(max_examples=30, deadline=None)
@given(u=unit_square)
def test_derivatives_equal_autograd(function: BenchmarkFunction, u: tuple[float, float]) -> None:
    x = from_unit_square(function, u)
    assume(distance_to_singular_set(function, x) > 1e-6)
    torch.testing.assert_close(function.gradient(x), torch.func.grad(function.value)(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(function.hessian(x), torch.func.hessian(function.value)(x), rtol=1e-7, atol=1e-9)


@each_function
@settings(max_examples=30, deadline=None)
@given(u=unit_square)
def test_derivatives_equal_central_differences(function: BenchmarkFunction, u: tuple[float, float]) -> None:
    x = from_unit_square(function, u)
    assume(distance_to_singular_set(function, x) > 0.05)
    h = 1e-4
    steps = h * torch.eye(2, dtype=torch.float64)
    gradient = (function.value(x + steps) - function.value(x - steps)) / (2 * h)
    hessian = (function.gradient(x + steps) - function.gradient(x - steps)) / (2 * h)
    torch.testing.assert_close(function.gradient(x), gradient, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(function.hessian(x), hessian, rtol=1e-4, atol=1e-4)


@each_function
def test_a_formula_alone_has_the_same_derivatives(function: BenchmarkFunction) -> None:
    """Of any leading shape; and those of its gradient where that is given."""
    alone = replace(function, partials=None, second_partials=None)
    x = sample(function, 12).reshape(3, 4, 2)
    for other in (alone, replace(function, second_partials=None)):
        torch.testing.assert_close(other.gradient(x), function.gradient(x))
        torch.testing.assert_close(other.hessian(x), function.hessian(x))
    assert not alone.hessian(x).requires_grad
    with pytest.raises(ValueError, match="points of shape"):
        alone.hessian(torch.zeros(4, 3))


def test_a_linear_formula_has_a_hessian_of_zeros() -> None:
    plane = BenchmarkFunction("plane", ((0.0, 1.0), (0.0, 1.0)), lambda x, y: x + 2 * y)
    x = sample(plane, 5)
    torch.testing.assert_close(plane.gradient(x), torch.tensor([1.0, 2.0], dtype=torch.float64).expand(5, 2))
    assert (plane.hessian(x) == torch.zeros(5, 2, 2)).all()


@each_function
def test_any_leading_shape(function: BenchmarkFunction) -> None:
    x = sample(function, 12)
    assert function.value(x.reshape(3, 4, 2)).shape == (3, 4)
    torch.testing.assert_close(function.gradient(x.reshape(3, 4, 2)), function.gradient(x).reshape(3, 4, 2))
    torch.testing.assert_close(function.hessian(x.reshape(3, 4, 2)), function.hessian(x).reshape(3, 4, 2, 2))
    torch.testing.assert_close(function.hessian(x), function.hessian(x).mT)


@each_function
def test_minima(function: BenchmarkFunction) -> None:
    places, least = MINIMA[function.name]
    points = torch.tensor(places, dtype=torch.float64)
    low, high = torch.tensor(function.domain, dtype=torch.float64).unbind(-1)
    assert ((low <= points) & (points <= high)).all()
    torch.testing.assert_close(
        function.value(points), torch.full((len(points),), least, dtype=torch.float64),
        rtol=0, atol=1e-12,
    )  # fmt: skip
    torch.testing.assert_close(function.gradient(points), torch.zeros_like(points), rtol=0, atol=1e-12)

    near = points[:, None] + 0.01 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(1)).double()
    everywhere = torch.cat((sample(function, 20_000), near.flatten(0, 1)))
    assert function.value(everywhere).min() > least
    # Any other point that comes close to the least value would be another global minimum, missing from the list.
    if function.name != "bukin":  # all along Bukin's ridge the value is within 0.05 of the least
        lowest = everywhere[function.value(everywhere).topk(20, largest=False).indices]
        assert torch.cdist(lowest, points).amin(dim=1).max() < 0.5


@singular_functions
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_points_are_finite_and_autograd_agrees(name: str, dtype: torch.dtype) -> None:
    function = BENCHMARKS[name]
    x = torch.tensor(SINGULAR_POINTS[name], dtype=dtype)
    gradient = torch.func.vmap(torch.func.grad(function.value))(x)
    hessian = torch.func.vmap(torch.func.hessian(function.value))(x)
    for derivative in (gradient, hessian, function.gradient(x), function.hessian(x)):
        assert derivative.isfinite().all()
    torch.testing.assert_close(function.gradient(x), gradient)
    torch.testing.assert_close(function.hessian(x), hessian)


def test_singular_terms_have_zero_derivatives() -> None:
    ackley, bukin = BENCHMARKS["ackley"], BENCHMARKS["bukin"]
    assert (ackley.gradient(torch.zeros(2)) == 0).all()
    on_ridge = torch.tensor([-12.5, 1.5625])
    torch.testing.assert_close(bukin.gradient(on_ridge), torch.tensor([-0.01, 0.0]))
    assert (bukin.hessian(on_ridge) == 0).all()
    on_line = torch.tensor([-10.0, -3.0])  # t = -4: df/dy = -25, and the x-component carries no 0.01 |x + 10|
    torch.testing.assert_close(bukin.gradient(on_line), torch.tensor([-5.0, -25.0]))


def test_bukin_stays_finite_beside_the_ridge() -> None:
    bukin = BENCHMARKS["bukin"]
    for dtype, bound in ((torch.float32, 1e6), (torch.float64, 1e11)):
        x = torch.linspace(-15, -5, 5001, dtype=dtype)
        y = 0.01 * x**2
        ulp = torch.finfo(dtype).eps * y
        beside = torch.cat([torch.stack((x, y + k * ulp), dim=-1) for k in (-2, -1, 0, 1, 2)])
        assert bukin.gradient(beside).isfinite().all()
        assert bukin.hessian(beside).isfinite().all()
        assert bukin.gradient(beside).abs().max() < bound
        assert bukin.gradient(beside).abs().max() > bound / 1e4  # close enough to test it


def test_ackley_stays_finite_beside_the_origin() -> None:
    for exponent in range(-45, 0):
        x = torch.tensor([10.0**exponent, -(10.0**exponent)], dtype=torch.float32)
        assert BENCHMARKS["ackley"].gradient(x).isfinite().all()
        assert BENCHMARKS["ackley"].hessian(x).isfinite().all()


@each_function
def test_float32_agrees_with_float64(function: BenchmarkFunction) -> None:
    x = sample(function, 2000, dtype=torch.float32)
    x = x[distance_to_singular_set(function, x) > 0.01]
    for method in (function.value, function.gradient, function.hessian):
        y = method(x)
        assert y.dtype == torch.float32
        exact = method(x.double())
        torch.testing.assert_close(y.double(), exact, rtol=1e-4, atol=1e-5 * exact.abs().max().item())


@each_function
def test_sampling(function: BenchmarkFunction) -> None:
    n = 20_000
    x = sample(function, n)
    assert x.shape == (n, 2)
    assert x.dtype == torch.float64
    assert torch.equal(x, sample(function, n))
    assert not torch.equal(x, sample(function, n, seed=1))
    assert torch.equal(x.float(), sample(function, n, dtype=torch.float32))

    low, high = torch.tensor(function.domain, dtype=torch.float64).unbind(-1)
    unit = ((x - low) / (high - low)).clamp(0, 1)
    torch.testing.assert_close(low + (high - low) * unit, x)  # inside the domain: the clamp changed nothing
    counts = torch.histogramdd(unit, bins=[4, 4], range=[0.0, 1.0, 0.0, 1.0]).hist
    expected = n / 16
    assert ((counts - expected) ** 2 / expected).sum() < 37.7  # chi-squared, 15 degrees of freedom: p = 0.001


def test_consecutive_draws_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    booth = BENCHMARKS["booth"]
    assert not torch.equal(booth.sample(5, generator), booth.sample(5, generator))


def test_bad_points_are_refused_in_one_line() -> None:
    booth = BENCHMARKS["booth"]
    with pytest.raises(ValueError, match=r"booth takes points of shape \(\.\.\., 2\), not \(4, 3\)"):
        booth(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"not \(\)"):
        booth.gradient(torch.tensor(1.0))
    with pytest.raises(TypeError, match=r"floating-point torch\.Tensor, not torch\.int64"):
        booth.hessian(torch.zeros(4, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match="not list"):
        booth([1.0, 2.0])
    with pytest.raises(ValueError, match="at least 1, not 0"):
        booth.sample(0, torch.Generator())


def test_functions_survive_pickling() -> None:
    assert pickle.loads(pickle.dumps(BENCHMARKS)) == BENCHMARKS
