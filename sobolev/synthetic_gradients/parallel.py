"""Data parallelism: several processes that share a batch train like one process with the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sobolev.synthetic_gradients.network import DecoupledNetwork, Step


class ParallelStep(nn.Module):
    """`DecoupledNetwork.step` for DistributedDataParallel, which averages gradients only in a backward pass.

    The step, with all its derivatives, runs inside the wrapped module. The output s has the gradients of
    sum_p <p, g_p>, where the step's gradients g_p are constants. So s.backward() gives each parameter the gradient g_p,
    (s / 4).backward() gives it a quarter, and DDP averages each gradient as it arrives:

        parallel = DistributedDataParallel(ParallelStep(network))
        parallel(x_B, labels_B).backward()

    Like `step`, this replaces earlier gradients: they do not add up over steps.

    Each process takes an equal share of the batch. BatchNorm uses the statistics of that share, as in the paper. On
    CUDA, torch.nn.SyncBatchNorm.convert_sync_batchnorm makes them those of the whole batch.
    """

    def __init__(self, network: DecoupledNetwork):
        super().__init__()
        self.network = network
        self.last: Step | None = None  # of this process's share, from the last forward pass

    def forward(self, x_B: Tensor, labels_B: Tensor) -> Tensor:
        self.last = self.network.step(x_B, labels_B)
        learned = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        gradients = [parameter.grad for parameter in learned]
        for parameter in learned:
            parameter.grad = None
        return _GivenGradients.apply(gradients, *learned)


class _GivenGradients(torch.autograd.Function):
    """A scalar whose gradients are those of sum_p <p, g_p>. Its value is not needed, and is 0."""

    @staticmethod
    def forward(ctx: Any, gradients: Sequence[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        # Autograd takes over these products without a copy, but would copy tensors that ctx holds. The multiplication
        # runs on the device, so the host does not wait.
        return (None, *torch._foreach_mul(ctx.gradients, upstream))
