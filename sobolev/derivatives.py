r"""Derivatives of a network with respect to its input: in full (Eq. 1 of the paper) or projected (Eq. 2).

A batch x has shape (*batch, *in) and f maps each sample on its own to y of shape (*batch, *out), where *out may
be empty. The derivative of order j, D^j y, has shape (*batch, *out, *in, ..., *in) with j copies of *in:

    D^j y [b, o, i_1, ..., i_j] = d^j y[b, o] / dx[b, i_1] ... dx[b, i_j]

>>> A = torch.tensor([[2.0, 1.0], [1.0, 4.0]])
>>> x = torch.tensor([[1.0, 0.0], [1.0, -1.0]])
>>> y, dy, d2y = derivatives(lambda x: 0.5 * torch.einsum("bi,ij,bj->b", x, A, x), x, order=2)
>>> y, dy                                        # 1/2 x^T A x, and its gradient A x
(tensor([1., 2.]), tensor([[ 2.,  1.],
        [ 1., -3.]]))
>>> torch.equal(d2y, A.expand(2, 2, 2))          # its Hessian is A everywhere
True

Everything here is `torch.autograd.grad`, so whatever PyTorch can differentiate j + 1 times can be trained on its
derivatives of order j. `torch.compile` cannot: it has no double backward. Attention can in its plain form alone: put
model and loss under `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`. An operation of your own whose backward pass
PyTorch cannot differentiate (written in NumPy, say) allows first derivatives of a teacher, and nothing more: mark it
@once_differentiable, or autograd takes that pass for a constant, and only mode="reverse" is right.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

Vectors = Sequence[Tensor] | Callable[[Tensor], Sequence[Tensor]]

MODES = ("auto", "reverse", "forward")


def derivatives(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    order: int = 1,
    *,
    create_graph: bool = False,
    mode: str = "auto",
    batch_dims: int = 1,
) -> tuple[Tensor, ...]:
    """(y, D y, ..., D^order y) of f at every sample of x: the quantities that Eq. 1 compares.

    Args:
        f: a module or function from (*batch, *in) to (*batch, *out). It must treat samples independently. In a
            module, a BatchNorm that would mix them is found and refused; a function cannot be checked.
        x: floating-point samples. Its own `.grad` and `requires_grad` are left alone.
        order: the highest derivative; 0 gives (y,).
        create_graph: whether the results can be differentiated again, by the parameters of f and, if x requires
            gradients, by x. Otherwise they carry no graph.
        mode: "reverse" takes one backward pass a component of the derivative below, "forward" one pass a
            component of the input; "auto" takes the fewer, at each order.
        batch_dims: how many leading dimensions of x number samples (2 for an ensemble: network, sample).

    Raises:
        TypeError: x is not floating-point, or f does not return a tensor.
        ValueError: an unknown mode, a negative order, outputs that do not have the batch dimensions of x or that
            autograd cannot trace to x (computed under `no_grad`, say), or a module with a BatchNorm that would mix
            samples.
        RuntimeError: called under, or with an x from, `torch.inference_mode`.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    if order < 0:
        raise ValueError(f"order must be 0 or more, not {order}")
    _check(f, x, order, batch_dims)
    with torch.set_grad_enabled(create_graph or order > 0):
        # Values alone need no gradient by x: its backward pass, that of the first layer by its input, is saved.
        x = _variable(x, create_graph) if order else x if create_graph else x.detach()
        results = [_values(f, x, batch_dims)]
        for j in range(1, order + 1):
            results.append(_jacobian(results[-1], x, create_graph or j < order, mode, batch_dims, of_values=j == 1))
    return tuple(results if create_graph else (result.detach() for result in results))


