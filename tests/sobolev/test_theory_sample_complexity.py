"""Propositions 2 and 3: how many points determine a function, held to theorems and to witnesses."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sobolev.theory import sample_complexity as sc

# --- Exact ranks ---


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 6), columns=st.integers(1, 6), rank=st.integers(0, 4))
def test_exact_rank_of_a_product_of_known_rank(seed, rows, columns, rank):
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-9, 10, (rows, rank)) @ rng.integers(-9, 10, (rank, columns))
    assert sc.exact_rank(matrix) == (np.linalg.matrix_rank(matrix) if matrix.size else 0)


def test_exact_rank_sees_what_floating_point_cannot():
    nearly_singular = [[10**20, 10**20 + 1], [10**20 - 1, 10**20]]  # determinant 1
    assert sc.exact_rank(nearly_singular) == 2
    assert np.linalg.matrix_rank(np.array(nearly_singular, dtype=float)) == 1


# --- Polynomials ---


@pytest.mark.parametrize("degree", range(1, 10))
def test_univariate_polynomials_settle_the_printed_formula(degree):
    """K_sob = ceil((n + 1) / 2); the printed ceil(n / 2) is the same for odd n and one short for even n."""
    rng = np.random.default_rng(degree)
    assert sc.polynomial_points(1, degree, with_gradients=False, rng=rng) == degree + 1
    assert sc.polynomial_points(1, degree, with_gradients=True, rng=rng) == math.ceil((degree + 1) / 2)
    printed = math.ceil(degree / 2)
    points = [[x] for x in range(printed)]
    determined = sc.exact_rank(sc.polynomial_equations(points, degree, with_gradients=True)) == degree + 1
    assert determined == (degree % 2 == 1)


def test_polynomial_equations_are_those_of_the_polynomial():
    coefficients = [3, -1, 4, 1, -5, 9]  # of y^0, y^1, y^2, x, xy, x^2 in the order of `monomials`
    assert sc.monomials(2, 2) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]
    x, y = 2, -3
    value, dx, dy = (
        sum(map(math.prod, zip(row, coefficients, strict=True))) for row in sc.polynomial_equations([[x, y]], 2, True)
    )
    assert value == 3 - y + 4 * y**2 + x - 5 * x * y + 9 * x**2
    assert (dx, dy) == (1 - 5 * y + 18 * x, -1 + 8 * y - 5 * x)


ALEXANDER_HIRSCHOWITZ = {(2, 4), (3, 4), (4, 3), (4, 4)}  # (inputs, degree), besides all quadrics


@pytest.mark.parametrize("n_inputs", [1, 2, 3, 4])
@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_multivariate_polynomials_follow_alexander_and_hirschowitz(n_inputs, degree):
    if (n_inputs, degree) == (4, 4):
        pytest.skip("70 x 75 exact elimination: the experiment runs it")
    rng = np.random.default_rng(0)
    counted = math.ceil(math.comb(n_inputs + degree, n_inputs) / (n_inputs + 1))
    expected = n_inputs + 1 if degree == 2 else counted + ((n_inputs, degree) in ALEXANDER_HIRSCHOWITZ)
    assert sc.polynomial_points(n_inputs, degree, with_gradients=True, rng=rng) == expected
    assert sc.polynomial_points(n_inputs, degree, with_gradients=False, rng=rng) == math.comb(n_inputs + degree, degree)


def test_the_square_of_a_conic_is_why_five_points_do_not_determine_a_quartic():
    rng = np.random.default_rng(1)
    points = rng.integers(-9, 10, (5, 2)).tolist()
    assert sc.exact_rank(sc.polynomial_equations(points, 2, False)) == 5  # a conic passes through them: 6 unknowns
    assert sc.exact_rank(sc.polynomial_equations(points, 4, True)) == 14  # 15 equations, one of them superfluous


# --- Gaussian densities ---

# No subnormals: a run turns them off for its process, and hypothesis notices.
means, stds = (st.floats(low, 5, allow_subnormal=False) for low in (-5, 0.2))


@given(mean=means, std=stds, deviation=st.floats(-6, 6, allow_subnormal=False))
def test_one_value_and_slope_determine_a_gaussian(mean, std, deviation):
    x = mean + deviation * std
    y = sc.gaussian_density(x, mean, std)
    assert sc.gaussian_from_slope(x, y, -(x - mean) / std**2 * y) == pytest.approx((mean, std), rel=1e-9, abs=1e-9)


@given(mean=means, std=stds, x1=st.floats(-3, 3, allow_subnormal=False), distance=st.floats(0.1, 5))
def test_two_values_do_not_determine_a_gaussian(mean, std, x1, distance):
    points = np.array([x1, x1 + distance])
    half, b = distance / 2, (mean - points.mean()) / std**2
    tangent = (1 + math.hypot(1, 2 * half * b)) / (2 * half**2)  # the precision that has no twin
    assume(abs(math.log(tangent * std**2)) > 1e-3)
    twin = sc.gaussian_twin(mean, std, *points)
    assume(1e-4 < twin[1] < 1e4)
    log_density = [-(((points - m) / s) ** 2) / 2 - math.log(s) for m, s in ((mean, std), twin)]
    np.testing.assert_allclose(*log_density, rtol=1e-9, atol=1e-9)
    assert (twin[1] ** -2 - tangent) * (std**-2 - tangent) < 0
    assert sc.gaussian_twin(*twin, *points) == pytest.approx((mean, std), rel=1e-6, abs=1e-6)


def test_the_papers_gaussian_pair_to_machine_precision():
    mean, std = sc.gaussian_twin(2, 1, 0, 3)
    assert (mean, std) == pytest.approx((2.847, 1.641), abs=1e-3)
    for x in (0, 3):
        assert sc.gaussian_density(x, mean, std) == pytest.approx(sc.gaussian_density(x, 2, 1), rel=1e-15)
    assert std**2 == pytest.approx(2 * mean - 3, rel=1e-15)  # the two equations, solved by hand
    assert math.log(2 * mean - 3) / 2 + mean**2 / (2 * (2 * mean - 3)) == pytest.approx(2, rel=1e-15)


@given(mean=means, std=stds, deviation=st.floats(-3, 3, allow_subnormal=False))
def test_three_values_determine_a_gaussian(mean, std, deviation):
    x = mean + std * (deviation + np.array([0.0, 0.7, -0.4]))
    recovered = sc.gaussian_from_values(x, sc.gaussian_density(x, mean, std))
    assert recovered == pytest.approx((mean, std), rel=1e-9, abs=1e-9)


def test_twins_meet_at_their_two_points_only():
    """A third value tells the twins apart everywhere: log densities differ by a quadratic with roots 0 and 3."""
    twin = sc.gaussian_twin(2, 1, 0, 3)
    x = np.linspace(-8, 8, 1601)
    ratio = np.log(sc.gaussian_density(x, 2, 1) / sc.gaussian_density(x, *twin))
    assert x[np.abs(ratio) < 1e-12] == pytest.approx([0, 3], abs=1e-12)
    assert np.diff(ratio, 3) == pytest.approx(0, abs=1e-11)


def test_the_tangent_gaussian_has_no_twin_and_no_density_is_negative():
    with pytest.raises(ValueError, match="no twin"):
        sc.gaussian_twin(0.0, 1.0, -1.0, 1.0)  # b = 0: A* = 1 / D^2
    with pytest.raises(ValueError, match="positive"):
        sc.gaussian_from_slope(0.0, -1.0, 0.0)
    with pytest.raises(ValueError, match="no Gaussian density"):
        sc.gaussian_from_values((0.0, 1.0, 2.0), (0.3, 0.1, 0.3))


# --- Piecewise-linear functions ---


@pytest.mark.parametrize(("n_inputs", "cubes_per_axis"), [(1, 5), (2, 3), (3, 2)])
def test_kuhns_simplices_tile_the_cube(n_inputs, cubes_per_axis):
    vertices, cells = sc.kuhn_partition(n_inputs, cubes_per_axis)
    assert vertices.shape == ((cubes_per_axis + 1) ** n_inputs, n_inputs)
    edges = vertices[cells[:, 1:]] - vertices[cells[:, :1]]
    assert np.abs(np.linalg.det(edges)) == pytest.approx(1)  # I! of them fill a cube of side 1
    assert len(cells) == cubes_per_axis**n_inputs * math.factorial(n_inputs)
    assert len({tuple(sorted(cell)) for cell in cells.tolist()}) == len(cells)


@pytest.mark.parametrize(("n_inputs", "cubes_per_axis"), [(1, 4), (2, 3), (3, 2)])
def test_one_gradient_a_cell_does_and_fewer_than_a_simplex_of_values_may_not(n_inputs, cubes_per_axis):
    rng = np.random.default_rng(0)
    vertices, cells = sc.kuhn_partition(n_inputs, cubes_per_axis)

    def rank(cell_P, weights_PK, with_gradients):
        return sc.exact_rank(sc.piecewise_linear_equations(cells, cell_P, weights_PK, with_gradients))

    def anywhere(points_a_cell):
        cell_P = np.repeat(np.arange(len(cells)), points_a_cell)
        return cell_P, rng.integers(1, 100, (len(cell_P), n_inputs + 1))

    assert rank(*anywhere(1), with_gradients=True) == len(vertices)
    assert rank(*anywhere(n_inputs + 1), with_gradients=False) == len(vertices)
    cell_P, weights_PK = sc.undetermined_values(n_inputs, cubes_per_axis, n_inputs, rng)
    assert rank(cell_P, weights_PK, with_gradients=False) < len(vertices)
    witness_V = (-1) ** vertices.sum(1)  # the function that vanishes at all those points, and is not 0
    assert not (weights_PK * witness_V[cells[cell_P]]).sum(1).any()
    for points in np.split(weights_PK, len(cells)):  # and yet they are in general position within their cells
        assert sc.exact_rank(points) == n_inputs


def test_placed_points_cover_the_vertices():
    """On a line every other cell does: ceil((C + 1) / 2) points, where one a cell would be C."""
    for n_cells in (1, 2, 5, 6, 11):
        _, cells = sc.kuhn_partition(1, n_cells)
        assert sc.placed_points(cells) == math.ceil((n_cells + 1) / 2)
    vertices, cells = sc.kuhn_partition(2, 3)
    assert sc.placed_points(cells) >= len(vertices) / 3


def test_random_points_stop_at_the_first_that_determines():
    _, cells = sc.kuhn_partition(1, 3)
    for seed in range(5):
        k_reg, k_sob = (
            sc.random_points_until_determined(cells, with_gradients, np.random.default_rng(seed))
            for with_gradients in (False, True)
        )
        cell_P = np.random.default_rng(seed).integers(3, size=10_000)  # the same draws
        both_ends = next(k for k in range(1, 100) if {0, 2} <= set(cell_P[:k].tolist()))
        assert k_sob == both_ends  # cells 0 and 2 touch all four vertices
        assert k_reg >= max(4, k_sob)
