"""Theorem 2: the joint error after training on a wrong derivative, compared with the least of any function."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from experiments.runner.run import Run
from experiments.theory.settings import MismatchConfig
from experiments.theory.target import Data, ripple
from experiments.theory.training import (
    by_derivatives,
    check_training,
    errors_in_the_end,
    finish,
    in_precision,
    seeds_of,
    train,
)
from sobolev.theory.mismatch import constant_mismatch, rotation_mismatch


def main(config: MismatchConfig, run: Run) -> dict:
    """Train on gradients that are wrong by u; the objective is the median joint error, mean(r^2 + |grad r - u|^2).

    r is the error in value. u is the constant delta on the interval [-1, 1], and the rotation delta (-x_2, x_1) on the
    unit disc. Points are evenly spaced, so that the mean over them approximates the mean over the domain.
    """
    seeds = seeds_of(config)
    if config.domain == "interval":
        points, wrong = even_interval, lambda x: torch.full_like(x, config.delta)
        eta, floor = constant_mismatch(config.delta, length=2)
    else:
        points, wrong = even_disc, lambda x: config.delta * torch.stack([-x[..., 1], x[..., 0]], -1)
        eta, floor = rotation_mismatch(config.delta, radius=1)

    def data(n: int) -> Data:
        x = points(n).expand(len(seeds), -1, -1)
        y, dy = ripple(x)
        return in_precision(run, x, y, dy + wrong(x))

    ensemble = train(config, run, data(config.n_train), by_derivatives(1.0, 1.0))
    errors = errors_in_the_end(config, ensemble, data(config.n_test))
    errors["joint_mse"] = errors["value_l2"].square() + errors["gradient_l2"].square()
    errors["joint_sup"] = torch.maximum(errors["value_sup"], errors["gradient_sup"])
    run.record(0, [(config.seed, "exact", "joint_mse", floor), (config.seed, "exact", "joint_sup", eta)])
    return finish(config, run, errors, "joint_mse")


def even_interval(n: int) -> Tensor:
    """The midpoints (n, 1) of n equal parts of [-1, 1]."""
    return ((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1)[:, None]


def even_disc(n: int) -> Tensor:
    """A sunflower arrangement of n points (n, 2) with equal areas on the unit disc."""
    k = torch.arange(n, dtype=torch.float64)
    radius, angle = ((k + 0.5) / n).sqrt(), k * math.pi * (3 - math.sqrt(5))
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)


check = check_training  # called before a run's folder is opened
