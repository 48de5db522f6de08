"""Counts the floating-point operations and the memory traffic of a computation, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ALLOCATIONS = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach")

OUTPUTS = ("out", "grad_input")  # keyword arguments that receive results


@dataclass
class Operations(TorchDispatchMode):
    """Records the operations inside it, each as (floating-point operations, their dtype, bytes read and written).

    Floating-point operations are counted for matrix products and convolutions, with the formulas of PyTorch's
    FlopCounterMode. That class itself has module hooks, which do not work with `autograd.grad`.
    """

    each: list[tuple[int, torch.dtype, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}
        result = function(*arguments, **options)
        if not function.is_view and function._overloadpacket.__name__ not in ALLOCATIONS:
            formula = flop_registry.get(function._overloadpacket)
            operations = formula(*arguments, **options, out_val=result) if formula else 0
            read = [value for name, value in options.items() if name not in OUTPUTS]
            tensors = [leaf for leaf in tree_leaves((arguments, read, result)) if isinstance(leaf, Tensor)]
            moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.each.append((operations, tensors[0].dtype if tensors else torch.float32, moved))
        return result

    @property
    def total(self) -> int:
        """The floating-point operations of all recorded operations."""
        return sum(operations for operations, _, _ in self.each)

    def floor(self, peaks: Mapping[torch.dtype, float], bandwidth: float) -> float:
        """The least seconds, given peak floating-point operations per second by dtype and bytes per second."""
        return sum(
            max(operations / peaks[dtype] if operations else 0.0, moved / bandwidth)
            for operations, dtype, moved in self.each
        )


def operations_of(step: Callable[[], object]) -> Operations:
    with Operations() as operations:
        step()
    return operations
