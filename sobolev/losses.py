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

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, distributed

from sobolev.calling import Condition, Function, Select, uncompiled
from sobolev.comparing import InFull, inside, way_to_compare
from sobolev.derivatives import MODES, Derivatives
from sobolev.distances import DISTANCES as DISTANCES
from sobolev.distances import Distance, distance_of, squared_l2
from sobolev.distances import huber as huber
from sobolev.distances import l1 as l1
from sobolev.distances import l2 as l2
from sobolev.finite_differences import StepSize
from sobolev.guards import warn_if_dropping, warn_if_vanishing
from sobolev.projections import Projection
from sobolev.schedules import SCHEDULES, Schedule
from sobolev.targets import Recorded, as_recorded, checked, given_vectors, known_or, of_target, values_shape
from sobolev.weights import check_balance, in_units, learns, mean_square, one_per_order, present, relative

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": lambda per_sample: per_sample,
}


class SobolevTerms(NamedTuple):
    """A loss and its terms.

    Attributes:
        total: the weighted sum over orders, to call `backward` on.
        by_order: the reduced, unweighted distance of each order that is present, with its graph (detach it to keep it).
            The distance of a balanced order is relative: the target's mean square is 1.
    """

    total: Tensor
    by_order: dict[int, Tensor]


class SobolevLoss:
    """Distances between student and target, in value and in derivatives up to an order.

    `loss(student, x, target)` returns `SobolevTerms`. An order of weight 0 is absent: its distance is not evaluated,
    and derivatives above the highest order present are not computed. Value-only training is `order=0`, and
    derivative-only training is `weights=(0, 1)`.

    The derivative of a piecewise linear student (ReLU) is constant between its kinks. Moving a kink changes the
    expected loss of derivatives, but for almost no single sample its loss. So `backward` misses this effect, and
    descent may even increase the loss (docs/regression.md). With a smooth activation, such as softplus, nothing is
    missing.

    Args:
        order: the highest derivative K.
        weights: the w_j: one number for all orders, one per order from 0 on, or {order: weight}, where omitted orders
            are absent. The default is 1 for all, as in Section 4.1. The attribute `weights` may be changed during
            training, also to and from 0. An order of weight 0 costs nothing. A weight may be a tensor that an optimizer
            trains, and start at 0. It is used as it is, so keep it positive yourself. "balanced" is short for weights
            of 1 and `balance="order"`.
        balance: "order" divides each order by the mean square S_j of its targets (`sobolev.weights` has the equation),
            in addition to its weight. "output" divides each output, and "input" each input of differentiation, by its
            own mean square and by their number, so that a student of zeros still costs 1 in each order. {order: one of
            these} balances only some orders. Arguments are divided by the root mean square before the distance: the
            squared distance is thus divided by S_j, L1 and L2 by its root, and Huber's threshold of 1 becomes one root
            mean square. With a projection the arguments are also divided by the second moments of its vectors
            (S_j c(outputs) c(inputs)^(j - 1)), so that the squared distance is unbiased for the full one.
            Call `balance(target, x)` to measure S_j on data of your choice. Otherwise an order is measured once, on the
            first batch that has it. The attribute `mean_squares` holds the measured values by order, and may be saved
            and set.
        schedule: a function of progress to a factor of the weights of orders from 1 on, a name in
            `schedules.SCHEDULES`, or {order: either}. Set the attribute `progress` to step / steps before each call.
        distances: the l_j: one for all orders, one per order, or {order: distance}. Each is a name in `DISTANCES` or a
            function of (prediction, target) that reduces the last dimension only, in which the components of a sample
            are flattened. "squared_l2" by default.
        projection: how vectors are drawn for Eq. 2; None compares full derivatives (Eq. 1). Values are never
            projected.
        generator: the source of the projections' randomness; PyTorch's global one by default.
        reduction: "mean" or "sum" over the batch, or "none" for one loss per sample. Projections are averaged.
        mode: as for `sobolev.derivatives.derivatives`; or "differences", which takes the student's derivatives by
            central differences of its values (`sobolev.finite_differences` has the equation). Gradients then move the
            kinks of a ReLU, and there is no double backpropagation, but the student is evaluated at 2 I more points per
            sample for gradients by I inputs, and at 2 I (I + 1) more for Hessians. With a projection, the vectors are
            directions u of the input instead of v: 2^j more points for each give D^j y [u_1, ..., u_j] (*out). A target
            that is a function is differenced with the same step at the same points; a `Derivatives` or a recorded
            target keeps its exact derivatives.
        step: h of these differences, as for `sobolev.differences`; by default from each batch's scale. A larger step,
            up to the distance between samples, lets more samples see each kink. It must be one number if the loss
            projects.
        select: which of several outputs of student and target is used, as for `sobolev.derivatives.derivatives`.
        batch_dims: as for `sobolev.derivatives.derivatives`.

    Raises:
        TypeError: a projection of another type, such as its name, or its class without parentheses; a generator or
            weight of another type.
        ValueError: an unknown name, a weight or distance for an order beyond the highest, a weight that is negative or
            not finite, no order present, or projected outputs that are balanced one by one. In use: targets that have
            no mean square to balance by; a schedule without progress.
    """

    def __init__(
        self,
        order: int = 1,
        *,
        weights: str | float | Sequence[float] | Mapping[int, float] = 1.0,
        balance: str | Mapping[int, str] | None = None,
        schedule: str | Schedule | Mapping[int, str | Schedule] | None = None,
        distances: str | Distance | Sequence[str | Distance] | Mapping[int, str | Distance] = "squared_l2",
        projection: Projection | None = None,
        generator: torch.Generator | None = None,
        reduction: str = "mean",
        mode: str = "auto",
        step: StepSize = None,
        select: Select = None,
        batch_dims: int = 1,
    ) -> None:
        if order < 0:
            raise ValueError(f"order must be 0 or more, not {order}")
        for name, value, choices in (("reduction", reduction, REDUCTIONS), ("mode", mode, (*MODES, "differences"))):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        if not isinstance(projection, Projection | None):
            raise TypeError(f"projection must be one such as projections.Sphere(samples=1), not {projection!r}")
        if not isinstance(generator, torch.Generator | None):
            raise TypeError(f"generator must be a torch.Generator, not {generator!r}")
        if isinstance(weights, str) and weights == "balanced":
            weights, balance = 1.0, balance or "order"
        if step is not None and mode != "differences":
            raise ValueError('step is that of mode="differences", and no other mode has one')
        if step is not None and projection is not None and torch.as_tensor(step).dim():
            raise ValueError("step must be one number where the loss projects: a direction crosses all inputs")
        given = one_per_order("weights", weights, order)
        fixed = {j: w.item() for j, w in given.items() if isinstance(w, Tensor) and not learns(w)}
        self.weights = given | fixed  # a weight that is trained stays a tensor
        self.balanced = {} if balance is None else one_per_order("balance", balance, order)
        self.mean_squares: dict[int, Tensor] = {}
        self.schedules = {} if schedule is None else _schedules(schedule, order)
        self._progress: float | None = None
        self.distances: dict[int, Distance] = dict.fromkeys(range(order + 1), squared_l2)
        self.distances |= {j: distance_of(d) for j, d in one_per_order("distances", distances, order).items()}
        self.projection = projection
        self.generator = generator
        self.reduction = REDUCTIONS[reduction]
        self.mode, self.step, self.select, self.batch_dims = mode, step, select, batch_dims
        self._warned = False
        mixed = "" if projection is None else "input" if mode == "differences" else "output"
        check_balance(self.balanced, mixed)
        present(self.weights)

    @property
    def order(self) -> int:
        """The highest order whose weight is currently not 0."""
        return max(self._present())

    @property
    def progress(self) -> float | None:
        """The fraction of training that is done, from 0 to 1, which the schedule needs; None until it is set."""
        return self._progress

    @progress.setter
    def progress(self, t: float) -> None:
        if not 0 <= t <= 1:
            raise ValueError(f"progress is step / steps, from 0 to 1, not {t!r}")
        self._progress = t

    def _present(self) -> dict[int, float | Tensor]:
        """The weights that are currently not 0, by order, times the factors of the schedule."""
        if not self.schedules:
            return present(self.weights)
        if self._progress is None:
            raise ValueError("the loss has a schedule: set loss.progress = step / steps before each call")
        return present(self.weights, {j: schedule(self._progress) for j, schedule in self.schedules.items()})

    def balance(self, target: Function | Recorded, x: Tensor, *, condition: Condition = None) -> SobolevLoss:
        """Measure the S_j of the orders that are balanced and whose weight is not 0. Returns this loss.

        Args:
            target: as for the loss. NaN in recorded tensors is ignored.
            x: the samples: preferably the whole training set, or some thousands of its samples.
            condition: as for the loss.

        Raises:
            ValueError: no order is balanced; a derivative, or the deviation of values from their mean, is 0 or unknown
                at all samples; as for the loss.
        """
        orders = [j for j in present(self.weights) if j in self.balanced]
        if not orders:
            raise ValueError("nothing is to be balanced: construct the loss with balance='order'")
        self.mean_squares |= self._measured(target, x.detach(), orders, condition)
        return self

    def _measured(
        self, target: Function | Recorded, x: Tensor, orders: Sequence[int], condition: Condition
    ) -> dict[int, Tensor]:
        """S_j of the full derivatives, for each of these orders."""
        way = self._way(target, x, orders, condition)
        if not callable(target) and given_vectors(target, x, orders) is None:
            way = InFull(self.mode, self.batch_dims, condition)  # full derivatives that were recorded
        found = of_target(way, target, x, orders, self.select)
        y_shape = found[0].shape if callable(target) else values_shape(as_recorded(target, orders), x, self.batch_dims)
        outputs, inputs = y_shape[self.batch_dims :], x.shape[self.batch_dims :]
        measured = {}
        for j in orders:
            columns = len(inputs if self.balanced[j] == "input" else outputs)
            lead = self.batch_dims + (way.sampled and j > 0)
            compared = mean_square(found[j], j, self.balanced[j], lead, columns)
            measured[j] = compared / way.moment(j, outputs.numel(), inputs.numel())
        return measured

    @uncompiled
    def __call__(
        self, student: Function, x: Tensor, target: Function | Recorded, *, condition: Condition = None
    ) -> SobolevTerms:
        """The loss of a student on samples x.

        Args:
            student: a module or function from (*batch, *in) to (*batch, *out), or a `Derivatives` of this loss's order,
                or DistributedDataParallel around one.
            x: the samples, which get no gradient.
            target: a module or function like the student, which is used as it is (call `eval()` on it yourself) and not
                trained; or recorded tensors (y, D y, ...), where absent orders may be None or omitted at the end. These
                are full derivatives, as `Derivatives(teacher).eval()(x)` returns them, even if the loss projects. NaN
                marks an unknown number: it adds nothing to the loss, whose mean is still over the whole batch. A
                projection of a derivative with any NaN is unknown too. For derivatives that were recorded projected,
                give a `Projected(vectors, derivatives)` instead of D^j y.
            condition: inputs that student and target take after x and are not differentiated by: one tensor, a tuple,
                or a mapping by name.

        Raises:
            TypeError: samples or targets are not tensors, but for example NumPy arrays.
            ValueError: a target has another shape than the student's output, or lacks an order; the student is a
                DistributedDataParallel that is not around a `Derivatives`, or a `Derivatives` of another order.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a floating-point tensor, not {type(x).__name__}")
        x, weights = x.detach(), self._present()
        order = max(weights)
        if not self._warned:
            warn_if_dropping(target)
            if self.mode != "differences":
                warn_if_vanishing(student, order)
            self._warned = True
        way = self._way(target, x, weights, condition)
        predictions = self._of_student(way, student, x, order)
        y_shape = predictions[0].shape
        targets = of_target(way, target, x, weights, self.select, y_shape)
        self._measure_once(target, x, weights, condition)
        by_order = {}
        for j in weights:
            compared = checked(j, targets[j], predictions[j].shape)
            known = compared if callable(target) else known_or(compared, predictions[j])
            moment = way.moment(j, y_shape[self.batch_dims :].numel(), x.shape[self.batch_dims :].numel())
            by_order[j] = self.reduction(self._per_sample(way, j, predictions[j], known, moment))
        first, *others = (w * by_order[j] for j, w in weights.items())
        return SobolevTerms(sum(others, first), by_order)

    def _way(self, target: Function | Recorded, x: Tensor, orders: Collection[int], condition: Condition) -> InFull:
        """What one call of the loss compares."""
        given = given_vectors(target, x, orders)
        drawn = (self.projection, self.generator) if self.projection is not None else None
        way = way_to_compare(self.mode, self.step, drawn, given, self.batch_dims, condition)
        check_balance(self.balanced, way.mixed)
        return way

    def _of_student(self, way: InFull, student: Function, x: Tensor, order: int) -> list[Tensor]:
        inner = inside(student)
        if not isinstance(inner, Derivatives):
            return way.of(student, x, order, self.select, create_graph=torch.is_grad_enabled())
        if inner.order not in range(order, max(self.weights) + 1) or inner.batch_dims != self.batch_dims:
            raise ValueError(
                f"the student's Derivatives has order {inner.order} and batch_dims {inner.batch_dims}, "
                f"but the loss has order {order} and batch_dims {self.batch_dims}"
            )
        if self.select not in (None, inner.select):
            raise ValueError(
                "the student is a Derivatives, so `select` must be its own: Derivatives(model, select=...)"
            )
        return way.of_module(student, x, order)

    def _measure_once(
        self, target: Function | Recorded, x: Tensor, orders: Collection[int], condition: Condition
    ) -> None:
        """Measure the S_j that are needed and not measured yet."""
        missing = [j for j in orders if j in self.balanced and j not in self.mean_squares]
        if not missing:
            return
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            raise ValueError("each process would balance by its own batch: call loss.balance on the same data in each")
        self.mean_squares |= self._measured(target, x, missing, condition)

    def _per_sample(self, way: InFull, j: int, prediction: Tensor, target: Tensor, moment: float) -> Tensor:
        """The distance of order j for each sample, averaged over projections."""
        sampled = way.sampled and j > 0
        lead = prediction.shape[: self.batch_dims + sampled]
        if j in self.balanced:
            factor = relative(self.mean_squares[j], moment, prediction)
            if self.balanced[j] == "output":
                factor = factor.view((*factor.shape, *[1] * (prediction.dim() - len(lead) - factor.dim())))
            prediction, target = in_units(prediction, factor), in_units(target, factor)
        components = prediction.shape[len(lead) :].numel()  # reshape cannot infer it in an empty batch
        distance = self.distances[j](prediction.reshape(*lead, components), target.reshape(*lead, components))
        if distance.shape != lead:
            raise ValueError(
                f"the distance of order {j} must reduce the last dimension only and give shape {tuple(lead)}, "
                f"not {tuple(distance.shape)}"
            )
        return distance.mean(0) if sampled else distance


def _schedules(given: str | Schedule | Mapping[int, str | Schedule], order: int) -> dict[int, Schedule]:
    """The schedule of each order from 1 on, or of the orders in a mapping."""
    if not isinstance(given, Mapping):
        given = dict.fromkeys(range(1, order + 1), given)
    found = {}
    for j, schedule in one_per_order("schedule", given, order).items():
        if not callable(schedule) and schedule not in SCHEDULES:
            raise ValueError(f"a schedule must be a function or one of {', '.join(SCHEDULES)}, not {schedule!r}")
        found[j] = schedule if callable(schedule) else SCHEDULES[schedule]()
    return found
