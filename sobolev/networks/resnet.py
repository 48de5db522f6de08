r"""ResNet-50 (He et al. 2016) as a list of blocks, for the ImageNet rows of Table 1.

    stem:        maxpool_3x3/2(relu(batchnorm(conv_7x7/2(x))))
    bottleneck:  relu(shortcut(h) + bn(conv_1x1(relu(bn(conv_3x3(relu(bn(conv_1x1(h)))))))))
    head:        linear(mean over positions)

The stride of a stage's first bottleneck is that of its first 1x1 convolution, as published: the 75% accuracy of the
paper's baseline is that network's. (The variant "v1.5" gives it to the 3x3 convolution.)

Blocks count from 1: the stem is 1, the stages' bottlenecks are 2-4, 5-8, 9-14 and 15-17, the head is 18.

Shape suffixes: B samples, C channels, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sobolev.networks.convnets import average_head, convolution

STAGES = (3, 4, 6, 3)  # bottlenecks in each stage
STAGE_WIDTHS = (64, 128, 256, 512)  # channels of the 3x3 convolution, a quarter of the output's


class Bottleneck(nn.Module):
    """One residual block, (B, C, H, W) to (B, 4 width, H / stride, W / stride).

    Args:
        in_channels: C.
        width: the channels of the 3x3 convolution.
        stride: of the block. The shortcut is the identity, or a 1x1 convolution if resolution or channels change.
        zero_last: whether the last BatchNorm's scale starts at 0, which makes the block the identity before its ReLU.
        generator: the source of initial weights.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        zero_last: bool,
        generator: torch.Generator | None,
    ):
        super().__init__()
        last = nn.BatchNorm2d(4 * width)
        if zero_last:
            nn.init.zeros_(last.weight)
        self.residual = nn.Sequential(
            *(convolution(in_channels, width, 1, stride, generator), nn.BatchNorm2d(width), nn.ReLU()),
            *(convolution(width, width, 3, 1, generator), nn.BatchNorm2d(width), nn.ReLU()),
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
    zero_last: bool = False,
    generator: torch.Generator | None = None,
) -> list[nn.Module]:
    """18 blocks from (B, in_channels, H, W) to (B, n_classes); H and W are divided by 32.

    Args:
        n_classes: the number of logits.
        in_channels: 3 for colour images, 1 for grey ones.
        zero_last: whether bottlenecks start as the identity (Goyal et al. 2017). The default, as published, is False.
        generator: the source of initial weights; torch's global one by default.

    Raises:
        ValueError: a number is not positive.
    """
    if min(n_classes, in_channels) < 1:
        raise ValueError(f"n_classes={n_classes} and in_channels={in_channels} must be positive")
    stem = (convolution(in_channels, 64, 7, 2, generator), nn.BatchNorm2d(64), nn.ReLU())
    blocks: list[nn.Module] = [nn.Sequential(*stem, nn.MaxPool2d(3, stride=2, padding=1))]
    channels = 64
    for stage, (bottlenecks, width) in enumerate(zip(STAGES, STAGE_WIDTHS, strict=True)):
        for index in range(bottlenecks):
            stride = 2 if stage > 0 and index == 0 else 1
            blocks.append(Bottleneck(channels, width, stride, zero_last, generator))
            channels = 4 * width
    blocks.append(average_head(channels, n_classes, generator))
    return blocks
