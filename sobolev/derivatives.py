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
derivatives of order j. Where PyTorch's own formulas are wrong or missing (`sobolev.exact` has the list), f is computed
by other formulas, or refused with the name of the operation. A compiled model can only be a teacher with first
derivatives. The same holds for an operation of your own whose backward pass PyTorch cannot differentiate (such as one
in NumPy). Mark it @once_differentiable: otherwise autograd treats that pass as a constant, and only mode="reverse" is
right. `sobolev.check` finds this and other errors, by comparing with finite differences.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from sobolev.calling import Call, Condition, Function, Select, output, uncompiled
from sobolev.exact import FORMULAS, WRONG, Node, derivatives_known, exact_formulas, leaves_of, nodes
from sobolev.guards import check_samples_apart, refusing_modules, warn_if_vanishing

Vectors = Sequence[Tensor] | Callable[[Tensor], Sequence[Tensor]]

MODES = ("auto", "reverse", "forward")


def derivatives(
    f: Function,
    x: Tensor,
    order: int = 1,
    *,
    create_graph: bool = False,
    mode: str = "auto",
    batch_dims: int = 1,
    condition: Condition = None,
    select: Select = None,
) -> tuple[Tensor, ...]:
    """(y, D y, ..., D^order y) of f at every sample of x, which Eq. 1 compares.

    Args:
        f: a module or function from (*batch, *in) to (*batch, *out). It must treat samples independently. This is
            checked at its 1st, 2nd, 4th, 8th ... call; a BatchNorm that would mix samples is refused at every call.
        x: floating-point samples. Its `.grad` and `requires_grad` are not changed.
        order: the highest derivative; 0 gives (y,).
        create_graph: whether the results can be differentiated again, by the parameters of f and, if x requires
            gradients, by x. Otherwise they carry no graph.
        mode: "reverse" takes one backward pass per component of the derivative of the order below, "forward" one pass
            per component of the input. "auto" takes whichever is fewer at each order, if f can be differentiated as
            often as that needs.
        batch_dims: how many leading dimensions of x are batch dimensions (2 for an ensemble: network, sample).
        condition: inputs that f takes after x and is not differentiated by: one tensor, a tuple, or a mapping by name.
            A tensor that starts with the batch dimensions is taken to have one row per sample. This matters if f is
            called with some of the samples, or with several points for each (`check`, differences). Give a shared
            tensor that happens to have that shape a leading dimension of 1.
        select: which of several outputs of f is y: a function of what it returns, or an index, key or attribute.

    Raises:
        TypeError: x is not floating-point, or f does not return a tensor of real floating-point numbers.
        ValueError: an unknown mode; a negative order; outputs that do not have the batch dimensions of x or that
            autograd cannot trace to x (for example, computed under `no_grad`); or an f that mixes samples, contains a
            wrapper such as DistributedDataParallel, or cannot be differentiated this often.
        RuntimeError: called under `torch.inference_mode`, or with an x made under it.

    Warns:
        UserWarning: autograd cannot trace f's outputs to x, and all samples have the same output.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    if order < 0:
        raise ValueError(f"order must be 0 or more, not {order}")
    _check(x, order, batch_dims)
    with torch.set_grad_enabled(create_graph or order > 0):
        if order == 0:  # x needs no gradient, which saves the first layer's backward pass by its input
            y = output(f, (x if create_graph else x.detach()).clone(), batch_dims, condition, select)
            return (y if create_graph else y.detach(),)
        x = _variable(x, create_graph)
        results = [_values(f, x, order, create_graph, batch_dims, condition, select)]
        graph = list(nodes(results[0], x))
        mode = _possible(graph, order, create_graph, mode)
        for j in range(1, order + 1):
            results.append(_jacobian(results[-1], x, create_graph or j < order, mode, batch_dims, of_values=j == 1))
    return _returned(results, x, graph, create_graph)


def projected_derivatives(
    f: Function,
    x: Tensor,
    vectors: Vectors,
    *,
    create_graph: bool = False,
    batch_dims: int = 1,
    condition: Condition = None,
    select: Select = None,
) -> tuple[Tensor, ...]:
    r"""(y, p_1, ..., p_K) with p_1 = D_x <y, v_1> and p_j = D_x <p_{j-1}, v_j>: the recursion of Eq. 2 (Figure 1b).

    Each p_j is one backward pass through the graph of p_{j-1}. Nothing of size outputs x inputs is built, and all S
    projections share one evaluation of f.

    >>> p = projected_derivatives(lambda x: x**3, torch.tensor([[1.0, 2.0]]), [torch.tensor([[[0.0, 1.0]]])])[1]
    >>> p                                        # D <x^3, (0, 1)> = (0, 3 x_2^2)
    tensor([[[ 0., 12.]]])

    Args:
        f: as for `derivatives`.
        x: as for `derivatives`.
        vectors: v_1 of shape (S, *batch, *out) and v_2, ..., v_K of shape (S, *batch, *in), or a function from y to
            these, for use if the shape of y is not known beforehand. Every p_j has the shape (S, *batch, *in).
        create_graph: as for `derivatives`.
        batch_dims: as for `derivatives`.
        condition: as for `derivatives`.
        select: as for `derivatives`.

    Raises:
        TypeError: vectors is a tensor and not a sequence of them; otherwise as `derivatives`.
        ValueError: a vector of the wrong shape; otherwise as `derivatives`.
    """
    _check(x, 1, batch_dims)
    with torch.enable_grad():
        x = _variable(x, create_graph)
        if isinstance(vectors, Tensor):
            raise TypeError("vectors must be a sequence (v_1, ..., v_K) of tensors, not one tensor")
        highest = 2 if callable(vectors) else len(vectors)
        y = _values(f, x, highest, create_graph, batch_dims, condition, select)
        if callable(vectors):
            vectors = vectors(y.detach())
        graph = list(nodes(y, x))
        _possible(graph, len(vectors), create_graph, "reverse")
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
    return _returned([y, *(torch.stack(p) for p in zip(*samples, strict=True))], x, graph, create_graph)


class Derivatives(nn.Module):
    """A model whose output is its values and derivatives, (y, D y, ..., D^order y), in place of y.

    As the derivatives are taken inside `forward`, the module can be used wherever the model could: it works under
    `no_grad`, and `DistributedDataParallel(Derivatives(model))` synchronises the gradients of a loss on derivatives,
    which `derivatives(DistributedDataParallel(model), x)` does not. (If the loss does not depend on the values, the
    last bias has no gradient, and DDP needs `find_unused_parameters=True`.)

    The results can be differentiated again in training mode with gradients enabled; otherwise they carry no graph.

    Args:
        model: the module (or function) to differentiate.
        order: the highest derivative. With vectors, the order is their number instead.
        mode: as for `derivatives`.
        batch_dims: as for `derivatives`.
        select: as for `derivatives`.

    Warns:
        UserWarning: order >= 2 and every activation of the model is piecewise linear.
    """

    def __init__(
        self, model: Function, order: int = 1, mode: str = "auto", batch_dims: int = 1, select: Select = None
    ) -> None:
        super().__init__()
        warn_if_vanishing(model, order)
        self.model, self.order, self.mode, self.batch_dims, self.select = model, order, mode, batch_dims, select

    @uncompiled
    def forward(
        self, x: Tensor, vectors: Vectors | None = None, order: int | None = None, condition: Condition = None
    ) -> tuple[Tensor, ...]:
        """`derivatives` of the model at x, or `projected_derivatives` if there are vectors. Raises what these raise.

        `order` takes the place of the module's own in this call. `condition` is what the model is given besides x.
        """
        call: Call = {"batch_dims": self.batch_dims, "condition": condition, "select": self.select}
        graph = self.training and torch.is_grad_enabled()
        if vectors is not None:
            return projected_derivatives(self.model, x, vectors, create_graph=graph, **call)
        order = self.order if order is None else order
        return derivatives(self.model, x, order, create_graph=graph, mode=self.mode, **call)


def _check(x: Tensor, order: int, batch_dims: int) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(
            f"x must be a floating-point tensor, not {x.dtype if isinstance(x, Tensor) else type(x).__name__}"
        )
    if not 1 <= batch_dims <= x.dim():
        raise ValueError(f"batch_dims must be from 1 to {x.dim()} for x of shape {tuple(x.shape)}, not {batch_dims}")
    if order == 0:
        return
    if torch.is_inference_mode_enabled() or x.is_inference():
        raise RuntimeError("derivatives cannot be taken in inference_mode, or of tensors made in it: use no_grad")


def _variable(x: Tensor, create_graph: bool) -> Tensor:
    """The x to differentiate by. It is part of the caller's graph only if the results are."""
    return x.view_as(x) if create_graph and x.requires_grad else x.detach().requires_grad_()


