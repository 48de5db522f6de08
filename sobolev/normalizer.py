r"""Normalisation of inputs, values and derivatives of every order, and its inverse.

With the mean mu and the standard deviation sigma of each input i and each output o over the samples,

    x^_i = (x_i - mu_i) / sigma_i,      y^_o = (y_o - mu_o) / sigma_o,

and by the chain rule a derivative of order j in these units is

    D^j y^_o [i_1, ..., i_j] = sigma_{i_1} ... sigma_{i_j} / sigma_o  D^j y_o [i_1, ..., i_j].

>>> x = torch.rand(50, 2) * torch.tensor([1000.0, 0.1])          # for example kelvin and moles
>>> y, dy = x.prod(1, keepdim=True), x.flip(1).unsqueeze(1)       # (50, 1) and (50, 1, 2)
>>> units = Normalizer.fit(x, y, dy)
>>> model = torch.nn.Linear(2, 1)                                 # trained on units.inputs(x), units.targets(y, dy)
>>> units.wrap(model)(x).shape                                    # values, and derivatives, in the user's units
torch.Size([50, 1])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

ROUNDING = 4  # values that differ by fewer machine epsilons count as equal


class Normalizer(nn.Module):
    """Scales inputs, values and derivatives of a function componentwise. Its statistics are saved in `state_dict`.

    When constructed from shapes it is the identity. `fit` measures statistics, and `load_state_dict` restores them.

    The statistics stay in double precision, even after `.float()`, because a mean of 1.7e9 (seconds of a clock) in
    single precision is off by up to 64. Results have the dtype of the argument. Raw samples in single precision have
    already lost as much, so pass samples with a large mean and a small spread in double precision.

    Args:
        inputs: the shape *in of a sample.
        outputs: the shape *out of its values.
    """

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        super().__init__()
        for name, shape in (("x", inputs), ("y", outputs)):
            self.register_buffer(f"{name}_mean", torch.zeros(tuple(shape), dtype=torch.float64))
            self.register_buffer(f"{name}_scale", torch.ones(tuple(shape), dtype=torch.float64))
        self.register_buffer("y_rounding", torch.zeros(tuple(outputs), dtype=torch.float64))  # of constant outputs
        self.x_mean: Tensor
        self.x_scale: Tensor
        self.y_mean: Tensor
        self.y_scale: Tensor
        self.y_rounding: Tensor

    @classmethod
    def fit(cls, x: Tensor, y: Tensor, *derivatives: Tensor | None, batch_dims: int = 1) -> Normalizer:
        """Measure means and standard deviations over the samples. NaN, which marks an unknown number, is ignored.

        An input that is equal at all samples keeps its unit (sigma = 1). So does such an output, unless its gradient is
        known: then sigma is the root mean square of the gradient by normalised inputs, because a function with equal
        values at all samples, such as at minima, need not be constant. Otherwise derivatives do not affect the scales,
        so that a loss with weights 1:1 means the same whether they are known or not.

        Args:
            x: the samples (*batch, *in).
            y: their values (*batch, *out).
            derivatives: D y (*batch, *out, *in), D^2 y and so on, if they are known.
            batch_dims: the number of leading batch dimensions.

        Raises:
            TypeError: an argument is not a floating-point tensor, but for example a NumPy array.
            ValueError: no samples; wrong shapes; an input that is not finite, or an infinite value.
        """
        _check_floating("x", x)
        _check_floating("y", y)
        if not 1 <= batch_dims <= x.dim():
            raise ValueError(f"batch_dims must be from 1 to {x.dim()}, the dimensions of x, not {batch_dims}")
        inputs, outputs = x.shape[batch_dims:], y.shape[batch_dims:]
        units = cls(inputs, outputs).to(x.device)
        units._check(y, *derivatives, batch=x.shape[:batch_dims])
        if not x.shape[:batch_dims].numel():
            raise ValueError("there are no samples to measure")
        if not x.isfinite().all():
            raise ValueError("x has numbers that are not finite")
        for j, tensor in enumerate((y, *derivatives)):
            if tensor is not None and tensor.isinf().any():
                what = f"derivatives of order {j} have" if j else "y has"
                raise ValueError(f"{what} infinite values; NaN is what is not known")
        units.x_mean, units.x_scale, _ = _moments(x.detach().flatten(0, batch_dims - 1))
        units.y_mean, units.y_scale, units.y_rounding = _moments(y.detach().flatten(0, batch_dims - 1))
        constant = units.y_scale == 0
        units.x_scale = torch.where(units.x_scale > 0, units.x_scale, 1.0)
        units.y_scale = torch.where(constant, 1.0, units.y_scale)
        if constant.any() and derivatives and derivatives[0] is not None:
            gradient = widened(derivatives[0].detach()) * units.x_scale
            by_input = _root_mean_square(gradient.flatten(0, batch_dims - 1)).reshape((*outputs, -1))
            rms = _root_mean_square(by_input.movedim(-1, 0)) * by_input.shape[-1] ** 0.5
            units.y_scale = torch.where(constant & (rms > 0), rms, units.y_scale)
        return units

    def inputs(self, x: Tensor) -> Tensor:
        """x^ of samples x (*batch, *in)."""
        self._batch(x)
        return ((widened(x) - self.x_mean) / self.x_scale).to(x.dtype)

    @overload
    def targets(self, y: Tensor, *derivatives: Tensor) -> tuple[Tensor, ...]: ...

    @overload
    def targets(self, y: Tensor, *derivatives: Tensor | None) -> tuple[Tensor | None, ...]: ...

    def targets(self, y: Tensor, *derivatives: Tensor | None) -> tuple[Tensor | None, ...]:
        """(y^, D y^, ...) of values y (*batch, *out) and derivatives (*batch, *out, *in, ...); None stays None.

        Values of an output that `fit` found constant become exactly 0. Otherwise their rounding, in units of a gradient
        or balanced by its mean square, would look like values to learn.
        """
        self._check(y, *derivatives)
        scaled = (
            None if d is None else (widened(d) * self._of_inputs(j) / self._of_output(j)).to(d.dtype)
            for j, d in enumerate(derivatives, start=1)
        )
        from_mean = widened(y) - self.y_mean
        from_mean = from_mean.masked_fill(from_mean.abs() <= self.y_rounding, 0.0)
        return ((from_mean / self.y_scale).to(y.dtype), *scaled)

    @overload
    def inverse(self, y: Tensor, *derivatives: Tensor) -> tuple[Tensor, ...]: ...

    @overload
    def inverse(self, y: Tensor, *derivatives: Tensor | None) -> tuple[Tensor | None, ...]: ...

    def inverse(self, y: Tensor, *derivatives: Tensor | None) -> tuple[Tensor | None, ...]:
        """(y, D y, ...) in the user's units, from normalised ones."""
        self._check(y, *derivatives)
        scaled = (
            None if d is None else (widened(d) * self._of_output(j) / self._of_inputs(j)).to(d.dtype)
            for j, d in enumerate(derivatives, start=1)
        )
        return ((widened(y) * self.y_scale + self.y_mean).to(y.dtype), *scaled)

    def wrap(self, model: nn.Module) -> InUnits:
        """The model as a function of x in the user's units, with derivatives in the user's units too."""
        return InUnits(model, self)

    def _of_output(self, j: int) -> Tensor:
        """sigma_o, of shape (*out, 1, ..., 1)."""
        return self.y_scale.reshape((*self.y_scale.shape, *[1] * (self.x_scale.dim() * j)))

    def _of_inputs(self, j: int) -> Tensor:
        """sigma_{i_1} ... sigma_{i_j}, of shape (*in, ..., *in)."""
        n, product = self.x_scale.dim(), self.x_scale
        for _ in range(j - 1):
            product = product.reshape((*product.shape, *[1] * n)) * self.x_scale
        return product

    def _batch(self, x: Tensor) -> torch.Size:
        """The shape *batch of samples (*batch, *in)."""
        _check_floating("x", x)
        inputs, lead = self.x_mean.shape, x.dim() - self.x_mean.dim()
        if lead < 0 or x.shape[lead:] != inputs:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (*batch, *in), where *in is {tuple(inputs)}")
        return x.shape[:lead]

    def _check(self, y: Tensor, *derivatives: Tensor | None, batch: torch.Size | None = None) -> None:
        """Refuse values and derivatives of the wrong type or shape, or of another batch if one is given."""
        _check_floating("y", y)
        inputs, outputs = self.x_mean.shape, self.y_mean.shape
        batch = y.shape[: max(y.dim() - len(outputs), 0)] if batch is None else batch
        for j, tensor in enumerate((y, *derivatives)):
            if tensor is None:
                continue
            what = f"derivatives of order {j} have" if j else "values have"
            _check_floating(what.removesuffix(" have"), tensor)
            expected = (*batch, *outputs, *inputs * j)
            if tensor.shape != expected:
                raise ValueError(f"{what} shape {tuple(tensor.shape)}, expected {tuple(expected)}: (*batch, *out, *in)")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Normalizer:
        """Move to another device, but keep the dtype, except on a device without double precision."""

        def moved(held: Tensor) -> Tensor:
            single = fn(held.float())
            return single if "mps" in (single.device.type, held.device.type) or held.is_meta else held.to(single.device)

        return super()._apply(moved, recurse)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        state_dict.setdefault(f"{prefix}y_rounding", torch.zeros_like(self.y_rounding))  # older files lack it
        super()._load_from_state_dict(state_dict, prefix, *others)


