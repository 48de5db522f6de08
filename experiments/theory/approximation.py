"""RQ2: a network with one hidden layer learns the construction's target, with and without derivatives.

Shape suffixes: E networks, N samples per network, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from experiments.runner.run import Run
from experiments.theory.settings import ApproximationConfig
from experiments.theory.target import Data, ripple, uniform
from experiments.theory.training import (
    ComputeGradients,
    by_derivatives,
    check_training,
    errors_in_the_end,
    finish,
    in_precision,
    seeds_of,
    train,
)
from sobolev.networks import MLPEnsemble
from sobolev.seeding import generator


def main(config: ApproximationConfig, run: Run) -> dict:
    """Train a network with one hidden layer; the objective is the median sup error of the gradient.

    The method `differences` matches central difference quotients of values instead of derivatives. This matters for
    ReLU: the gradient of a ReLU network is constant between its kinks, so autograd finds no dependence of the gradient
    error on their positions. Difference quotients do depend on them.
    """
    seeds = seeds_of(config)

    def draw(n: int, stream: str) -> Data:
        x = torch.stack([uniform(n, config.n_inputs, generator(seed, stream)) for seed in seeds])
        return in_precision(run, x, *ripple(x))

    x, y, dy = draw(config.n_train, "train")
    if config.method == "differences":
        h = config.difference_step
        dy = difference_quotients(lambda x: ripple(x)[0], x, h)
        ensemble = train(config, run, (x, y, dy), lambda ensemble, _: by_differences(ensemble, h))
    else:
        ensemble = train(config, run, (x, y, dy), by_derivatives(1.0, float(config.method == "sobolev")))
    errors = errors_in_the_end(config, ensemble, draw(config.n_test, "test"))
    return finish(config, run, errors, "gradient_sup")


def by_differences(ensemble: MLPEnsemble, step: float) -> ComputeGradients:
    """The objective of Eq. 1 at order 1, with difference quotients instead of derivatives."""

    def compute_gradients(x_ENI: Tensor, f_EN1: Tensor, quotients_ENI: Tensor) -> None:
        ensemble.zero_grad()
        error_EN = (ensemble(x_ENI) - f_EN1).square().sum(-1)
        error_EN = error_EN + (difference_quotients(ensemble, x_ENI, step) - quotients_ENI).square().sum(-1)
        error_EN.mean(1).sum().backward()

    return compute_gradients


def difference_quotients(f: Callable[[Tensor], Tensor], x_ENI: Tensor, step: float) -> Tensor:
    """Central difference quotients (E, N, I) of f, whose values are (E, N, 1), with this step along each input."""
    shifts_II = step * torch.eye(x_ENI.shape[-1], dtype=x_ENI.dtype, device=x_ENI.device)
    return torch.cat([f(x_ENI + shift_I) - f(x_ENI - shift_I) for shift_I in shifts_II], -1) / (2 * step)


check = check_training  # called before a run's folder is opened
