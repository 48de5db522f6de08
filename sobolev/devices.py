"""Copies to a GPU that the host does not wait for.

Work for a GPU is queued. A copy from ordinary memory holds the host until the GPU has done everything before it, and
then the queue is empty: a step of small kernels becomes as slow as the host. A copy from pinned memory is queued too.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`. A copy from the CPU to a GPU is queued, from pinned memory.

    Where the tensor is pinned already there is no further copy: then it may not change until the GPU has read it.
    """
    device = torch.device(device)
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
