"""The functions beside the paper's seven: least values as their sources give them, derivatives, dimensions."""

from __future__ import annotations

import math

import pytest
import torch

from sobolev.functions import BENCHMARKS, FUNCTIONS, OTHERS, BenchmarkFunction

LEAST = {  # a point, and the value there as the function's source or the library of Surjanovic and Bingham prints it
    "branin": ((math.pi, 2.275), 0.397887),
    "eggholder": ((512.0, 404.2319), -959.6407),  # of the whole domain
    "friedman": ((0.5, 1.0, 0.5, 1.0, 1.0), 25.0),  # by hand
    "hartmann_6": ((0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573), -3.32237),
    "levy": ((1.0, 1.0), 0.0),
    "six_hump_camel": ((0.0898, -0.7126), -1.0316),
}
each_function = pytest.mark.parametrize("function", OTHERS.values(), ids=OTHERS)


def points(function: BenchmarkFunction, n: int = 500) -> torch.Tensor:
    return function.sample(n, torch.Generator().manual_seed(0))


@each_function
def test_the_value_is_the_one_in_print(function):
    point, value = LEAST[function.name]
    x = torch.tensor(point, dtype=torch.float64)
    assert function(x).item() == pytest.approx(value, rel=5e-5, abs=1e-9)
    if function.name not in ("friedman", "eggholder"):
        torch.testing.assert_close(function.gradient(x), torch.zeros_like(x), rtol=0, atol=0.02)
        assert function(points(function, 20_000)).min() > value


@each_function
def test_gradients_equal_central_differences(function):
    x, h = points(function, 5), 1e-5
    assert x.shape == (5, function.inputs)
    steps = h * torch.eye(function.inputs, dtype=x.dtype)
    differences = (function(x[:, None] + steps) - function(x[:, None] - steps)) / (2 * h)
    torch.testing.assert_close(function.gradient(x), differences, rtol=1e-5, atol=1e-5)
    hessian = function.hessian(x)
    assert hessian.shape == (5, function.inputs, function.inputs)
    torch.testing.assert_close(hessian, hessian.mT)


def test_the_eggholder_is_singular_beside_its_line_and_finite_on_it():
    beside = torch.tensor([[100.0, 53.0 + 10.0**-k] for k in range(1, 9)], dtype=torch.float64)
    slopes = OTHERS["eggholder"].gradient(beside).norm(dim=-1)
    torch.testing.assert_close(slopes[-1] / slopes[-3], torch.tensor(10.0, dtype=torch.float64), rtol=1e-2, atol=0)
    assert OTHERS["eggholder"].gradient(torch.tensor([100.0, 53.0])).isfinite().all()


def test_what_is_added_to_the_benchmarks_is_found_and_the_seven_stay_seven(monkeypatch):
    assert len(BENCHMARKS) == 7
    assert not BENCHMARKS.keys() & OTHERS.keys()
    bowl = BenchmarkFunction("bowl", ((-1.0, 1.0),), lambda x: x**2)
    monkeypatch.setitem(BENCHMARKS, "bowl", bowl)
    assert FUNCTIONS["bowl"] is bowl
    assert "branin" in FUNCTIONS
    with pytest.raises(ValueError, match=r"bowl takes points of shape \(\.\.\., 1\), not \(4, 2\)"):
        bowl(torch.zeros(4, 2))
