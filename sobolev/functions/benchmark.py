"""The type of a benchmark function: a formula of its variables over a box, with its derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class BenchmarkFunction:
    """A function f: R^I -> R with its gradient and Hessian, in closed form or else by automatic differentiation.

    Every method takes a floating-point tensor of points of shape (..., I), keeps its dtype and device, and can
    be differentiated by autograd and by ``torch.func``.

    >>> import torch
    >>> from sobolev.functions import BENCHMARKS
    >>> booth = BENCHMARKS["booth"]
    >>> x = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    >>> booth(x)
    tensor([ 0., 74.])
    >>> booth.gradient(x)
    tensor([[  0.,   0.],
            [-34., -38.]])

    Your own function needs only its formula. Once it is in ``BENCHMARKS``, experiments know it by its name:

    >>> from sobolev.functions import BenchmarkFunction
    >>> bowl = BenchmarkFunction("bowl", ((-1.0, 1.0), (-1.0, 1.0)), lambda x, y: x**2 + 3 * y**2)
    >>> bowl.gradient(x)
    tensor([[ 2., 18.],
            [ 0.,  0.]])

    Attributes:
        name: The key in ``BENCHMARKS``, and the name in rows.
        domain: (low, high) of each of the I coordinates. Points are drawn uniformly from this box.
        formula: (x, y, ...) -> f.
        partials: (x, y, ...) -> (df/dx, df/dy, ...). If None, the formula is differentiated automatically; it must then
            treat each point separately.
        second_partials: (x, y) -> (d2f/dx2, d2f/dxdy, d2f/dy2), for two inputs. If None, the gradient is
            differentiated automatically.
    """

    name: str
    domain: tuple[tuple[float, float], ...]
    formula: Callable[..., Tensor] = field(repr=False)
    partials: Callable[..., tuple[Tensor, ...]] | None = field(default=None, repr=False)
    second_partials: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] | None = field(default=None, repr=False)

    @property
    def inputs(self) -> int:
        """I, the number of coordinates."""
        return len(self.domain)

    def __call__(self, x: Tensor) -> Tensor:
        """Same as ``value``."""
        return self.value(x)

    def value(self, x: Tensor) -> Tensor:
        """f(x): points (..., I) to values (...).

        Raises:
            TypeError: x is not a floating-point tensor.
            ValueError: the last axis of x does not have length I.
        """
        return self.formula(*self._coordinates(x))

    def gradient(self, x: Tensor) -> Tensor:
        """The gradient of f: points (..., I) to (..., I). Raises what ``value`` raises."""
        coordinates = self._coordinates(x)
        if self.partials is None:
            return torch.func.grad(lambda points: self.value(points).sum())(x)
        return torch.stack(self.partials(*coordinates), dim=-1)

    def hessian(self, x: Tensor) -> Tensor:
        """The Hessian of f: points (..., I) to symmetric matrices (..., I, I). Raises what ``value`` raises."""
        coordinates = self._coordinates(x)
        if self.second_partials is None:
            rows = [
                torch.func.grad(lambda points, k=k: self.gradient(points)[..., k].sum())(x) for k in range(self.inputs)
            ]
            return torch.stack(rows, dim=-2)
        f_xx, f_xy, f_yy = self.second_partials(*coordinates)
        return torch.stack((torch.stack((f_xx, f_xy), dim=-1), torch.stack((f_xy, f_yy), dim=-1)), dim=-2)

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
        """n points (n, I), uniform over the domain, on the generator's device.

        Points are drawn in float64 and then rounded, so that a generator gives the same points in every dtype.

        Raises:
            ValueError: n is less than 1.
        """
        if n < 1:
            raise ValueError(f"n is the number of points to draw and must be at least 1, not {n}")
        unit = torch.rand(n, self.inputs, generator=generator, dtype=torch.float64, device=generator.device)
        low, high = torch.tensor(self.domain, dtype=torch.float64, device=generator.device).unbind(-1)
        return (low + (high - low) * unit).to(dtype)

    def _coordinates(self, x: Tensor) -> tuple[Tensor, ...]:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            found = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{self.name} takes points as a floating-point torch.Tensor, not {found}")
        if x.ndim == 0 or x.shape[-1] != self.inputs:
            raise ValueError(f"{self.name} takes points of shape (..., {self.inputs}), not {tuple(x.shape)}")
        return x.unbind(-1)
