"""The functions beside the paper's seven: values in print or from other code, derivatives, dimensions."""

from __future__ import annotations

import math

import pytest
import torch

from sobolev.functions import BENCHMARKS, ENGINEERING, FUNCTIONS, OTHERS, BenchmarkFunction

LEAST = {  # a point, and the value there as the function's source or the library of Surjanovic and Bingham prints it
    "branin": ((math.pi, 2.275), 0.397887),
    "eggholder": ((512.0, 404.2319), -959.6407),  # of the whole domain
    "friedman": ((0.5, 1.0, 0.5, 1.0, 1.0), 25.0),  # by hand
    "hartmann_6": ((0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573), -3.32237),
    "levy": ((1.0, 1.0), 0.0),
    "six_hump_camel": ((0.0898, -0.7126), -1.0316),
}
# At two points of the unit cube, of which a function takes as many coordinates as it has inputs: what UQTestFuns 0.7.0
# computes there and, of the borehole, the robot arm and the wing, SMT 2.15.0.
UNIT_POINTS = (
    (0.5, 0.2, 0.9, 0.3, 0.7, 0.6, 0.1, 0.8, 0.4, 0.35),
    (0.1, 0.85, 0.25, 0.65, 0.05, 0.9, 0.45, 0.15, 0.75, 0.95),
)
FROM_OTHER_CODE = {
    "borehole": (78.31320990162342, 21.766088981969315),
    "otl_circuit": (5.073354707699285, 7.307084361523676),
    "piston": (0.7217342206533994, 0.27977268964152435),
    "robot_arm": (1.1450036050652677, 1.125117779112457),
    "wing_weight": (361.6385620987463, 208.33936779958705),
}
each_function = pytest.mark.parametrize("function", OTHERS.values(), ids=OTHERS)
each_model = pytest.mark.parametrize("function", ENGINEERING.values(), ids=ENGINEERING)


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


@each_model
def test_the_value_is_that_of_other_code(function):
    low, high = torch.tensor(function.domain, dtype=torch.float64).unbind(-1)
    unit = torch.tensor(UNIT_POINTS, dtype=torch.float64)[:, : function.inputs]
    expected = torch.tensor(FROM_OTHER_CODE[function.name], dtype=torch.float64)
    torch.testing.assert_close(function(low + (high - low) * unit), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("function", (OTHERS | ENGINEERING).values(), ids=OTHERS | ENGINEERING)
def test_gradients_equal_central_differences(function):
    x = points(function, 5)
    assert x.shape == (5, function.inputs)
    h = 1e-6 * torch.tensor([high - low for low, high in function.domain], dtype=x.dtype)  # inputs differ in size
    differences = (function(x[:, None] + torch.diag(h)) - function(x[:, None] - torch.diag(h))) / 2
    torch.testing.assert_close(function.gradient(x) * h, differences, rtol=1e-5, atol=1e-11)
    hessian = function.hessian(x)
    assert hessian.shape == (5, function.inputs, function.inputs)
    torch.testing.assert_close(hessian, hessian.mT)


def test_the_eggholder_is_singular_beside_its_line_and_finite_on_it():
    beside = torch.tensor([[100.0, 53.0 + 10.0**-k] for k in range(1, 9)], dtype=torch.float64)
    slopes = OTHERS["eggholder"].gradient(beside).norm(dim=-1)
    torch.testing.assert_close(slopes[-1] / slopes[-3], torch.tensor(10.0, dtype=torch.float64), rtol=1e-2, atol=0)
    assert OTHERS["eggholder"].gradient(torch.tensor([100.0, 53.0])).isfinite().all()


def test_the_robot_arm_is_constant_where_its_hand_is_at_its_shoulder():
    arm = ENGINEERING["robot_arm"]
    folded = torch.tensor([0.0, math.pi, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    assert arm(folded).item() == pytest.approx(0, abs=1e-15)
    assert (arm.gradient(torch.zeros(8)) == 0).all()


def test_what_is_added_to_the_benchmarks_is_found_and_the_seven_stay_seven(monkeypatch):
    assert len(BENCHMARKS) == 7
    assert len({*BENCHMARKS, *OTHERS, *ENGINEERING}) == 7 + 6 + 5
    bowl = BenchmarkFunction("bowl", ((-1.0, 1.0),), lambda x: x**2)
    monkeypatch.setitem(BENCHMARKS, "bowl", bowl)
    assert FUNCTIONS["bowl"] is bowl
    assert "branin" in FUNCTIONS
    with pytest.raises(ValueError, match=r"bowl takes points of shape \(\.\.\., 1\), not \(4, 2\)"):
        bowl(torch.zeros(4, 2))
