"""Helpers of `SobolevRegressor`: validation of settings, batches, and the computation of gradients.

Shapes: n samples, I inputs, O outputs.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sobolev.distances import DISTANCES, Distance
from sobolev.losses import SobolevLoss
from sobolev.networks.ensemble import ACTIVATIONS, INITIALISATIONS, MLPEnsemble
from sobolev.networks.smooth_step import DISTANCES as BY_HAND
from sobolev.networks.smooth_step import SmoothSobolevStep
from sobolev.seeding import generator

FALLS = ("cosine", "linear", "constant")  # the schedules of `sobolev.schedules` without required parameters
# What "auto" means for learning values only (False) and derivatives too (True), from configs/recipe/.
AUTO: dict[str, dict[bool, Any]] = {"learning_rate": {False: 6e-3, True: 1e-2}, "batch_size": {False: 64, True: 32}}

# How settings are converted for a file: (type, conversion). The first type that matches is used.
PLAIN: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (bool | np.bool_, bool),
    (Integral, int),
    (Real, float),
    (str, str),
)


def check_settings(given: Mapping[str, Any]) -> None:
    """Refuse settings with a type or value that the docstring of `SobolevRegressor` does not allow.

    Raises:
        ValueError: names the first invalid setting.
    """
    positive, whole = partial(_is_positive, Real), partial(_is_positive, Integral)
    allowed: dict[str, tuple[Callable[[Any], bool], str]] = {
        "hidden": (
            lambda v: isinstance(v, Collection) and not isinstance(v, str) and all(map(whole, v)),
            "widths of layers, such as (64, 64)",
        ),
        "activation": (lambda v: _is_text(v, *ACTIVATIONS), f"one of {', '.join(ACTIVATIONS)}"),
        "initialisation": (lambda v: _is_text(v, *INITIALISATIONS), f"one of {', '.join(INITIALISATIONS)}"),
        "learning_rate": (lambda v: _is_text(v, "auto") or positive(v), "positive or auto"),
        "max_iter": (whole, "a positive whole number"),
        "batch_size": (lambda v: _is_text(v, "auto") or whole(v), "a positive whole number or auto"),
        "n_iter_no_change": (whole, "a positive whole number"),
        "derivative_weight": (lambda v: positive(v) or (isinstance(v, Real) and v == 0), "0 or more, and finite"),
        "derivative_distance": (lambda v: _is_text(v, *DISTANCES), f"one of {', '.join(DISTANCES)}"),
        "derivative_schedule": (lambda v: _is_text(v, *FALLS), f"one of {', '.join(FALLS)}"),
        "validation_fraction": (lambda v: positive(v) and v < 1, "between 0 and 1"),
        "early_stopping": (lambda v: _is_text(v, "auto") or _is_bool(v), "True, False or 'auto'"),
        "check_derivatives": (_is_bool, "True or False"),
        "device": (_is_device, "a device that PyTorch has here, such as 'cpu'"),
    }
    for name, (is_allowed, words) in allowed.items():
        if not is_allowed(given[name]):
            raise ValueError(f"{name} must be {words}, not {' '.join(reprlib.repr(given[name]).split())}")


def _is_positive(kind: Any, value: Any) -> bool:
    return isinstance(value, kind) and bool(0 < value < math.inf)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_device(value: Any) -> bool:
    try:
        torch.empty(0, device=value)
    except (AssertionError, RuntimeError, TypeError):  # PyTorch has one for each way to be none
        return False
    return True


def _is_text(value: Any, *names: str) -> bool:
    return isinstance(value, str) and value in names


def plain(name: str, value: Any) -> Any:
    """A setting without NumPy types, which a file without code cannot contain.

    Raises:
        TypeError: it is neither a number nor text.
    """
    if isinstance(value, list):
        return [plain(name, each) for each in value]
    for kind, as_python in PLAIN:
        if isinstance(value, kind):
            return as_python(value)
    if value is not None:
        raise TypeError(f"{name} is a {type(value).__name__}, and a file keeps numbers and text alone")
    return None


def mean_distance(dy: Tensor, distance: Distance) -> float:
    """S_1: the mean distance of derivatives (n, O, I) from 0, over the samples with known derivatives."""
    known = dy.flatten(1)[~dy.isnan().flatten(1).all(1)].nan_to_num().double()
    return float(distance(torch.zeros_like(known), known).mean())


def function_of(alone: MLPEnsemble) -> Callable[[Tensor], Tensor]:
    """An ensemble of one as a function from inputs (n, I) to values (n, O)."""
    return lambda x: alone(x)[0]


def gradients(alone: MLPEnsemble, loss: SobolevLoss, distance: str, data: list[Tensor]) -> Callable[..., Tensor]:
    """A function that fills `.grad` from a batch (x, y, dy) and returns its loss, without autograd if possible."""
    learns = 1 in loss.weights

    def by_autograd(x: Tensor, *target: Tensor) -> Tensor:
        alone.zero_grad()
        total = loss(function_of(alone), x, target).total
        total.backward()
        return total.detach()

    if not SmoothSobolevStep.takes(alone) or (learns and (distance not in BY_HAND or data[2].isnan().any())):
        return by_autograd
    step = SmoothSobolevStep(alone, distance if learns else "l2", 1 / float(loss.mean_squares.get(0, 1.0)))

    def by_hand(x: Tensor, y: Tensor, *dy: Tensor) -> Tensor:
        if not learns:
            return step(x[None], y[None])[0]
        weight = loss.weights[1] * loss.schedules[1](loss.progress or 0.0)
        return step(x[None], y[None], dy[0][None, :, 0], weight)[0]

    return by_hand


def batches(data: list[Tensor], batch_size: int, seed: int) -> Iterator[list[Tensor]]:
    """Endless batches. Each epoch is shuffled anew, and samples that do not fill its last batch are left out."""
    n = len(data[0])
    size = min(batch_size, n)
    rng = generator(seed, "shuffle")
    while True:
        order = torch.randperm(n, generator=rng).to(data[0].device) if size < n else None
        for first in range(0, n - size + 1, size):
            yield data if order is None else [part[order[first : first + size]] for part in data]
