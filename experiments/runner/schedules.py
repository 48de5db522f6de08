"""When a training is measured, and at which learning rate it goes on."""

from __future__ import annotations

import math

import numpy as np

from experiments.runner.settings import OptimizerConfig, Schedule


def learning_rate(optimizer: OptimizerConfig, step: int) -> float:
    """The rate of update number `step`, from 0."""
    falling = {Schedule.constant: 0, Schedule.cosine: optimizer.steps, Schedule.tail: optimizer.steps // 4}
    steps = falling[optimizer.schedule]  # the last ones, over which the rate falls
    since = step - (optimizer.steps - steps)
    if since < 0 or not steps:
        return optimizer.learning_rate
    return optimizer.learning_rate * (1 + math.cos(math.pi * since / steps)) / 2


def evaluation_steps(steps: int, evaluations: int) -> list[int]:
    """0, then about `evaluations` steps evenly spaced in their logarithm over three decades, up to the last."""
    spaced = np.geomspace(max(steps / 1000, 1), steps, evaluations)
    return sorted({0, steps, *np.rint(spaced).astype(int).tolist()})
