"""Calling f: its additional inputs, and the choice among several outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor

Function = Callable[..., Any]  # returns a tensor, or several outputs of which `Select` names one
Condition = Tensor | tuple | Mapping[str, Any] | None
Select = Callable[[Any], Tensor] | str | int | None


Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def uncompiled(function: Decorated) -> Decorated:
    """The function, which torch.compile leaves as it is, because it has no double backward."""

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return called  # type: ignore[return-value]


class Call(TypedDict):
    """The keyword arguments of `output`."""

    batch_dims: int
    condition: Condition
    select: Select


def output(f: Function, x: Tensor, batch_dims: int, condition: Condition = None, select: Select = None) -> Tensor:
    """The tensor of f's outputs (*batch, *out) for samples x (*batch, *in).

    Args:
        f: a module or function.
        x: the samples.
        batch_dims: the number of leading batch dimensions of x.
        condition: additional inputs, which f is not differentiated by: f(x, c) for a tensor, f(x, *c) for a tuple, and
            f(x, **c) for a mapping.
        select: which of several outputs to use: a function of everything that f returns, or the index, key or attribute
            of one output, which is ignored if f returns a tensor.

    Raises:
        TypeError: f does not return a tensor, or the selected output is not one.
        ValueError: the output does not have the batch dimensions of x.
    """
    if condition is None:
        returned = f(x)
    elif isinstance(condition, Mapping):
        returned = f(x, **condition)
    else:
        returned = f(x, *condition) if isinstance(condition, tuple | list) else f(x, condition)
    y = selected(returned, select)
    if not isinstance(y, Tensor):
        hint = "" if y is None else ": select=0, or a key or function, says which of its outputs counts"
        raise TypeError(f"f must return a tensor, not {type(y).__name__}{hint}")
    batch = x.shape[:batch_dims]
    if y.shape[:batch_dims] != batch:
        raise ValueError(f"f must return an output per sample, of shape {(*batch, '...')}, not {tuple(y.shape)}")
    return y


def selected(returned: Any, select: Select) -> Any:
    """The selected output of f, as in `output`."""
    if callable(select):
        return select(returned)
    if select is None or isinstance(returned, Tensor):
        return returned
    try:
        return returned[select]
    except (TypeError, KeyError, IndexError):
        if isinstance(select, str) and hasattr(returned, select):
            return getattr(returned, select)
    has = f" with the keys {', '.join(map(str, returned))}" if isinstance(returned, Mapping) else ""
    raise TypeError(f"select={select!r} names no output of f, which returned a {type(returned).__name__}{has}")


def of_samples(condition: Any, batch: torch.Size, change: Callable[[Tensor], Tensor]) -> Any:
    """The condition, with a function applied to its tensors that have the batch dimensions of the samples."""
    if isinstance(condition, Mapping):
        return {name: of_samples(each, batch, change) for name, each in condition.items()}
    if isinstance(condition, tuple | list):
        return tuple(of_samples(each, batch, change) for each in condition)
    return change(condition) if isinstance(condition, Tensor) and condition.shape[: len(batch)] == batch else condition
