"""A GPU that is not there: PyTorch's `meta` device stands for it, and a mode counts what a GPU would be asked to do.

Tensors on `meta` have shapes and no numbers. Code that takes a device goes through its steps on them as on a GPU:
tensors of two devices do not mix, and what waits for the GPU is seen. Tensors that are copied back hold ones, and a
question (`bool(tensor)`) is answered by no. What `FakeGPU` counts is

    pageable    copies to the GPU that the host waits for: from memory that is not pinned, or without `non_blocking`
    pinned      copies to the GPU that it does not wait for
    waits       all else that the host waits for: a number, a copy back, the places of what is not zero
    launches    kernels: operations that are neither views nor allocations
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.optim.optimizer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from experiments.runner.ranks import Ranks
from experiments.runner.settings import RunConfig

optimizers = sys.modules["torch.optim.optimizer"]  # its package hides the name
ALLOCATIONS = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach")
INDEXED = ("index", "index_put_", "index_put", "_index_put_impl_")  # which take indices from the host, by a copy


class FakeGPU(TorchDispatchMode):
    """Use it as a context: `with FakeGPU() as gpu: step(x.to(gpu.device))`, and read what was counted."""

    device = torch.device("meta")

    def __init__(self) -> None:
        super().__init__()
        self._pinned: dict[int, Tensor] = {}  # by address; kept, so that none is taken for another's
        self.begin()

    def begin(self) -> None:
        """Count from 0."""
        self.pageable, self.pinned, self.waits, self.launches = Counter(), 0, Counter(), Counter()

    def __enter__(self) -> FakeGPU:
        self._patches = patched(self)
        self._patches.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.__exit__(None, None, None)

    def pin(self, tensor: Tensor) -> Tensor:
        """A copy in memory that counts as pinned."""
        if tensor.untyped_storage().data_ptr() in self._pinned:
            return tensor
        copy = tensor.clone()
        self._pinned[copy.untyped_storage().data_ptr()] = copy
        return copy

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), options: dict | None = None) -> Any:
        options = options or {}
        name = function._overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, Tensor)]
        here = [tensor for tensor in tensors if tensor.device == self.device]
        if name in ("_to_copy", "copy_"):
            return self._copy(function, name, arguments, options)
        if name == "_local_scalar_dense" and here:
            self.waits["item"] += 1
            return torch.zeros((), dtype=here[0].dtype).item()
        elif name == "nonzero" and here:
            self.waits[name] += 1
            return torch.empty(here[0].numel(), here[0].dim(), dtype=torch.int64, device=self.device)
        elif here:
            away = [tensor for tensor in tensors if tensor.device != self.device and tensor.dim()]
            if name in INDEXED:
                self.pageable.update("index" for _ in away)
                target, indices, *values = arguments
                self.waits.update("mask" for index in indices if index is not None and index.dtype == torch.bool)
                arguments = (target, [place for index in indices for place in _places(index)], *values)
            elif away:
                raise RuntimeError(f"{name}: Expected all tensors to be on the same device, but got one of the CPU")
        result = function(*arguments, **options)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.device == self.device]
        if (here or made) and not function.is_view and name not in ALLOCATIONS:
            self.launches[name] += 1
        return result

    def _copy(self, function: Any, name: str, arguments: tuple, options: dict) -> Any:
        """A copy to the GPU, from it, or within it."""
        if name == "copy_":
            target, source, *rest = arguments
            to, non_blocking = target.device, rest[0] if rest else options.get("non_blocking", False)
        else:
            source, to = arguments[0], options.get("device") or arguments[0].device
            non_blocking = options.get("non_blocking", False)
        if source.device == self.device != to:
            self.waits["copy back"] += 1
            if name == "copy_":
                return target.fill_(1)
            return torch.ones(source.shape, dtype=options.get("dtype") or source.dtype)
        if to == self.device != source.device:
            if non_blocking and source.untyped_storage().data_ptr() in self._pinned:
                self.pinned += 1
            else:
                self.pageable[name] += 1
        elif to == self.device:
            self.launches[name] += 1
        return function(*arguments, **options)


def _places(index: Tensor | None) -> list[Tensor | None]:
    """A mask as indices of places, all that it has: which of them are set is not known here."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [torch.zeros(index.numel(), dtype=torch.int64, device=index.device)] * index.dim()


@contextmanager
def patched(gpu: FakeGPU) -> Iterator[None]:
    """Memory can be pinned, numbers are copied to a device, and optimisers take their fused ways, as on a GPU."""
    devices, make = ["cpu", gpu.device.type], torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        return make(data, **options).to(device or "cpu")

    def new_tensor(like: Tensor, data: Any, **options: Any) -> Tensor:
        return tensor(data, **{"dtype": like.dtype, "device": like.device} | options)

    with (
        patch.object(torch, "tensor", tensor),
        patch.object(Tensor, "new_tensor", new_tensor),
        patch.object(Tensor, "pin_memory", lambda tensor: gpu.pin(tensor)),
        patch.object(optimizers, "_get_fused_kernels_supported_devices", lambda: devices),
        patch.object(optimizers, "_get_foreach_kernels_supported_devices", lambda: devices),
    ):
        yield


class FakeRun:
    """A run on such a GPU, as far as experiments see it. It notes what each step has asked of the GPU."""

    scale, dtype, autocast = "reduced", torch.float32, nullcontext

    def __init__(self, config: RunConfig, gpu: FakeGPU, directory: Path):
        self.config, self.gpu, self.device, self.directory = config, gpu, gpu.device, directory
        self.ranks = Ranks()
        self.steps: list[dict[str, int]] = []  # from each call of `checkpoint` to the next
        self.recorded: set[int] = set()  # steps at which rows were

    def resume(self) -> None:
        return None

    def progress(self, start: int, stop: int) -> tqdm:
        return tqdm(range(start, stop), disable=True)

    def checkpoint(self, state: Callable[[], dict[str, Any]]) -> None:
        gpu = self.gpu
        self.steps.append({"pageable": gpu.pageable.total(), "pinned": gpu.pinned, "waits": gpu.waits.total()})
        gpu.begin()

    def record(self, step: int, rows: Iterable[tuple[int, str, str, float]]) -> None:
        if list(rows):
            self.recorded.add(step)

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        pass

    def between_measurements(self) -> list[dict[str, int]]:
        """What each update asked but the first, which takes constants to the GPU, and those that were measured."""
        return [step for number, step in enumerate(self.steps[1:]) if number and number not in self.recorded]
