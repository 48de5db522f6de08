"""Distances between a prediction and a target: the l_j of the Sobolev loss.

Each reduces the last dimension only, in which the components of a sample are flattened.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Distance = Callable[[Tensor, Tensor], Tensor]


def squared_l2(prediction: Tensor, target: Tensor) -> Tensor:
    """||p - t||^2, summed over the components: (..., C) and (..., C) to (...). Section 4.1 of the paper."""
    return (prediction - target).square().sum(-1)


def l2(prediction: Tensor, target: Tensor) -> Tensor:
    """||p - t||, not squared, with the gradient 0 at p = t. Section 4.2 of the paper, as printed."""
    return torch.linalg.vector_norm(prediction - target, dim=-1)


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """|p - t|, summed over the components. Section 4.3 of the paper."""
    return (prediction - target).abs().sum(-1)


def huber(prediction: Tensor, target: Tensor) -> Tensor:
    """d^2 / 2 where d = |p - t| < 1 and d - 1/2 elsewhere, summed over the components."""
    difference = prediction - target  # huber_loss itself would refuse to mix types
    return nn.functional.huber_loss(difference, torch.zeros_like(difference), reduction="none").sum(-1)


DISTANCES: dict[str, Distance] = {"squared_l2": squared_l2, "l2": l2, "l1": l1, "huber": huber}


def distance_of(given: str | Distance) -> Distance:
    """A distance by its name, or the function itself.

    Raises:
        ValueError: an unknown name.
    """
    if callable(given):
        return given
    if given not in DISTANCES:
        raise ValueError(f"a distance must be a function or one of {', '.join(DISTANCES)}, not {given!r}")
    return DISTANCES[given]
