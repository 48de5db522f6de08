r"""Theorem 2 with its constant: how well values and a wrong derivative can be matched together.

Let the given derivative g of a function f be wrong by u = g - grad f. No function h matches both:

    max( sup |h - f|, sup |grad h - g| ) >= eta      for every h in C1,

and eta is known. Along any path c of length l, the change of h - f differs from the integral of u by at most eta l.
The change itself is at most 2 eta, and 0 on a closed path. Hence

    eta = max over paths  |int_c u . ds| / (2 + l),       closed paths:  |int_c u . ds| / l.

These conditions are also sufficient: they say that the constraints -eta <= h - f <= eta and
int u - eta l <= (h - f)(end) - (h - f)(start) <= int u + eta l have no negative cycle, and then the shortest
distance is a solution. (It is Lipschitz; mollified, it comes arbitrarily close to eta in C1.) The lower bound eta is
therefore proportional to the mismatch, and positive unless u = 0.

The same question for the mean square, which training minimises, is a Neumann problem:

    floor = min_r  mean( r^2 + |grad r - u|^2 ),      r - laplace r = -div u,     dr/dn = u . n,       r = h - f.
"""

from __future__ import annotations

import math


def constant_mismatch(delta: float, length: float) -> tuple[float, float]:
    r"""Floors for u = delta on an interval: (eta, least mean of r^2 + (r' - u)^2).

    The whole interval is the worst path, so eta = delta length / (2 + length). In the mean square
    r = delta sinh(x) / cosh(length / 2) around the middle, which leaves delta^2 (1 - 2 tanh(length / 2) / length).
    """
    _check(delta, length)
    return delta * length / (2 + length), delta**2 * (1 - 2 * math.tanh(length / 2) / length)


def rotation_mismatch(delta: float, radius: float) -> tuple[float, float]:
    r"""Floors for u = delta (-x_2, x_1) on a disc: (eta, least mean of r^2 + |grad r - u|^2).

    The field is a pure rotation: div u = 0 and u . n = 0 give r = 0, so nothing is better than h = f, which leaves
    the mean of |u|^2, delta^2 radius^2 / 2. The rim is the worst closed path: eta = delta radius = sup |u|.
    """
    _check(delta, radius)
    return delta * radius, delta**2 * radius**2 / 2


def _check(delta: float, size: float) -> None:
    if not (delta >= 0 and size > 0 and math.isfinite(delta) and math.isfinite(size)):
        raise ValueError(f"expected a mismatch >= 0 and a size > 0, got {delta} and {size}")
