r"""The weights of the Sobolev loss: one per order, and balanced by the mean squares of the targets.

Derivatives have other units than values, and are often orders of magnitude larger or smaller. A balanced loss measures
each order in units of the root mean square of its targets over N samples:

    w_j = 1 / S_j,    S_0 = 1/N sum_i ||f(x_i) - mean f||^2,    S_j = 1/N sum_i ||D^j f(x_i)||^2 for j >= 1,

so that a student that is zero (at order 0: the mean value) costs 1 in each order, whatever the units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sobolev.normalizer import varies, widened

BALANCES = ("order", "output", "input")


def one_per_order(name: str, given: Any, order: int) -> dict[int, Any]:
    """{order: value} from such a mapping, from one value per order, or from one value for all orders.

    Raises:
        ValueError: a sequence whose length is not order + 1, or a mapping with other orders.
    """
    if isinstance(given, Mapping):
        by_order = dict(given)
    elif (isinstance(given, Sequence) and not isinstance(given, str)) or getattr(given, "ndim", 0) > 0:  # or an array
        if len(given) != order + 1:
            raise ValueError(f"{name} must number {order + 1}, for orders 0 to {order}, not {len(given)}")
        # Indexed, because iterating unbinds a trained tensor, which the optimizer could then not change in place.
        by_order = {j: given[j] for j in range(order + 1)}
    else:
        by_order = dict.fromkeys(range(order + 1), given)
    for j in by_order:
        if j not in range(order + 1):
            raise ValueError(f"{name} names order {j!r}, but the orders are 0 to {order}")
    return by_order


def learns(weight: float | Tensor) -> bool:
    """Whether a weight is a tensor that is trained."""
    return isinstance(weight, Tensor) and weight.requires_grad


def present(
    weights: Mapping[int, float | Tensor], factors: Mapping[int, float] = MappingProxyType({})
) -> dict[int, float | Tensor]:
    """The weights times their factors, by order, without those that are 0. A trained weight is kept whatever its value.

    Raises:
        TypeError: the weights are not by order, or one is not a number.
        ValueError: a weight or factor is negative or not finite, or every weight is 0.
    """
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"the loss's attribute `weights` is {{order: weight}}, such as {{0: 1.0, 1: 0.5}}, not {weights!r}"
        )
    for j, weight in weights.items():
        if not isinstance(weight, Real | Tensor):
            raise TypeError(f"the weight of order {j} must be a number, not {weight!r}")
        if not learns(weight) and not 0 <= weight < math.inf:
            raise ValueError(f"the weight of order {j} must be 0 or more, and finite, not {weight}")
    for j, factor in factors.items():
        if not 0 <= factor < math.inf:
            raise ValueError(f"the schedule of order {j} must give 0 or more, and a finite number, not {factor}")
    factors = dict.fromkeys(weights, 1.0) | dict(factors)
    found = {j: weight * factors[j] for j, weight in weights.items() if factors[j] and (learns(weight) or weight)}
    if not found:
        raise ValueError("every weight is 0, so there is nothing to learn from")
    return found


def check_balance(balanced: Mapping[int, str], mixed: str) -> None:
    """Refuse an unknown balance, and balancing a dimension that projections mix ("output" or "input")."""
    for j, by in balanced.items():
        if by not in BALANCES:
            raise ValueError(f"balance must be one of {', '.join(BALANCES)}, not {by!r}")
        if by == mixed and j > 0:
            raise ValueError(f"a projection mixes the {by}s, so they cannot be balanced one by one: scale the data")


def mean_square(target: Tensor, j: int, by: str, lead: int, columns: int) -> Tensor:
    """S_j of a target, averaged over its leading dimensions and known numbers (not NaN).

    Args:
        target: (*lead, *components).
        j: its order; values (j = 0) are measured about their mean.
        by: "order" for one S_j; "output" for one per index of the first `columns` dimensions of the components, and
            "input" for one per index of the last `columns` dimensions (values have one S_0).
        lead: the number of leading dimensions, which are averaged; components are summed.
        columns: the number of dimensions of the components that belong to outputs, or to inputs.

    Raises:
        ValueError: S_j is 0, so that one cannot divide by it. (A single column that is 0 gets the mean of the columns.)
    """
    target = target.detach().flatten(0, lead - 1)
    t = widened(target)
    target = target if target.is_floating_point() else t  # recorded values may be whole numbers
    about = t.nanmean(0) if j == 0 else 0.0
    squares = (t - about).square().nanmean(0).nan_to_num(0.0)  # an unknown component adds nothing
    if j == 0:
        squares = torch.where(varies(target), squares, 0.0)
    if not squares.any():
        what = "values are all the same" if j == 0 else f"derivatives of order {j} are all 0"
        raise ValueError(
            f"the target's {what}, or not known, so they have no mean square to balance by: leave order {j} out, as in "
            "balance={0: 'order'}, and choose its weight"
        )
    if by == "order" or (by == "input" and j == 0):
        return squares.sum()
    summed = range(columns, squares.dim()) if by == "output" else range(squares.dim() - columns)
    column = squares.sum(tuple(summed)) if summed else squares
    return torch.where(column > 0, column, column.mean())


def relative(mean_square: Tensor | float | Sequence[float], moment: float, like: Tensor) -> Tensor:
    """The factor that makes the mean square of a derivative 1: (moment C S_j)^(-1/2), for C columns.

    The mean square of a projection is `moment` times that of the full derivative. The factor is at least in single
    precision: half types would round it, and float16 ends at 65504. (From a file the mean squares may be numbers.)
    """
    if not isinstance(mean_square, Tensor):
        mean_square = torch.tensor(mean_square, dtype=torch.float64)
    factor = (mean_square * (moment * mean_square.numel())).rsqrt()
    return factor.to(like.device, torch.promote_types(like.dtype, torch.float32))


def in_units(t: Tensor, factor: Tensor) -> Tensor:
    """The product, at least in the precision of the factor, even if that is a single number."""
    return t.to(torch.promote_types(t.dtype, factor.dtype)) * factor