def projected_derivatives(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    vectors: Vectors,
    *,
    create_graph: bool = False,
    batch_dims: int = 1,
) -> tuple[Tensor, ...]:
    r"""(y, p_1, ..., p_K) with p_1 = D_x <y, v_1> and p_j = D_x <p_{j-1}, v_j>: the recursion of Eq. 2 (Figure 1b).

    Each p_j is one backward pass through the graph of p_{j-1}; nothing of size outputs x inputs is built, and all S
    projections share one evaluation of f.

    >>> p = projected_derivatives(lambda x: x**3, torch.tensor([[1.0, 2.0]]), [torch.tensor([[[0.0, 1.0]]])])[1]
    >>> p                                        # D <x^3, (0, 1)> = (0, 3 x_2^2)
    tensor([[[ 0., 12.]]])

    Args:
        f: as for `derivatives`.
        x: as for `derivatives`.
        vectors: v_1 of shape (S, *batch, *out) and v_2, ..., v_K of shape (S, *batch, *in); or a function that
            makes them from y, for when the shape of y is not known beforehand. Every p_j is (S, *batch, *in).
        create_graph: as for `derivatives`.
        batch_dims: as for `derivatives`.

    Raises:
        TypeError: vectors is a tensor and not a sequence of them; otherwise as `derivatives`.
        ValueError: a vector of the wrong shape; otherwise as `derivatives`.
    """
    _check(f, x, 1, batch_dims)
    with torch.enable_grad():
        x = _variable(x, create_graph)
        y = _values(f, x, batch_dims)
        if callable(vectors):
            vectors = vectors(y.detach())
        if isinstance(vectors, Tensor):
            raise TypeError("vectors must be a sequence (v_1, ..., v_K) of tensors, not one tensor")
        for j, v in enumerate(vectors, start=1):
            expected = (len(vectors[0]), *(y if j == 1 else x).shape)
            if v.shape != expected:
                raise ValueError(f"vector {j} has shape {tuple(v.shape)}, expected {expected}")
        samples = []
        for vs in zip(*vectors, strict=True):
            chain = [y]
            for j, v in enumerate(vs, start=1):
                pull = partial(_vjp_of_values, batch_dims=batch_dims) if j == 1 else _vjp
                chain.append(pull(chain[-1], x, v, create_graph or j < len(vs)))
            samples.append(chain[1:])
    results = (y, *(torch.stack(p) for p in zip(*samples, strict=True)))
    return results if create_graph else tuple(result.detach() for result in results)


class Derivatives(nn.Module):
    """A model whose output is its values and derivatives, (y, D y, ..., D^order y), in place of y.

    Because the derivative is taken inside `forward`, the module can be used where the model could: it works under
    `no_grad`, and `DistributedDataParallel(Derivatives(model))` synchronises the gradients of a loss on derivatives,
    which `derivatives(DistributedDataParallel(model), x)` does not. (Where the values do not enter the loss, DDP
    needs `find_unused_parameters=True`: the last bias has no gradient.)

    The results can be differentiated again in training mode with gradients enabled; otherwise they carry no graph.

    Args:
        model: the module (or function) to differentiate.
        order: the highest derivative. (With vectors, their number is the order.)
        mode: as for `derivatives`.
        batch_dims: as for `derivatives`.

    Warns:
        UserWarning: order >= 2 and every activation of the model is piecewise linear.
    """

    def __init__(
        self, model: Callable[[Tensor], Tensor], order: int = 1, mode: str = "auto", batch_dims: int = 1
    ) -> None:
        super().__init__()
        warn_if_vanishing(model, order)
        self.model, self.order, self.mode, self.batch_dims = model, order, mode, batch_dims

    def forward(self, x: Tensor, vectors: Vectors | None = None) -> tuple[Tensor, ...]:
        """`derivatives` of the model at x, or with vectors its `projected_derivatives`; raises what they raise."""
        options = {"create_graph": self.training and torch.is_grad_enabled(), "batch_dims": self.batch_dims}
        if vectors is None:
            return derivatives(self.model, x, self.order, mode=self.mode, **options)
        return projected_derivatives(self.model, x, vectors, **options)


