r"""Whether recorded derivatives are those of the recorded values, and if not, what would make them so.

Between near samples a and b the trapezoidal rule predicts differences of values from derivatives,

    f(x_a) - f(x_b)  ~  (D f(x_a) + D f(x_b)) / 2 (x_a - x_b),

to third order in x_a - x_b. The share of the squared differences that a prediction leaves unexplained is compared
between derivatives as they are, negated, times one number, times one number per input, and laid out (samples, inputs,
outputs). Rough data may leave most unexplained, but so does each of these then: only what explains far more is an
error found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sobolev.finite_differences import differences

ANCHORS, POINTS = 500, 20_000  # samples whose nearest is looked for, among so many
NUMBERS = 20_000_000  # that may be held at a time
PAIRS = 10  # fewer say nothing
SMOOTH = 0.25  # of the squared prediction, the most that derivatives may change it by over a pair
WRONG, RIGHT, GAIN = 0.04, 0.25, 5.0  # the least unexplained as it is, the most by a remedy, and their least ratio
MOST = 0.75  # of the pairs that a remedy must bring nearer, lest a few of a heavy tail decide


class Pairs(NamedTuple):
    """Differences of values, (P, O), and what derivatives say of them.

    Attributes:
        expected: the differences.
        terms: what each input adds to their prediction, (P, O, I).
        change: half of what the prediction changes by from one sample of a pair to the other, (P, O).
    """

    expected: Tensor
    terms: Tensor
    change: Tensor

    def known(self) -> Tensor:
        """Which pairs have all their numbers, (P)."""
        return (self.expected.isfinite() & self.terms.isfinite().all(-1)).all(-1)

    def smooth(self) -> Tensor:
        """Between which samples derivatives change little, so that the trapezoidal rule can be right, (P)."""
        return self.change.square().sum(-1) <= SMOOTH * self.terms.sum(-1).square().sum(-1)

    def of(self, kept: Tensor) -> Pairs:
        return Pairs(*(each[kept] for each in self))


def remedy_of(lower: Tensor | Callable[..., Any], d: Tensor, x: Tensor, outputs: int) -> str:
    """What would make d the derivatives of `lower`, in words; "" if they agree, or if nothing clearly would.

    Args:
        lower: values, or derivatives of the order below, (N, *out), or the function that has them.
        d: derivatives (N, *out, *in), or another shape of as many numbers.
        x: the samples (N, *in).
        outputs: the number of components of *out.
    """
    n, inputs = len(x), x[0].numel() if len(x) else 0
    if not d.numel() or d.numel() != n * outputs * inputs:
        return ""
    x_NI = x.detach().reshape(n, inputs).double()
    as_it_is = d.detach().reshape(n, outputs, inputs).double()
    swapped = d.detach().reshape(n, inputs, outputs).mT.double()
    if callable(lower):
        exact, scale_I = differences(lower, x)[1].reshape(n, outputs, inputs).double(), x_NI.std(0, correction=0)
        pairs = partial(_along_axes, exact, scale_I=torch.where(scale_I > 0, scale_I, 1.0))
    else:
        a, b = _near(x_NI, NUMBERS // (outputs * inputs))
        pairs = partial(_between, x_NI, lower.detach().reshape(n, outputs).double(), a=a, b=b)
    before, found = pairs(j_NOI=as_it_is), []
    for name, j_NOI in (("", as_it_is), ("transposed, from (samples, inputs, outputs)", swapped)):
        after = pairs(j_NOI=j_NOI)
        known = before.known() & after.known()
        kept = known & after.smooth()
        if kept.sum() < max(PAIRS, int(known.sum()) / 2):  # waves too short for the samples look like a wrong scale
            continue
        expected = after.of(kept).expected
        without = expected - before.of(kept).terms.sum(-1)
        for text, prediction in _remedies(name, after.of(kept)):
            unexplained, left = _share(without, expected), _share(expected - prediction, expected)
            helped = ((expected - prediction).square().sum(-1) < without.square().sum(-1)).double().mean()
            if unexplained >= max(WRONG, GAIN * left) and left <= RIGHT and helped >= MOST:
                found.append((text, left))
    best = min((left for _, left in found), default=0.0)
    return next((text for text, left in found if left <= best + WRONG / 2), "")


def _remedies(name: str, pairs: Pairs) -> Iterator[tuple[str, Tensor]]:
    """Simple changes of derivatives, the simplest first, and what differences (P, O) they predict."""
    expected, terms = pairs.expected, pairs.terms
    prediction = terms.sum(-1)
    and_ = f"{name} and " if name else ""
    if name:
        yield name, prediction
    yield f"{and_}negated", -prediction
    if not prediction.any():
        return
    c = float((expected * prediction).sum() / prediction.square().sum())
    yield f"{and_}multiplied by {c:.3g}", c * prediction
    inputs = terms.shape[-1]
    if 1 < inputs <= expected.numel() / PAIRS:
        c_I = torch.linalg.lstsq(terms.flatten(0, 1), expected.flatten()[:, None]).solution[:, 0]
        numbers = ", ".join(f"{each:.3g}" for each in c_I.tolist()[:5]) + ", ..." * (inputs > 5)
        yield f"{and_}multiplied by ({numbers}), one number an input", terms @ c_I


def _share(residual: Tensor, expected: Tensor) -> float:
    total = expected.square().sum()
    return float(residual.square().sum() / total) if total > 0 else 0.0


def _near(x_NI: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Indices of samples, and of the nearest to each in units of the inputs' standard deviations; each pair once."""
    x_NI = x_NI[:POINTS]
    scale_I = x_NI.std(0, correction=0)
    x_NI = x_NI / torch.where(scale_I > 0, scale_I, 1.0)
    count = max(min(ANCHORS, len(x_NI), most), 1)
    a = torch.linspace(0, len(x_NI) - 1, count, device=x_NI.device).round().long()
    distance = torch.cdist(x_NI[a], x_NI).masked_fill_(
        a[:, None] == torch.arange(len(x_NI), device=a.device), torch.inf
    )
    length, b = distance.masked_fill_(distance == 0, torch.inf).min(-1)
    pairs = torch.stack((a, b)).sort(0).values[:, length.isfinite()]
    return tuple(pairs.unique(dim=1))


