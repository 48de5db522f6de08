r"""Random vectors that derivatives are projected on (Eq. 2 of the paper).

Matching D_x <m, v> for random v matches the whole derivative in expectation. For each distribution here and any u,

    E_v <u, v>^2 = c ||u||^2        with c = `second_moment(d)` in dimension d,

so squared projected distances divided by c are unbiased for the squared distance of what they project. The paper
draws v uniformly from the unit sphere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Projection(ABC):
    """A distribution of projection vectors.

    Attributes:
        samples: how many vectors are drawn per sample of the batch. The loss averages over them.

    Raises:
        ValueError: samples is not a positive integer.
    """

    samples: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.samples, int) or self.samples < 1:
            raise ValueError(f"samples must be a positive integer, not {self.samples!r}")

    def draw(self, like: Tensor, batch_dims: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Independent vectors (S, *like.shape), S for each sample of the batch.

        Args:
            like: a tensor (*batch, *components) with the shape, dtype and device of a vector per sample. All components
                of a sample make one vector.
            batch_dims: the number of leading batch dimensions.
            generator: the source of randomness, on the device of `like`; PyTorch's global one if None.

        Raises:
            ValueError: the generator is on another device.
        """
        if generator is not None and generator.device.type != like.device.type:
            raise ValueError(f"the generator is on {generator.device}, but must be on {like.device} like the samples")
        batch, components = like.shape[:batch_dims], like.shape[batch_dims:]
        v = self._fill(like.new_empty(self.samples, *batch, components.numel()), generator)
        return v.view(self.samples, *like.shape)

    @abstractmethod
    def second_moment(self, dimension: int) -> float:
        """The c of E_v <u, v>^2 = c ||u||^2 in this dimension."""

    @abstractmethod
    def _fill(self, v: Tensor, generator: torch.Generator | None) -> Tensor:
        """Fill the uninitialised v (..., d) in place with independent vectors along its last dimension."""


class Sphere(Projection):
    """Uniform on the unit sphere: a normalised Gaussian vector. In one dimension, a random sign."""

    def second_moment(self, dimension: int) -> float:
        return 1 / dimension

    def _fill(self, v: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.nn.functional.normalize(v.normal_(generator=generator), dim=-1)


class Gaussian(Projection):
    """Independent standard normal components."""

    def second_moment(self, dimension: int) -> float:
        return 1.0

    def _fill(self, v: Tensor, generator: torch.Generator | None) -> Tensor:
        return v.normal_(generator=generator)


class Rademacher(Projection):
    """Independent random signs, which have the least variance of all independent components with c = 1."""

    def second_moment(self, dimension: int) -> float:
        return 1.0

    def _fill(self, v: Tensor, generator: torch.Generator | None) -> Tensor:
        return v.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)


class Coordinate(Projection):
    """A unit vector along one coordinate, chosen uniformly."""

    def second_moment(self, dimension: int) -> float:
        return 1 / dimension

    def _fill(self, v: Tensor, generator: torch.Generator | None) -> Tensor:
        index = torch.randint(v.shape[-1], (*v.shape[:-1], 1), generator=generator, device=v.device)
        return v.zero_().scatter_(-1, index, 1.0)