class InUnits(nn.Module):
    """y(x) = sigma_y model((x - mu_x) / sigma_x) + mu_y, a module whose derivatives are in the user's units.

    Attributes:
        model: the model in normalised units.
        normalizer: the units.
    """

    def __init__(self, model: nn.Module, normalizer: Normalizer) -> None:
        super().__init__()
        self.model, self.normalizer = model, normalizer

    def forward(self, x: Tensor, *condition: Any, **named: Any) -> Tensor:
        """Values (*batch, *out) of samples (*batch, *in); other arguments are passed to the model unchanged."""
        y = self.model(self.normalizer.inputs(x), *condition, **named)
        self.normalizer._check(y, batch=x.shape[: x.dim() - self.normalizer.x_mean.dim()])
        return self.normalizer.inverse(y.to(torch.promote_types(x.dtype, y.dtype)))[0]


def widened(t: Tensor) -> Tensor:
    """The tensor in double precision, if the device has it."""
    return t.float() if t.device.type == "mps" else t.double()


def varies(samples: Tensor) -> Tensor:
    """Which components of samples (N, *components) differ by more than rounding. NaN (unknown) is ignored.

    The range decides, because its rounding error does not grow with the number of samples.
    """
    if not len(samples):
        return torch.zeros(samples.shape[1:], dtype=torch.bool, device=samples.device)
    low, high = _range(widened(samples.detach()))
    stored, single = torch.finfo(samples.dtype).eps, torch.finfo(torch.float32).eps  # half types are computed in single
    rounding = max(stored, ROUNDING * min(stored, single)) * torch.maximum(low.abs(), high.abs())
    return high / 2 - low / 2 > rounding


