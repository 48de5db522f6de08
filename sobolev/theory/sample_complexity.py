"""How many points determine a function, with and without its derivatives: K_reg and K_sob, exactly.

K_reg(F) is the smallest K for which the values at K points determine the member of the family F, and K_sob(F)
is the same for values and gradients (Section 3). "K points" needs a quantifier, and which one makes sense depends
on the family. Each function here states which one it uses:

    any         every choice of K distinct points determines the function (the paper's definition),
    generic     almost every choice does,
    placed      some choice does: the points may be placed where they help.

Shape suffixes: P points, I inputs, V vertices, C cells of a partition, K corners of a cell (I + 1).
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, brentq, milp
from scipy.special import lambertw

MAX_POINTS = 10_000  # the most points that are drawn to determine a function

# --- Exact linear algebra ------------------------------------------------------------------------------


def exact_rank(rows: Iterable[Sequence[int]]) -> int:
    """The rank of an integer matrix, by fraction-free (Bareiss) elimination in Python's integers.

    >>> exact_rank([[1, 2, 3], [2, 4, 6], [0, 0, 1]])
    2
    """
    matrix = [[int(entry) for entry in row] for row in rows]
    n_columns = len(matrix[0]) if matrix else 0
    rank, divisor = 0, 1
    for column in range(n_columns):
        pivot = next((r for r in range(rank, len(matrix)) if matrix[r][column]), None)
        if pivot is None:
            continue
        matrix[rank], matrix[pivot] = matrix[pivot], matrix[rank]
        top = matrix[rank]
        for r in range(rank + 1, len(matrix)):
            factor = matrix[r][column]
            matrix[r] = [(top[column] * a - factor * b) // divisor for a, b in zip(matrix[r], top, strict=True)]
        divisor = top[column]
        rank += 1
    return rank


# --- Polynomials ---------------------------------------------------------------------------------------


def monomials(n_inputs: int, degree: int) -> list[tuple[int, ...]]:
    """The exponents of the C(degree + inputs, inputs) monomials of at most that degree."""
    return [k for k in itertools.product(range(degree + 1), repeat=n_inputs) if sum(k) <= degree]


def polynomial_equations(points_PI: Sequence[Sequence[int]], degree: int, with_gradients: bool) -> list[list[int]]:
    """The linear equations that data at integer points impose on the coefficients of a polynomial.

    There is one row per value and, with gradients, one per partial derivative: P or P (I + 1) rows of one integer per
    monomial.
    """
    rows = []
    for x_I in points_PI:
        exponents = monomials(len(x_I), degree)

        def monomial(k_I: Sequence[int], x_I: Sequence[int] = x_I) -> int:
            return math.prod(map(pow, x_I, k_I))

        rows.append([monomial(k_I) for k_I in exponents])
        for j in range(len(x_I)) if with_gradients else ():
            rows.append([k_I[j] and k_I[j] * monomial((*k_I[:j], k_I[j] - 1, *k_I[j + 1 :])) for k_I in exponents])
    return rows


def polynomial_points(n_inputs: int, degree: int, with_gradients: bool, rng: np.random.Generator) -> int:
    """K_reg or K_sob of the polynomials of one degree in I variables, for generic points, by exact ranks.

    Full rank at one set of integer points proves that this number of generic points determines the polynomial; the
    smallest such number is returned. Fewer points do not suffice if they give fewer equations than monomials. In the
    exceptions of Alexander and Hirschowitz's theorem, a polynomial that vanishes with its gradient at all points
    proves this: the square of the conic through 5 points of the plane or, for quadrics, the square of the linear
    function through I points. In more than one variable, quadrics need I + 1 points although counting equations
    allows fewer.

    In one variable generic points are any points: K values give rank min(K, n + 1), and K values with slopes give
    rank min(2 K, n + 1) (Hermite), so K_reg = n + 1 and K_sob = ceil((n + 1) / 2). For even n the paper's ceil(n / 2)
    is one short: prod (x - x_k)^2 over n / 2 points has degree n and vanishes with its slope at all of them.
    """
    n_unknowns = math.comb(degree + n_inputs, n_inputs)
    equations_per_point = n_inputs + 1 if with_gradients else 1
    k = -(-n_unknowns // equations_per_point)
    while True:
        points_PI = np.stack([rng.choice(2001, k, replace=False) - 1000 for _ in range(n_inputs)], axis=1).tolist()
        if exact_rank(polynomial_equations(points_PI, degree, with_gradients)) == n_unknowns:
            return k
        k += 1


# --- Gaussian densities --------------------------------------------------------------------------------


def gaussian_density(x: np.ndarray | float, mean: float, std: float) -> np.ndarray | float:
    """The density of N(mean, std^2) at x."""
    return np.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))


def gaussian_from_slope(x: float, y: float, dy: float) -> tuple[float, float]:
    r"""K_sob = 1: the mean and standard deviation of the one Gaussian density with value y and slope dy at x.

    s = dy / y = -(x - mean) / std^2 turns the value into q e^q = s^2 / (2 pi y^2) for q = s^2 std^2, which has
    one solution q >= 0, Lambert's W; then std = e^{-q/2} / (y sqrt(2 pi)) and mean = x + s std^2.

    Raises:
        ValueError: a value that is not positive, which no density has.
    """
    if not y > 0:
        raise ValueError(f"a Gaussian density is positive, and y = {y}")
    log_slope = dy / y
    q = lambertw((log_slope / y) ** 2 / (2 * math.pi)).real
    std = math.exp(-q / 2) / (y * math.sqrt(2 * math.pi))
    return x + log_slope * std**2, std


def gaussian_from_values(x_3: Sequence[float], y_3: Sequence[float]) -> tuple[float, float]:
    """K_reg = 3: the mean and standard deviation of the one Gaussian density with three given values.

    The log density is the quadratic -(x - mean)^2 / (2 std^2) + const, which three values determine: its second
    divided difference is -1 / (2 std^2), and the slope of its chord over [x1, x2] is its derivative at the middle.

    Raises:
        ValueError: values that no Gaussian density has at these points.
    """
    (x1, x2, x3), (l1, l2, l3) = x_3, np.log(y_3)
    chord = (l2 - l1) / (x2 - x1)
    curvature = ((l3 - l2) / (x3 - x2) - chord) / (x3 - x1)
    if not curvature < 0:
        raise ValueError(f"no Gaussian density has the values {tuple(y_3)} at {tuple(x_3)}")
    variance = -1 / (2 * curvature)
    return (x1 + x2) / 2 + chord * variance, math.sqrt(variance)


def gaussian_twin(mean: float, std: float, x1: float, x2: float) -> tuple[float, float]:
    r"""K_reg > 2: the other Gaussian density with the same values at x1 and x2.

    With precision A = 1 / std^2 and log density -A (x - mean)^2 / 2 + log(A) / 2, equal differences between
    x1 and x2 tie the mean to A: A (mean - m) = b, where m is the middle of x1 and x2 and b a constant. Then the
    value left to match is, with D = (x2 - x1) / 2,

        G(A) = ( log A - A D^2 - b^2 / A ) / 2,

    which rises to its only maximum, A* = (1 + sqrt(1 + 4 D^2 b^2)) / (2 D^2), and falls after it. So there is
    exactly one twin, on the other side of A*, which is found by bracketing. Only the density with A = A* is
    determined by two values.

    Raises:
        ValueError: x1 = x2, or a Gaussian at A = A*, which has no twin.
    """
    if x1 == x2 or not std > 0:
        raise ValueError(f"expected two different points and std > 0, got {x1}, {x2} and {std}")
    precision, middle, half = std**-2, (x1 + x2) / 2, abs(x2 - x1) / 2
    b = precision * (mean - middle)
    turning = (1 + math.sqrt(1 + (2 * half * b) ** 2)) / (2 * half**2)

    def excess(log_ratio: float) -> float:  # 2 (G(A e^log_ratio) - G(A)), without cancellation near 0
        return log_ratio - precision * half**2 * math.expm1(log_ratio) - b**2 / precision * math.expm1(-log_ratio)

    start = math.log(turning / precision)
    if abs(start) < 1e-7:
        raise ValueError("this Gaussian has no twin: its two values determine it (precision A = A*)")
    step = end = 2 * start
    while excess(end) > 0:
        end += step
    log_ratio = brentq(excess, start, end, xtol=1e-16, rtol=8.9e-16)
    twin_precision = precision * math.exp(log_ratio)
    return middle + b / twin_precision, twin_precision**-0.5


# --- Continuous piecewise linear functions on a fixed partition ----------------------------------------


def kuhn_partition(n_inputs: int, cubes_per_axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The unit cube cut into n^I cubes, and each cube into I! simplices of one size, the cells (Kuhn).

    A continuous function that is linear on every cell is determined by its values at the V = (n + 1)^I
    vertices: V is the dimension of the family.

    Returns:
        Vertices (V, I), with coordinates from 0 to n in units of 1 / n, and the I + 1 vertices (C, K) of each cell.
    """
    vertices_VI = np.array(list(itertools.product(range(cubes_per_axis + 1), repeat=n_inputs)))
    strides_I = (cubes_per_axis + 1) ** np.arange(n_inputs - 1, -1, -1)
    cells_CK = [
        np.dot(corner_I, strides_I) + np.concatenate([[0], np.cumsum(strides_I[list(axes)])])  # axis by axis
        for corner_I in itertools.product(range(cubes_per_axis), repeat=n_inputs)
        for axes in itertools.permutations(range(n_inputs))
    ]
    return vertices_VI, np.array(cells_CK)