def _between(x_NI: Tensor, y_NO: Tensor, j_NOI: Tensor, a: Tensor, b: Tensor) -> Pairs:
    """By the trapezoidal rule, each pair in units of its distance and each output in its own. Unknown pairs are out."""
    steps = x_NI[a] - x_NI[b]
    length = (steps / x_NI.std(0, correction=0)).nan_to_num(0.0, 0.0, 0.0).norm(dim=-1)[:, None]
    terms = (j_NOI[a] + j_NOI[b]) / 2 * steps[:, None]
    change = ((j_NOI[a] - j_NOI[b]) / 2 * steps[:, None]).sum(-1)
    return _by_output((y_NO[a] - y_NO[b]) / length, terms / length[..., None], change / length)


def _along_axes(exact: Tensor, j_NOI: Tensor, scale_I: Tensor) -> Pairs:
    """Each sample and input in place of a pair: derivatives (N, O, I) against those by differences."""
    terms = torch.diag_embed(j_NOI * scale_I).movedim(2, 1).flatten(0, 1)  # (N I, O, I)
    expected = (exact * scale_I).mT.flatten(0, 1)
    return _by_output(expected, terms, torch.zeros_like(expected))


def _by_output(expected: Tensor, terms: Tensor, change: Tensor) -> Pairs:
    size_O = expected.square().nanmean(0).sqrt()
    size_O = torch.where(size_O > 0, size_O, 1.0)
    return Pairs(expected / size_O, terms / size_O[:, None], change / size_O)