def _range(samples: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest known value of each component; infinity and -infinity if none is known."""
    unknown = samples.isnan()
    return samples.masked_fill(unknown, torch.inf).amin(0), samples.masked_fill(unknown, -torch.inf).amax(0)


def _moments(samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and rounding over samples (N, *components).

    The deviation is 0 for constant components. The rounding, the largest distance from the mean, is 0 for the others.
    Numbers are squared in units of half their range about its middle, so that neither 1e200 nor 1e-200 is lost.
    """
    wide, differs = widened(samples), varies(samples)
    low, high = _range(wide)
    middle = (low / 2 + high / 2).nan_to_num(0.0)
    size = torch.where(differs, high / 2 - low / 2, 1.0)
    from_middle = (wide - middle) / size
    mean = torch.where(differs, from_middle.nanmean(0).nan_to_num(0.0), 0.0)
    deviation = (from_middle - mean).square().nanmean(0).nan_to_num(0.0).sqrt()
    rounding = from_middle.abs().nan_to_num(0.0).amax(0)
    return middle + size * mean, torch.where(differs, size * deviation, 0.0), torch.where(differs, 0.0, rounding)


def _root_mean_square(samples: Tensor) -> Tensor:
    """The root mean square over samples (N, *components), computed in units of the largest; 0 if none is known."""
    size = samples.abs().nan_to_num(0.0).amax(0)
    size = torch.where(size > 0, size, 1.0)
    return size * (samples / size).square().nanmean(0).nan_to_num(0.0).sqrt()


def _check_floating(name: str, t: Any) -> None:
    if not isinstance(t, Tensor) or not t.is_floating_point():
        found = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"{name} must be a floating-point tensor, not {found}")
