"""RQ1 in practice: how well a teacher is learned from a given number of points, with and without derivatives.

Shape suffixes: N samples, I inputs, U units.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from experiments.runner.run import Run
from experiments.theory.settings import PointsConfig
from experiments.theory.target import Data
from experiments.theory.training import (
    by_derivatives,
    check_training,
    errors_in_the_end,
    finish,
    in_precision,
    seeds_of,
    train,
)
from sobolev.seeding import generator


def main(config: PointsConfig, run: Run) -> dict:
    """Learn a teacher from `n_train` points; the objective is the median share of its variance that is unexplained."""
    value_weight, gradient_weight = (*config.loss.weights, 0.0)[:2]
    seeds = seeds_of(config)
    teachers = [random_teacher(config.n_inputs, config.teacher_units, generator(seed, "teacher")) for seed in seeds]

    def draw(n: int, stream: str) -> Data:
        x = [torch.randn(n, config.n_inputs, generator=generator(seed, stream), dtype=torch.float64) for seed in seeds]
        values, gradients = zip(*(teacher(x_NI) for teacher, x_NI in zip(teachers, x, strict=True)), strict=True)
        return in_precision(run, torch.stack(x), torch.stack(values), torch.stack(gradients))

    ensemble = train(config, run, draw(config.n_train, "train"), by_derivatives(value_weight, gradient_weight))
    test = draw(config.n_test, "test")
    errors = errors_in_the_end(config, ensemble, test)
    variance = test[1].var(1, correction=0).squeeze(-1)
    return finish(config, run, {"value_nmse": errors["value_l2"].square() / variance}, "value_nmse")


def random_teacher(n_inputs: int, units: int, rng: torch.Generator) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A random network of tanh units, scaled to unit variance: a function to values (N, 1) and gradients (N, I).

    Inputs are standard normal. Weights of variance 4 / I give every unit's input a variance of 4 in any dimension.
    """
    weight_IU = 2 * torch.randn(n_inputs, units, generator=rng, dtype=torch.float64) / math.sqrt(n_inputs)
    bias_U, output_U = torch.randn(2, units, generator=rng, dtype=torch.float64)

    def raw(x_NI: Tensor) -> tuple[Tensor, Tensor]:
        hidden_NU = (x_NI @ weight_IU + bias_U).tanh()
        return (hidden_NU @ output_U)[:, None], ((1 - hidden_NU.square()) * output_U) @ weight_IU.mT

    sample = raw(torch.randn(20_000, n_inputs, generator=rng, dtype=torch.float64))[0]
    mean, std = sample.mean(), sample.std()
    return lambda x_NI: ((raw(x_NI)[0] - mean) / std, raw(x_NI)[1] / std)


check = check_training  # called before a run's folder is opened
