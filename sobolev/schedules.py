"""Schedules for weights: functions from the progress t of training, from 0 to 1, to a factor.

The entries of `SCHEDULES` create such functions, so that a config can name one with its parameters. No PyTorch is
needed.

>>> fading = cosine(end=0.0, until=0.5)          # derivatives fade out over the first half of training
>>> [round(fading(t), 2) for t in (0.0, 0.25, 0.5, 1.0)]
[1.0, 0.5, 0.0, 0.0]
>>> SCHEDULES["switch"](at=0.3)(0.2)
1.0

`SobolevLoss(schedule=...)` multiplies the weights of derivatives by the factor. An order whose factor is 0 costs
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

Schedule = Callable[[float], float]


def constant(value: float = 1.0) -> Schedule:
    """Always `value`. Like all functions here, it raises ValueError for a factor that is negative or not finite."""
    _check_factors(value=value)
    return lambda t: value


def linear(end: float = 0.0, until: float = 1.0, start: float = 1.0) -> Schedule:
    """Linear from `start` at t = 0 to `end` at t = `until` (above 0 and at most 1), then constant."""
    _check_factors(start=start, end=end)
    _check_time(until=until)
    return lambda t: end if t >= until else start + (end - start) * t / until


def cosine(end: float = 0.0, until: float = 1.0, start: float = 1.0) -> Schedule:
    """Half a period of a cosine from `start` to `end` at t = `until`, then constant: flat at both ends."""
    along = linear(0.0, until)
    _check_factors(start=start, end=end)
    return lambda t: end + (start - end) * (1 - math.cos(math.pi * along(t))) / 2


def switch(at: float, end: float = 0.0, start: float = 1.0) -> Schedule:
    """`start` before t = `at` (above 0 and at most 1), then `end`."""
    _check_factors(start=start, end=end)
    _check_time(at=at)
    return lambda t: end if t >= at else start


def learning_rate(rate: Schedule) -> Schedule:
    """Proportional to the learning rate: rate(t) / rate(0), where `rate` gives the learning rate at t.

    `rate` may also read the optimizer, whose present learning rate then counts as the first one:

    >>> group = {"lr": 0.1}                      # optimizer.param_groups[0]
    >>> factor = learning_rate(lambda t: group["lr"])
    >>> group["lr"] = 0.05
    >>> factor(0.5)
    0.5

    Raises:
        ValueError: the first rate is not a positive number.
    """
    first = rate(0.0)
    if not 0 < first < math.inf:
        raise ValueError(f"the learning rate at the beginning must be positive to be divided by, not {first}")
    return lambda t: rate(t) / first


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "switch": switch,
    "learning_rate": learning_rate,
}


def _check_factors(**factors: float) -> None:
    for name, factor in factors.items():
        if not isinstance(factor, Real) or not 0 <= factor < math.inf:
            raise ValueError(f"{name} is a factor of weights and must be 0 or more, and finite, not {factor!r}")


def _check_time(**times: float) -> None:
    for name, time in times.items():
        if not isinstance(time, Real) or not 0 < time <= 1:
            raise ValueError(f"{name} is a share of training and must be above 0 and at most 1, not {time!r}")
