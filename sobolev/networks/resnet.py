r"""ResNet-50 (He et al. 2016) as a list of blocks, for the ImageNet rows of Table 1.

    stem:        maxpool_3x3/2(relu(batchnorm(conv_7x7/2(x))))
    bottleneck:  relu(shortcut(h) + bn(conv_1x1(relu(bn(conv_3x3(relu(bn(conv_1x1(h)))))))))
    head:        linear(mean over positions)

Blocks from 1: the stem is 1, the stages' bottlenecks 2-4, 5-8, 9-14 and 15-17, the head 18.

Shape suffixes: B samples, C channels, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sobolev.networks.convnets import average_head, convolution

STAGES = (3, 4, 6, 3)  # bottlenecks
STAGE_WIDTHS = (64, 128, 256, 512)  # channels of the 3x3 convolution, a quarter of the output's
STRIDES_IN = ("1x1", "3x3")


class Bottleneck(nn.Module):
    """One residual block, (B, C, H, W) to (B, 4 width, H / stride, W / stride).

    Args:
        in_channels: C.
        width: channels inside.
        stride: of the block; the shortcut is a 1x1 convolution where it or the channels change, else the identity.
        stride_in: the convolution that has the stride, "1x1" or "3x3".
        zero_last: begin as the identity (before the last ReLU): the last BatchNorm's scale is 0.
        generator: what initial weights are drawn from.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        stride_in: str,
        zero_last: bool,
        generator: torch.Generator | None,
    ):
        super().__init__()
        first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
        last = nn.BatchNorm2d(4 * width)
        if zero_last:
            nn.init.zeros_(last.weight)
        self.residual = nn.Sequential(
            *(convolution(in_channels, width, 1, first, generator), nn.BatchNorm2d(width), nn.ReLU()),
            *(convolution(width, width, 3, second, generator), nn.BatchNorm2d(width), nn.ReLU()),
            *(convolution(width, 4 * width, 1, 1, generator), last),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != 4 * width:
            self.shortcut = nn.Sequential(
                convolution(in_channels, 4 * width, 1, stride, generator), nn.BatchNorm2d(4 * width)
            )

    def forward(self, h_BCHW: Tensor) -> Tensor:
        return (self.residual(h_BCHW) + self.shortcut(h_BCHW)).relu()


def resnet50_blocks(
    n_classes: int = 1000,
    in_channels: int = 3,
    stride_in: str = "1x1",
    zero_last: bool = False,
    generator: torch.Generator | None = None,
) -> list[nn.Module]:
    """18 blocks from (B, in_channels, H, W) to (B, n_classes); H and W are divided by 32.

    Args:
        n_classes: of the logits.
        in_channels: 3 for colours, 1 for grey.
        stride_in: which convolution of a stage's first bottleneck has the stride. "1x1" (default) is the published
            network, whose 75% the paper's baseline matches; "3x3" ("v1.5") looks at all positions: half a percent
            better and 6% more products.
        zero_last: bottlenecks begin as the identity (Goyal et al. 2017). Off by default, as published.
        generator: what initial weights are drawn from; torch's global one by default.

    Raises:
        ValueError: an unknown `stride_in`, or a number that is not positive.
    """
    if stride_in not in STRIDES_IN:
        raise ValueError(f"stride_in={stride_in} is unknown: choose from {', '.join(STRIDES_IN)}")
    if min(n_classes, in_channels) < 1:
        raise ValueError(f"n_classes={n_classes} and in_channels={in_channels} must be positive")
    stem = (convolution(in_channels, 64, 7, 2, generator), nn.BatchNorm2d(64), nn.ReLU())
    blocks: list[nn.Module] = [nn.Sequential(*stem, nn.MaxPool2d(3, stride=2, padding=1))]
    channels = 64
    for stage, (bottlenecks, width) in enumerate(zip(STAGES, STAGE_WIDTHS, strict=True)):
        for index in range(bottlenecks):
            stride = 2 if stage > 0 and index == 0 else 1
            blocks.append(Bottleneck(channels, width, stride, stride_in, zero_last, generator))
            channels = 4 * width
    blocks.append(average_head(channels, n_classes, generator))
    return blocks
