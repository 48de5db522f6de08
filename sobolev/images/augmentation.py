r"""Augmentation of whole uint8 batches, on their device.

Every choice is drawn from the given generator on the generator's own device, so that a generator on the CPU gives the
same augmentation wherever the pixels are.

Shape suffixes: B samples, C channels, H rows, W columns.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from sobolev.devices import to_device

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R 601, as in image libraries


def shift_and_flip(pixels_BCHW: Tensor, generator: torch.Generator, padding: int, flip: bool) -> Tensor:
    """Each image moved by up to `padding` pixels along both axes, and mirrored left to right with probability 1/2.

    Pixels from outside the image are black, so this is a random crop of the padded image, uniform over the
    (2 padding + 1)^2 positions.

    Args:
        pixels_BCHW: uint8, and so is the result.
        generator: the source of randomness.
        padding: the largest shift, in pixels.
        flip: whether to mirror half of the images.

    Raises:
        ValueError: the padding is negative or not smaller than the image's sides.
    """
    n, _, height, width = pixels_BCHW.shape
    if not 0 <= padding < min(height, width):
        raise ValueError(f"padding={padding}: expected 0 to {min(height, width) - 1} for images of {height} x {width}")
    device = pixels_BCHW.device
    places_2B = torch.randint(2 * padding + 1, (2, n), generator=generator, device=generator.device)
    mirrored_B = torch.randint(2, (n,), generator=generator, device=generator.device)
    *places, mirrored_B = to_device(torch.cat([places_2B, mirrored_B[None]]), device)  # in one copy
    if padding:
        padded = functional.pad(pixels_BCHW, (padding,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, place, place, H, W), a view
        pixels_BCHW = windows[torch.arange(n, device=device), :, *places]
    if flip:
        pixels_BCHW = torch.where(mirrored_B.bool()[:, None, None, None], pixels_BCHW.flip(-1), pixels_BCHW)
    return pixels_BCHW


def photometric(
    pixels_BCHW: Tensor, generator: torch.Generator, strength: float = 0.5, rank: int = 0, ranks: int = 1
) -> Tensor:
    """Random brightness, contrast and colour, in random order (Howard 2013, as the Inception networks were trained).

    Each is x <- r + f (x - r), clipped to 0..255, with f uniform in 1 +- strength for each sample. The reference r is
    black for brightness, the image's mean luminance for contrast, and each pixel's luminance for colour.

    Args:
        pixels_BCHW: uint8 with 3 channels, and so is the result.
        generator: the source of randomness.
        strength: from 0 (nothing) to 1; Howard's is 0.5.
        rank: which share of the batch the pixels are: its samples rank, rank + ranks, ... They are augmented as they
            would be in the whole batch.
        ranks: the number of processes that share the batch.

    Raises:
        ValueError: a strength outside [0, 1], or pixels without 3 channels.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength={strength}: expected 0 to 1")
    if pixels_BCHW.shape[1] != 3:
        raise ValueError(f"expected pixels (B, 3, H, W), got {tuple(pixels_BCHW.shape)}")
    n, device = len(pixels_BCHW) * ranks, pixels_BCHW.device
    uniform_3B, which_3B = (torch.rand(3, n, generator=generator, device=generator.device) for _ in range(2))
    factors_3B = 1 + strength * (2 * to_device(uniform_3B[:, rank::ranks], device) - 1)
    order_3B = to_device(which_3B[:, rank::ranks].argsort(0), device)
    x = pixels_BCHW.float()
    weights_C11 = _luminance(x.dtype, device)
    for factor_B, which_B in zip(factors_3B, order_3B, strict=True):
        which_B111 = which_B[:, None, None, None]
        luminance = (x * weights_C11).sum(1, keepdim=True)
        reference = torch.where(which_B111 == 1, luminance.mean((2, 3), keepdim=True), luminance)
        reference = torch.where(which_B111 == 0, 0, reference)
        x = torch.lerp(reference.expand_as(x), x, factor_B[:, None, None, None]).clamp_(0, 255)
    return x.round_().to(torch.uint8)


@lru_cache(maxsize=8)
def _luminance(dtype: torch.dtype, device: torch.device) -> Tensor:
    """LUMINANCE (C, 1, 1) on a device, where it stays."""
    return torch.tensor(LUMINANCE, dtype=dtype, device=device)[:, None, None]
