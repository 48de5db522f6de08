"""Data parallelism: several processes that share a batch train as one with the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sobolev.synthetic_gradients.network import DecoupledNetwork, Step


class ParallelStep(nn.Module):
    """`DecoupledNetwork.step` for DistributedDataParallel, which averages gradients only in a backward pass of its own.

    The step, with all its derivatives, runs inside the wrapped module. What comes out is s = sum_p <p, stop(g_p)>, so
    s.backward() gives each parameter the gradient g_p that the step found, (s / 4).backward() a quarter of it, and DDP
    averages it as it arrives:

        parallel = DistributedDataParallel(ParallelStep(network))
        parallel(x_B, labels_B).backward()

    As after `step`, earlier gradients are gone: they do not add up over steps.

    Each process takes an equal share of the batch. BatchNorm uses the statistics of that share, as the paper's workers
    do; torch.nn.SyncBatchNorm.convert_sync_batchnorm makes them the whole batch's, on CUDA.
    """

    def __init__(self, network: DecoupledNetwork):
        super().__init__()
        self.network = network
        self.last: Step | None = None  # this process's own, of the last forward pass

    def forward(self, x_B: Tensor, labels_B: Tensor) -> Tensor:
        self.last = self.network.step(x_B, labels_B)
        learned = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        gradients = [parameter.grad for parameter in learned]
        for parameter in learned:
            parameter.grad = None
        return _Carry.apply(gradients, *learned)


class _Carry(torch.autograd.Function):
    """sum_p <p, g_p> as far as derivatives go; its value, which nobody needs, is 0."""

    @staticmethod
    def forward(ctx, gradients, *parameters):
        ctx.gradients = gradients
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx, upstream):
        # Costs nothing: autograd keeps these products, but would copy what ctx holds. On the device, so none waits.
        return (None, *torch._foreach_mul(ctx.gradients, upstream))
