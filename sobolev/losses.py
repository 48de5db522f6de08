r"""The Sobolev loss: a student matches the values and the input derivatives of a teacher (Section 2 of the paper).

    Eq. 1    sum_i [ l_0(m(x_i), f(x_i)) + sum_j w_j l_j(D^j m(x_i), D^j f(x_i)) ]
    Eq. 2    the same with D^j replaced by its projection on random vectors (`sobolev.projections`)

A student learns from a teacher:

>>> import torch
>>> from sobolev import Derivatives, SobolevLoss, projections
>>> x = torch.randn(64, 5)
>>> teacher = lambda x: torch.stack((x.square().sum(-1), x.sin().prod(-1)), dim=-1)
>>> student = torch.nn.Sequential(torch.nn.Linear(5, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
>>> optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
>>> loss = SobolevLoss(order=2, weights=(1, 0.1, 0.01), projection=projections.Sphere(samples=1))
>>> for step in range(20):
...     terms = loss(student, x, teacher)
...     optimizer.zero_grad()
...     terms.total.backward()
...     optimizer.step()
>>> sorted(terms.by_order)                       # one unweighted scalar per order, for the log
[0, 1, 2]

The target may also be recorded values and derivatives (`sobolev.distillation` has a loss for classifiers):

>>> y, dy = Derivatives(teacher).eval()(x)       # (64, 2) and (64, 2, 5), without a graph
>>> terms = SobolevLoss(order=1, projection=projections.Sphere())(student, x[:8], (y[:8], dy[:8]))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sobolev.derivatives import (
    MODES,
    Derivatives,
    Vectors,
    derivatives,
    projected_derivatives,
)
from sobolev.guards import Function, warn_if_vanishing
from sobolev.projections import Projection

Distance = Callable[[Tensor, Tensor], Tensor]
Recorded = Tensor | Sequence[Tensor | None]

# The attribute with the wrapped module, by the name of the wrapper's class.
WRAPPERS = {"DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": lambda per_sample: per_sample,
}


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


class SobolevTerms(NamedTuple):
    """A loss and its terms.

    Attributes:
        total: the weighted sum over orders, to call `backward` on.
        by_order: the reduced, unweighted distance of each order that is present, with its graph: detach it to keep it.
    """

    total: Tensor
    by_order: dict[int, Tensor]


class SobolevLoss:
    """Distances between student and target, in value and in derivatives up to an order.

    `loss(student, x, target)` returns `SobolevTerms`. An order of weight 0 is absent: its distance is not evaluated,
    and derivatives above the highest order present are not computed. Value-only training is `order=0`, and
    derivative-only training is `weights=(0, 1)`.

    The derivative of a piecewise linear student (ReLU) is constant between its kinks. The effect of moving a kink on
    the loss of derivatives is zero at almost every single sample, so `backward` lacks it, and descent may even raise
    the loss: see `make descent` and docs/regression.md. With a smooth activation, such as softplus, nothing is missing.

    Args:
        order: the highest derivative K.
        weights: the w_j: one number for all orders, one per order from 0 on, or {order: weight}, where orders that are
            left out are absent. All are 1 by default, as in Section 4.1. The attribute of this name may be changed
            during training, also to and from 0. An order of weight 0 costs nothing.
        distances: the l_j: one for all orders, one per order, or {order: distance}. Each is a name in `DISTANCES` or a
            function of (prediction, target) that reduces the last dimension only, in which the components of a sample
            are flattened. "squared_l2" by default.
        projection: how vectors are drawn for Eq. 2; None compares full derivatives (Eq. 1). Values are never
            projected.
        generator: the source of the projections' randomness; PyTorch's global one by default.
        reduction: "mean" or "sum" over the batch, or "none" for one loss per sample. Projections are averaged.
        mode, batch_dims: as for `sobolev.derivatives.derivatives`.

    Raises:
        TypeError: a projection of another type, such as its name, or its class without parentheses; a generator or
            weight of another type.
        ValueError: an unknown name, a weight or distance for an order beyond the highest, a weight that is negative or
            not finite, or no order present.
    """

    def __init__(
        self,
        order: int = 1,
        *,
        weights: float | Sequence[float] | Mapping[int, float] = 1.0,
        distances: str | Distance | Sequence[str | Distance] | Mapping[int, str | Distance] = "squared_l2",
        projection: Projection | None = None,
        generator: torch.Generator | None = None,
        reduction: str = "mean",
        mode: str = "auto",
        batch_dims: int = 1,
    ) -> None:
        if order < 0:
            raise ValueError(f"order must be 0 or more, not {order}")
        for name, value, choices in (("reduction", reduction, REDUCTIONS), ("mode", mode, MODES)):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        if not isinstance(projection, Projection | None):
            raise TypeError(f"projection must be one such as projections.Sphere(samples=1), not {projection!r}")
        if not isinstance(generator, torch.Generator | None):
            raise TypeError(f"generator must be a torch.Generator, not {generator!r}")
        given = _one_per_order("weights", weights, order)
        fixed = {j: w.item() for j, w in given.items() if isinstance(w, Tensor) and not _learns(w)}
        self.weights = given | fixed  # a weight that is trained stays a tensor
        self.distances = dict.fromkeys(range(order + 1), squared_l2)
        self.distances |= {j: _distance(d) for j, d in _one_per_order("distances", distances, order).items()}
        self.projection = projection
        self.generator = generator
        self.reduction = REDUCTIONS[reduction]
        self.mode, self.batch_dims = mode, batch_dims
        self._warned = False
        self._present()

    @property
    def order(self) -> int:
        """The highest order whose weight is not 0 now."""
        return max(self._present())

    def _present(self) -> dict[int, float]:
        """The weights that are not 0 now, by order."""
        for j, weight in self.weights.items():
            if not isinstance(weight, Real | Tensor):
                raise TypeError(f"the weight of order {j} must be a number, not {weight!r}")
            if not _learns(weight) and not 0 <= weight < math.inf:
                raise ValueError(f"the weight of order {j} must be 0 or more, and finite, not {weight}")
        present = {j: weight for j, weight in self.weights.items() if _learns(weight) or weight}
        if not present:
            raise ValueError("every weight is 0, so there is nothing to learn from")
        return present

    def __call__(self, student: Function, x: Tensor, target: Function | Recorded) -> SobolevTerms:
        """The loss of a student on samples x.

        Args:
            student: a module or function from (*batch, *in) to (*batch, *out), or a `Derivatives` of this loss's order,
                or DistributedDataParallel around one.
            x: the samples, which get no gradient.
            target: a module or function like the student, which is used as it is (call `eval()` on it yourself) and not
                trained; or recorded tensors (y, D y, ...), of which those of absent orders may be None or left off.
                These are full derivatives, as `Derivatives(teacher).eval()(x)` returns them, even if the loss projects.
                NaN stands for a number that is not known: it adds nothing to the loss, whose mean is still over the
                whole batch. A projection of a derivative with any NaN is not known either.

        Raises:
            TypeError: samples or targets that are not tensors, such as NumPy's arrays.
            ValueError: a target has another shape than the student's output, or lacks an order; a student is a
                DistributedDataParallel that is not around a `Derivatives`, or a `Derivatives` of another order.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a floating-point tensor, not {type(x).__name__}")
        x, weights = x.detach(), self._present()
        order = max(weights)
        if not self._warned:
            warn_if_vanishing(student, order)
            self._warned = True
        vectors: list[Tensor] = []

        def draw(y: Tensor) -> list[Tensor]:
            """v_1 for the outputs and v_2, ... for the inputs, which are kept for the target."""
            for like in [y, *[x] * (order - 1)]:
                vectors.append(self.projection.draw(like, self.batch_dims, self.generator))
            return vectors

        projected = self.projection is not None and order > 0
        predictions = self._of_student(student, x, order, draw if projected else None)
        targets = self._of_target(target, x, order, vectors if projected else None, predictions)
        by_order = {}
        for j in weights:
            _check_shape(j, targets[j], predictions[j].shape)
            by_order[j] = self.reduction(self._per_sample(j, predictions[j], targets[j]))
        return SobolevTerms(sum(w * by_order[j] for j, w in weights.items()), by_order)

    def _of_student(self, student: Function, x: Tensor, order: int, draw: Vectors | None) -> tuple[Tensor, ...]:
        inner = student
        while attribute := WRAPPERS.get(type(inner).__name__):
            inner = getattr(inner, attribute)
        if isinstance(inner, Derivatives):
            if inner.order not in range(order, max(self.weights) + 1) or inner.batch_dims != self.batch_dims:
                raise ValueError(
                    f"the student's Derivatives has order {inner.order} and batch_dims {inner.batch_dims}, "
                    f"but the loss has order {order} and batch_dims {self.batch_dims}"
                )
            return student(x, draw) if draw else student(x)
        return self._differentiate(student, x, order, draw, create_graph=torch.is_grad_enabled())

    def _of_target(
        self,
        target: Function | Recorded,
        x: Tensor,
        order: int,
        vectors: Sequence[Tensor] | None,
        predictions: Sequence[Tensor],
    ) -> Sequence[Tensor | None]:
        """The target's values and derivatives, without a graph, projected on the same vectors as the student's."""
        if callable(target):
            teacher = target.model if isinstance(target, Derivatives) else target
            return self._differentiate(teacher, x, order, vectors, create_graph=False)
        if not isinstance(target, Tensor | Sequence):
            raise TypeError(
                f"target must be a function, or recorded tensors (y, D y, ...), not {type(target).__name__}"
            )
        recorded = [target] if isinstance(target, Tensor) else list(target)
        recorded += [None] * (order + 1 - len(recorded))
        for j in self._present():
            _check_shape(j, recorded[j], (*predictions[0].shape, *x.shape[self.batch_dims :] * j))
            known = recorded[j].detach()
            if vectors and j > 0:
                known = _project(known, vectors[:j], x, self.batch_dims)
            recorded[j] = torch.where(known.isnan(), predictions[j].detach().to(known.dtype), known)
        return recorded

    def _differentiate(
        self, f: Function, x: Tensor, order: int, vectors: Vectors | None, create_graph: bool
    ) -> tuple[Tensor, ...]:
        if vectors is not None:
            return projected_derivatives(f, x, vectors, create_graph=create_graph, batch_dims=self.batch_dims)
        return derivatives(f, x, order, create_graph=create_graph, mode=self.mode, batch_dims=self.batch_dims)

    def _per_sample(self, j: int, prediction: Tensor, target: Tensor) -> Tensor:
        """The distance of order j for each sample, averaged over projections."""
        projected = self.projection is not None and j > 0
        lead = prediction.shape[: self.batch_dims + projected]
        components = prediction.shape[len(lead) :].numel()  # reshape cannot infer it in an empty batch
        distance = self.distances[j](prediction.reshape(*lead, components), target.reshape(*lead, components))
        if distance.shape != lead:
            raise ValueError(
                f"the distance of order {j} must reduce the last dimension only and give shape {tuple(lead)}, "
                f"not {tuple(distance.shape)}"
            )
        return distance.mean(0) if projected else distance


