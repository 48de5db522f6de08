r"""The crop of an image that becomes a sample: random in training, central in evaluation.

Training takes a crop of random area and aspect ratio, as the Inception networks did (Szegedy et al. 2015):

    area ~ U[min_area, 1] of the image,  log(width / height) ~ U[log 3/4, log 4/3],  place uniform

and mirrors half of the crops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from math import exp, log, sqrt

import torch

from sobolev.seeding import generator

ATTEMPTS = 10  # to find a random shape that fits into the image
ASPECTS = (3 / 4, 4 / 3)  # the range of width / height

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Crop = tuple[Callable[[int, int], Box], bool]  # from an image's width and height to its box; whether it is mirrored


@dataclass(frozen=True)
class CentralCrops:
    """Central squares, whose side is a `fraction` of the image's shorter side."""

    fraction: float

    def of_batch(self, number: int) -> Iterator[Crop]:
        """The same crop for every image."""
        return repeat((self._box, False))

    def _box(self, width: int, height: int) -> Box:
        side = self.fraction * min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side


@dataclass(frozen=True)
class RandomCrops:
    """Crops of random area, shape and place; with `flip`, half of them are mirrored."""

    seed: int
    epoch: int
    batch_size: int
    min_area: float
    flip: bool

    def of_batch(self, number: int) -> Iterator[Crop]:
        """One crop per image of batch `number` of the epoch."""
        source = generator(self.seed, "crop", self.epoch, number)
        uniform = torch.rand(self.batch_size, 2 * ATTEMPTS + 3, generator=source, dtype=torch.float64).tolist()
        for *shapes, across, down, mirror in uniform:
            yield partial(self._box, shapes, across, down), self.flip and mirror < 0.5

    def _box(self, shapes: list[float], across: float, down: float, width: int, height: int) -> Box:
        """The first of the attempted shapes that fits; if none does, the largest box whose aspect ratio is in range."""
        low, high = map(log, ASPECTS)
        for area, shape in zip(shapes[::2], shapes[1::2], strict=True):
            area = width * height * (self.min_area + (1 - self.min_area) * area)
            aspect = exp(low + (high - low) * shape)
            w, h = sqrt(area * aspect), sqrt(area / aspect)
            if w <= width and h <= height:
                break
        else:
            w, h = min(width, height * ASPECTS[1]), min(height, width / ASPECTS[0])
        left, top = across * (width - w), down * (height - h)
        return left, top, left + w, top + h