def _values(
    f: Function, x: Tensor, order: int, create_graph: bool, batch_dims: int, condition: Condition, select: Select
) -> Tensor:
    """f(x), computed such that `order` derivatives of it are right, or refused."""
    # For one derivative PyTorch's own formulas are right, and faster. But f may take derivatives itself.
    with exact_formulas(FORMULAS if order + create_graph > 1 else WRONG), refusing_modules(f):
        y = output(f, x.clone(), batch_dims, condition, select)  # f may change its input in place
    if not y.is_floating_point():
        hint = "torch.view_as_real(y) has real ones" if y.is_complex() else "a class number, say, has no derivative"
        raise TypeError(f"f must return real floating-point numbers to be differentiated, not {y.dtype}: {hint}")
    check_samples_apart(f, y, x, batch_dims)
    return y


def _possible(graph: list[Node], order: int, create_graph: bool, mode: str) -> str:
    """The mode in which PyTorch can take the derivatives of a graph up to this order, and train on them."""
    known, why = derivatives_known(graph)
    passes = order + create_graph  # forward mode takes one more per order
    needed = passes + order if mode == "forward" else passes
    if known < needed:
        remedy = ' (mode="reverse" needs one fewer per order)' if known >= passes else ""
        raise ValueError(f"PyTorch can differentiate f {known} times, and {needed} are needed{remedy}: {why}")
    return "reverse" if mode == "auto" and known < passes + order else mode


