r"""Derivatives by central differences of f's values: for a black box, or for a student whose kinks are to move.

With h the step, s the signs and u_1, ..., u_j directions,

    D^j y [u_1, ..., u_j]  ~  sum over s in {-1, 1}^j of  s_1 ... s_j f(x + h (s_1 u_1 + ... + s_j u_j)) / (2 h)^j,

and the full derivative uses the unit vectors as directions. Central differences evaluate f 2 I times for a gradient by
I inputs, forward differences I times. But the error of central differences is of order h^2 instead of h: in single
precision, with the best step, about 3e-5 of the derivative instead of 3e-4. And at the larger steps that move kinks,
they are not biased to one side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sobolev.calling import Condition, Function, Select, of_samples, output, selected
from sobolev.exact import HALF
from sobolev.guards import check_is_due, check_samples_apart, refusing_modules
from sobolev.normalizer import widened

RESOLVED = 4  # the least step, in units in the last place of the largest sample

StepSize = float | Tensor | None
Values = Callable[[Tensor], Tensor]  # of points (P, *batch, *in), to (P, *batch, *out)


def differences(
    f: Callable[..., Any],
    x: Tensor,
    order: int = 1,
    step: StepSize = None,
    *,
    batch_dims: int = 1,
    condition: Condition = None,
    select: Select = None,
) -> tuple[Tensor, ...]:
    """(y, D y, ..., D^order y) of f at every sample, from its values. No graph is recorded.

    The shapes are those of `sobolev.derivatives.derivatives`, so the result can be the recorded target of a loss.

    >>> import numpy as np
    >>> y, dy = differences(lambda x: np.sin(x.numpy()), torch.zeros(1, 2, dtype=torch.float64))
    >>> dy.round(decimals=6)
    tensor([[[1., 0.],
             [0., 1.]]], dtype=torch.float64)

    Args:
        f: any function from a tensor (*batch, *in) to a tensor or NumPy array (*batch, *out), such as a simulator. It
            is called with the whole batch, once for y, and 2^j times for each of the (I + j - 1)! / j! (I - 1)!
            different components of D^j y by I inputs. It must treat samples independently.
        x: floating-point samples.
        order: the highest derivative.
        step: h, one number, or one per input (*in). The default is eps^(1/(j + 2)) times the input's scale, with the
            larger eps of x and y, which balances rounding against the error of the formula at order j. An input's scale
            is its standard deviation over the samples, but at least 1% of its root mean square (the root mean square
            itself if all samples are equal). In a loss, the eps of y is that of autocast's type, if it is enabled.
        batch_dims: the number of leading batch dimensions of x.
        condition: as for `derivatives`.
        select: as for `derivatives`.

    Raises:
        TypeError: x is not floating-point, or f does not return a tensor or array.
        ValueError: a negative order, a step that is not positive, or too small for the precision of x, or outputs
            without the batch dimensions of x.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, not {getattr(x, 'dtype', type(x).__name__)}")
    if order < 0:
        raise ValueError(f"order must be 0 or more, not {order}")

    def value(points: Tensor) -> Tensor:
        return _value(f, points, batch_dims, condition, select)

    x = x.detach()
    with torch.no_grad():
        y = value(x)
        eps = max(torch.finfo(t.dtype).eps for t in (x, y))
        steps = [steps_of(x, j, step, batch_dims, eps) for j in range(1, order + 1)]
        # The first point is x itself.
        return tuple(by_axes(lambda points: torch.stack([y, *map(value, points[1:])]), x, steps, batch_dims))


def by_axes(values: Values, x: Tensor, steps: Sequence[Tensor], batch_dims: int) -> list[Tensor]:
    """(y, D y, ..., D^K y) in full, with the steps h (*in) of each order from 1 to K."""
    inputs = x.shape[batch_dims:]
    size, units = inputs.numel(), torch.eye(inputs.numel(), dtype=x.dtype, device=x.device)
    places = [list(itertools.combinations_with_replacement(range(size), j)) for j in range(1, len(steps) + 1)]
    moves, scales = [], []
    for h, different in zip(steps, places, strict=True):
        columns = torch.tensor(different, device=x.device).mT  # (j, S): different components i_1 <= ... <= i_j
        shape = (len(different), *[1] * batch_dims, *inputs)
        moves.append([(units[column] * h.flatten()).view(shape) for column in columns])
        scales.append((2 * h.flatten()[columns]).prod(0))
    y, *differences = moved(values, x, moves)
    results = [y]
    for j, (different, scale, d) in enumerate(zip(places, scales, differences, strict=True), start=1):
        d = d / scale.view(-1, *[1] * y.dim()).to(d.dtype)
        number = {place: s for s, place in enumerate(different)}
        everywhere = [number[tuple(sorted(place))] for place in itertools.product(range(size), repeat=j)]
        results.append(d[everywhere].movedim(0, -1).reshape(*y.shape, *inputs * j))
    return results


def along(values: Values, x: Tensor, directions: Sequence[Tensor], steps: Sequence[Tensor]) -> list[Tensor]:
    """(y, D y [u_1], D^2 y [u_1, u_2], ...) for u_k (S, *batch, *in), with one step h per order.

    All but y have the shape (S, *batch, *out).
    """
    moves = [[h * u for u in directions[:j]] for j, h in enumerate(steps, start=1)]
    y, *differences = moved(values, x, moves)
    return [y, *(d / (2 * h) ** j for j, (h, d) in enumerate(zip(steps, differences, strict=True), start=1))]


