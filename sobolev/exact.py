"""Replacements for operations whose higher derivatives PyTorch lacks or gets wrong, with exact derivatives.

PyTorch's third derivatives of layer and instance normalisation treat mean and variance as constants (pytorch#175754,
#186256), and its second derivatives of logcumsumexp are NaN. Hardsigmoid, cdist, fused attention and cuDNN's recurrent
layers have no second derivatives. Inside `exact_formulas()` each is computed from operations whose derivatives are
exact to any order. Values agree up to rounding.

>>> x = torch.tensor([[1.0, 2.0, 4.0]])
>>> with exact_formulas():
...     y = F.layer_norm(x, (3,))
>>> torch.allclose(y, F.layer_norm(x, (3,)))
True

Scripted and compiled modules call these operations without Python, so they are found in autograd's graph instead:
`derivatives_known` says how many derivatives of a graph are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

HALF = (torch.float16, torch.bfloat16)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
    **__: Any,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, over the last dimensions."""
    normalised = _normalise(input, tuple(range(-len(normalized_shape), 0)), eps)
    return _scale(normalised, weight, bias).to(_dtype(input))


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
    **__: Any,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, over the positions of each channel of (B, C, *positions)."""
    if not use_input_stats:  # running statistics are constants, so PyTorch's derivatives are right
        return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    if running_mean is not None:
        with torch.no_grad():  # PyTorch's own operation updates the running statistics
            F.instance_norm(input, running_mean, running_var, momentum=momentum, eps=eps)
    normalised = _normalise(input, tuple(range(2, input.dim())), eps)
    per_channel = (-1, *[1] * (input.dim() - 2))
    weight, bias = (None if tensor is None else tensor.view(per_channel) for tensor in (weight, bias))
    return _scale(normalised, weight, bias).to(_dtype(input))


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x / 6 + 1/2, 0), 1)."""
    result = (input / 6 + 0.5).clamp(0, 1)
    return input.copy_(result) if inplace else result


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, *_: Any, **__: Any) -> Tensor:
    """||x1_i - x2_j||_p for (..., P, M) and (..., R, M): (..., P, R).

    If two points coincide, as each does with itself, PyTorch's derivative is 0, and so are all derivatives here.
    """
    difference = x1.unsqueeze(-2) - x2.unsqueeze(-3)
    same = (difference == 0).all(-1)
    apart = torch.where(same.unsqueeze(-1), 1.0, difference)  # the second derivative of a norm at 0 is 0 / 0
    return torch.where(same, 0.0, torch.linalg.vector_norm(apart, p, dim=-1))


def logcumsumexp(input: Tensor, dim: int, *_: Any, **__: Any) -> Tensor:
    """log(exp(x_1) + ... + exp(x_i)) for each i, from all pairs of entries along `dim`."""
    if not input.dim():
        return input.clone()
    x = input.movedim(dim, -1)
    up_to_i = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool, device=x.device).tril()
    return torch.where(up_to_i, x.unsqueeze(-2), -math.inf).logsumexp(-1).movedim(-1, dim)