def piecewise_linear_equations(
    cells_CK: np.ndarray, cell_P: np.ndarray, weights_PK: np.ndarray, with_gradients: bool
) -> list[list[int]]:
    """The linear equations that data at points inside cells impose on the values at the vertices.

    A point is given by its cell and integer barycentric weights in any common unit (rows may be scaled). A value
    gives the row of its weights. A value and a gradient determine the function on the whole cell, so they are
    equivalent to one row per corner.
    """
    rows = []
    for cell, weights_K in zip(cell_P, weights_PK, strict=True):
        for row_K in np.eye(len(weights_K), dtype=int) if with_gradients else [weights_K]:
            row_V = [0] * (int(cells_CK.max()) + 1)
            for vertex, weight in zip(cells_CK[cell], row_K, strict=True):
                row_V[vertex] = int(weight)
            rows.append(row_V)
    return rows


def placed_points(cells_CK: np.ndarray) -> int:
    """K_sob of a partition when points may be placed: the fewest cells that together touch every vertex.

    Points with gradients determine the values at the vertices of their cells and no others, so this is a set
    cover problem, which integer programming solves exactly. K_reg is V: values at the vertices are enough, and
    fewer equations than unknowns are not.
    """
    n_cells = len(cells_CK)
    touches_VC = np.zeros((int(cells_CK.max()) + 1, n_cells))
    touches_VC[cells_CK.T, np.arange(n_cells)] = 1
    every_vertex = LinearConstraint(touches_VC, lb=1)
    return round(
        milp(np.ones(n_cells), integrality=np.ones(n_cells), bounds=Bounds(0, 1), constraints=every_vertex).fun
    )


