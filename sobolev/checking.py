"""A check before training: derivatives, and gradients of a loss on derivatives, against finite differences.

>>> model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
>>> check(model, torch.rand(5, 2), order=2)      # no error: it can be trained on Hessians
>>> check(lambda x: x - x.mean(0).detach(), torch.arange(10.0).view(5, 2))
Traceback (most recent call last):
    ...
ValueError: f mixes the samples of a batch: f(x[:1]) is not f(x)[:1]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sobolev.derivatives import derivatives
from sobolev.exact import leaves_of, nodes
from sobolev.guards import Function

SAMPLES = 8
DIRECTIONS = 3  # an error shows along all of them, but a kink of a ReLU lies on few
STEP = {torch.float64: 1e-4, torch.float32: 1e-2}
TOLERANCE = {torch.float64: 1e-3, torch.float32: 5e-2}


def check(f: Function, x: Tensor, order: int = 1, *, mode: str = "auto", batch_dims: int = 1) -> None:
    r"""Compare the derivatives of f, and their gradients by its parameters, with central finite differences.

    For random directions u of x and w of the parameters theta, random weights W, and j from 1 to the order, compare

        D^j f(x) u                    with   [D^{j-1} f(x + h u) - D^{j-1} f(x - h u)] / 2h,
        d/dtheta <W, D^j f(x)> w      with   [<W, D^j f(x)>(theta + h w) - <W, D^j f(x)>(theta - h w)] / 2h.

    It finds wrong formulas of PyTorch and wrong backward passes of your own. A module is checked on a float64 copy.

    Args:
        f: as for `sobolev.derivatives.derivatives`.
        x: some samples, of which the first 8 are used.
        order: the highest derivative that will be trained on.
        mode: as for `derivatives`.
        batch_dims: as for `derivatives`.

    Raises:
        ValueError: a derivative or gradient is wrong. The message says which, and by how much. Also what `derivatives`
            raises, and what PyTorch raises if it cannot differentiate f.
    """
    x = x.detach().narrow(batch_dims - 1, 0, min(SAMPLES, x.shape[batch_dims - 1]))
    if isinstance(f, nn.Module):
        f, x = copy.deepcopy(f).double(), x.double()
    if x.dtype not in STEP:
        raise ValueError(f"derivatives are checked in float64 or float32, not {x.dtype}")
    _check_samples_one_by_one(f, x, batch_dims)
    random = torch.Generator().manual_seed(0)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, dtype=like.dtype, generator=random).to(like.device)

    def derivative(j: int, x: Tensor) -> Tensor:
        with _same_randomness():
            return derivatives(f, x, j, mode="reverse", batch_dims=batch_dims)[j]

    h = STEP[x.dtype]
    with _same_randomness(), torch.enable_grad():
        leaves = leaves_of(nodes(f(x.clone())))
    for j in range(1, order + 1):
        with _same_randomness():
            d_j = derivatives(f, x, j, create_graph=True, mode=mode, batch_dims=batch_dims)[j]
        weights = draw(d_j)

        def along_x(j: int = j, d_j: Tensor = d_j) -> tuple[Tensor, Tensor]:
            u = draw(x)
            return _times(d_j.detach(), u, batch_dims), derivative(j - 1, x + h * u) - derivative(j - 1, x - h * u)

        _compare(f"the derivative of order {j} is", along_x, h)
        if not d_j.requires_grad:
            continue
        gradients = torch.autograd.grad((d_j * weights).sum(), leaves, allow_unused=True)

        def along_parameters(j: int = j, weights: Tensor = weights, gradients=gradients) -> tuple[Tensor, Tensor]:
            w = [draw(leaf) for leaf in leaves]
            pairs = zip(gradients, w, strict=True)
            found = sum(((gradient * each).sum() for gradient, each in pairs if gradient is not None), x.new_zeros(()))
            return found, sum(s * (derivative(j, x) * weights).sum() for s in _moved(leaves, w, h))

        _compare(f"gradients by parameters of the derivative of order {j} are", along_parameters, h)


def _compare(what: str, probe: Callable[[], tuple[Tensor, Tensor]], h: float) -> None:
    """Refuse what differs from finite differences along every direction. `probe` returns both, the latter times 2h."""
    for _ in range(DIRECTIONS):
        found, difference = probe()
        expected = difference / (2 * h)
        tolerance = TOLERANCE[expected.dtype]
        rounding = 10 * torch.finfo(expected.dtype).eps / (h * tolerance)  # of a difference that vanishes
        largest = max(found.abs().max(), expected.abs().max())
        error = float((found - expected).abs().max() / (largest + rounding))
        if error <= tolerance:
            return
    raise ValueError(
        f"{what} wrong: finite differences differ by {error:.0%}. f has an operation whose derivatives PyTorch, or a "
        "backward pass of your own, gets wrong"
    )


def _check_samples_one_by_one(f: Function, x: Tensor, batch_dims: int) -> None:
    with torch.no_grad(), _same_randomness():
        y, again = f(x.clone()), f(x.clone())
        alone, first = f(x.narrow(batch_dims - 1, 0, 1).clone()), y.narrow(batch_dims - 1, 0, 1)
    deterministic = torch.equal(y, again)
    if deterministic and not torch.allclose(alone, first, rtol=TOLERANCE[x.dtype], atol=TOLERANCE[x.dtype]):
        raise ValueError("f mixes the samples of a batch: f(x[:1]) is not f(x)[:1]")


def _times(d_j: Tensor, u: Tensor, batch_dims: int) -> Tensor:
    """D^j f u: the last copy of a sample's input dimensions is contracted with u."""
    batch, inputs = u.shape[:batch_dims], u.shape[batch_dims:]
    product = d_j.reshape(*batch, -1, inputs.numel()) @ u.reshape(*batch, inputs.numel(), 1)
    return product.reshape(d_j.shape[: d_j.dim() - len(inputs)])


def _moved(leaves: list[Tensor], w: list[Tensor], h: float) -> Iterator[int]:
    """Yields the signs +1 and -1, and while each is in use the parameters are moved by the sign times h w."""
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
    """In this context dropout, for example, drops the same each time. The caller's random state is not changed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
