"""A check of a user's own function before training: at random points, does it do what its type promises?

A wrong sign or order of partial derivatives raises no error by itself: Sobolev Training would learn wrong gradients,
and its test errors would be measured against them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from experiments.runner.errors import BadInput
from sobolev.functions import BenchmarkFunction
from sobolev.seeding import generator

POINTS = 32
STEPS = (1e-5, 1e-3)  # of differences, relative to the domain's width: one for waves, one for values in float32
TOLERANCE = 0.01  # relative; a wrong formula is off by much more


def check_own(name: str, function: BenchmarkFunction, order: int) -> None:
    """Refuse a function whose domain, values or derivatives up to an order are wrong.

    Derivatives are compared with differences of the order below, at the point of median error, so that a kink or a
    singularity between two points is no error.

    Raises:
        BadInput: says what is wrong.
    """
    said = f"dataset.name={name}, your own function: "
    if not isinstance(function, BenchmarkFunction):
        raise BadInput(f"{said}expected a BenchmarkFunction, not {type(function).__name__}")
    if not function.domain or not all(-math.inf < low < high < math.inf for low, high in function.domain):
        raise BadInput(f"{said}domain={function.domain}: expected (low, high) for each input, with low < high")
    x_NI = function.sample(POINTS, generator(0, "own function"))
    n, inputs = x_NI.shape
    by_order = {"formula": function.value, "gradient": function.gradient, "Hessian": function.hessian}
    by_order = dict([*by_order.items()][: order + 1])
    for k, (what, f) in enumerate(by_order.items()):
        shape = (n, *[inputs] * k)
        try:
            found, first = f(x_NI), f(x_NI[:1])
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "")
            raise BadInput(f"{said}its {what} fails at {n} points ({type(error).__name__}: {reason})") from error
        if not isinstance(found, Tensor) or found.shape != shape:
            what_it_is = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise BadInput(f"{said}at points of shape {(n, inputs)} its {what} is {what_it_is}, not {shape}")
        if not found.isfinite().all():
            where = x_NI[~found.isfinite().reshape(n, -1).all(1)][0].tolist()
            raise BadInput(f"{said}its {what} is not finite at {where}")
        if not torch.allclose(first, found[:1], rtol=TOLERANCE, atol=TOLERANCE * float(found.abs().max())):
            raise BadInput(f"{said}its {what} mixes points: at one point alone it differs")
    for (_, lower), (what, higher) in pairwise(by_order.items()):
        error = min(relative_error(lower, higher(x_NI), x_NI, function, step) for step in STEPS)
        if error > TOLERANCE:
            raise BadInput(f"{said}its {what} differs from differences of the order below by {error:.0%}")
    if not function.value(x_NI).any():
        raise BadInput(f"{said}it is 0 everywhere, and errors are compared with those of a network of zeros")


def relative_error(
    lower: Callable[[Tensor], Tensor], derivative: Tensor, x_NI: Tensor, function: BenchmarkFunction, step: float
) -> float:
    """The median over points of the error of a derivative, relative to its size over all points."""
    widths_I = torch.tensor([high - low for low, high in function.domain], dtype=x_NI.dtype)
    steps_I = step * widths_I
    both = [(lower(x_NI + step_I), lower(x_NI - step_I)) for step_I in steps_I.diag()]
    differences = torch.stack([(a - b) / (2 * h) for (a, b), h in zip(both, steps_I, strict=True)], -1)
    # In units of the domain, so that no input dominates.
    error, size = ((d * widths_I).flatten(1).norm(dim=1) for d in (derivative - differences, derivative))
    rounding = torch.finfo(x_NI.dtype).eps * lower(x_NI).abs().max() / (step * TOLERANCE)
    return float(error.median() / (size.median() + rounding + torch.finfo(x_NI.dtype).tiny))