def undetermined_values(
    n_inputs: int, cubes_per_axis: int, values_per_cell: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Up to I affinely independent points per cell whose values do not determine the function.

    The function that is +1 or -1 at the vertices (by the parity of their coordinates) changes sign in every cell of
    Kuhn's partition; its zero set meets each cell in a piece of a hyperplane, which contains I affinely independent
    points. This is why a guarantee for every such placement takes I + 1 values per cell.

    Returns:
        Cells (P,) and barycentric weights (P, K) for `piecewise_linear_equations`.

    Raises:
        ValueError: more than I values per cell.
    """
    if not 1 <= values_per_cell <= n_inputs:
        raise ValueError(f"expected 1 to {n_inputs} values per cell in {n_inputs} dimensions, not {values_per_cell}")
    n_cells = cubes_per_axis**n_inputs * math.factorial(n_inputs)
    cell_P = np.repeat(np.arange(n_cells), values_per_cell)
    weights_PK = rng.integers(1, 1000, size=(len(cell_P), n_inputs + 1))
    even_P1, odd_P1 = (weights_PK[:, k::2].sum(1, keepdims=True) for k in (0, 1))
    weights_PK[:, 0::2] *= odd_P1  # a cell's corners alternate in parity; both halves get the same weight
    weights_PK[:, 1::2] *= even_P1
    return cell_P, weights_PK


def random_points_until_determined(cells_CK: np.ndarray, with_gradients: bool, rng: np.random.Generator) -> int:
    """How many uniform random points of the cube, drawn one by one, determine the function (by exact ranks).

    Raises:
        ValueError: `MAX_POINTS` points are not enough.
    """
    n_vertices, corners = int(cells_CK.max()) + 1, cells_CK.shape[1]
    cell_P = rng.integers(len(cells_CK), size=MAX_POINTS)
    weights_PK = 1 + (rng.dirichlet(np.ones(corners), size=MAX_POINTS) * 10**6).astype(int)

    def determined(k: int) -> bool:
        equations = piecewise_linear_equations(cells_CK, cell_P[:k], weights_PK[:k], with_gradients)
        return exact_rank(equations) == n_vertices

    low, high = 0, 1  # `low` points are not enough; double until `high` points are, then bisect
    while not determined(high):
        low, high = high, 2 * high
        if high > MAX_POINTS:
            raise ValueError(f"{MAX_POINTS:,} random points did not determine the function")
    return low + bisect.bisect_left(range(low + 1, high), True, key=determined) + 1
