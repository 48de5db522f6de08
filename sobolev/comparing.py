"""What the Sobolev loss compares at each order: derivatives in full (Eq. 1) or projected (Eq. 2), exact or by values.

An object of this module serves one call of the loss: student and target are projected on the same vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sobolev.calling import Call, Condition, Function, Select
from sobolev.derivatives import Derivatives, Vectors, derivatives, projected_derivatives
from sobolev.finite_differences import StepSize, Values, along, by_axes, stacked, steps_of
from sobolev.projections import Projection

# The attribute with the wrapped module, by the name of the wrapper's class.
WRAPPERS = {"DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}


class InFull:
    """(y, D y, D^2 y, ...): every component is compared."""

    sampled = False  # whether orders from 1 on have a leading dimension S, of projections
    mixed = ""  # "output" or "input": a dimension that projections sum over, at orders from 1 on

    def __init__(self, mode: str, batch_dims: int, condition: Condition) -> None:
        self.mode, self.batch_dims, self.condition = mode, batch_dims, condition

    def of(self, f: Function, x: Tensor, order: int, select: Select, create_graph: bool) -> list[Tensor]:
        """What is compared of a function."""
        call: Call = {"batch_dims": self.batch_dims, "condition": self.condition, "select": select}
        return list(derivatives(f, x, order, create_graph=create_graph, mode=self.mode, **call))

    def of_module(self, module: Function, x: Tensor, order: int) -> list[Tensor]:
        """What is compared of a student that is a `Derivatives`, or a wrapper around one."""
        return list(module(x, order=order, condition=self.condition))

    def of_teacher(self, teacher: Derivatives, x: Tensor, order: int) -> list[Tensor]:
        """What is compared of a target that is a `Derivatives`."""
        return self.of(teacher.model, x, order, teacher.select, create_graph=False)

    def of_recorded(self, derivative: Tensor, j: int, x: Tensor) -> Tensor:
        """What is compared of a recorded derivative (*batch, *out, *in, ..., *in)."""
        return derivative

    def moment(self, j: int, outputs: int, inputs: int) -> float:
        """The mean square of what is compared, over that of the derivative in full."""
        return 1.0


class GivenVectors(InFull):
    """(y, D <y, v_1>, D <D <y, v_1>, v_2>, ...), S times for as many vectors a sample, which were recorded.

    Their second moments are not known.
    """

    sampled, mixed = True, "output"

    def __init__(self, vectors: Sequence[Tensor], batch_dims: int, condition: Condition) -> None:
        super().__init__("auto", batch_dims, condition)
        self.vectors = list(vectors)

    def _vectors(self, x: Tensor, order: int) -> Vectors:
        """v_1 for the outputs and v_2, ... for the inputs."""
        return self.vectors

    def of(self, f: Function, x: Tensor, order: int, select: Select, create_graph: bool) -> list[Tensor]:
        if order == 0:
            return super().of(f, x, order, select, create_graph)
        call: Call = {"batch_dims": self.batch_dims, "condition": self.condition, "select": select}
        return list(projected_derivatives(f, x, self._vectors(x, order), create_graph=create_graph, **call))

    def of_module(self, module: Function, x: Tensor, order: int) -> list[Tensor]:
        if order == 0:
            return super().of_module(module, x, order)
        return list(module(x, self._vectors(x, order), condition=self.condition))

    def of_recorded(self, derivative: Tensor, j: int, x: Tensor) -> Tensor:
        if j == 0:
            return derivative
        return contract(derivative, self.vectors[:j], self.batch_dims).reshape(len(self.vectors[0]), *x.shape)


class OnVectors(GivenVectors):
    """The same on random vectors, which are drawn once y is known."""

    def __init__(
        self, projection: Projection, generator: torch.Generator | None, batch_dims: int, condition: Condition
    ) -> None:
        super().__init__([], batch_dims, condition)
        self.projection, self.generator = projection, generator

    def _vectors(self, x: Tensor, order: int) -> Vectors:
        """v_1 for the outputs and v_2, ... for the inputs; at first a function that draws them."""

        def draw(y: Tensor) -> list[Tensor]:
            likes = [y, *[x] * (order - 1)]
            self.vectors = [self.projection.draw(like, self.batch_dims, self.generator) for like in likes]
            return self.vectors

        return self.vectors or draw

    def moment(self, j: int, outputs: int, inputs: int) -> float:
        c = self.projection.second_moment
        return c(outputs) * c(inputs) ** (j - 1) if j else 1.0


class ByDifferences(InFull):
    """(y, D y, D^2 y, ...), each from differences of values, along the axes of the input."""

    def __init__(self, step: StepSize, batch_dims: int, condition: Condition) -> None:
        super().__init__("auto", batch_dims, condition)
        self.step = step

    def of(self, f: Function, x: Tensor, order: int, select: Select, create_graph: bool) -> list[Tensor]:
        with torch.set_grad_enabled(create_graph):
            return self._quotients(stacked(f, self.batch_dims, self.condition, select), x, order)

    def of_module(self, module: Function, x: Tensor, order: int) -> list[Tensor]:
        condition = {"order": 0, "condition": self.condition}  # its values alone, which are the first that it returns
        return self._quotients(stacked(module, self.batch_dims, condition, select=0), x, order)

    def of_teacher(self, teacher: Derivatives, x: Tensor, order: int) -> list[Tensor]:
        exact = super().of(teacher.model, x, order, teacher.select, create_graph=False)
        return [self.of_recorded(d, j, x) for j, d in enumerate(exact)]

    def _quotients(self, values: Values, x: Tensor, order: int) -> list[Tensor]:
        steps = [steps_of(x, j, self.step, self.batch_dims) for j in range(1, order + 1)]
        return by_axes(values, x, steps, self.batch_dims)


class AlongDirections(ByDifferences):
    """(y, D y [u_1], D^2 y [u_1, u_2], ...), from differences along S random directions of a sample's input.

    Where Eq. 2 projects the outputs on v_1, and leaves a gradient by the input, this leaves the outputs.
    """

    sampled, mixed = True, "input"

    def __init__(
        self,
        projection: Projection,
        generator: torch.Generator | None,
        step: StepSize,
        batch_dims: int,
        condition: Condition,
    ) -> None:
        super().__init__(step, batch_dims, condition)
        self.projection, self.generator = projection, generator
        self.vectors: list[Tensor] = []

    def of_teacher(self, teacher: Derivatives, x: Tensor, order: int) -> list[Tensor]:
        self._draw(x, order)
        return super().of_teacher(teacher, x, order)

    def _draw(self, x: Tensor, order: int) -> None:
        """Directions for all orders, if they are not drawn yet."""
        missing = range(order - len(self.vectors))
        self.vectors += [self.projection.draw(x, self.batch_dims, self.generator) for _ in missing]

    def _quotients(self, values: Values, x: Tensor, order: int) -> list[Tensor]:
        self._draw(x, order)
        # One step for all inputs, so the shortest of theirs.
        steps = [steps_of(x, j, self.step, self.batch_dims).min() for j in range(1, order + 1)]
        return along(values, x, self.vectors, steps)

    def of_recorded(self, derivative: Tensor, j: int, x: Tensor) -> Tensor:
        if j == 0:
            return derivative
        dims, inputs = self.batch_dims, j * (x.dim() - self.batch_dims)
        outputs = derivative.shape[dims : derivative.dim() - inputs]
        places = range(dims, dims + len(outputs))
        inputs_first = derivative.movedim(tuple(places), tuple(range(-len(outputs), 0)))
        contracted = contract(inputs_first, self.vectors[:j], dims)
        return contracted.reshape(len(self.vectors[0]), *x.shape[:dims], *outputs)

    def moment(self, j: int, outputs: int, inputs: int) -> float:
        return self.projection.second_moment(inputs) ** j


class GivenVectorsByDifferences(ByDifferences):
    """D <y, v_1>, ... on vectors that were recorded, from derivatives by differences in full."""

    sampled, mixed = True, "output"

    def __init__(self, vectors: Sequence[Tensor], step: StepSize, batch_dims: int, condition: Condition) -> None:
        super().__init__(step, batch_dims, condition)
        self.vectors = list(vectors)

    def _quotients(self, values: Values, x: Tensor, order: int) -> list[Tensor]:
        y, *full = super()._quotients(values, x, order)
        if order and self.vectors[0].shape[1:] != y.shape:
            found, expected = tuple(self.vectors[0].shape), (len(self.vectors[0]), *y.shape)
            raise ValueError(f"vector 1 has shape {found}, expected {expected}")
        shape = (len(self.vectors[0]), *x.shape) if order else x.shape
        return [y, *(contract(d, self.vectors[:j], self.batch_dims).reshape(shape) for j, d in enumerate(full, 1))]


def way_to_compare(
    mode: str,
    step: StepSize,
    drawn: tuple[Projection, torch.Generator | None] | None,
    given: Sequence[Tensor] | None,
    batch_dims: int,
    condition: Condition,
) -> InFull:
    """What one call of the loss compares: on vectors that were recorded, or else drawn, or else in full."""
    common = batch_dims, condition
    if mode == "differences":
        if given is not None:
            return GivenVectorsByDifferences(given, step, *common)
        return AlongDirections(*drawn, step, *common) if drawn else ByDifferences(step, *common)
    if given is not None:
        return GivenVectors(given, *common)
    return OnVectors(*drawn, *common) if drawn else InFull(mode, *common)


def contract(derivative: Tensor, vectors: Sequence[Tensor], batch_dims: int) -> Tensor:
    """The first components of a derivative (*batch, *components) with v_1, the next with v_2, ...: (S, N, rest)."""
    n = derivative.shape[:batch_dims].numel()
    remaining = derivative.shape[batch_dims:].numel()
    derivative = derivative.unsqueeze(0)
    for v in vectors:  # S projections, N samples, C components to contract, R that remain
        v_SNC = v.reshape(len(v), n, v.shape[batch_dims + 1 :].numel())
        remaining //= v_SNC.shape[-1]
        derivative_SNCR = derivative.reshape(len(derivative), n, v_SNC.shape[-1], remaining)
        dtype = torch.promote_types(v.dtype, derivative.dtype)  # einsum would refuse to mix them
        derivative = torch.einsum("snc,sncr->snr", v_SNC.to(dtype), derivative_SNCR.to(dtype))
    return derivative


def inside(student: Function) -> Function:
    """What a student is around, if it is a wrapper."""
    while attribute := WRAPPERS.get(type(student).__name__):
        student = getattr(student, attribute)
    return student
