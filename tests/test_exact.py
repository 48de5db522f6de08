"""Derivatives of every module and operation that a network may hold, in every mode; what PyTorch has wrong or lacks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sobolev import check
from sobolev.derivatives import derivatives
from tests.module_zoo import ZOO, Apply


def samples(*shape: int, n: int = 4) -> Tensor:
    return torch.randn(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def network_with(name: str) -> nn.Module:
    """One input, two outputs, so that "auto" is forward mode; and a module of the zoo in its midst."""
    torch.manual_seed(0)
    maker, shape = ZOO[name]
    module = maker().double()
    outputs = module(samples(*shape))[0].numel()
    before = nn.Sequential(nn.Linear(1, math.prod(shape)), nn.Tanh(), nn.Unflatten(1, shape))
    flat = Apply(lambda _, y: y.reshape(len(y), -1), nn.Identity())  # of scalars too
    return nn.Sequential(before, module, flat, nn.Linear(outputs, 2), nn.Tanh()).double()


@pytest.mark.parametrize("name", ZOO)
def test_modes_and_differences_agree(name):
    model, x = network_with(name), samples(1)
    check(model, x, order=3)
    found = {}
    for mode in ("auto", "reverse"):
        torch.manual_seed(0)  # of dropout
        results = derivatives(model, x, 3, create_graph=True, mode=mode)
        gradients = torch.autograd.grad(sum(d.square().sum() for d in results), [*model.parameters()])
        found[mode] = [*(d.detach() for d in results), *gradients]
    torch.testing.assert_close(found["auto"], found["reverse"], rtol=1e-6, atol=1e-8)
