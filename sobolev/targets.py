"""Targets of a student: another function, or recorded values and derivatives, in full or projected."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sobolev.calling import Function, Select
from sobolev.comparing import InFull
from sobolev.derivatives import Derivatives


@dataclass(frozen=True, eq=False)
class Projected:
    """A derivative that was recorded projected, as adjoint solvers compute it; it replaces D^j y in a recorded target.

    p_1 = D <y, v_1> for one vector, p_j = D <p_{j-1}, v_j> for v_1, ..., v_j, as in `projected_derivatives`. The loss
    projects the student on these vectors instead of drawing any.

    >>> v, p = torch.rand(8, 2), torch.rand(8, 3)     # 8 samples with 2 outputs and 3 inputs
    >>> Projected(v, p).order
    1

    Attributes:
        vectors: v_1 (S, *batch, *out); or a sequence of it and of v_2, ..., v_j (S, *batch, *in), for S projections per
            sample. If S is 1, this dimension may be omitted everywhere.
        derivatives: p_j, (S, *batch, *in). NaN here or in the vectors marks unknown numbers.

    Raises:
        TypeError: an argument is not a tensor.
    """

    vectors: Tensor | Sequence[Tensor]
    derivatives: Tensor

    def __post_init__(self) -> None:
        vectors = [self.vectors] if isinstance(self.vectors, Tensor) else list(self.vectors)
        if not vectors or not all(isinstance(tensor, Tensor) for tensor in (*vectors, self.derivatives)):
            raise TypeError("Projected takes a tensor v_1, or tensors (v_1, ..., v_j), and the derivatives as a tensor")
        object.__setattr__(self, "vectors", tuple(vectors))

    @property
    def order(self) -> int:
        """j, the number of vectors."""
        return len(self.vectors)

    def of_samples(self, x: Tensor) -> Projected:
        """The same with the dimension S, and detached.

        Raises:
            ValueError: the shapes do not fit samples x.
        """
        d, vectors = self.derivatives.detach(), [v.detach() for v in self.vectors]
        if d.dim() == x.dim():
            d, vectors = d.unsqueeze(0), [v.unsqueeze(0) for v in vectors]
        for name, found in (("derivatives", d), *((f"vector {k}", v) for k, v in enumerate(vectors[1:], 2))):
            if found.shape != (len(d), *x.shape):
                raise ValueError(f"the {name} of Projected must be {(len(d), *x.shape)}, not {tuple(found.shape)}")
        if len(vectors[0]) != len(d):
            raise ValueError(f"Projected has {len(vectors[0])} vectors a sample, but {len(d)} derivatives")
        return Projected(vectors, d)

    def known(self, batch_dims: int) -> Tensor:
        """p_j, with NaN where a number of its vectors is unknown."""
        lead = self.vectors[0].shape[: batch_dims + 1]  # projections and samples; an output may have no dimension
        parts = [v.isnan().reshape(*lead, v.shape[len(lead) :].numel()).any(-1) for v in self.vectors]
        unknown = torch.stack(parts).any(0)
        spread = unknown.view(*unknown.shape, *[1] * (self.derivatives.dim() - unknown.dim()))
        return self.derivatives.masked_fill(spread, torch.nan)


Recorded = Tensor | Sequence[Tensor | Projected | None]


def as_recorded(target: Recorded, orders: Collection[int]) -> list[Tensor | Projected | None]:
    """(y, D y, ...) up to the highest of the orders, with None for omitted ones.

    Raises:
        TypeError: a target of another type.
    """
    if not isinstance(target, Tensor | Sequence):
        raise TypeError(f"target must be a function, or recorded tensors (y, D y, ...), not {type(target).__name__}")
    recorded = [target] if isinstance(target, Tensor) else list(target)
    return recorded + [None] * (max(orders) + 1 - len(recorded))


def given_vectors(target: Function | Recorded, x: Tensor, orders: Collection[int]) -> list[Tensor] | None:
    """The vectors that a target's derivatives of these orders were projected on, or None if they are in full.

    Raises:
        ValueError: full and projected derivatives are mixed, or orders are projected on different vectors.
    """
    if callable(target):
        return None
    recorded = as_recorded(target, orders)
    projected = {j: d.of_samples(x) for j, d in enumerate(recorded) if j in orders and isinstance(d, Projected)}
    if not projected:
        return None
    longest = projected[max(projected)].vectors
    for j in orders:
        if j and j not in projected:
            raise ValueError(f"order {max(projected)} of the target is Projected, so order {j} must be so, too")
        if j and projected[j].order != j:
            raise ValueError(f"order {j} of the target is Projected on {projected[j].order} vectors, not on {j}")
        if j and not all(map(_same, projected[j].vectors, longest)):
            raise ValueError(f"orders {j} and {max(projected)} of the target are Projected on different vectors")
    return [v.nan_to_num(0.0).to(x.dtype) for v in longest]


def _same(v: Tensor, w: Tensor) -> bool:
    return v.shape == w.shape and torch.equal(v.nan_to_num(0.0), w.nan_to_num(0.0))


def of_target(
    way: InFull,
    target: Function | Recorded,
    x: Tensor,
    orders: Collection[int],
    select: Select = None,
    y_shape: Sequence[int] | None = None,
) -> dict[int, Tensor]:
    """What is compared for a target at these orders, without a graph.

    Args:
        way: what is compared.
        target: a function; or tensors (y, D y, ...), in which NaN marks unknown numbers.
        x: the samples (*batch, *in).
        orders: the orders that are needed; for a function the result has lower ones too.
        select: which of a function's outputs to use; a `Derivatives` has its own.
        y_shape: the student's (*batch, *out), which recorded tensors must have; by default it follows from them.

    Raises:
        TypeError: the target, or one of its tensors, has the wrong type.
        ValueError: a recorded tensor is missing, or has the wrong shape.
    """
    if isinstance(target, Derivatives):
        return dict(enumerate(way.of_teacher(target, x, max(orders))))
    if callable(target):
        return dict(enumerate(way.of(target, x, max(orders), select, create_graph=False)))
    recorded = as_recorded(target, orders)
    y_shape = values_shape(recorded, x, way.batch_dims) if y_shape is None else y_shape
    found = {}
    for j in orders:
        d = recorded[j]
        if isinstance(d, Projected) and j:
            found[j] = d.of_samples(x).known(way.batch_dims)
        else:
            d = checked(j, d, (*y_shape, *x.shape[way.batch_dims :] * j))
            found[j] = way.of_recorded(d.detach(), j, x)
    return found


def values_shape(recorded: Sequence[Tensor | Projected | None], x: Tensor, batch_dims: int) -> torch.Size:
    """The shape (*batch, *out) of the values, derived from the first of the recorded tensors (y, D y, ...)."""
    for j, d in enumerate(recorded):
        if isinstance(d, Projected):
            return d.of_samples(x).vectors[0].shape[1:]
        if isinstance(d, Tensor):
            return d.shape[: d.dim() - j * (x.dim() - batch_dims)]
    return x.shape[:batch_dims]


def checked(j: int, target: Tensor | Projected | None, expected: Sequence[int]) -> Tensor:
    """The target of order j, after a check that it is present and has the expected type and shape."""
    if not isinstance(target, Tensor | None):
        raise TypeError(f"the target's derivative of order {j} must be a tensor, not {type(target).__name__}")
    found = "missing" if target is None else f"of shape {tuple(target.shape)}"
    if target is None or target.shape != tuple(expected):
        raise ValueError(f"the target's derivative of order {j} is {found}, expected {tuple(expected)} to match")
    return target


def known_or(target: Tensor, prediction: Tensor) -> Tensor:
    """The target, with unknown numbers (NaN) replaced by the prediction, so that they add nothing to the loss."""
    return torch.where(target.isnan(), prediction.detach().to(target.dtype), target)
