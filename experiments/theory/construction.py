"""Theorem 1: the errors in value and gradient of explicitly constructed networks, against their width."""

from __future__ import annotations

from torch import nn

from experiments.runner.errors import BadInput
from experiments.runner.limits import check_memory
from experiments.runner.run import Run
from experiments.theory.settings import ConstructionConfig
from experiments.theory.target import ripple, sobolev_errors, uniform
from sobolev.seeding import generator
from sobolev.theory import cosine_network, fit_cosines, piecewise_linear_network


def main(config: ConstructionConfig, run: Run) -> dict:
    """Construct the network and measure it; the objective is the largest error of its gradient."""
    network = constructed(config)
    run.resume()
    x = uniform(config.n_test, config.n_inputs, generator(config.seed, "test"))
    errors = sobolev_errors(network, (x[None], *(t[None] for t in ripple(x))))
    rows = [(config.seed, "test", metric, error_E.item()) for metric, error_E in errors.items()]
    run.record(0, [*rows, (config.seed, "exact", "hidden_units", network[0].out_features)])
    return {"objective": errors["gradient_sup"].item()}


def constructed(config: ConstructionConfig) -> nn.Sequential:
    """The piecewise-linear interpolant of the target for one input; for several, a sum of piecewise-linear cosines.

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
    """Refuse points and units that exceed the machine's memory.

    Raises:
        BadInput: what is wrong, in one line.
    """
    numbers, points = 8 * (config.n_inputs + 1), max(config.n_train, config.n_test)
    check_memory({"n_train, n_test and n_inputs": numbers * points, "width and n_inputs": numbers * config.width})
