"""The target on the cube [-1, 1]^I that networks approximate, and the errors of a network.

Shape suffixes: E networks, N samples per network, I inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sobolev.derivatives import derivatives

Data = tuple[Tensor, Tensor, Tensor]  # inputs (E, N, I), values (E, N, 1), gradients (E, N, I)


def ripple(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values (..., 1) and gradients (..., I) of sin(2 sum_i x_i) exp(-|x|^2), the target on [-1, 1]^I."""
    envelope = x.square().sum(-1, keepdim=True).neg().exp()
    phase = 2 * x.sum(-1, keepdim=True)
    value = phase.sin() * envelope
    return value, 2 * phase.cos() * envelope - 2 * x * value


def uniform(n: int, n_inputs: int, rng: torch.Generator) -> Tensor:
    """Points (n, I) uniform in [-1, 1]^I, in float64."""
    return 2 * torch.rand(n, n_inputs, generator=rng, dtype=torch.float64) - 1


def sobolev_errors(model: nn.Module, data: Data, chunk: int = 500) -> dict[str, Tensor]:
    """Root mean square and largest errors of values and gradients (Euclidean norm), per network (E,)."""
    value_parts, gradient_parts = [], []
    for x, y, dy in zip(*(tensor.split(chunk, 1) for tensor in data), strict=True):
        h, dh = derivatives(model, x, order=1, batch_dims=2)
        value_parts.append((h - y).squeeze(-1).abs())
        gradient_parts.append((dh.squeeze(2) - dy).norm(dim=-1))
    errors = {"value": torch.cat(value_parts, 1), "gradient": torch.cat(gradient_parts, 1)}
    root_mean_square = {f"{name}_l2": error.square().mean(1).sqrt() for name, error in errors.items()}
    return root_mean_square | {f"{name}_sup": error.amax(1) for name, error in errors.items()}
