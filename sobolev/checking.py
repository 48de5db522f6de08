"""A check before training: compares derivatives, gradients of a loss on them, and targets with finite differences.

>>> model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
>>> check(model, torch.rand(5, 2), order=2)      # no error: it can be trained on Hessians
>>> check(lambda x: x - x.mean(0).detach(), torch.arange(10.0).view(5, 2))
Traceback (most recent call last):
    ...
ValueError: f mixes the samples of a batch: f(x[:1]) is not f(x)[:1]

Given the target, it also finds errors in recorded derivatives: here forces, which are minus the energy's gradients.

>>> x = torch.linspace(-1, 1, 20)[:, None]
>>> energy, forces = x**2, -2 * x[:, None]
>>> check(nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)), x, (energy, forces))
Traceback (most recent call last):
    ...
ValueError: the target's derivatives of order 1 contradict its values at near samples: they would agree negated
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from sobolev.agreement import remedy_of
from sobolev.calling import Call, Condition, Function, Select, of_samples, output
from sobolev.derivatives import Derivatives, derivatives
from sobolev.exact import leaves_of, nodes
from sobolev.finite_differences import scale_of
from sobolev.targets import Projected, Recorded, as_recorded, checked

SAMPLES = 8
DIRECTIONS = 3  # an error shows along all of them, but a kink of a ReLU along few
STEP = {torch.float64: 1e-4, torch.float32: 1e-2}
TOLERANCE = {torch.float64: 1e-3, torch.float32: 5e-2}


def check(
    f: Function,
    x: Tensor,
    target: Function | Recorded | None = None,
    order: int = 1,
    *,
    mode: str = "auto",
    batch_dims: int = 1,
    condition: Condition = None,
    select: Select = None,
) -> None:
    r"""Compare the derivatives of f, and their gradients by its parameters, with central finite differences.

    For random directions u of x and w of the parameters theta, random weights W, and j from 1 to the order, compare

        D^j f(x) u                    with   [D^{j-1} f(x + h u) - D^{j-1} f(x - h u)] / 2h,
        d/dtheta <W, D^j f(x)> w      with   [<W, D^j f(x)>(theta + h w) - <W, D^j f(x)>(theta - h w)] / 2h.

    This finds wrong formulas in PyTorch and wrong backward passes of your own. A module is checked on a float64 copy.

    A target that is a function is checked in the same way. Recorded derivatives predict the differences of values
    between nearby samples (`sobolev.agreement` has the equation). If they are far off, they are refused if they would
    agree negated, rescaled, with outputs and inputs swapped, or with inputs or outputs in another order, for all
    outputs or for one. There is a UserWarning if they predict values hardly better than other samples' derivatives
    would, while neighbours predict them well: the rows may be in another order than those of x. Other errors, and
    errors in few samples or of a few percent, are not found. Correct derivatives of rough, sparse or noisy data are not
    refused.

    Args:
        f: as for `sobolev.derivatives.derivatives`, or a `Derivatives` of it.
        x: the samples. f is checked at the first 8, recorded targets at all of them.
        target: as for `SobolevLoss`. Instead of recorded values it may contain the function that they came from, which
            may be a black box: (simulator, D y). `Projected` derivatives, and recorded ones together with a
            `condition`, are not checked.
        order: the highest derivative that will be trained on.
        mode: as for `derivatives`.
        batch_dims: as for `derivatives`. With samples of several networks, those of the first are checked.
        condition: as for `derivatives`.
        select: as for `derivatives`.

    Raises:
        TypeError: samples that are no tensor, or a target of another type.
        ValueError: no samples; a derivative or gradient is wrong; the message says which, and by how much. Errors of
            `derivatives`, and of PyTorch if it cannot differentiate f, are raised too.
    """
    _check_arguments(x, target, batch_dims)
    student, which = _inside(f, select)
    outputs = _check_function(student, x.detach(), order, mode, batch_dims, condition, which)
    if target is None:
        return
    if callable(target):
        teacher, which = _inside(target, select)
        try:
            _check_function(teacher, x.detach(), order, mode, batch_dims, condition, which)
        except ValueError as error:
            raise ValueError(f"of the target: {error}") from error
        return
    y_shape = (*x.shape[:batch_dims], *outputs)
    _check_recorded(as_recorded(target, range(order + 1)), x.detach(), y_shape, order, batch_dims, condition is None)


def _check_arguments(x: Tensor, target: object, batch_dims: int) -> None:
    if isinstance(target, int):
        raise TypeError(f"the third argument is the target: give the order by its name, order={target}")
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a floating-point tensor, not {type(x).__name__}")
    if not x.shape[:batch_dims].numel():
        raise ValueError(f"there are no samples to check: x has shape {tuple(x.shape)}")


def _inside(f: Function, select: Select) -> tuple[Function, Select]:
    """The model inside a `Derivatives`, and which of its outputs is used."""
    return (f.model, f.select) if isinstance(f, Derivatives) else (f, select)


def _check_recorded(
    recorded: list, x: Tensor, y_shape: Sequence[int], order: int, batch_dims: int, comparable: bool
) -> None:
    """Refuse recorded tensors of the wrong shape, and derivatives that contradict those of the order below."""

    def first(tensor: Tensor) -> Tensor:
        """The samples of the first network, if there are several."""
        return tensor.flatten(0, batch_dims - 2)[0] if batch_dims > 1 else tensor

    inputs = x.shape[batch_dims:]
    for j in range(order + 1):
        lower, d = recorded[j - 1] if j else None, recorded[j]
        if d is None or isinstance(d, Projected) or (j == 0 and callable(d)):
            continue
        expected = (*y_shape, *inputs * j)
        if j and comparable and isinstance(d, Tensor) and d.numel() == math.prod(expected) and x.numel():
            if isinstance(lower, Tensor) and lower.shape == expected[: len(expected) - len(inputs)]:
                lower = first(lower)
            elif not callable(lower):
                lower = None
            outputs = math.prod(expected[batch_dims : len(expected) - len(inputs)])
            remedy = remedy_of(lower, first(d), first(x), outputs) if lower is not None else ""
            if remedy:
                against = "differences of its values" if callable(lower) else "its values at near samples"
                raise ValueError(
                    f"the target's derivatives of order {j} contradict {against}: they would agree {remedy}"
                )
        checked(j, d, expected)


def _check_function(
    f: Function, x: Tensor, order: int, mode: str, batch_dims: int, condition: Condition, select: Select
) -> torch.Size:
    """Refuse wrong derivatives of f, and wrong gradients of them, at the first samples. Returns the shape *out."""
    samples, scale = x.shape[:batch_dims], scale_of(x, batch_dims) if x.numel() else x.new_ones(x.shape[batch_dims:])
    x = x.narrow(batch_dims - 1, 0, min(SAMPLES, samples[-1]))
    condition = of_samples(condition, samples, lambda c: c.narrow(batch_dims - 1, 0, min(SAMPLES, samples[-1])))
    if isinstance(f, nn.Module):
        f, x = copy.deepcopy(f).double(), x.double()
        condition = of_samples(condition, x.shape[:batch_dims], lambda c: c.double() if c.is_floating_point() else c)
    if x.dtype not in STEP:
        raise ValueError(f"derivatives are checked in float64 or float32, not {x.dtype}")
    _check_samples_one_by_one(f, x, batch_dims, condition, select)
    call: Call = {"batch_dims": batch_dims, "condition": condition, "select": select}
    random = torch.Generator().manual_seed(0)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, dtype=like.dtype, generator=random).to(like.device)

    def in_units(d: Tensor, j: int) -> Tensor:
        """D^j f with inputs in units of their scale, so that one step and one tolerance fit all."""
        for later in range(j):
            d = d * scale.to(d).reshape(*scale.shape, *[1] * (later * scale.dim()))
        return d

    def derivative(j: int, x: Tensor) -> Tensor:
        with _same_randomness():
            return in_units(derivatives(f, x, j, mode="reverse", **call)[j], j)

    h = STEP[x.dtype]
    with _same_randomness(), torch.enable_grad():
        y = output(f, x.clone(), **call)
        leaves = leaves_of(nodes(y))
    for j in range(1, order + 1):
        with _same_randomness():
            d_j = in_units(derivatives(f, x, j, create_graph=True, mode=mode, **call)[j], j)
        weights = draw(d_j)

        def along_x(h: float, j: int = j, d_j: Tensor = d_j) -> tuple[Tensor, Tensor, Tensor]:
            u = draw(x)
            step = h * scale.to(x) * u
            ahead, behind = derivative(j - 1, x + step), derivative(j - 1, x - step)
            return _times(d_j.detach(), u, batch_dims), ahead - behind, ahead.abs().max()

        _compare(f"the derivative of order {j} is", along_x, h)
        if not d_j.requires_grad:
            continue
        gradients = torch.autograd.grad((d_j * weights).sum(), leaves, allow_unused=True)

        def along_parameters(
            h: float, j: int = j, weights: Tensor = weights, gradients: Sequence[Tensor | None] = gradients
        ) -> tuple[Tensor, Tensor, Tensor]:
            w = [draw(leaf) * _size(leaf) for leaf in leaves]
            pairs = zip(gradients, w, strict=True)
            found = sum(((gradient * each).sum() for gradient, each in pairs if gradient is not None), x.new_zeros(()))
            ahead, behind = (derivative(j, x) * weights for _ in _moved(leaves, w, h))
            return found, (ahead - behind).sum(), ahead.abs().sum()

        _compare(f"gradients by parameters of the derivative of order {j} are", along_parameters, h)
    return y.shape[batch_dims:]


def _compare(what: str, probe: Callable[[float], tuple[Tensor, Tensor, Tensor]], h: float) -> None:
    """Refuse a derivative that differs from finite differences along every direction, at two step sizes.

    `probe` returns the derivative, the corresponding difference over 2h, and the size of the subtracted numbers.
    """
    for step in (h, h / 10) * DIRECTIONS:  # the smaller step is for an f that is strongly curved within h
        found, difference, size = probe(step)
        expected = difference / (2 * step)
        tolerance = TOLERANCE[expected.dtype]
        rounding = 10 * torch.finfo(expected.dtype).eps * (1 + size) / (step * tolerance)  # for derivatives that vanish
        largest = max(found.abs().max(), expected.abs().max())
        error = float((found - expected).abs().max() / (largest + rounding))
        if error <= tolerance:
            return
    raise ValueError(
        f"{what} wrong: finite differences differ by {error:.1%}. f has an operation whose derivatives PyTorch, or a "
        "backward pass of your own, gets wrong"
    )


def _check_samples_one_by_one(f: Function, x: Tensor, batch_dims: int, condition: Condition, select: Select) -> None:
    def value(x: Tensor, condition: Condition) -> Tensor:
        return output(f, x.clone(), batch_dims, condition, select)

    one = partial(Tensor.narrow, dim=batch_dims - 1, start=0, length=min(1, x.shape[batch_dims - 1]))
    with torch.no_grad(), _same_randomness():
        y, again = value(x, condition), value(x, condition)
        alone, first = value(one(x), of_samples(condition, x.shape[:batch_dims], one)), one(y)
    deterministic = torch.equal(y, again)
    size = float(y.abs().max()) if y.numel() else 0.0
    if deterministic and not torch.allclose(alone, first, rtol=TOLERANCE[x.dtype], atol=TOLERANCE[x.dtype] * size):
        raise ValueError("f mixes the samples of a batch: f(x[:1]) is not f(x)[:1]")


def _times(d_j: Tensor, u: Tensor, batch_dims: int) -> Tensor:
    """D^j f u: contracts the last copy of the input dimensions with u."""
    batch, inputs = u.shape[:batch_dims], u.shape[batch_dims:]
    product = d_j.reshape(*batch, -1, inputs.numel()) @ u.reshape(*batch, inputs.numel(), 1)
    return product.reshape(d_j.shape[: d_j.dim() - len(inputs)])


def _size(leaf: Tensor) -> Tensor:
    """The root mean square of a parameter, or 1 if it is 0."""
    size = leaf.detach().square().mean().sqrt()
    return torch.where(size > 0, size, 1.0)


def _moved(leaves: list[Tensor], w: list[Tensor], h: float) -> Iterator[int]:
    """Yields the signs +1 and -1; meanwhile the parameters are shifted by the sign times h w."""
    for sign in (1, -1):
        _add(leaves, w, sign * h)
        yield sign
        _add(leaves, w, -sign * h)


@torch.no_grad()
def _add(leaves: list[Tensor], w: list[Tensor], factor: float) -> None:
    for leaf, each in zip(leaves, w, strict=True):
        leaf.add_(each, alpha=factor)


@contextmanager
def _same_randomness() -> Iterator[None]:
    """A context in which randomness, such as dropout, is the same each time. The caller's random state is kept."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
