"""Six functions other than the paper's seven, for choosing recipes: two to six inputs, smooth, wavy and singular.

Formulas and domains are those of the sources that each function names, as collected by Surjanovic and Bingham (Virtual
Library of Simulation Experiments, https://www.sfu.ca/~ssurjano); only the eggholder's domain is ours. Derivatives are
computed by automatic differentiation.

The eggholder is as singular as Bukin N. 6: near two lines its gradient grows like 1/sqrt(distance), so that its square
has no finite mean. On such a line the singular term counts as constant, as in `sobolev.functions.benchmarks`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sobolev.functions.benchmark import BenchmarkFunction
from sobolev.functions.benchmarks import _sqrt

HARTMANN_HEIGHTS = (1.0, 1.2, 3.0, 3.2)
HARTMANN_WIDTHS = (
    (10.0, 3.0, 17.0, 3.5, 1.7, 8.0),
    (0.05, 10.0, 17.0, 0.1, 8.0, 14.0),
    (3.0, 3.5, 1.7, 10.0, 17.0, 8.0),
    (17.0, 8.0, 0.05, 10.0, 0.1, 14.0),
)
HARTMANN_CENTERS = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)


def branin(x: Tensor, y: Tensor) -> Tensor:
    """Dixon and Szego 1978."""
    bowl = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return bowl**2 + 10 * (1 - 1 / (8 * math.pi)) * torch.cos(x) + 10


def eggholder(x: Tensor, y: Tensor) -> Tensor:
    """Whitley et al. 1996."""
    y = y + 47
    return -y * torch.sin(_sqrt(torch.abs(x / 2 + y))) - x * torch.sin(_sqrt(torch.abs(x - y)))


def friedman(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor) -> Tensor:
    """Friedman 1991 (MARS), without the noise."""
    return 10 * torch.sin(math.pi * a * b) + 20 * (c - 0.5) ** 2 + 10 * d + 5 * e


def hartmann_6(*x: Tensor) -> Tensor:
    """Dixon and Szego 1978: four bumps."""
    zero = torch.zeros_like(x[0])
    bumps = (
        height * torch.exp(-sum((w * (x_i - c) ** 2 for w, x_i, c in zip(widths, x, center, strict=True)), zero))
        for height, widths, center in zip(HARTMANN_HEIGHTS, HARTMANN_WIDTHS, HARTMANN_CENTERS, strict=True)
    )
    return -sum(bumps, zero)


def levy(*x: Tensor) -> Tensor:
    """Laguna and Marti 2005."""
    first, *_, last = w = [1 + (x_i - 1) / 4 for x_i in x]
    between = sum((w_i - 1) ** 2 * (1 + 10 * torch.sin(math.pi * w_i + 1) ** 2) for w_i in w[:-1])
    return torch.sin(math.pi * first) ** 2 + between + (last - 1) ** 2 * (1 + torch.sin(2 * math.pi * last) ** 2)


def six_hump_camel(x: Tensor, y: Tensor) -> Tensor:
    """Dixon and Szego 1978."""
    return (4 - 2.1 * x**2 + x**4 / 3) * x**2 + x * y + (4 * y**2 - 4) * y**2


OTHERS: dict[str, BenchmarkFunction] = {
    function.name: function
    for function in (
        BenchmarkFunction("branin", ((-5.0, 10.0), (0.0, 15.0)), branin),
        # A part of its usual domain, which is 1,024 wide: this part has enough waves.
        BenchmarkFunction("eggholder", ((-100.0, 100.0), (-100.0, 100.0)), eggholder),
        BenchmarkFunction("friedman", ((0.0, 1.0),) * 5, friedman),
        BenchmarkFunction("hartmann_6", ((0.0, 1.0),) * 6, hartmann_6),
        BenchmarkFunction("levy", ((-10.0, 10.0),) * 2, levy),
        BenchmarkFunction("six_hump_camel", ((-3.0, 3.0), (-2.0, 2.0)), six_hump_camel),
    )
}
