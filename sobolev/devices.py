"""Asynchronous copies to a GPU.

Work for a GPU is queued. A copy from ordinary memory blocks the host until the GPU has finished everything before it.
Then the queue is empty, and a step of small kernels becomes as slow as the host. A copy from pinned memory is queued.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`. A copy from the CPU to a GPU is queued, from pinned memory.

    A tensor that is already pinned is not copied first, so it must not change until the GPU has read it.
    """
    device = torch.device(device)
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
