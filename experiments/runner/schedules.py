"""The learning rate of each update, and the steps at which a network is evaluated."""

from __future__ import annotations

import math

import numpy as np

from experiments.runner.settings import OptimizerConfig, Schedule


def learning_rate(optimizer: OptimizerConfig, step: int) -> float:
    """The learning rate of update `step`, counted from 0."""
    falling = {Schedule.constant: 0, Schedule.cosine: optimizer.steps, Schedule.tail: optimizer.steps // 4}
    steps = falling[optimizer.schedule]  # the number of last steps over which the rate falls
    since = step - (optimizer.steps - steps)
    if since < 0 or not steps:
        return optimizer.learning_rate
    return optimizer.learning_rate * (1 + math.cos(math.pi * since / steps)) / 2


def evaluation_steps(steps: int, evaluations: int) -> list[int]:
    """0, then about `evaluations` steps, logarithmically spaced over the last three decades of training."""
    spaced = np.geomspace(max(steps / 1000, 1), steps, evaluations)
    return sorted({0, steps, *np.rint(spaced).astype(int).tolist()})
