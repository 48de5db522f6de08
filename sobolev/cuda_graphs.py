"""A training step that a GPU repeats by itself, as a CUDA graph.

A step of some hundred small kernels takes longer to queue than to compute. A graph of it is queued at once. It is
recorded from one call, with the addresses of that call: whatever a later call reads or writes has to lie where it lay
then. So parameters and buffers are updated in place, gradients stay those of the recorded call (no `zero_grad`), and
inputs are copied to where the first ones were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor

WARM_UP = 3  # calls before the recording, in which libraries choose their algorithms and take their memory

Result = TypeVar("Result")


class CapturedStep(Generic[Result]):
    """A function of tensors on a GPU, recorded at its first call and replayed from then on.

    The function may read and change tensors beside its arguments, `.grad` of parameters too. It must do the same
    kernels on the same memory whatever its arguments hold: the host does not see their numbers (no `item`, no choice
    by a value), and random numbers come as arguments.

    Args:
        function: what is recorded, of tensors on one GPU.
        state: the tensors beside the arguments that a call changes and the next one reads: statistics of BatchNorm, or
            parameters if the function updates them. Calls that only warm up leave them as they were.
    """

    def __init__(self, function: Callable[..., Result], state: Iterable[Tensor] = ()):
        self._function = function
        self._state = [*state]
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *arguments: Tensor) -> Result:
        """The function's result. Its tensors are overwritten by the next call: what is to last is copied.

        Raises:
            ValueError: arguments of other shapes or types than those of the first call.
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
        self._graph = graph  # nothing was computed while it was recorded
        return graph
