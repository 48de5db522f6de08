"""What a student is compared with: another function, or recorded values and derivatives."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from sobolev.comparing import InFull
from sobolev.derivatives import Derivatives
from sobolev.guards import Function

Recorded = Tensor | Sequence[Tensor | None]


def of_target(
    way: InFull,
    target: Function | Recorded,
    x: Tensor,
    orders: Collection[int],
    y_shape: Sequence[int] | None = None,
) -> list[Tensor | None]:
    """What is compared of a target at these orders, without a graph.

    Args:
        way: what is compared.
        target: a function; or tensors (y, D y, ...), in which NaN is what is not known.
        x: the samples (*batch, *in).
        orders: those whose entries in the result are used.
        y_shape: the student's (*batch, *out), which recorded tensors must have; by default what they say themselves.

    Raises:
        TypeError: a target, or one of its tensors, of another type.
        ValueError: a recorded tensor that is missing, or of another shape.
    """
    if callable(target):
        teacher = target.model if isinstance(target, Derivatives) else target
        return list(way.of(teacher, x, max(orders), create_graph=False))
    if not isinstance(target, Tensor | Sequence):
        raise TypeError(f"target must be a function, or recorded tensors (y, D y, ...), not {type(target).__name__}")
    recorded = [target] if isinstance(target, Tensor) else list(target)
    recorded += [None] * (max(orders) + 1 - len(recorded))
    y_shape = values_shape(recorded, x, way.batch_dims) if y_shape is None else y_shape
    for j in orders:
        check_shape(j, recorded[j], (*y_shape, *x.shape[way.batch_dims :] * j))
        recorded[j] = way.of_recorded(recorded[j].detach(), j, x)
    return recorded


def values_shape(recorded: Sequence[Tensor | None], x: Tensor, batch_dims: int) -> torch.Size:
    """The shape (*batch, *out) of the values that recorded tensors (y, D y, ...) belong to, by the first of them."""
    inputs = x.dim() - batch_dims
    shapes = (d.shape[: d.dim() - j * inputs] for j, d in enumerate(recorded) if isinstance(d, Tensor))
    return next(shapes, x.shape[:batch_dims])


def check_shape(j: int, target: Tensor | None, expected: Sequence[int]) -> None:
    """Refuse a target of order j that is missing, or of another type or shape than is expected."""
    if not isinstance(target, Tensor | None):
        raise TypeError(f"the target's derivative of order {j} must be a tensor, not {type(target).__name__}")
    found = "missing" if target is None else f"of shape {tuple(target.shape)}"
    if target is None or target.shape != tuple(expected):
        raise ValueError(f"the target's derivative of order {j} is {found}, expected {tuple(expected)} to match")


def known_or(target: Tensor, prediction: Tensor) -> Tensor:
    """The target, and where it is not known (NaN) what was predicted, which then adds nothing to the loss."""
    return torch.where(target.isnan(), prediction.detach().to(target.dtype), target)
