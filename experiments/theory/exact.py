"""The parts that need no training: Proposition 1 on random instances, K_reg and K_sob of families, Figure 2 (left).

Shape suffixes: V vertices, P points, C cells, K corners of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

from experiments.runner.limits import check_memory
from experiments.runner.run import Run
from experiments.theory.settings import ExactConfig
from sobolev.derivatives import derivatives
from sobolev.seeding import generator
from sobolev.theory import interpolating_network
from sobolev.theory import sample_complexity as sc

Rows = Iterator[tuple[int, str, str, float]]  # seed, split, metric, value
A_ROW = 100  # bytes


def main(config: ExactConfig, run: Run) -> dict:
    """Compute one part of the theory; the objective is its number of rows."""
    part, _ = PARTS[config.part]
    run.resume()
    rows = list(part(config))
    run.record(0, rows)
    return {"objective": len(rows)}


def proposition_1(config: ExactConfig) -> Rows:
    """The largest relative errors in value and gradient of the constructed network, in 1 to 10 dimensions."""
    for n_inputs in range(1, 11):
        for instance in range(config.instances):
            rng = generator(config.seed, "proposition_1", n_inputs, instance)
            x = torch.randn(30, n_inputs, generator=rng, dtype=torch.float64)
            if instance % 2:  # a hard case: points of a small lattice share most of their coordinates
                x = torch.randint(0, 3, x.shape, generator=rng).double().unique(dim=0)
            y = torch.randn(len(x), generator=rng, dtype=torch.float64)
            dy = torch.randn(x.shape, generator=rng, dtype=torch.float64)
            network = interpolating_network(x, y, dy, negative_slope=0.01 if instance % 4 > 1 else 0.0)
            h, dh = (d.squeeze(1) for d in derivatives(network, x, order=1))
            yield instance, "train", f"value_error_d{n_inputs}", ((h - y).abs().max() / y.abs().max()).item()
            yield instance, "train", f"gradient_error_d{n_inputs}", ((dh - dy).abs().max() / dy.abs().max()).item()


def polynomials(config: ExactConfig) -> Rows:
    """K_reg, K_sob and the count of equations, by inputs and degree, and the paper's formula for one input."""
    rng = np.random.default_rng(config.seed)
    degrees = {1: range(1, 10), 2: range(1, 6), 3: range(1, 5), 4: range(1, 5)}
    for n_inputs, of_inputs in degrees.items():
        for degree in of_inputs:
            family = f"d{n_inputs}_n{degree}"
            unknowns = math.comb(n_inputs + degree, degree)
            yield 0, "exact", f"k_reg_{family}", sc.polynomial_points(n_inputs, degree, False, rng)
            yield 0, "exact", f"k_sob_{family}", sc.polynomial_points(n_inputs, degree, True, rng)
            yield 0, "exact", f"k_sob_counted_{family}", math.ceil(unknowns / (n_inputs + 1))
            if n_inputs == 1:
                yield 0, "exact", f"k_sob_printed_{family}", math.ceil(degree / 2)


def gaussian(config: ExactConfig) -> Rows:
    """The paper's pair; then, for random densities, recovery from one value and slope or three values, and twins.

    A twin is a second density with the same two values.
    """
    pair = sc.gaussian_twin(2, 1, 0, 3)
    for name, number in zip(("mean", "std"), pair, strict=True):
        yield 0, "exact", f"twin_{name}", number
    for x in (0, 3):
        yield 0, "exact", f"twin_residual_x{x}", abs(sc.gaussian_density(x, *pair) / sc.gaussian_density(x, 2, 1) - 1)
    rng = np.random.default_rng(config.seed)
    for instance in range(config.instances):
        mean, std = rng.uniform(-5, 5), rng.uniform(0.2, 5)
        x = mean + std * rng.uniform(-3, 3, size=3)
        y = sc.gaussian_density(x, mean, std)
        one_slope = sc.gaussian_from_slope(x[0], y[0], -(x[0] - mean) / std**2 * y[0])
        twin = sc.gaussian_twin(mean, std, *x[:2])
        errors = {
            "k_sob_1_error": recovery_error(one_slope, mean, std),
            "k_reg_3_error": recovery_error(sc.gaussian_from_values(x, y), mean, std),
            "twin_error": np.abs(sc.gaussian_density(x[:2], *twin) / y[:2] - 1).max(),
            "twin_distance": recovery_error(twin, mean, std),
        }
        for metric, value in errors.items():
            yield instance, "exact", metric, value


def recovery_error(found: tuple[float, float], mean: float, std: float) -> float:
    """The larger error of mean and standard deviation, in units of the true standard deviation."""
    return max(abs(found[0] - mean), abs(found[1] - std)) / std


