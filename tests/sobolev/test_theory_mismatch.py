"""Theorem 2: the floor that a wrong derivative leaves, in closed form, by linear programming and by least squares."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from sobolev.theory import mismatch


def sup_floor(u_K: np.ndarray, length: float) -> float:
    """The eta of Theorem 2 on an interval: max over [s, t] of |int_s^t u| / (2 + t - s), by the trapezoid rule."""
    step = length / (len(u_K) - 1)
    integral_K = np.concatenate([[0.0], np.cumsum((u_K[1:] + u_K[:-1]) * step / 2)])
    position_K = step * np.arange(len(u_K))
    change_KK = np.abs(integral_K[:, None] - integral_K)
    return (change_KK / (2 + np.abs(position_K[:, None] - position_K))).max()


def sup_floor_by_linear_programming(u_K: np.ndarray, step: float) -> float:
    """min eta over r_k with |r_k| <= eta and |(r_k+1 - r_k) / step - u on that piece| <= eta."""
    n = len(u_K)
    middle_K = (u_K[1:] + u_K[:-1]) / 2
    difference = (np.eye(n)[1:] - np.eye(n)[:-1]) / step
    blocks = [(np.eye(n), np.zeros(n)), (difference, middle_K)]
    a = np.vstack([np.column_stack([sign * m, -np.ones(len(m))]) for m, _ in blocks for sign in (1, -1)])
    b = np.concatenate([sign * v for _, v in blocks for sign in (1, -1)])
    cost = np.append(np.zeros(n), 1.0)
    return linprog(cost, A_ub=a, b_ub=b, bounds=[(None, None)] * (n + 1)).fun


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.floats(0.3, 8))
def test_the_sup_floor_is_the_best_that_any_function_can_do(seed, length):
    rng = np.random.default_rng(seed)
    u_K = np.interp(np.linspace(0, 1, 41), np.linspace(0, 1, 6), rng.normal(size=6))
    floor = sup_floor(u_K, length)
    assert floor == pytest.approx(sup_floor_by_linear_programming(u_K, length / 40), rel=1e-7)
    assert sup_floor(3 * u_K, length) == pytest.approx(3 * floor)


@pytest.mark.parametrize(("delta", "length"), [(0.5, 2.0), (2.0, 0.1), (1.0, 10.0)])
def test_a_constant_mismatch_in_closed_form(delta, length):
    eta, mean_square = mismatch.constant_mismatch(delta, length)
    assert sup_floor(np.full(101, delta), length) == pytest.approx(eta)
    # The mean square on a grid: values r_k by the trapezoid rule, slopes between neighbours, least squares.
    n = 801
    step = length / (n - 1)
    weight = np.full(n, step / length) ** 0.5
    weight[[0, -1]] /= 2**0.5
    slopes = (np.eye(n)[1:] - np.eye(n)[:-1]) / step * (step / length) ** 0.5
    target = np.concatenate([np.zeros(n), np.full(n - 1, delta * (step / length) ** 0.5)])
    _, residual, *_ = np.linalg.lstsq(np.vstack([np.diag(weight), slopes]), target, rcond=None)
    assert mean_square == pytest.approx(residual[0], rel=1e-4)


def test_a_rotation_is_matched_by_nothing():
    """Moving h off f in any direction of a rich space of functions only adds to the joint error."""
    delta, radius = 0.7, 1.3
    eta, mean_square = mismatch.rotation_mismatch(delta, radius)
    rho, angle = np.meshgrid(*(np.polynomial.legendre.leggauss(40)[0],) * 2)
    weights = np.outer(*(np.polynomial.legendre.leggauss(40)[1],) * 2)
    rho, angle = (rho + 1) / 2 * radius, (angle + 1) * math.pi
    area = (weights * rho / (weights * rho).sum()).ravel()
    x, y = (rho * np.cos(angle)).ravel(), (rho * np.sin(angle)).ravel()
    u = delta * np.stack([-y, x])
    assert (area * (u**2).sum(0)).sum() == pytest.approx(mean_square)
    assert np.abs(np.hypot(*u)).max() < eta == pytest.approx(delta * radius)
    columns = [  # values and gradients of monomials
        np.concatenate([x**i * y**j, i * x ** max(i - 1, 0) * y**j, j * x**i * y ** max(j - 1, 0)])
        for i in range(5)
        for j in range(5)
    ]
    root_weight = np.tile(area**0.5, 3)
    design, target = np.stack(columns, axis=1) * root_weight[:, None], np.concatenate([0 * x, *u]) * root_weight
    _, residual, *_ = np.linalg.lstsq(design, target, rcond=None)
    assert residual[0] == pytest.approx(mean_square, rel=1e-3)


def test_no_mismatch_no_floor_and_bad_input_is_refused():
    assert mismatch.constant_mismatch(0, 2) == (0, 0)
    with pytest.raises(ValueError, match="size > 0"):
        mismatch.rotation_mismatch(1.0, -1.0)
