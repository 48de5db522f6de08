r"""A split of labelled images in memory, and the normalisation

    x' = (x / 255 - mean) / std        mean and std by channel, of the training split

Shape suffixes: N samples in the split, B samples in a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

SPLITS = ("train", "validation", "test")


class ImageError(ValueError):
    """A data set is missing, damaged or cannot be fetched. The message has the path, what was expected and a remedy."""


@dataclass(frozen=True)
class ImageSet:
    """One split held in memory.

    Attributes:
        pixels_NCHW: uint8.
        labels_N: int64, from 0 to n_classes - 1.
        n_classes: the number of classes in the whole set.
        mean_C: the mean of each channel over all pixels of the training split, in units where white is 1.
        std_C: likewise the (population) standard deviation.
    """

    pixels_NCHW: Tensor
    labels_N: Tensor
    n_classes: int
    mean_C: tuple[float, ...]
    std_C: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels_N)

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its tensors on `device`."""
        return replace(self, pixels_NCHW=self.pixels_NCHW.to(device), labels_N=self.labels_N.to(device))

    def normalise(self, pixels_BCHW: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(x / 255 - mean) / std of a uint8 batch, on its device, in channels_last."""
        return normalise(pixels_BCHW, self.mean_C, self.std_C, dtype)


def normalise(pixels_BCHW: Tensor, mean_C: tuple[float, ...], std_C: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    """(x / 255 - mean) / std of a uint8 batch, on its device, in channels_last.

    Raises:
        ValueError: the pixels are not uint8, or have the wrong number of channels.
    """
    if pixels_BCHW.dtype != torch.uint8 or pixels_BCHW.ndim != 4 or pixels_BCHW.shape[1] != len(mean_C):
        raise ValueError(
            f"expected uint8 pixels (B, {len(mean_C)}, H, W), got {pixels_BCHW.dtype} {tuple(pixels_BCHW.shape)}"
        )
    wide = torch.promote_types(dtype, torch.float32)  # in bfloat16 both operations would round
    scale_C11, shift_C11 = _scale_and_shift(tuple(mean_C), tuple(std_C), wide, pixels_BCHW.device)
    x = pixels_BCHW.to(wide, memory_format=torch.channels_last)
    return x.mul_(scale_C11).sub_(shift_C11).to(dtype)


@lru_cache(maxsize=32)
def _scale_and_shift(
    mean_C: tuple[float, ...], std_C: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """1 / (255 std) and mean / std (C, 1, 1) on a device, where they stay."""
    mean_C11, std_C11 = (torch.tensor(v, dtype=dtype, device=device)[:, None, None] for v in (mean_C, std_C))
    return 1 / (255 * std_C11), mean_C11 / std_C11
