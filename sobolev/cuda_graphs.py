"""A training step captured as a CUDA graph.

A step of about a hundred small kernels takes longer to launch than to compute. A graph launches all of them at once. It
is captured from one call with that call's memory addresses, so later calls must read and write the same memory. So
parameters and buffers are updated in place, gradients stay allocated (no `zero_grad`), and inputs are copied into the
first call's tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor

WARM_UP = 3  # calls before capturing, in which libraries choose algorithms and allocate memory

Result = TypeVar("Result")


class CapturedStep(Generic[Result]):
    """A function of GPU tensors that is captured at its first call and replayed from then on.

    The function may read and change tensors other than its arguments, including `.grad` of parameters. It must launch
    the same kernels on the same memory whatever the values of its arguments are: it cannot use `item` or branch on a
    value, and random numbers must be arguments.

    Args:
        function: the function of tensors on one GPU.
        state: tensors other than the arguments that a call changes and the next one reads: statistics of BatchNorm, or
            parameters if the function updates them. Warm-up calls leave them unchanged.
    """

    def __init__(self, function: Callable[..., Result], state: Iterable[Tensor] = ()):
        self._function = function
        self._state = [*state]
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *arguments: Tensor) -> Result:
        """The function's result. The next call overwrites its tensors, so copy what must be kept.

        Raises:
            ValueError: the shapes or dtypes of the arguments differ from those of the first call.
        """
        graph = self._record(arguments) if self._graph is None else self._graph
        for place, argument in zip(self._arguments, arguments, strict=True):
            if place.shape != argument.shape or place.dtype != argument.dtype:
                found, expected = (f"{tuple(each.shape)} of {each.dtype}" for each in (argument, place))
                raise ValueError(f"a recorded step takes what it was recorded with: expected {expected}, got {found}")
            place.copy_(argument, non_blocking=True)
        graph.replay()
        return self._result

    def _record(self, arguments: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
        self._arguments = [argument.clone() for argument in arguments]
        before = [tensor.clone() for tensor in self._state]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._function(*self._arguments)
            with torch.no_grad():
                for tensor, value in zip(self._state, before, strict=True):
                    tensor.copy_(value)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._result = self._function(*self._arguments)
        self._graph = graph  # capturing computes nothing; the caller replays it
        return graph
