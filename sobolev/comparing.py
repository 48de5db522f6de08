"""What the Sobolev loss compares at each order: derivatives in full (Eq. 1) or their projections (Eq. 2).

An object of this module serves one call of the loss: student and target are projected on the same vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sobolev.derivatives import Derivatives, Vectors, derivatives, projected_derivatives
from sobolev.guards import Function
from sobolev.projections import Projection

# The attribute with the wrapped module, by the name of the wrapper's class.
WRAPPERS = {"DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}


class InFull:
    """(y, D y, D^2 y, ...): every component is compared."""

    sampled = False  # whether orders from 1 on have a leading dimension S

    def __init__(self, mode: str, batch_dims: int) -> None:
        self.mode, self.batch_dims = mode, batch_dims

    def of(self, f: Function, x: Tensor, order: int, create_graph: bool) -> tuple[Tensor, ...]:
        """What is compared of a function."""
        return derivatives(f, x, order, create_graph=create_graph, mode=self.mode, batch_dims=self.batch_dims)

    def of_module(self, module: Derivatives, x: Tensor, order: int) -> tuple[Tensor, ...]:
        """What is compared of a `Derivatives`, or of a wrapper around it."""
        return module(x, order=order)

    def of_recorded(self, derivative: Tensor, j: int, x: Tensor) -> Tensor:
        """What is compared of a recorded derivative (*batch, *out, *in, ..., *in)."""
        return derivative

    def moment(self, j: int, outputs: int, inputs: int) -> float:
        """The mean square of what is compared, over that of the derivative in full."""
        return 1.0


class OnVectors(InFull):
    """(y, D <y, v_1>, D <D <y, v_1>, v_2>, ...), S times for as many vectors a sample: drawn once y is known."""

    sampled = True

    def __init__(self, projection: Projection, generator: torch.Generator | None, batch_dims: int) -> None:
        super().__init__("auto", batch_dims)
        self.projection, self.generator = projection, generator
        self.vectors: list[Tensor] | None = None

    def _vectors(self, x: Tensor, order: int) -> Vectors:
        """v_1 for the outputs and v_2, ... for the inputs; at first a function that draws them."""

        def draw(y: Tensor) -> list[Tensor]:
            likes = [y, *[x] * (order - 1)]
            self.vectors = [self.projection.draw(like, self.batch_dims, self.generator) for like in likes]
            return self.vectors

        return draw if self.vectors is None else self.vectors

    def of(self, f: Function, x: Tensor, order: int, create_graph: bool) -> tuple[Tensor, ...]:
        if order == 0:
            return super().of(f, x, order, create_graph)
        vectors = self._vectors(x, order)
        return projected_derivatives(f, x, vectors, create_graph=create_graph, batch_dims=self.batch_dims)

    def of_module(self, module: Derivatives, x: Tensor, order: int) -> tuple[Tensor, ...]:
        return module(x, self._vectors(x, order)) if order else module(x, order=0)

    def of_recorded(self, derivative: Tensor, j: int, x: Tensor) -> Tensor:
        return project(derivative, self.vectors[:j], x, self.batch_dims) if j else derivative

    def moment(self, j: int, outputs: int, inputs: int) -> float:
        c = self.projection.second_moment
        return c(outputs) * c(inputs) ** (j - 1) if j else 1.0


def project(derivative: Tensor, vectors: Sequence[Tensor], x: Tensor, batch_dims: int) -> Tensor:
    """<...<D^j y, v_1>, ..., v_j> of shape (S, *x.shape), for a recorded D^j y (*batch, *out, *in, ..., *in)."""
    n = x.shape[:batch_dims].numel()
    remaining = derivative.shape[batch_dims:].numel()
    derivative = derivative.unsqueeze(0)
    for v in vectors:  # S projections, N samples, C components to contract, R that remain
        v_SNC = v.reshape(len(v), n, v.shape[batch_dims + 1 :].numel())
        remaining //= v_SNC.shape[-1]
        derivative_SNCR = derivative.reshape(len(derivative), n, v_SNC.shape[-1], remaining)
        dtype = torch.promote_types(v.dtype, derivative.dtype)  # einsum would refuse to mix them
        derivative = torch.einsum("snc,sncr->snr", v_SNC.to(dtype), derivative_SNCR.to(dtype))
    return derivative.reshape(len(derivative), *x.shape)


def inside(student: Function) -> Function:
    """What a student is around, if it is a wrapper."""
    while attribute := WRAPPERS.get(type(student).__name__):
        student = getattr(student, attribute)
    return student
