r"""Convolutional networks as lists of blocks, and splitting such a list into parts (Section 4.3, SM 4).

A block is what the paper counts as a layer,

    h_l = relu(batchnorm(W_l * h_{l-1}))        W_l 3x3, padding 1, stride s_l

and the last block is the classifier. `nn.Sequential(*blocks)` is the network, and `split(blocks, after)` cuts it into
the parts between which synthetic gradients replace true ones. Convolutions have no bias, because BatchNorm would
subtract it again.

Shape suffixes: B samples, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

# SM 4.1, the 11 convolutions of the CIFAR-10 network.
CIFAR_CHANNELS = (64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512)
CIFAR_STRIDES = (1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1)
HEADS = ("average", "flatten")


def conv_blocks(
    channels: Sequence[int],
    strides: Sequence[int],
    n_classes: int,
    in_channels: int = 3,
    head: str = "average",
    size: int | None = None,
    generator: torch.Generator | None = None,
) -> list[nn.Module]:
    """One block per convolution, then the classifier: from (B, in_channels, H, W) to (B, n_classes).

    Args:
        channels: the output channels of each convolution.
        strides: one per convolution; a stride s reduces a side to ceil(side / s).
        n_classes: the number of logits.
        in_channels: 3 for colour images, 1 for grey ones.
        head: the classifier's input. The paper says only "linear 10". "average" (our default) is the mean of each
            feature map, which takes at most a tenth of the weights and images of any size; "flatten" is every position.
        size: the side of the images, which "flatten" needs.
        generator: the source of initial weights; torch's global one by default. The initialisation is our choice, as
            the paper names none: He et al. (2015) for convolutions, PyTorch's default for the linear layer.

    Raises:
        ValueError: no convolution, different numbers of channels and strides, a number that is not positive, an unknown
            head, or "flatten" without `size`.
    """
    if not channels or len(channels) != len(strides):
        raise ValueError(f"expected as many strides as channels, at least one, not {len(strides)} for {len(channels)}")
    if min(*channels, *strides, n_classes, in_channels) < 1:
        raise ValueError(
            f"channels={list(channels)}, strides={list(strides)}, n_classes={n_classes} and in_channels={in_channels} "
            "must all be positive"
        )
    if head not in HEADS:
        raise ValueError(f"head={head} is unknown: choose from {', '.join(HEADS)}")
    if head == "flatten" and size is None:
        raise ValueError("head=flatten needs size, the side of the images")
    blocks: list[nn.Module] = []
    side = size or 0
    for before, after, stride in zip((in_channels, *channels), channels, strides, strict=False):
        blocks.append(nn.Sequential(convolution(before, after, 3, stride, generator), nn.BatchNorm2d(after), nn.ReLU()))
        side = -(-side // stride)
    if head == "average":
        blocks.append(average_head(channels[-1], n_classes, generator))
    else:
        blocks.append(nn.Sequential(nn.Flatten(), linear(channels[-1] * side**2, n_classes, generator)))
    return blocks


def split(blocks: Sequence[nn.Module], after: Sequence[int]) -> nn.ModuleList:
    """The len(after) + 1 parts of a network that is cut after the blocks with these numbers, counted from 1.

    >>> blocks = conv_blocks(channels=[16, 32, 32], strides=[1, 2, 1], n_classes=10)
    >>> [len(part) for part in split(blocks, after=[1, 3])]
    [1, 2, 1]

    Raises:
        ValueError: numbers that do not increase, or that leave a part without blocks.
    """
    bounds = [0, *after, len(blocks)]
    if any(left >= right for left, right in pairwise(bounds)):
        raise ValueError(
            f"cannot split {len(blocks)} blocks after {list(after)}: "
            f"expected increasing numbers from 1 to {len(blocks) - 1}"
        )
    return nn.ModuleList(nn.Sequential(*blocks[left:right]) for left, right in pairwise(bounds))


def convolution(
    in_channels: int, out_channels: int, kernel: int, stride: int, generator: torch.Generator | None
) -> nn.Conv2d:
    """A convolution without bias that keeps the resolution at stride 1, initialised as in He et al. (2015), fan-out."""
    layer = nn.utils.skip_init(
        nn.Conv2d, in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False
    )
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    return layer


def linear(n_inputs: int, n_outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """A linear layer with PyTorch's default initialisation: weights and biases uniform in +-1/sqrt(fan_in)."""
    layer = nn.utils.skip_init(nn.Linear, n_inputs, n_outputs)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(n_inputs**-0.5), n_inputs**-0.5, generator=generator)
    return layer


def average_head(channels: int, n_classes: int, generator: torch.Generator | None) -> nn.Sequential:
    """The mean of each feature map, then logits."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(channels, n_classes, generator))
