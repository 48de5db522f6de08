"""The functions of the paper's Section 4.1: formulas, first and second derivatives and domains.

Two of the functions are not differentiable everywhere. At such a point the singular term counts as constant: its
derivatives are set to 0, which favours no direction, and the smooth terms keep theirs. The result is never NaN, and
autograd through the value gives the same.

- Ackley has the tip of a cone at the origin. The convention gives the gradient 0, which is a subgradient there. The
  true Hessian grows like 1/r towards the origin; at the origin only the cosines' curvature is left.
- Bukin N. 6 has a ridge y = 0.01 x^2, near which the gradient is unbounded: at distance t = y - 0.01 x^2 it grows like
  50/sqrt(|t|). Over the domain it is nevertheless finite in floating point: the smallest non-zero |t| is about the
  rounding of a number near 1, so |df/dy| stays below 1e6 in float32 and 1e11 in float64. The same rounding is
  amplified there: near the ridge, float32 derivatives have a relative error of about 1e-7/|t|.
  On the line x = -10, the term 0.01 |x + 10| has derivative 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sobolev.functions.benchmark import BenchmarkFunction

Gradient = tuple[Tensor, Tensor]
Hessian = tuple[Tensor, Tensor, Tensor]


def _sqrt(q: Tensor) -> Tensor:
    """sqrt(q) for q >= 0, whose derivatives of all orders are 0 at 0, also in autograd."""
    # The inner `where` keeps the infinite derivative of sqrt at 0 out of the graph: 0 * inf would be NaN.
    return torch.where(q > 0, torch.where(q > 0, q, 1.0).sqrt(), 0.0)


def _inverse(r: Tensor) -> Tensor:
    """1/r, and 0 at r = 0: the factor that multiplies a singular term's derivatives."""
    return torch.where(r != 0, 1.0 / torch.where(r != 0, r, 1.0), 0.0)


def ackley(x: Tensor, y: Tensor) -> Tensor:
    cone = -20 * torch.exp(-0.2 * _sqrt(0.5 * (x**2 + y**2)))
    waves = -torch.exp(0.5 * (torch.cos(2 * math.pi * x) + torch.cos(2 * math.pi * y)))
    return cone + waves + math.e + 20


def ackley_gradient(x: Tensor, y: Tensor) -> Gradient:
    r = _sqrt(0.5 * (x**2 + y**2))
    cone = 2 * torch.exp(-0.2 * r) * _inverse(r)
    waves = math.pi * torch.exp(0.5 * (torch.cos(2 * math.pi * x) + torch.cos(2 * math.pi * y)))
    return (
        cone * x + waves * torch.sin(2 * math.pi * x),
        cone * y + waves * torch.sin(2 * math.pi * y),
    )


def ackley_hessian(x: Tensor, y: Tensor) -> Hessian:
    r = _sqrt(0.5 * (x**2 + y**2))
    u, v = x * _inverse(r), y * _inverse(r)  # u^2 + v^2 = 2; powers of r itself would underflow near the origin
    cone = torch.exp(-0.2 * r)
    bend = cone * _inverse(r)
    waves = math.pi**2 * torch.exp(0.5 * (torch.cos(2 * math.pi * x) + torch.cos(2 * math.pi * y)))
    sin_x, sin_y = torch.sin(2 * math.pi * x), torch.sin(2 * math.pi * y)
    cos_x, cos_y = torch.cos(2 * math.pi * x), torch.cos(2 * math.pi * y)
    return (
        bend * v**2 - 0.2 * cone * u**2 + waves * (2 * cos_x - sin_x**2),
        -bend * u * v - 0.2 * cone * u * v - waves * sin_x * sin_y,
        bend * u**2 - 0.2 * cone * v**2 + waves * (2 * cos_y - sin_y**2),
    )


def beale(x: Tensor, y: Tensor) -> Tensor:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def beale_gradient(x: Tensor, y: Tensor) -> Gradient:
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    return (
        2 * (a * (y - 1) + b * (y**2 - 1) + c * (y**3 - 1)),
        2 * (a * x + b * 2 * x * y + c * 3 * x * y**2),
    )


def beale_hessian(x: Tensor, y: Tensor) -> Hessian:
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    return (
        2 * ((y - 1) ** 2 + (y**2 - 1) ** 2 + (y**3 - 1) ** 2),
        2 * (a + x * (y - 1) + 2 * y * (b + x * (y**2 - 1)) + 3 * y**2 * (c + x * (y**3 - 1))),
        2 * (x**2 + (2 * x * y) ** 2 + b * 2 * x + (3 * x * y**2) ** 2 + c * 6 * x * y),
    )


