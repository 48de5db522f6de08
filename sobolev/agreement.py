r"""Checks whether recorded derivatives belong to the recorded values, and if not, which change would make them agree.

Between nearby samples a and b the trapezoidal rule predicts differences of values from derivatives,

    f(x_a) - f(x_b)  ~  (D f(x_a) + D f(x_b)) / 2 (x_a - x_b),

with an error of third order in x_a - x_b. The unexplained share of the squared differences is compared between the
derivatives as given and the derivatives

- negated, multiplied by one number, or multiplied by one number per input;
- laid out as (samples, inputs, outputs), which may also be negated or rescaled;
- with inputs, or with outputs, in another order: every order of at most 4, otherwise up to 200 exchanges of two;
- and, if none of these helps, of a single output: negated, multiplied, or with its inputs in another order.

For rough data most may remain unexplained, but then these changes do not help either. A change is reported only if it
explains far more. Other orders of more than 4 inputs or outputs, and errors in a few samples or in one derivative, are
not found.

Derivatives whose samples are in another order have no such remedy. There is a warning if the derivatives explain hardly
more than those of other samples would, while values alone predict f(x_a) far better: by interpolation through the
nearest samples with a linear function and cubes of distances. With fewer than 20 pairs there is no warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice, permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sobolev.finite_differences import differences

ANCHORS, POINTS = 500, 20_000  # samples whose nearest neighbour is searched for, and samples searched
NUMBERS = 4_000_000  # the most numbers in memory at a time
PAIRS = 10  # the least number of pairs
SMOOTH = 0.25  # the largest relative squared change of derivatives over a pair
WRONG, RIGHT, GAIN = 0.04, 0.25, 5.0  # the least unexplained share, the largest with a remedy, and their least ratio
WRONG_LAYOUT = 0.01  # the least unexplained share for a remedy without fitted numbers
MOST = 0.75  # the least share of pairs that a remedy must improve, so that a heavy tail does not decide
ORDERED, ORDERS = 4, 200  # up to ORDERED dimensions every order is tried, otherwise ORDERS exchanges of two
ALONE = 10  # the most outputs that are checked singly, those with the largest unexplained share first
NEIGHBOURS, MOST_NEIGHBOURS = 6, 200  # neighbours that predict a value: per coefficient of a linear function; in total
POOR, GOOD, MORE = 0.1, 0.2, 3.0  # for a warning: the least share unexplained, the largest by values, their least ratio
ALIKE = 0.5  # for a warning: the least ratio to the share that other samples' derivatives leave unexplained
NEARER = 0.6  # for a warning: the least share of samples that their neighbours predict better
ROUNDING = 1e-6


class Pairs(NamedTuple):
    """Pairs of samples: differences of values, and derivatives, each output in units of its differences.

    Attributes:
        expected: the differences of values, (P, O).
        mean: the mean of the two samples' derivatives, (P, O, I).
        half: half the difference between these derivatives, (P, O, I).
        steps: the vector from one sample to the other, (P, I).
        size: the units, (O).
    """

    expected: Tensor
    mean: Tensor
    half: Tensor
    steps: Tensor
    size: Tensor

    def prediction(self) -> Tensor:
        """The differences predicted by the derivatives, (P, O)."""
        return _along(self.mean, self.steps)

    def known(self) -> Tensor:
        """Which pairs have no unknown numbers, (P)."""
        return (self.expected + self.prediction()).isfinite().all(-1)

    def smooth(self) -> Tensor:
        """Which pairs have derivatives that change so little that the trapezoidal rule applies, (P)."""
        change = _along(self.half, self.steps)
        return change.square().sum(-1) <= SMOOTH * self.prediction().square().sum(-1)

    def of(self, kept: Tensor) -> Pairs:
        return Pairs(self.expected[kept], self.mean[kept], self.half[kept], self.steps[kept], self.size)

    def alone(self, o: int) -> Pairs:
        one = [o]
        return Pairs(self.expected[:, one], self.mean[:, one], self.half[:, one], self.steps, self.size[one])

    def with_inputs(self, order: list[int]) -> Pairs:
        return self._replace(mean=self.mean[..., order], half=self.half[..., order])

    def with_outputs(self, order: list[int]) -> Pairs:
        units = (self.size[order] / self.size)[:, None]
        return self._replace(mean=self.mean[:, order] * units, half=self.half[:, order] * units)


def remedy_of(lower: Tensor | Callable[..., Any], d: Tensor, x: Tensor, outputs: int) -> str:
    """The change that would make d the derivatives of `lower`, in words; "" if they agree or no change clearly helps.

    Orders are counted from 1: "with inputs in the order (2, 3, 1)" means d[..., [1, 2, 0]].

    Args:
        lower: values, or derivatives of the order below, (N, *out), or the function that computes them.
        d: derivatives (N, *out, *in), or another shape with as many numbers.
        x: the samples (N, *in).
        outputs: the number of components of *out.

    Warns:
        UserWarning: no change helps, but the values are predicted far better without d.
    """
    n, inputs = len(x), x[0].numel() if len(x) else 0
    if not d.numel() or d.numel() != n * outputs * inputs:
        return ""
    x_NI = x.detach().reshape(n, inputs).double()
    as_it_is = d.detach().reshape(n, outputs, inputs).double()
    swapped = d.detach().reshape(n, inputs, outputs).mT.double()
    a, b = _near(x_NI, NUMBERS // (outputs * inputs))
    if callable(lower):
        y, exact = (each.reshape(n, outputs, -1).double() for each in differences(lower, x))
        y_NO, scale_I = y[..., 0], x_NI.std(0, correction=0)
        pairs = partial(_along_axes, exact, torch.where(scale_I > 0, scale_I, 1.0))
    else:
        y_NO = lower.detach().reshape(n, outputs).double()
        pairs = partial(_between, x_NI, y_NO, a, b)
    before = pairs(as_it_is)
    remedy = _remedy(before, _layouts(before, pairs(swapped)))
    if not remedy and outputs > 1:
        remedy = _remedy_of_some(before)
    if not remedy:
        _warn_if_values_say_more(x_NI, y_NO, as_it_is)
    return remedy


def _layouts(before: Pairs, swapped: Pairs | None = None) -> Iterator[tuple[str, Pairs]]:
    """Other layouts of the derivatives, with their descriptions."""
    yield "", before
    if swapped is not None:
        yield "transposed, from (samples, inputs, outputs)", swapped
    known = before.of(before.known())
    for kind, order in ("inputs", _order_of_inputs(known)), ("outputs", _order_of_outputs(known)):
        if order != sorted(order):
            name = f"with {kind} in the order ({', '.join(str(k + 1) for k in order)})"
            yield name, before.with_inputs(order) if kind == "inputs" else before.with_outputs(order)


def _remedy(before: Pairs, layouts: Iterable[tuple[str, Pairs]]) -> str:
    """The simplest change that makes the derivatives agree, in words; "" if there is none."""
    found: list[tuple[int, int, str, float]] = []
    for name, after in layouts:
        known = before.known() & after.known()
        kept = known & after.smooth()
        if kept.sum() < max(PAIRS, int(known.sum()) / 2):  # waves shorter than the sampling look like a wrong scale
            continue
        expected = before.expected[kept]
        without = expected - before.of(kept).prediction()
        unexplained, unexplained_O = _share(without, expected), _shares(without, expected)
        for numbers, text, prediction in _changes(name, after.of(kept)):
            residual = expected - prediction
            left, least = _share(residual, expected), WRONG if numbers else WRONG_LAYOUT
            helped = (residual.square().sum(-1) < without.square().sum(-1)).double().mean()
            worse = _shares(residual, expected) > (2 * unexplained_O).clamp_min(WRONG_LAYOUT / 4)
            spoiled = (worse & (unexplained_O <= WRONG)).any()  # a remedy for all outputs must not spoil correct ones
            if unexplained >= max(least, GAIN * left) and left <= RIGHT and helped >= MOST and not spoiled:
                found.append((numbers, len(found), text, left))
    best = min((left for *_, left in found), default=0.0)
    return min((each for each in found if each[-1] <= best + WRONG / 2), default=(0, 0, "", 0.0))[2]


def _remedy_of_some(before: Pairs) -> str:
    """The changes that would make single outputs agree, in words."""
    unexplained_O = _shares(before.expected - before.prediction(), before.expected)
    found: dict[str, list[str]] = {}
    for o in unexplained_O.argsort(descending=True)[:ALONE].sort().values.tolist():
        one = before.alone(o)
        if unexplained_O[o] >= WRONG and (remedy := _remedy(one, _layouts(one))):
            found.setdefault(remedy, []).append(str(o + 1))
    return ", ".join(f"{text} in output{'s' * (len(which) > 1)} {' and '.join(which)}" for text, which in found.items())


def _changes(name: str, pairs: Pairs) -> Iterator[tuple[int, str, Tensor]]:
    """Simple changes of derivatives: their number of coefficients, description, and predicted differences (P, O)."""
    expected, prediction = pairs.expected, pairs.prediction()
    and_ = f"{name} and " if name else ""
    if name:
        yield 0, name, prediction
    if name.startswith("with"):
        return
    yield 0, f"{and_}negated", -prediction
    if not prediction.any():
        return
    c = float((expected * prediction).sum() / prediction.square().sum())
    yield 1, f"{and_}multiplied by {c:.3g}", c * prediction
    terms = pairs.mean * pairs.steps[:, None]
    inputs = terms.shape[-1]
    if 1 < inputs <= expected.numel() / PAIRS:
        c_I = torch.linalg.lstsq(terms.flatten(0, 1), expected.flatten()[:, None]).solution[:, 0]
        numbers = ", ".join(f"{each:.3g}" for each in c_I.tolist()[:5]) + ", ..." * (inputs > 5)
        yield inputs, f"{and_}multiplied by ({numbers}), one number an input", terms @ c_I


def _orders(n: int) -> list[list[int]]:
    """The orders of n that are tried, the given one first: all, or exchanges of two, neighbours first."""
    if n <= ORDERED:
        return [list(order) for order in permutations(range(n))]
    exchanges = islice(((i, i + apart) for apart in range(1, n) for i in range(n - apart)), ORDERS)
    return [[j if k == i else i if k == j else k for k in range(n)] for i, j in ((0, 0), *exchanges)]


def _order_of_inputs(pairs: Pairs) -> list[int]:
    """The order of inputs that leaves the least unexplained."""
    residual, left = pairs.expected - pairs.prediction(), []
    orders = _orders(pairs.mean.shape[-1])
    for order in orders:
        moved = [k for k, place in enumerate(order) if place != k]
        other = pairs.mean[..., [order[k] for k in moved]] - pairs.mean[..., moved]
        left.append(float((residual - _along(other, pairs.steps[:, moved])).square().sum()))
    return orders[left.index(min(left))]


def _order_of_outputs(pairs: Pairs) -> list[int]:
    """The order of outputs that leaves the least unexplained; the given one if there are very many outputs."""
    if len(pairs.size) ** 2 > NUMBERS:
        return [*range(len(pairs.size))]
    orders = torch.tensor(_orders(len(pairs.size)), device=pairs.size.device)
    error_OO = torch.cdist((pairs.expected * pairs.size).mT, (pairs.prediction() * pairs.size).mT) / pairs.size[:, None]
    left = error_OO.square().expand(len(orders), -1, -1).gather(2, orders[..., None]).sum((1, 2))
    return orders[left.argmin()].tolist()


def _warn_if_values_say_more(x_NI: Tensor, y_NO: Tensor, j_NOI: Tensor) -> None:
    """Warn if neighbours predict values well, but derivatives hardly better than those of other samples would."""
    known = (y_NO.isfinite().all(1) & j_NOI.isfinite().flatten(1).all(1)).nonzero()[:POINTS, 0]
    x_NI, y_NO = x_NI[known], y_NO[known]
    n, inputs = x_NI.shape
    neighbours = min(n - 1, NEIGHBOURS * (inputs + 1), MOST_NEIGHBOURS)
    if n < PAIRS:
        return
    a, b = _near(x_NI, NUMBERS // max((neighbours + inputs + 1) ** 2, j_NOI[0].numel()))
    if len(a) < 2 * PAIRS:
        return
    expected = y_NO[a] - y_NO[b]

    def residual(of: int = 0) -> Tensor:
        i, k = (known[(each + of) % n] for each in (a, b))
        return expected - _along((j_NOI[i] + j_NOI[k]) / 2, x_NI[a] - x_NI[b])

    own, total_O = residual(), expected.square().sum(0)
    own_O = own.square().sum(0) / total_O
    if not (own_O >= POOR).any():
        return
    others_O = sum(residual(k * n // 5).square().sum(0) for k in range(1, 5)) / 4 / total_O
    of_values = y_NO[a] - _by_neighbours(x_NI, y_NO, a, neighbours)
    values_O = of_values.square().sum(0) / total_O
    nearer_O = (of_values.abs() < own.abs()).double().mean(0)
    poor_O = (own_O >= POOR) & (own_O >= ALIKE * others_O) & (own_O >= MORE * values_O)
    poor_O &= (values_O <= GOOD) & (nearer_O >= NEARER)
    if poor_O.any():
        o = int(torch.where(poor_O, own_O, -torch.inf).argmax())
        of_output = f" of output {o + 1}" if len(own_O) > 1 else ""
        left = "all" if own_O[o] >= 1 else f"{own_O[o]:.0%}"
        warnings.warn(
            f"derivatives leave {left} of the differences{of_output} between near samples unexplained, hardly "
            f"less than other samples' derivatives would, where values of neighbours leave {values_O[o]:.1%}. They may "
            "be in another order than the samples, or mostly noise, or of waves that are shorter than the samples lie "
            "apart, and a model may then learn less than from values alone (docs/recipes.md)",
            stacklevel=5,  # above `check` and the regressor's `fit`
        )


def _by_neighbours(x_NI: Tensor, y_NO: Tensor, a: Tensor, neighbours: int) -> Tensor:
    """Values (P, O) at samples a, interpolated from their neighbours: a linear function plus cubes of distances."""
    z_NI = _scaled(x_NI)
    distance, others = torch.cdist(z_NI[a], z_NI).scatter_(1, a[:, None], torch.inf).topk(neighbours, largest=False)
    unit = distance[:, -1:]
    z_PKI = (z_NI[others] - z_NI[a][:, None]) / unit[..., None]
    linear = torch.nn.functional.pad(z_PKI, (1, 0), value=1.0)
    size = neighbours + linear.shape[-1]
    system = z_PKI.new_zeros(len(a), size, size)
    system[:, :neighbours, :neighbours] = torch.cdist(z_PKI, z_PKI) ** 3
    system[:, :neighbours, neighbours:], system[:, neighbours:, :neighbours] = linear, linear.mT
    system.diagonal(dim1=1, dim2=2)[:, :neighbours] += ROUNDING  # for repeated samples
    system.diagonal(dim1=1, dim2=2)[:, neighbours:] -= ROUNDING  # for samples on a line
    here = torch.nn.functional.pad(torch.cat(((distance / unit) ** 3, torch.ones_like(unit)), 1), (0, z_NI.shape[1]))
    weights = torch.linalg.solve_ex(system, here).result[:, :neighbours]  # NaN if samples repeat too often
    return torch.einsum("pk,pko->po", weights, y_NO[others])


def _along(j_POI: Tensor, steps_PI: Tensor) -> Tensor:
    return torch.einsum("poi,pi->po", j_POI, steps_PI)


def _share(residual: Tensor, expected: Tensor) -> float:
    total = expected.square().sum()
    return float(residual.square().sum() / total) if total > 0 else 0.0


def _shares(residual: Tensor, expected: Tensor) -> Tensor:
    """The unexplained share of each output; 0 for a constant one."""
    return (residual.square().nansum(0) / expected.square().nansum(0)).nan_to_num(0.0, 0.0)


def _near(x_NI: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Indices of samples and their nearest neighbours, in units of the inputs' standard deviations; no pair twice."""
    x_NI = _scaled(x_NI[:POINTS])
    count = min(len(x_NI), ANCHORS, max(most, 4 * PAIRS))
    a = torch.linspace(0, len(x_NI) - 1, count, device=x_NI.device).round().long()
    distance = torch.cdist(x_NI[a], x_NI).masked_fill_(
        a[:, None] == torch.arange(len(x_NI), device=a.device), torch.inf
    )
    length, b = distance.masked_fill_(distance == 0, torch.inf).min(-1)
    pairs = torch.stack((a, b)).sort(0).values[:, length.isfinite()]
    return tuple(pairs.unique(dim=1))