def freeze_batchnorm(model: nn.Module) -> nn.Module:
    """Make every BatchNorm of the model use its running statistics, so that samples no longer mix.

    `model.train()` undoes it: call this after it, each time. Returns the model.

    Raises:
        ValueError: a BatchNorm keeps no running statistics.
    """
    for name, module in _batchnorms(model):
        if module.running_mean is None:
            raise ValueError(f"BatchNorm layer {name!r} keeps no running statistics, so it cannot be frozen")
        module.eval()
    return model


# Activations whose second derivative is zero wherever it exists.
PIECEWISE_LINEAR = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ReLU6,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Threshold,
)


def warn_if_vanishing(model: Callable[[Tensor], Tensor], order: int) -> None:
    """Warn that derivatives of order >= 2 vanish, if every nonlinearity that can be seen is piecewise linear."""
    if order < 2 or not isinstance(model, nn.Module):
        return
    nonlinear = [module for module in model.modules() if _may_be_nonlinear(module)]
    if nonlinear and all(isinstance(module, PIECEWISE_LINEAR) for module in nonlinear):
        names = ", ".join(sorted({type(module).__name__ for module in nonlinear}))
        warnings.warn(
            f"the only activations of {type(model).__name__} are piecewise linear ({names}): its derivatives of order "
            "2 and above are zero almost everywhere and cannot be trained. Use a smooth one, such as Tanh or SiLU.",
            stacklevel=3,
        )


def _may_be_nonlinear(module: nn.Module) -> bool:
    """Activations, normalisations and recurrent layers, and any layer that is not PyTorch's own."""
    home = type(module).__module__
    foreign_leaf = not home.startswith("torch.nn.") and not any(module.children())
    kinds = ("activation", "normalization", "instancenorm", "rnn")
    return foreign_leaf or home.removeprefix("torch.nn.modules.") in kinds


def _check(f: Callable[[Tensor], Tensor], x: Tensor, order: int, batch_dims: int) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, not {getattr(x, 'dtype', type(x).__name__)}")
    if not 1 <= batch_dims <= x.dim():
        raise ValueError(f"batch_dims must be from 1 to {x.dim()} for x of shape {tuple(x.shape)}, not {batch_dims}")
    if order == 0:
        return
    if torch.is_inference_mode_enabled() or x.is_inference():
        raise RuntimeError("derivatives cannot be taken in inference_mode, or of tensors made in it: use no_grad")
    for name, module in _batchnorms(f):
        # With batch statistics y_b depends on every x_b', and grad(sum_b y_b) is the derivative of no one sample.
        if module.training or module.running_mean is None:
            raise ValueError(
                f"BatchNorm layer {name!r} mixes the samples of a batch, so a sample has no derivative of its own: "
                "call sobolev.freeze_batchnorm(model) after model.train(), or use GroupNorm or LayerNorm"
            )