def _normalise(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    x = x.float() if x.dtype in HALF else x
    centred = x - x.mean(dims, keepdim=True)
    return centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()


def _scale(normalised: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scaled = normalised if weight is None else normalised * weight
    return scaled if bias is None else scaled + bias


def _dtype(x: Tensor) -> torch.dtype:
    """The type that PyTorch's own normalisations return. Under autocast it is float32, but not on the CPU."""
    autocast = x.device.type != "cpu" and torch.is_autocast_enabled(x.device.type)
    return torch.float32 if x.dtype in HALF and autocast else x.dtype


def _under(context: Callable[[], AbstractContextManager[Any]], function: Callable[..., Any]) -> Callable[..., Any]:
    def computed(*args: Any, **kwargs: Any) -> Any:
        with context():
            return function(*args, **kwargs)

    return computed


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """Like `torch.backends.cudnn.flags(enabled=False)`, which fails if a program has set cuDNN's precision."""
    before, torch.backends.cudnn.enabled = torch.backends.cudnn.enabled, False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


ATTENTION = (F.scaled_dot_product_attention, F.multi_head_attention_forward)
RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)

Formulas = dict[Callable[..., Any], Callable[..., Any]]

WRONG: Formulas = {  # for operations whose derivatives PyTorch gets wrong without an error
    F.layer_norm: layer_norm,
    torch.layer_norm: layer_norm,
    F.instance_norm: instance_norm,
    torch.instance_norm: instance_norm,
}

FORMULAS: Formulas = {
    **WRONG,
    F.hardsigmoid: hardsigmoid,
    torch.cdist: cdist,
    torch.logcumsumexp: logcumsumexp,
    Tensor.logcumsumexp: logcumsumexp,
    **{function: _under(partial(sdpa_kernel, SDPBackend.MATH), function) for function in ATTENTION},
    **{function: _under(_without_cudnn, function) for function in RECURRENT},
}


class exact_formulas(TorchFunctionMode):
    """A context in which operations are computed by formulas whose derivatives are all exact.

    Args:
        formulas: by operation; `WRONG` has only those whose derivatives PyTorch gets wrong without an error.
    """

    def __init__(self, formulas: Formulas = FORMULAS) -> None:
        super().__init__()
        self.formulas = formulas

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        formula = self.formulas.get(func)
        if formula is None or _computed_again():
            formula = func
        return formula(*args, **(kwargs or {}))


def _computed_again() -> bool:
    """Whether `torch.utils.checkpoint` will recompute this outside this context, where it must save equal tensors."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return bool(hooks) and hooks[0].__module__ == "torch.utils.checkpoint"


# By the prefix of a graph node's name: how many derivatives of such an operation are right, and what to do if that is
# not enough. None means all of them, unless the operation normalises by statistics of its own input.
FROM_PYTHON = "call torch.nn.functional.{} from Python, not from a scripted module or inside a checkpoint"
KNOWN = {
    "NativeLayerNormBackward": (2, FROM_PYTHON.format("layer_norm")),
    **{
        f"{library}BatchNormBackward": (None, FROM_PYTHON.format("instance_norm"))
        for library in ("Native", "Cudnn", "Miopen")
    },
    "ScaledDotProduct": (1, "compute attention under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"),
    "CdistBackward": (1, "call torch.cdist from Python, not from a scripted module or inside a checkpoint"),
    "LogcumsumexpBackward": (
        1,
        "call torch.logcumsumexp from Python, not from a scripted module or inside a checkpoint",
    ),
    "HardsigmoidBackward": (1, FROM_PYTHON.format("hardsigmoid")),
    "CudnnRnnBackward": (1, "compute it under torch.backends.cudnn.flags(enabled=False)"),
    "torch::jit::": (2, "a scripted module hides what it computes: pass the module that was scripted"),
    "CompiledFunctionBackward": (1, "torch.compile has no double backward: pass the module that was compiled"),
}

Node = Any  # torch.autograd.graph.Node, or classes of PyTorch's that do not derive from it


def derivatives_known(graph: Iterable[Node]) -> tuple[float, str]:
    """How many derivatives of a graph are right, and what limits their number: (math.inf, "") if nothing does."""
    known, why = math.inf, ""
    for node in graph:
        if name := _limited(node.name()):
            times, advice = KNOWN[name]
            limit = times or (2 if getattr(node, "_saved_training", True) else math.inf)
            if limit < known:
                known, why = limit, f"{node.name()} ({advice})"
    return known, why


@cache
def _limited(node: str) -> str | None:
    return next((name for name in KNOWN if node.startswith(name)), None)


def nodes(y: Tensor, x: Tensor | None = None) -> Iterator[Node]:
    """Every node of the graph that y was computed by, without those that x was computed by."""
    seen, waiting = {None if x is None else x.grad_fn}, [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            yield node


def leaves_of(graph: Iterable[Node]) -> list[Tensor]:
    """The leaf tensors of a graph that require gradients: parameters, and inputs that do."""
    return [node.variable for node in graph if node.name() == "torch::autograd::AccumulateGrad"]