def _scaled(x_NI: Tensor) -> Tensor:
    scale_I = x_NI.std(0, correction=0)
    return x_NI / torch.where(scale_I > 0, scale_I, 1.0)


def _between(x_NI: Tensor, y_NO: Tensor, a: Tensor, b: Tensor, j_NOI: Tensor) -> Pairs:
    """Pairs for the trapezoidal rule, each in units of its distance."""
    steps = x_NI[a] - x_NI[b]
    length = (steps / x_NI.std(0, correction=0)).nan_to_num(0.0, 0.0, 0.0).norm(dim=-1)[:, None]
    return _by_output(
        (y_NO[a] - y_NO[b]) / length, (j_NOI[a] + j_NOI[b]) / 2, (j_NOI[a] - j_NOI[b]) / 2, steps / length
    )


def _along_axes(exact: Tensor, scale_I: Tensor, j_NOI: Tensor) -> Pairs:
    """Pairs that compare derivatives (N, O, I) with finite differences: one per sample and input."""
    inputs = len(scale_I)
    mean = j_NOI.repeat_interleave(inputs, 0)  # (N I, O, I)
    steps = torch.diag(scale_I).repeat(len(j_NOI), 1)
    return _by_output((exact * scale_I).mT.flatten(0, 1), mean, torch.zeros_like(mean), steps)


def _by_output(expected: Tensor, mean: Tensor, half: Tensor, steps: Tensor) -> Pairs:
    size_O = expected.square().nanmean(0).sqrt()
    size_O = torch.where(size_O > 0, size_O, 1.0)
    return Pairs(expected / size_O, mean / size_O[:, None], half / size_O[:, None], steps, size_O)