def _returned(results: list[Tensor], x: Tensor, graph: list[Node], create_graph: bool) -> tuple[Tensor, ...]:
    """The results. They keep a graph only if it can train something, so that `backward` of a frozen f is an error."""
    trained = create_graph and (x.grad_fn is not None or any(leaf is not x for leaf in leaves_of(graph)))
    return tuple(results if trained else (result.detach() for result in results))


def _jacobian(t: Tensor, x: Tensor, create_graph: bool, mode: str, batch_dims: int, of_values: bool) -> Tensor:
    """dt/dx of shape (*batch, *components, *in), for t of shape (*batch, *components) that was computed from x."""
    outputs, inputs = (math.prod(tensor.shape[batch_dims:]) for tensor in (t, x))
    pull = partial(_vjp_of_values, batch_dims=batch_dims) if of_values else _vjp
    if not outputs * inputs:
        return t.new_zeros(*t.shape, *x.shape[batch_dims:])
    columns: list[Tensor | None] = []
    if mode == "forward" or (mode == "auto" and outputs > inputs):
        # A backward pass is linear in the vector u that it pulls back, u -> (dt/dx)^T u. Pulling a vector e back
        # through that map gives (dt/dx) e: forward mode from two reverse passes. It needs no forward-mode formulas,
        # can be nested to any order, and took less time than `torch.func.jvp` under `vmap` wherever we measured.
        u = torch.zeros_like(t, requires_grad=True)
        pulled = pull(t, x, u, create_graph=True)
        if not _is_cut(pulled):
            columns = [_grad(pulled, u, e, create_graph) for e in _unit_vectors(x, batch_dims)]
    known = [column for column in columns if column is not None]
    if known and len(known) == len(columns):
        jacobian = torch.stack(known, dim=-1)
    else:  # also if t is constant, or its backward pass cannot be differentiated, so that nothing depends on u
        rows = [pull(t, x, e, create_graph) for e in _unit_vectors(t, batch_dims)]
        jacobian = torch.stack(rows, dim=batch_dims)
    return jacobian.reshape(*t.shape, *x.shape[batch_dims:])


def _unit_vectors(like: Tensor, batch_dims: int) -> Iterator[Tensor]:
    """The unit vectors of a sample's components, each expanded to the shape of `like` without taking its memory."""
    components = like.shape[batch_dims:]
    for c in range(components.numel()):
        e = like.new_zeros(components.numel())
        e[c] = 1
        yield e.view(components).expand(like.shape)


def _vjp(t: Tensor, x: Tensor, v: Tensor, create_graph: bool) -> Tensor:
    """D_x <t, v>, which is zero if t does not depend on x (as for a linear f or ReLU from the second order on)."""
    derivative = _grad(t, x, v, create_graph)
    if derivative is None and _is_cut(t):
        raise ValueError(
            "f has an operation whose backward pass cannot be differentiated (@once_differentiable), so its higher "
            "derivatives are not known"
        )
    return torch.zeros_like(x) if derivative is None else derivative


def _grad(t: Tensor, x: Tensor, v: Tensor, create_graph: bool) -> Tensor | None:
    """D_x <t, v>, or None if autograd finds no dependence of t on x."""
    if not t.requires_grad:
        return None
    return torch.autograd.grad(t, x, v, create_graph=create_graph, retain_graph=True, allow_unused=True)[0]


def _is_cut(t: Tensor) -> bool:
    """Whether the graph of t has the node that PyTorch leaves where a backward pass cannot be differentiated."""
    return any(node.name() == "torch::autograd::Error" for node in nodes(t))


def _vjp_of_values(y: Tensor, x: Tensor, v: Tensor, create_graph: bool, batch_dims: int) -> Tensor:
    """D_x <y, v>. If autograd finds no dependence of y on x, y must be constant over the samples."""
    derivative = _grad(y, x, v, create_graph)
    if derivative is not None:
        return derivative
    last = batch_dims - 1
    if (y != y.narrow(last, 0, min(1, y.shape[last]))).any():
        raise ValueError(
            "f's outputs differ between samples, but autograd cannot trace them to x and would take their derivatives "
            "for zero: are they computed under no_grad, detached, or in NumPy? A loss takes recorded derivatives too"
        )
    warnings.warn(
        "autograd cannot trace f's output to x, so its derivatives are taken for zero; where all samples have the same "
        "output, nobody can tell whether f is constant, or computed under no_grad, detached, or in NumPy",
        stacklevel=2,
    )
    return torch.zeros_like(x)
