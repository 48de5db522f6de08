"""Theorem 1: the error of the networks that are written down, in value and gradient, against their width."""

from __future__ import annotations

import math

from torch import nn

from experiments.runner.errors import BadInput, check_positive, check_precision, check_seed
from experiments.runner.limits import check_memory
from experiments.runner.run import Run
from experiments.runner.settings import Precision
from experiments.theory.settings import ConstructionConfig
from experiments.theory.target import ripple, sobolev_errors, uniform
from sobolev.seeding import generator
from sobolev.theory import cosine_network, fit_cosines, piecewise_linear_network

LATTICE = 10**6  # frequencies that a construction may list


def main(config: ConstructionConfig, run: Run) -> dict:
    """Write the network down and measure it; the objective is the largest error of its gradient."""
    network = constructed(config)
    run.resume()
    x = uniform(config.n_test, config.n_inputs, generator(config.seed, "test"))
    errors = sobolev_errors(network, (x[None], *(t[None] for t in ripple(x))))
    rows = [(config.seed, "test", metric, error_E.item()) for metric, error_E in errors.items()]
    run.record(0, [*rows, (config.seed, "exact", "hidden_units", network[0].out_features)])
    return {"objective": errors["gradient_sup"].item(), "scale": run.scale}


def constructed(config: ConstructionConfig) -> nn.Sequential:
    """The interpolant of the target in one dimension; in several a sum of cosines, each made piecewise linear.

    Raises:
        BadInput: the width is too small for the sum.
    """
    if config.n_inputs == 1:
        return piecewise_linear_network(lambda x_K: ripple(x_K[:, None])[0][:, 0], -1, 1, max(config.width - 1, 1))
    x = uniform(config.n_train, config.n_inputs, generator(config.seed, "train"))
    y, dy = ripple(x)
    try:
        return cosine_network(fit_cosines(x, y[:, 0], dy, config.degree, half_period=1.5), config.width)
    except ValueError as error:
        raise BadInput(str(error)) from None


def check(config: ConstructionConfig) -> None:
    """Refuse another precision than float64, and more frequencies or points than there is memory for.

    Raises:
        BadInput: what is wrong, in one line.
    """
    check_seed(config)
    check_precision(config, Precision.float64)
    sizes = ("n_inputs", "width", "degree", "n_train", "n_test")
    check_positive(**{key: getattr(config, key) for key in sizes})
    if config.n_inputs * math.log(2 * config.degree + 1) > math.log(LATTICE):
        raise BadInput(
            f"n_inputs={config.n_inputs} with degree={config.degree} lists (2 degree + 1)^n_inputs frequencies, "
            f"more than {LATTICE:,}: take fewer inputs or a lower degree"
        )
    numbers, points = 8 * (config.n_inputs + 1), max(config.n_train, config.n_test)
    check_memory({"n_train, n_test and n_inputs": numbers * points, "width and n_inputs": numbers * config.width})