def piecewise_linear(config: ExactConfig) -> Rows:
    """The points that determine a continuous piecewise-linear function, by their placement, in 1 to 3 dimensions."""
    rng = np.random.default_rng(config.seed)
    for n_inputs, cells_per_axis in {1: 5, 2: 3, 3: 2}.items():
        vertices, cells = sc.kuhn_partition(n_inputs, cells_per_axis)

        # The least number of values per cell that always determines the function: for up to I, a placement in general
        # position is known that does not.
        values_a_cell = 1 + sum(
            not determines(cells, *sc.undetermined_values(n_inputs, cells_per_axis, k, rng), with_gradients=False)
            for k in range(1, n_inputs + 1)
        )
        one_a_cell = np.arange(len(cells)), rng.integers(1, 1000, (len(cells), n_inputs + 1))
        numbers = {
            "vertices": len(vertices),
            "cells": len(cells),
            "values_a_cell": values_a_cell,
            "one_gradient_a_cell_determines": determines(cells, *one_a_cell, with_gradients=True),
            "k_reg_placed": len(vertices),
            "k_sob_placed": sc.placed_points(cells),
        }
        for metric, value in numbers.items():
            yield 0, "exact", f"{metric}_d{n_inputs}", float(value)
        for instance in range(min(config.instances, 20)):
            for metric, with_gradients in (("k_reg_random", False), ("k_sob_random", True)):
                draws = np.random.default_rng([config.seed, n_inputs, instance])
                value = sc.random_points_until_determined(cells, with_gradients, draws)
                yield instance, "exact", f"{metric}_d{n_inputs}", value


def determines(cells_CK: np.ndarray, cell_P: np.ndarray, weights_PK: np.ndarray, with_gradients: bool) -> bool:
    """Whether data at points (cells and barycentric weights) determine the value at every vertex, by exact rank."""
    return sc.exact_rank(sc.piecewise_linear_equations(cells_CK, cell_P, weights_PK, with_gradients)) > cells_CK.max()


def hypotheses(config: ExactConfig) -> Rows:
    """Figure 2, left: piecewise-linear functions on 5 cells that agree with 3 values, or with 3 values and slopes.

    A function is given by its values v at the 6 vertices. The solutions of A v = y are a particular one plus the null
    space of A, from which hypotheses are drawn. With slopes the null space is trivial.
    """
    rng = np.random.default_rng(config.seed)
    vertices, cells = sc.kuhn_partition(1, 5)
    target_V = rng.normal(size=len(vertices))
    cell_3, place_3 = np.array([0, 2, 4]), np.array([0.5, 0.4, 0.6])
    weights_32 = np.stack([1 - place_3, place_3], axis=1)
    values_3V = np.zeros((3, len(target_V)))
    values_3V[np.arange(3)[:, None], cells[cell_3]] = weights_32
    slopes_3V = (np.eye(6)[cell_3 + 1] - np.eye(6)[cell_3]) * 5  # cells are 1/5 wide
    for k, vertex in enumerate(target_V):
        yield 0, "target", f"vertex_{k}", vertex
    for k in range(3):
        yield 0, "train", f"x_{k}", (cell_3[k] + place_3[k]) / 5
        yield 0, "train", f"y_{k}", values_3V[k] @ target_V
        yield 0, "train", f"dy_{k}", slopes_3V[k] @ target_V
    for method, equations in (("value", values_3V), ("sobolev", np.concatenate([values_3V, slopes_3V]))):
        particular_V, _, rank, _ = np.linalg.lstsq(equations, equations @ target_V, rcond=None)
        null_space = np.linalg.svd(equations)[2][rank:]
        yield 0, "exact", f"{method}_dimension", len(null_space)
        for hypothesis in range(min(config.instances, 40)):
            vertices_V = particular_V + rng.normal(size=len(null_space)) @ null_space
            for k, vertex in enumerate(vertices_V):
                yield hypothesis, "hypothesis", f"{method}_vertex_{k}", vertex


# The function of each part, and its rows per instance; 0 if they do not grow with the number of instances.
PARTS: dict[str, tuple[Callable[[ExactConfig], Rows], int]] = {
    "proposition_1": (proposition_1, 20),
    "polynomials": (polynomials, 0),
    "gaussian": (gaussian, 4),
    "piecewise_linear": (piecewise_linear, 0),
    "hypotheses": (hypotheses, 0),
}


def check(config: ExactConfig) -> None:
    """Refuse rows that exceed the machine's memory.

    Raises:
        BadInput: what is wrong, in one line.
    """
    check_memory({"instances": A_ROW * PARTS[config.part][1] * config.instances})