def moved(values: Values, x: Tensor, moves: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """y, and for each order's moves m_1, ..., m_j the sum over signs of s_1 ... s_j f(x + s_1 m_1 + ... + s_j m_j)."""
    signs = [list(itertools.product((1, -1), repeat=len(each))) for each in moves]
    shifts = [x.new_zeros(1, *x.shape)]
    for each, patterns in zip(moves, signs, strict=True):
        for pattern in patterns:
            first, *others = (s * m for s, m in zip(pattern, each, strict=True))
            shifts.append(sum(others, first).expand(-1, *x.shape))
    found = iter(values(x + torch.cat(shifts)).split([len(shift) for shift in shifts]))
    y = next(found)[0]
    return [y, *(sum(math.prod(pattern) * next(found) for pattern in patterns) for patterns in signs)]


def stacked(f: Function, batch_dims: int, condition: Condition, select: Select) -> Values:
    """f at points (P, *batch, *in), evaluated in one call as if the points were more samples.

    Raises, in addition to `sobolev.calling.output`:
        ValueError: f mixes samples, or is random, such as by active dropout. (Modules that drop out are refused at
            every call; whether f gives equal samples equal values is checked as often as whether it mixes them.)
    """
    last = batch_dims - 1

    def values(points: Tensor) -> Tensor:
        batch = points.shape[1 : batch_dims + 1]
        x = points.movedim(0, last).flatten(last, last + 1)
        check = torch.is_grad_enabled() and check_is_due(f)
        repeated = of_samples(condition, batch, lambda c: torch.stack([c] * len(points), last).flatten(last, last + 1))
        if check:
            x.requires_grad_()
        with refusing_modules(f, by_values=True):
            y = _value(f, x, batch_dims, repeated, select)
        if check:
            check_samples_apart(f, y, x, batch_dims)
        y = y.unflatten(last, (len(points), batch[-1])).movedim(last, 0)
        if check:
            with torch.no_grad():
                _refuse_random(y[0].detach(), _value(f, points[0], batch_dims, condition, select))
        return y

    return values


def steps_of(x: Tensor, j: int, step: StepSize, batch_dims: int, eps: float | None = None) -> Tensor:
    """The step h (*in) of each input for derivatives of order j, as documented in `differences`.

    Raises:
        ValueError: a step is not positive, has the wrong shape, or is too small for the precision of x.
    """
    inputs = x.shape[batch_dims:]
    if step is not None:
        h = torch.as_tensor(step, dtype=x.dtype, device=x.device)
        if not (h > 0).all() or not h.isfinite().all() or h.shape not in ((), inputs):
            raise ValueError(f"step must be a positive number, or one for each input {tuple(inputs)}, not {step}")
        h = h.expand(inputs)
    else:
        eps = eps_of(x) if eps is None else eps
        h = (eps ** (1 / (j + 2)) * scale_of(x, batch_dims)).to(x.dtype)
    if step is not None or x.dtype in HALF:  # the default is large enough in other types
        _refuse_unresolved(x.flatten(0, batch_dims - 1), h)
    return h


def eps_of(x: Tensor) -> float:
    """The machine epsilon that f computes with: that of x, or of autocast's type, which single precision becomes."""
    kind = x.device.type
    lowered = x.dtype == torch.float32 and torch.is_autocast_enabled(kind)
    return torch.finfo(torch.get_autocast_dtype(kind) if lowered else x.dtype).eps


def _refuse_unresolved(samples: Tensor, h: Tensor) -> None:
    """Refuse steps h (*in) so small that rounding x + h and x - h changes their distance by more than an eighth."""
    if not samples.numel():
        return
    least = RESOLVED * torch.finfo(samples.dtype).eps * widened(samples).abs().amax(0)
    if (h < least).any():
        raise ValueError(
            f"the step of differences is rounded off in {samples.dtype}, where these samples need at least "
            f"{float(least.max()):.2g}: give x in double precision, or a larger step"
        )


def _refuse_random(y: Tensor, again: Tensor) -> None:
    """Refuse an f with other values for the same samples: differences would be noise."""
    size = torch.cat((y.flatten(), again.flatten())).abs().amax() if y.numel() else 0.0
    if ((y - again).abs() > torch.finfo(y.dtype).eps ** 0.5 * size).any():
        raise ValueError(
            "f is random (dropout outside a module, say): it gave equal samples different values, so differences of "
            "values would be noise. Switch it off, or take derivatives by backpropagation"
        )


def scale_of(x: Tensor, batch_dims: int) -> Tensor:
    """The scale of each input (*in), as documented in `differences`; 1 if all samples are 0."""
    samples = x.flatten(0, batch_dims - 1).double() if x.device.type != "mps" else x.flatten(0, batch_dims - 1)
    spread, size = samples.std(0, correction=0), samples.square().mean(0).sqrt()
    scale = torch.where(spread > 0, spread.maximum(0.01 * size), size)
    return torch.where(scale > 0, scale, 1.0)


def _value(f: Callable[..., Any], x: Tensor, batch_dims: int, condition: Condition, select: Select) -> Tensor:
    """f(x), which may be a NumPy array, as a floating-point tensor."""

    def as_tensor(returned: Any) -> Any:
        y = selected(returned, select)
        # Copied, because torch accepts no array with negative strides.
        return torch.as_tensor(np.array(y), device=x.device) if isinstance(y, np.ndarray | np.generic) else y

    y = output(f, x.clone(), batch_dims, condition, as_tensor)  # f may change its input in place
    return y if y.is_floating_point() else y.to(x.dtype)
