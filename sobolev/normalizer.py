r"""Units in which inputs, values and derivatives of every order are of size one, and back.

With the mean mu and the standard deviation sigma of each input i and each output o over the samples,

    x^_i = (x_i - mu_i) / sigma_i,      y^_o = (y_o - mu_o) / sigma_o,

and by the chain rule a derivative of order j in these units is

    D^j y^_o [i_1, ..., i_j] = sigma_{i_1} ... sigma_{i_j} / sigma_o  D^j y_o [i_1, ..., i_j].

>>> x = torch.rand(50, 2) * torch.tensor([1000.0, 0.1])          # kelvin and moles, say
>>> y, dy = x.prod(1, keepdim=True), x.flip(1).unsqueeze(1)       # (50, 1) and (50, 1, 2)
>>> units = Normalizer.fit(x, y, dy)
>>> model = torch.nn.Linear(2, 1)                                 # trained on units.inputs(x), units.targets(y, dy)
>>> units.wrap(model)(x).shape                                    # values, and derivatives, in the user's units
torch.Size([50, 1])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn


class Normalizer(nn.Module):
    """Scales inputs, values and derivatives of a function one by one. Its numbers are saved in `state_dict`.

    Made by its shapes alone it changes nothing; `fit` measures, and `load_state_dict` takes what was measured.

    Args:
        inputs: the shape *in of a sample.
        outputs: the shape *out of its values.
    """

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        super().__init__()
        for name, shape in (("x", inputs), ("y", outputs)):
            self.register_buffer(f"{name}_mean", torch.zeros(tuple(shape)))
            self.register_buffer(f"{name}_scale", torch.ones(tuple(shape)))
        self.x_mean: Tensor
        self.x_scale: Tensor
        self.y_mean: Tensor
        self.y_scale: Tensor

    @classmethod
    def fit(cls, x: Tensor, y: Tensor, *derivatives: Tensor | None, batch_dims: int = 1) -> Normalizer:
        """Means and standard deviations over the samples. NaN, a number that is not known, is left out.

        An input that is the same at every sample keeps its unit (sigma = 1). So does such an output, unless its
        gradient is known: then sigma is the root mean square of the gradient by normalised inputs, because a function
        that is equal at all samples, as at those of a minimum, need not be constant. Elsewhere derivatives do not
        change the scales, so that a loss of weights 1:1 means the same whether they are known or not.

        Args:
            x: the samples (*batch, *in).
            y: their values (*batch, *out).
            derivatives: D y (*batch, *out, *in), D^2 y and so on, where they are known.
            batch_dims: how many dimensions number samples.

        Raises:
            ValueError: no sample; other shapes than these; an input that is not finite, or an infinite value.
        """
        inputs, outputs = x.shape[batch_dims:], y.shape[batch_dims:]
        units = cls(inputs, outputs).to(x.device, y.dtype)
        units._check_shapes(y, *derivatives, batch=x.shape[:batch_dims])
        if not x.shape[:batch_dims].numel():
            raise ValueError("there are no samples to measure")
        if not x.isfinite().all():
            raise ValueError("x has numbers that are not finite")
        if y.isinf().any():
            raise ValueError("y has infinite values; NaN is what is not known")
        units.x_mean, units.x_scale = _moments(x, batch_dims)
        units.y_mean, units.y_scale = _moments(y, batch_dims)
        constant = units.y_scale == 0
        units.x_scale = torch.where(units.x_scale > 0, units.x_scale, 1.0)
        units.y_scale = torch.where(constant, 1.0, units.y_scale)
        if constant.any() and derivatives and derivatives[0] is not None:
            gradient = derivatives[0].detach().double() * units.x_scale.double()
            squares = gradient.square().flatten(0, batch_dims - 1).nanmean(0).nan_to_num(0.0)
            rms = squares.reshape((*outputs, -1)).sum(-1).sqrt().to(y.dtype)
            units.y_scale = torch.where(constant & (rms > 0), rms, units.y_scale)
        return units

    def inputs(self, x: Tensor) -> Tensor:
        """x^ of samples x (*batch, *in)."""
        return (x - self.x_mean) / self.x_scale

    @overload
    def targets(self, y: Tensor, *derivatives: Tensor) -> tuple[Tensor, ...]: ...

    @overload
    def targets(self, y: Tensor, *derivatives: Tensor | None) -> tuple[Tensor | None, ...]: ...

    def targets(self, y: Tensor, *derivatives: Tensor | None) -> tuple[Tensor | None, ...]:
        """(y^, D y^, ...) of values y (*batch, *out) and derivatives (*batch, *out, *in, ...); None stays None."""
        self._check_shapes(y, *derivatives, batch=y.shape[: y.dim() - self.y_mean.dim()])
        factors = (self._factor(j) for j in range(1, len(derivatives) + 1))
        scaled = (None if d is None else d * factor for d, factor in zip(derivatives, factors, strict=True))
        return ((y - self.y_mean) / self.y_scale, *scaled)

    @overload
    def inverse(self, y: Tensor, *derivatives: Tensor) -> tuple[Tensor, ...]: ...

    @overload
    def inverse(self, y: Tensor, *derivatives: Tensor | None) -> tuple[Tensor | None, ...]: ...

    def inverse(self, y: Tensor, *derivatives: Tensor | None) -> tuple[Tensor | None, ...]:
        """(y, D y, ...) in the user's units, of those in normalised ones."""
        self._check_shapes(y, *derivatives, batch=y.shape[: y.dim() - self.y_mean.dim()])
        factors = (self._factor(j) for j in range(1, len(derivatives) + 1))
        scaled = (None if d is None else d / factor for d, factor in zip(derivatives, factors, strict=True))
        return (y * self.y_scale + self.y_mean, *scaled)

    def wrap(self, model: nn.Module) -> InUnits:
        """The model as a function of x in the user's units, whose derivatives are then in them, too."""
        return InUnits(model, self)

    def _factor(self, j: int) -> Tensor:
        """sigma_{i_1} ... sigma_{i_j} / sigma_o, of shape (*out, *in, ..., *in)."""
        n = self.x_scale.dim()
        factor = (1 / self.y_scale).reshape((*self.y_scale.shape, *[1] * (n * j)))
        for k in range(j):
            factor = factor * self.x_scale.reshape((*self.x_scale.shape, *[1] * (n * (j - 1 - k))))
        return factor

    def _check_shapes(self, y: Tensor, *derivatives: Tensor | None, batch: torch.Size) -> None:
        inputs, outputs = self.x_mean.shape, self.y_mean.shape
        for j, tensor in enumerate((y, *derivatives)):
            expected = (*batch, *outputs, *inputs * j)
            if tensor is not None and tensor.shape != expected:
                what = "values have" if j == 0 else f"derivatives of order {j} have"
                raise ValueError(f"{what} shape {tuple(tensor.shape)}, expected {tuple(expected)}: (*batch, *out, *in)")


