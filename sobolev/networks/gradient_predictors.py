"""Predictors of a loss and of its gradient from a hidden layer (Section 4.3, SM 4).

A label predictor p(h) predicts the loss m(h, y) = L(p(h), y) = -log p_y(h), and its synthetic gradient is dm/dh. The
output of a direct predictor is the gradient itself.

Shape suffixes: B samples, C channels, H rows and W columns of the hidden layer, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sobolev.networks.convnets import HEADS


class LabelPredictor(nn.Module):
    """log p(h): 3 x 3 convolutions with ReLU, then a linear layer and log-softmax. No normalisation.

    The paper's module for CIFAR-10 is `channels=[128], strides=[1]`, and that for ImageNet is `channels=[64, 64],
    strides=[1, 2], head="average"` (a 1 x 1 convolution of an average is a linear layer). The paper does not say
    whether the former averages over positions before its linear layer; `flatten` is our reading.

    Args:
        shape: (C, H, W) of the hidden layer.
        n_classes: K.
        channels: the output channels of each convolution.
        strides: one per convolution.
        head: the linear layer's input: all positions (`flatten`) or their mean (`average`).
        generator: the source of initial weights, which have PyTorch's default distribution; its global one by default.

    Raises:
        ValueError: channels and strides differ in length, an unknown head, or a shape other than (C, H, W).
    """

    def __init__(
        self,
        shape: Sequence[int],
        n_classes: int,
        channels: Sequence[int] = (128,),
        strides: Sequence[int] = (1,),
        head: str = "flatten",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if len(channels) != len(strides) or not channels:
            raise ValueError(f"a predictor needs a stride for each convolution: {len(channels)} and {len(strides)}")
        if head not in HEADS:
            raise ValueError(f"head {head!r} is unknown: choose from {', '.join(HEADS)}")
        _check_shape(shape)
        width, *size = shape
        self.convolutions = nn.ModuleList()
        for out_channels, stride in zip(channels, strides, strict=True):
            self.convolutions.append(nn.Conv2d(width, out_channels, 3, stride, padding=1))
            width = out_channels
            size = [-(-length // stride) for length in size]
        self.head = head
        self.linear = nn.Linear(width * size[0] * size[1] if head == "flatten" else width, n_classes)
        initialise(self, generator)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """log p (B, K), in float32 or better."""
        return self.linearise(h_BCHW)[0]

    def linearise(self, h_BCHW: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """log p at h, and the function v -> D_h log p(h) v, both differentiable by the parameters.

        The masks of the ReLUs are constant almost everywhere, so the derivative is a tangent pass through the layers.
        That makes the gradient of any function of dm/dh an ordinary backward pass: <dm/dh, v> = D_h m v.
        """
        convolutions, masks = cast("Iterable[nn.Conv2d]", self.convolutions), []
        for convolution in convolutions:
            h_BCHW = convolution(h_BCHW).relu()
            masks.append(h_BCHW.detach() > 0)
        log_p_BK = at_least_float32(self.linear(self._pool(h_BCHW))).log_softmax(1)

        def tangent(v_BCHW: Tensor) -> Tensor:
            for convolution, mask in zip(convolutions, masks, strict=True):
                v_BCHW = functional.conv2d(v_BCHW, convolution.weight, None, convolution.stride, padding=1) * mask
            v_BK = functional.linear(self._pool(v_BCHW), self.linear.weight).to(log_p_BK.dtype)
            return v_BK - (log_p_BK.exp() * v_BK).sum(1, keepdim=True)

        return log_p_BK, tangent

    def _pool(self, h_BCHW: Tensor) -> Tensor:
        if self.head == "average":
            return h_BCHW.mean((2, 3))
        return h_BCHW.movedim(1, -1).flatten(1)  # this order needs no copy if memory is channels-last


class DirectPredictor(nn.Module):
    """The gradient itself, by 3 x 3 convolutions that keep the resolution, with ReLUs between them (Direct SG, SM 4).

    The paper states three convolutions of 128 kernels, but neither how the gradient gets its channels nor how the
    predictor gets the label. Ours: the third convolution has as many kernels as the hidden layer has channels, the
    label enters as one constant plane per class beside h, and the third convolution starts at zero, so that training
    begins with no gradient rather than with a random one.

    Args:
        shape: (C, H, W) of the hidden layer.
        n_classes: K.
        channels: the output channels of each convolution except the last.
        generator: the source of initial weights; torch's global one by default.

    Raises:
        ValueError: a shape other than (C, H, W).
    """

    def __init__(
        self,
        shape: Sequence[int],
        n_classes: int,
        channels: Sequence[int] = (128, 128),
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        _check_shape(shape)
        self.n_classes = n_classes
        widths = [shape[0] + n_classes, *channels, shape[0]]
        self.convolutions = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths))
        initialise(self, generator)
        for parameter in self.convolutions[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, h_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """The synthetic gradient, in the shape of h."""
        planes_BK = functional.one_hot(labels_B, self.n_classes).to(h_BCHW.dtype)
        planes_BKHW = planes_BK[:, :, None, None].expand(-1, -1, *h_BCHW.shape[2:])
        g_BCHW = torch.cat([h_BCHW, planes_BKHW], 1)
        for convolution in self.convolutions[:-1]:
            g_BCHW = convolution(g_BCHW).relu()
        return self.convolutions[-1](g_BCHW)


def _check_shape(shape: Sequence[int]) -> None:
    if len(shape) != 3:
        raise ValueError(
            f"predictors of convolutions see hidden layers (C, H, W), not {tuple(shape)}: end the part in "
            "nn.Unflatten(1, (C, H, W)), or write a predictor of your own, h -> log p or (h, y) -> g"
        )


def initialise(predictor: nn.Module, generator: torch.Generator | None) -> None:
    """PyTorch's default for convolutions and linear layers: weights and biases uniform in +-1/sqrt(fan_in)."""
    for layer in predictor.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = layer.weight[0].numel() ** -0.5
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert bfloat16 and float16 to float32, because their 8 or 11 bits are too few for logarithms and losses."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