def _batchnorms(f: Callable[[Tensor], Tensor]) -> list[tuple[str, nn.Module]]:
    modules = f.named_modules() if isinstance(f, nn.Module) else ()
    return [(name, module) for name, module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def _variable(x: Tensor, create_graph: bool) -> Tensor:
    """The x to differentiate by: part of the caller's graph only if the results are to be."""
    return x.view_as(x) if create_graph and x.requires_grad else x.detach().requires_grad_()


def _values(f: Callable[[Tensor], Tensor], x: Tensor, batch_dims: int) -> Tensor:
    y = f(x.clone())  # f may change its input in place
    if not isinstance(y, Tensor):
        raise TypeError(f"f must return a tensor, not {type(y).__name__}")
    batch = x.shape[:batch_dims]
    if y.shape[:batch_dims] != batch:
        raise ValueError(f"f must return an output a sample, of shape {(*batch, '...')}, not {tuple(y.shape)}")
    return y


def _jacobian(t: Tensor, x: Tensor, create_graph: bool, mode: str, batch_dims: int, of_values: bool) -> Tensor:
    """dt/dx of shape (*batch, *components of t, *in), for t (*batch, *components) that was computed from x."""
    outputs, inputs = (math.prod(tensor.shape[batch_dims:]) for tensor in (t, x))
    pull = partial(_vjp_of_values, batch_dims=batch_dims) if of_values else _vjp
    columns = []
    if mode == "forward" or (mode == "auto" and outputs > inputs):
        # A backward pass is linear in the vector u that it pulls back, u -> (dt/dx)^T u. Pulling a vector e back
        # through that map gives (dt/dx) e: forward mode out of two reverse ones. It needs no forward-mode
        # formulas, nests to any order, and took less time than `torch.func.jvp` under `vmap` wherever we measured.
        u = torch.zeros_like(t, requires_grad=True)
        pulled = pull(t, x, u, create_graph=True)
        if not _is_cut(pulled):
            columns = [_grad(pulled, u, e, create_graph) for e in _unit_vectors(x, batch_dims)]
    if columns and all(column is not None for column in columns):
        jacobian = torch.stack(columns, dim=-1)
    else:  # also where t is constant, or its backward pass cannot be differentiated, so that no way leads to u
        rows = [pull(t, x, e, create_graph) for e in _unit_vectors(t, batch_dims)]
        jacobian = torch.stack(rows, dim=batch_dims)
    return jacobian.reshape(*t.shape, *x.shape[batch_dims:])


def _unit_vectors(like: Tensor, batch_dims: int) -> Iterator[Tensor]:
    """The unit vectors of a sample's components, each given to all samples at once: `like`'s shape, no memory."""
    components = like.shape[batch_dims:]
    for c in range(components.numel()):
        e = like.new_zeros(components.numel())
        e[c] = 1
        yield e.view(components).expand(like.shape)


def _vjp(t: Tensor, x: Tensor, v: Tensor, create_graph: bool) -> Tensor:
    """D_x <t, v>, which is zero where t does not depend on x (a linear f, or ReLU, from the second order on)."""
    derivative = _grad(t, x, v, create_graph)
    if derivative is None and _is_cut(t):
        raise ValueError(
            "f has an operation whose backward pass cannot be differentiated (@once_differentiable), so its higher "
            "derivatives are not known"
        )
    return torch.zeros_like(x) if derivative is None else derivative


def _grad(t: Tensor, x: Tensor, v: Tensor, create_graph: bool) -> Tensor | None:
    """D_x <t, v>, or None where autograd finds no way from t to x."""
    if not t.requires_grad:
        return None
    return torch.autograd.grad(t, x, v, create_graph=create_graph, retain_graph=True, allow_unused=True)[0]


def _is_cut(t: Tensor) -> bool:
    """Whether the graph of t ends in the mark that PyTorch leaves where a backward pass cannot be differentiated."""
    seen, waiting = set(), [t.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            if node.name() == "torch::autograd::Error":
                return True
    return False


def _vjp_of_values(y: Tensor, x: Tensor, v: Tensor, create_graph: bool, batch_dims: int) -> Tensor:
    """D_x <y, v>, refused where only a constant y would have it zero, and y is none."""
    derivative = _grad(y, x, v, create_graph)
    if derivative is not None:
        return derivative
    last = batch_dims - 1
    if y.shape[last] == 1:
        warnings.warn(
            "autograd cannot trace f's output to x, so its derivatives are taken for zero; with one sample nobody can "
            "tell whether f is constant, or computed under no_grad, detached, or in NumPy",
            stacklevel=2,
        )
    if (y != y.narrow(last, 0, min(1, y.shape[last]))).any():
        raise ValueError(
            "f's outputs differ between samples, but autograd cannot trace them to x and would take their derivatives "
            "for zero: are they computed under no_grad, detached, or in NumPy? A loss takes recorded derivatives too"
        )
    return torch.zeros_like(x)