class InUnits(nn.Module):
    """y(x) = sigma_y model((x - mu_x) / sigma_x) + mu_y, which autograd differentiates in the user's units.

    Attributes:
        model: what was trained in normalised units.
        normalizer: these units.
    """

    def __init__(self, model: nn.Module, normalizer: Normalizer) -> None:
        super().__init__()
        self.model, self.normalizer = model, normalizer

    def forward(self, x: Tensor, *condition: Any, **named: Any) -> Tensor:
        """Values (*batch, *out) of samples (*batch, *in); what else is given goes to the model as it is."""
        y = self.model(self.normalizer.inputs(x), *condition, **named)
        return y * self.normalizer.y_scale + self.normalizer.y_mean


def _moments(samples: Tensor, batch_dims: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the samples, in the samples' type; 0 where rounding is all there is."""
    flat = samples.detach().double().flatten(0, batch_dims - 1)
    mean = flat.nanmean(0).nan_to_num(0.0)
    deviation = (flat - mean).square().nanmean(0).nan_to_num(0.0).sqrt()
    rounding = math.sqrt(len(flat)) * torch.finfo(samples.dtype).eps * mean.abs()
    deviation = torch.where(deviation > rounding, deviation, 0.0)
    return mean.to(samples.dtype), deviation.to(samples.dtype)