def _learns(weight: float | Tensor) -> bool:
    return isinstance(weight, Tensor) and weight.requires_grad


def _project(derivative: Tensor, vectors: Sequence[Tensor], x: Tensor, batch_dims: int) -> Tensor:
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


def _check_shape(j: int, target: Tensor | None, expected: Sequence[int]) -> None:
    if not isinstance(target, Tensor | None):
        raise TypeError(f"the target's derivative of order {j} must be a tensor, not {type(target).__name__}")
    found = "missing" if target is None else f"of shape {tuple(target.shape)}"
    if target is None or target.shape != tuple(expected):
        raise ValueError(f"the target's derivative of order {j} is {found}, expected {tuple(expected)} to match")


def _one_per_order(name: str, given: Any, order: int) -> dict[int, Any]:
    """{order: value} from such a mapping, from one value per order, or from one value for all orders."""
    if isinstance(given, Mapping):
        by_order = dict(given)
    elif (isinstance(given, Sequence) and not isinstance(given, str)) or getattr(given, "ndim", 0):  # or an array
        by_order = dict(enumerate(given))
        if len(given) != order + 1:
            raise ValueError(f"{name} must number {order + 1}, for orders 0 to {order}, not {len(given)}")
    else:
        by_order = dict.fromkeys(range(order + 1), given)
    for j in by_order:
        if j not in range(order + 1):
            raise ValueError(f"{name} names order {j!r}, but the orders are 0 to {order}")
    return by_order


def _distance(given: str | Distance) -> Distance:
    if callable(given):
        return given
    if given not in DISTANCES:
        raise ValueError(f"a distance must be a function or one of {', '.join(DISTANCES)}, not {given!r}")
    return DISTANCES[given]
