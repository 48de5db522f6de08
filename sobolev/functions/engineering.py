"""Five engineering models of six to ten inputs, which judge a recipe in addition to the paper's seven functions.

They played no part in any choice, and were selected before any network was trained on them. Formulas and domains are
those of the sources that each function names, as collected by Surjanovic and Bingham (Virtual Library of Simulation
Experiments, https://www.sfu.ca/~ssurjano), with inputs in the order of that library. Derivatives are computed by
automatic differentiation.

The robot arm's distance is not differentiable where the hand is at the shoulder. There it counts as constant, as in
`sobolev.functions.benchmarks`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sobolev.functions.benchmark import BenchmarkFunction
from sobolev.functions.benchmarks import _sqrt


def borehole(*x: Tensor) -> Tensor:
    """Harper and Gupta 1983, in the ranges of Morris, Mitchell and Ylvisaker 1993: water through a borehole, m^3/yr."""
    bore, reach, upper, upper_head, lower, lower_head, length, conductivity = x
    log = torch.log(reach / bore)
    resistance = log * (1 + upper / lower) + 2 * length * upper / (bore**2 * conductivity)
    return 2 * math.pi * upper * (upper_head - lower_head) / resistance


def otl_circuit(b_1: Tensor, b_2: Tensor, f: Tensor, c_1: Tensor, c_2: Tensor, gain: Tensor) -> Tensor:
    """Ben-Ari and Steinberg 2007: midpoint voltage of a push-pull circuit without output transformer, V."""
    v_b = 12 * b_2 / (b_1 + b_2)
    load = gain * (c_2 + 9)
    return ((v_b + 0.74) * load + 11.35 * f + 0.74 * f * load / c_1) / (load + f)


def piston(m: Tensor, s: Tensor, v_0: Tensor, k: Tensor, p_0: Tensor, t_a: Tensor, t_0: Tensor) -> Tensor:
    """Kenett and Zacks 1998: time of one cycle of a piston in a cylinder, s."""
    gas = p_0 * v_0 / t_0 * t_a
    a = p_0 * s + 19.62 * m - k * v_0 / s
    v = s / (2 * k) * (torch.sqrt(a**2 + 4 * k * gas) - a)
    return 2 * math.pi * torch.sqrt(m / (k + s**2 * gas / v**2))


def robot_arm(*x: Tensor) -> Tensor:
    """An and Owen 2001: distance of the hand from the shoulder, for four angles and four lengths of segments."""
    angles, lengths = torch.cumsum(torch.stack(x[:4]), 0), torch.stack(x[4:])
    u, v = (lengths * torch.cos(angles)).sum(0), (lengths * torch.sin(angles)).sum(0)
    return _sqrt(u**2 + v**2)


def wing_weight(*x: Tensor) -> Tensor:
    """Forrester, Sobester and Keane 2008: weight of a light aircraft's wing, lb."""
    area, fuel, aspect, sweep_in_degrees, pressure, taper, thickness, load, gross, paint = x
    cos = torch.cos(torch.deg2rad(sweep_in_degrees))
    shape = (aspect / cos**2) ** 0.6 * taper**0.04 * (100 * thickness / cos) ** -0.3
    return 0.036 * area**0.758 * fuel**0.0035 * pressure**0.006 * shape * (load * gross) ** 0.49 + area * paint


ENGINEERING: dict[str, BenchmarkFunction] = {
    function.name: function
    for function in (
        BenchmarkFunction(
            "borehole",
            (
                *((0.05, 0.15), (100.0, 50_000.0), (63_070.0, 115_600.0), (990.0, 1110.0)),
                *((63.1, 116.0), (700.0, 820.0), (1120.0, 1680.0), (9855.0, 12_045.0)),
            ),
            borehole,
        ),
        BenchmarkFunction(
            "otl_circuit",
            ((50.0, 150.0), (25.0, 70.0), (0.5, 3.0), (1.2, 2.5), (0.25, 1.2), (50.0, 300.0)),
            otl_circuit,
        ),
        BenchmarkFunction(
            "piston",
            (
                *((30.0, 60.0), (0.005, 0.02), (0.002, 0.01), (1000.0, 5000.0)),
                *((90_000.0, 110_000.0), (290.0, 296.0), (340.0, 360.0)),
            ),
            piston,
        ),
        BenchmarkFunction("robot_arm", ((0.0, 2 * math.pi),) * 4 + ((0.0, 1.0),) * 4, robot_arm),
        BenchmarkFunction(
            "wing_weight",
            (
                *((150.0, 200.0), (220.0, 300.0), (6.0, 10.0), (-10.0, 10.0), (16.0, 45.0)),
                *((0.5, 1.0), (0.08, 0.18), (2.5, 6.0), (1700.0, 2500.0), (0.025, 0.08)),
            ),
            wing_weight,
        ),
    )
}
