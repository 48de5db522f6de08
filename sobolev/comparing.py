"""What the Sobolev loss compares at each order: full derivatives (Eq. 1) or projections (Eq. 2), exact or differenced.

An object of these classes serves one call of the loss: student and target are projected on the same vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sobolev.calling import Call, Condition, Function, Select
from sobolev.derivatives import Derivatives, Vectors, derivatives, projected_derivatives
from sobolev.finite_differences import StepSize, Values, along, by_axes, eps_of, stacked, steps_of
from sobolev.projections import Projection

# The attribute that holds the wrapped module, by the name of the wrapper's class.
WRAPPERS = {"DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}


class InFull:
    """(y, D y, D^2 y, ...): every component is compared."""

    sampled = False  # whether orders from 1 on have a leading dimension S of projections
    mixed = ""  # "output" or "input": the dimension that projections sum over, at orders from 1 on

    def __init__(self, mode: str, batch_dims: int, condition: Condition) -> None:
        self.mode, self.batch_dims, self.condition = mode, batch_dims, condition

    def of(self, f: Function, x: Tensor, order: int, select: Select, create_graph: bool) -> list[Tensor]:
        """What is compared for a function."""
        call: Call = {"batch_dims": self.batch_dims, "condition": self.condition, "select": select}
        return list(derivatives(f, x, order, create_graph=create_graph, mode=self.mode, **call))

    def of_module(self, module: Function, x: Tensor, order: int) -> list[Tensor]:
        """What is compared for a student that is a `Derivatives`, or a wrapper around one."""
        return list(module(x, order=order, condition=self.condition))

    def of_teacher(self, teacher: Derivatives, x: Tensor, order: int) -> list[Tensor]:
        """What is compared for a target that is a `Derivatives`."""
        return self.of(teacher.model, x, order, teacher.select, create_graph=False)

    def of_recorded(self, derivative: Tensor, j: int, x: Tensor) -> Tensor:
        """What is compared for a recorded derivative (*batch, *out, *in, ..., *in)."""
        return derivative

    def moment(self, j: int, outputs: int, inputs: int) -> float:
        """The ratio of the mean square of what is compared to that of the full derivative."""
        return 1.0


class GivenVectors(InFull):
    """(y, D <y, v_1>, D <D <y, v_1>, v_2>, ...) for S recorded vectors per sample, whose second moments are unknown."""

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
    """The same for random vectors, which are drawn once y is known."""

    def __init__(
        self, projection: Projection, generator: torch.Generator | None, batch_dims: int, condition: Condition
    ) -> None:
        super().__init__([], batch_dims, condition)
        self.projection, self.generator = projection, generator

    def _vectors(self, x: Tensor, order: int) -> Vectors:
        """v_1 for the outputs and v_2, ... for the inputs; before they are drawn, a function that draws them."""

        def draw(y: Tensor) -> list[Tensor]:
            likes = [y, *[x] * (order - 1)]
            self.vectors = [self.projection.draw(like, self.batch_dims, self.generator) for like in likes]
            return self.vectors

        return self.vectors or draw

    def moment(self, j: int, outputs: int, inputs: int) -> float:
        c = self.projection.second_moment
        return c(outputs) * c(inputs) ** (j - 1) if j else 1.0


class ByDifferences(InFull):
    """(y, D y, D^2 y, ...) from differences of values along the axes of the input."""

    def __init__(self, step: StepSize, batch_dims: int, condition: Condition) -> None:
        super().__init__("auto", batch_dims, condition)
        self.step = step

    def of(self, f: Function, x: Tensor, order: int, select: Select, create_graph: bool) -> list[Tensor]:
        with torch.set_grad_enabled(create_graph):
            return self._quotients(stacked(f, self.batch_dims, self.condition, select), x, order)

    def of_module(self, module: Function, x: Tensor, order: int) -> list[Tensor]:
        condition = {"order": 0, "condition": self.condition}  # returns only the values
        return self._quotients(stacked(module, self.batch_dims, condition, select=0), x, order)

    def of_teacher(self, teacher: Derivatives, x: Tensor, order: int) -> list[Tensor]:
        exact = super().of(teacher.model, x, order, teacher.select, create_graph=False)
        return [self.of_recorded(d, j, x) for j, d in enumerate(exact)]

    def _quotients(self, values: Values, x: Tensor, order: int) -> list[Tensor]:
        steps = [steps_of(x, j, self.step, self.batch_dims) for j in range(1, order + 1)]
        return self._precise(by_axes(values, x, steps, self.batch_dims), x)

    def _precise(self, quotients: list[Tensor], x: Tensor) -> list[Tensor]:
        """Refuse differences whose default step was for a finer type than that of the values."""
        coarse = quotients[0].dtype
        if len(quotients) > 1 and self.step is None and torch.finfo(coarse).eps > eps_of(x):
            raise ValueError(
                f"f returns {coarse} for inputs of {x.dtype}, whose default step is too small for differences of such "
                "values: choose the loss's `step`, or let f compute in the type of its inputs"
            )
        return quotients


class AlongDirections(ByDifferences):
    """(y, D y [u_1], D^2 y [u_1, u_2], ...) from differences along S random directions of a sample's input.

    Eq. 2 projects the outputs on v_1 and keeps a gradient by the input. This projects the input and keeps the outputs.
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
        """Draw the directions for all orders, unless they are drawn already."""
        missing = range(order - len(self.vectors))
        self.vectors += [self.projection.draw(x, self.batch_dims, self.generator) for _ in missing]

    def _quotients(self, values: Values, x: Tensor, order: int) -> list[Tensor]:
        self._draw(x, order)
        # A direction crosses all inputs, so the smallest of their steps is used.
        steps = [steps_of(x, j, self.step, self.batch_dims).min() for j in range(1, order + 1)]
        return self._precise(along(values, x, self.vectors, steps), x)

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
    """D <y, v_1>, ... for recorded vectors, from full derivatives by differences."""

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
    """What one call of the loss compares: projections on recorded vectors if given, on drawn ones, or in full."""
    common = batch_dims, condition
    if mode == "differences":
        if given is not None:
            return GivenVectorsByDifferences(given, step, *common)
        return AlongDirections(*drawn, step, *common) if drawn else ByDifferences(step, *common)
    if given is not None:
        return GivenVectors(given, *common)
    return OnVectors(*drawn, *common) if drawn else InFull(mode, *common)


def contract(derivative: Tensor, vectors: Sequence[Tensor], batch_dims: int) -> Tensor:
    """Contract a derivative's (*batch, *components) first components with v_1, the next with v_2, ...: (S, N, rest)."""
    n = derivative.shape[:batch_dims].numel()
    remaining = derivative.shape[batch_dims:].numel()
    derivative = derivative.unsqueeze(0)
    for v in vectors:  # S projections, N samples, C components to contract, R remaining components
        v_SNC = v.reshape(len(v), n, v.shape[batch_dims + 1 :].numel())
        remaining //= v_SNC.shape[-1]
        derivative_SNCR = derivative.reshape(len(derivative), n, v_SNC.shape[-1], remaining)
        dtype = torch.promote_types(v.dtype, derivative.dtype)  # einsum would refuse to mix them
        derivative = torch.einsum("snc,sncr->snr", v_SNC.to(dtype), derivative_SNCR.to(dtype))
    return derivative


def inside(student: Function) -> Function:
    """The module inside a student that is a wrapper, otherwise the student."""
    while attribute := WRAPPERS.get(type(student).__name__):
        student = getattr(student, attribute)
    return student