def booth(x: Tensor, y: Tensor) -> Tensor:
    return (x + 2 * y - 7) ** 2 + (2 * x + y - 5) ** 2


def booth_gradient(x: Tensor, y: Tensor) -> Gradient:
    return (10 * x + 8 * y - 34, 8 * x + 10 * y - 38)


def booth_hessian(x: Tensor, y: Tensor) -> Hessian:
    return (torch.full_like(x, 10), torch.full_like(x, 8), torch.full_like(x, 10))


def bukin(x: Tensor, y: Tensor) -> Tensor:
    return 100 * _sqrt(torch.abs(y - 0.01 * x**2)) + 0.01 * torch.abs(x + 10)


def bukin_gradient(x: Tensor, y: Tensor) -> Gradient:
    t = y - 0.01 * x**2
    f_t = 50 * torch.sign(t) * _inverse(_sqrt(torch.abs(t)))
    return (-0.02 * x * f_t + 0.01 * torch.sign(x + 10), f_t)


def bukin_hessian(x: Tensor, y: Tensor) -> Hessian:
    t = y - 0.01 * x**2
    f_t = 50 * torch.sign(t) * _inverse(_sqrt(torch.abs(t)))
    f_tt = -0.5 * f_t * _inverse(t)
    return ((0.02 * x) ** 2 * f_tt - 0.02 * f_t, -0.02 * x * f_tt, f_tt)


def mccormick(x: Tensor, y: Tensor) -> Tensor:
    return torch.sin(x + y) + (x - y) ** 2 - 1.5 * x + 2.5 * y + 1


def mccormick_gradient(x: Tensor, y: Tensor) -> Gradient:
    return (torch.cos(x + y) + 2 * (x - y) - 1.5, torch.cos(x + y) - 2 * (x - y) + 2.5)


def mccormick_hessian(x: Tensor, y: Tensor) -> Hessian:
    sin = torch.sin(x + y)
    return (2 - sin, -2 - sin, 2 - sin)


def rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    return 100 * (y - x**2) ** 2 + (x - 1) ** 2


def rosenbrock_gradient(x: Tensor, y: Tensor) -> Gradient:
    return (-400 * x * (y - x**2) + 2 * (x - 1), 200 * (y - x**2))


def rosenbrock_hessian(x: Tensor, y: Tensor) -> Hessian:
    return (1200 * x**2 - 400 * y + 2, -400 * x, torch.full_like(x, 200))


def styblinski_tang(x: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (x**4 - 16 * x**2 + 5 * x + y**4 - 16 * y**2 + 5 * y)


def styblinski_tang_gradient(x: Tensor, y: Tensor) -> Gradient:
    return (2 * x**3 - 16 * x + 2.5, 2 * y**3 - 16 * y + 2.5)


def styblinski_tang_hessian(x: Tensor, y: Tensor) -> Hessian:
    return (6 * x**2 - 16, torch.zeros_like(x), 6 * y**2 - 16)


# In the order of the paper's table.
BENCHMARKS: dict[str, BenchmarkFunction] = {
    function.name: function
    for function in (
        BenchmarkFunction(
            name="ackley",
            domain=((-5.0, 5.0), (-5.0, 5.0)),
            formula=ackley,
            partials=ackley_gradient,
            second_partials=ackley_hessian,
        ),
        BenchmarkFunction(
            name="beale",
            domain=((-4.5, 4.5), (-4.5, 4.5)),
            formula=beale,
            partials=beale_gradient,
            second_partials=beale_hessian,
        ),
        BenchmarkFunction(
            name="booth",
            domain=((-10.0, 10.0), (-10.0, 10.0)),
            formula=booth,
            partials=booth_gradient,
            second_partials=booth_hessian,
        ),
        BenchmarkFunction(
            name="bukin",
            domain=((-15.0, -5.0), (-3.0, 3.0)),
            formula=bukin,
            partials=bukin_gradient,
            second_partials=bukin_hessian,
        ),
        BenchmarkFunction(
            name="mccormick",
            domain=((-1.5, 4.0), (-3.0, 4.0)),
            formula=mccormick,
            partials=mccormick_gradient,
            second_partials=mccormick_hessian,
        ),
        BenchmarkFunction(
            name="rosenbrock",
            domain=((-2.0, 2.0), (-2.0, 2.0)),
            formula=rosenbrock,
            partials=rosenbrock_gradient,
            second_partials=rosenbrock_hessian,
        ),
        BenchmarkFunction(
            name="styblinski_tang",
            domain=((-5.0, 5.0), (-5.0, 5.0)),
            formula=styblinski_tang,
            partials=styblinski_tang_gradient,
            second_partials=styblinski_tang_hessian,
        ),
    )
}
