"""ReLU networks that are constructed, not trained: Proposition 1 and Theorem 1 of the paper.

Both use one object, a sum of ridges with one hidden layer:

    h(x) = sum_r p_r(<a_r, x>),      p_r continuous, piecewise linear, constant outside its knots.

Shape suffixes: N points, I inputs, R ridges, K knots of a profile, H hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Profile(NamedTuple):
    """A continuous function of one variable: linear between knots, constant outside them."""

    knots_K: Tensor
    values_K: Tensor


def ridge_network(directions_RI: Tensor, profiles: Sequence[Profile], negative_slope: float = 0.0) -> nn.Sequential:
    r"""The network with one hidden layer h(x) = sum_r p_r(<a_r, x>), with one hidden unit per knot.

    A profile with knots t_k, values v_k and changes of slope c_k is v_1 + sum_k c_k relu(t - t_k). Leaky ReLU
    needs no extra unit: leaky(z) = (1 - a) relu(z) + a z, and a profile that is constant at both ends has
    sum_k c_k = 0 and sum_k c_k t_k = v_1 - v_K, so that

        sum_k c_k relu(t - t_k) = [ sum_k c_k leaky(t - t_k) - a (v_K - v_1) ] / (1 - a).

    Args:
        directions_RI: the vectors a_r.
        profiles: one for each direction, knots increasing.
        negative_slope: a, the slope of the activation left of 0; 0 gives ReLU.

    Returns:
        `Linear(I, H), ReLU or LeakyReLU, Linear(H, 1)`, in the dtype of the directions.

    Raises:
        ValueError: knots that do not increase, shapes that do not agree, or negative_slope = 1.
    """
    if negative_slope == 1.0:
        raise ValueError("negative_slope must differ from 1: the activation would be linear")
    if directions_RI.dim() != 2 or len(profiles) != len(directions_RI) or not profiles:
        raise ValueError(
            f"expected one profile per direction (R, I), got {len(profiles)} profiles and {tuple(directions_RI.shape)}"
        )
    weights, thresholds, kinks, bias = [], [], [], torch.zeros(())
    for direction_I, (knots_K, values_K) in zip(directions_RI, profiles, strict=True):
        if knots_K.shape != values_K.shape or knots_K.dim() != 1 or not (knots_K.diff() > 0).all():
            raise ValueError("a profile needs increasing knots (K,) and as many values")
        flat = values_K.new_zeros(1)
        weights.append(direction_I.expand(len(knots_K), -1))
        thresholds.append(knots_K)
        kinks.append(torch.diff(values_K.diff() / knots_K.diff(), prepend=flat, append=flat))
        bias = bias + values_K[0] - negative_slope / (1 - negative_slope) * (values_K[-1] - values_K[0])
    weight_HI, threshold_H, kink_H = torch.cat(weights), torch.cat(thresholds), torch.cat(kinks)
    hidden = nn.utils.skip_init(nn.Linear, *weight_HI.mT.shape, dtype=weight_HI.dtype)  # draws no random numbers
    output = nn.utils.skip_init(nn.Linear, len(weight_HI), 1, dtype=weight_HI.dtype)
    with torch.no_grad():
        hidden.weight.copy_(weight_HI)
        hidden.bias.copy_(-threshold_H)
        output.weight.copy_(kink_H / (1 - negative_slope))
        output.bias.copy_(bias)
    return nn.Sequential(hidden, nn.LeakyReLU(negative_slope) if negative_slope else nn.ReLU(), output)


def interpolating_network(
    x_NI: Tensor,
    y_N: Tensor,
    dy_NI: Tensor,
    negative_slope: float = 0.0,
) -> nn.Sequential:
    r"""Proposition 1: a network with h(x_n) = y_n and grad h(x_n) = dy_n, for any values and gradients.

    In one dimension h is a sum of bumps with disjoint supports [x_n - 2e, x_n + 2e]: the line of slope dy_n
    through (x_n, y_n) on [x_n - e, x_n + e], and linear down to 0 outside. In I dimensions

        h(x) = sum_i p_i(<q_i, x>),    q_i the rows of an invertible Q in which no two points share a coordinate,

    and p_i is the one-dimensional network for the values y_n / I and the slopes s_ni. The details:

    * h(x) = P(Qx) has gradient Q^T grad P, so the slopes solve Q^T s_n = dy_n. In general s_n = Q^{-T} dy_n; here Q
      is orthogonal, so that s_n = Q dy_n, and lengths are kept.
    * All I summands have a bump at each point, so each contributes its share y_n / I of the value.
    * Distinct points may share coordinates on the given axes, which then cannot be used. Almost every rotation
      separates them. Among 64 random rotations and the given axes, the one with the largest smallest distance between
      two coordinates is used.
    * e may differ between points: a fifth of the distance to the nearest coordinate keeps the supports disjoint
      and, unlike the paper's single e, does not make every bump as steep as the steepest.

    Args:
        x_NI: distinct points (N, I).
        y_N: values (N,).
        dy_NI: gradients (N, I).
        negative_slope: of the activation left of 0; 0 gives ReLU.

    Returns:
        A network with 4 N I hidden units, in the dtype of the points (use float64).

    Raises:
        ValueError: shapes that do not agree, numbers that are not finite, or points that coincide (to
            rounding error in every rotation tried).
    """
    if x_NI.dim() != 2 or not x_NI.numel() or y_N.shape != x_NI.shape[:1] or dy_NI.shape != x_NI.shape:
        raise ValueError(
            "expected points (N, I), values (N,) and gradients (N, I), got "
            f"{tuple(x_NI.shape)}, {tuple(y_N.shape)} and {tuple(dy_NI.shape)}"
        )
    if not (x_NI.isfinite().all() and y_N.isfinite().all() and dy_NI.isfinite().all()):
        raise ValueError("points, values and gradients must be finite")
    n_inputs = x_NI.shape[1]
    directions_II = _separating_rotation(x_NI)
    slopes_NI = dy_NI @ directions_II.mT
    profiles = [
        _bumps(z_N, y_N / n_inputs, slope_N)
        for z_N, slope_N in zip((x_NI @ directions_II.mT).mT, slopes_NI.mT, strict=True)
    ]
    return ridge_network(directions_II, profiles, negative_slope)


def _separating_rotation(x_NI: Tensor) -> Tensor:
    """An orthogonal matrix Q such that no two of the points Q x_n share a coordinate on any axis."""

    def smallest_gap(rotation_II: Tensor) -> float:
        return (x_NI @ rotation_II.mT).sort(0).values.diff(dim=0).min().item() if len(x_NI) > 1 else math.inf

    n_inputs = x_NI.shape[1]
    candidates = [torch.eye(n_inputs, dtype=x_NI.dtype)]
    if n_inputs > 1:
        noise = torch.randn(64, n_inputs, n_inputs, dtype=x_NI.dtype, generator=torch.Generator().manual_seed(0))
        candidates.extend(torch.linalg.qr(noise).Q)
    best = max(candidates, key=smallest_gap)
    if smallest_gap(best) <= 16 * torch.finfo(x_NI.dtype).eps * x_NI.abs().max().item():
        raise ValueError("the points must be distinct: two of them coincide up to rounding error")
    return best


def _bumps(z_N: Tensor, value_N: Tensor, slope_N: Tensor) -> Profile:
    """The sum of the bumps at z_n, each with four knots, and 0 between bumps."""
    z_N, order = z_N.sort()
    value_N, slope_N = value_N[order], slope_N[order]
    radius_N = torch.ones_like(z_N)
    if len(z_N) > 1:
        gap = z_N.diff()
        radius_N = torch.minimum(torch.cat([gap[:1], gap]), torch.cat([gap, gap[-1:]])) / 5
    knots = torch.stack([z_N + k * radius_N for k in (-2, -1, 1, 2)], dim=1)
    rise_N, zero_N = slope_N * radius_N, torch.zeros_like(z_N)
    values = torch.stack([zero_N, value_N - rise_N, value_N + rise_N, zero_N], dim=1)
    return Profile(knots.flatten(), values.flatten())


def piecewise_linear_network(
    f: Callable[[Tensor], Tensor],
    low: float,
    high: float,
    pieces: int,
    negative_slope: float = 0.0,
) -> nn.Sequential:
    r"""Theorem 1 in one dimension: the interpolant of f at equally spaced knots, as a network.

    Its slope on each piece is the mean of f' there, so with D = (high - low) / pieces and w the modulus of
    continuity of f'

        sup |f' - h'| <= w(D),            sup |f - h| <= D w(D),                     for f in C1,
        sup |f' - h'| <= D/2 sup |f''|,   sup |f - h| <= D^2/8 sup |f''|,            for f in C2,

    with equality in the last two for a parabola; in the mean square, |f' - h'| -> D / sqrt(12) |f''|. The
    derivative of a ReLU network is piecewise constant, so it can match f' uniformly only if w(D) -> 0. That is the
    continuity of f' that the theorem needs, and C1 on a compact interval gives it.

    Args:
        f: values (K,) at points (K,).
        low: left end of the interval.
        high: right end of the interval.
        pieces: number of equal pieces. The network has pieces + 1 hidden units.
        negative_slope: of the activation left of 0; 0 gives ReLU.

    Raises:
        ValueError: an empty interval or fewer than one piece.
    """
    if not high > low or pieces < 1:
        raise ValueError(f"expected low < high and pieces >= 1, got [{low}, {high}] and {pieces}")
    knots_K = torch.linspace(low, high, pieces + 1, dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    return ridge_network(one, [Profile(knots_K, f(knots_K))], negative_slope)


class Cosines(NamedTuple):
    """The trigonometric sum t(x) = mean + sum_r amplitude_r cos(<frequency_r, x> + phase_r)."""

    mean: Tensor
    amplitude_R: Tensor
    frequency_RI: Tensor
    phase_R: Tensor

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Values (N,) at points (N, I)."""
        return self.mean + (x_NI @ self.frequency_RI.mT + self.phase_R).cos() @ self.amplitude_R

    def gradient(self, x_NI: Tensor) -> Tensor:
        """Gradients (N, I) at points (N, I)."""
        weight_NR = -self.amplitude_R * (x_NI @ self.frequency_RI.mT + self.phase_R).sin()
        return weight_NR @ self.frequency_RI


def fit_cosines(x_NI: Tensor, y_N: Tensor, dy_NI: Tensor, degree: int, half_period: float = 1.5) -> Cosines:
    r"""The trigonometric sum of given degree that best fits values and gradients, by linear least squares.

    The frequencies are pi k / half_period for integer vectors k with |k|_1 <= degree, one of each pair +-k.
    With a period longer than the domain [-1, 1]^I, the sum converges fast for functions that are not periodic too.

    Args:
        x_NI: points in [-1, 1]^I; there should be several times as many as frequencies.
        y_N: values (N,).
        dy_NI: gradients (N, I).
        degree: the largest |k|_1.
        half_period: half the period on every axis, above 1.
    """
    n_inputs = x_NI.shape[1]
    ticks = torch.arange(-degree, degree + 1, dtype=x_NI.dtype)
    k_RI = torch.cartesian_prod(*[ticks] * n_inputs).reshape(-1, n_inputs)
    middle = len(k_RI) // 2  # where k = 0; as the lattice is symmetric, the second half has one k of each pair +-k
    k_RI = k_RI[middle + 1 :]
    frequency_RI = math.pi / half_period * k_RI[k_RI.abs().sum(1) <= degree]
    angle_NR = x_NI @ frequency_RI.mT
    cos_NR, sin_NR = angle_NR.cos(), angle_NR.sin()
    one_N1 = torch.ones_like(x_NI[:, :1])
    rows = [torch.cat([one_N1, cos_NR, sin_NR], dim=1)]
    rows += [torch.cat([0 * one_N1, -sin_NR * w_R, cos_NR * w_R], dim=1) for w_R in frequency_RI.mT]
    target = torch.cat([y_N, *dy_NI.mT])
    solution = torch.linalg.lstsq(torch.cat(rows), target[:, None], rcond=1e-9, driver="gelsd").solution[:, 0]
    a_R, b_R = solution[1:].chunk(2)  # a cos z + b sin z = |(a, b)| cos(z - atan2(b, a))
    return Cosines(solution[0], torch.hypot(a_R, b_R), frequency_RI, -torch.atan2(b_R, a_R))


def cosine_network(cosines: Cosines, width: int, negative_slope: float = 0.0) -> nn.Sequential:
    r"""Theorem 1 in several dimensions: a trigonometric sum on [-1, 1]^I with each cosine made piecewise linear.

    A cosine of amplitude A and frequency w is a ridge over an interval of length 2 |w|_1. With n linear pieces its
    gradient has an error of at most A |w|_2 |w|_1 / n. The sum of these bounds is smallest for
    n_r ~ sqrt(A_r |w_r|_2 |w_r|_1), which gives, for any I,

        sup |grad t - grad h| <= ( sum_r sqrt(A_r |w_r|_2 |w_r|_1) )^2 / pieces.

    A C1 function is the limit in S_1 of trigonometric sums (Fejer means of an extension), and this is then a
    proof of Theorem 1 with a rate: 1 / width for a fixed sum. A cosine whose share is less than one half of a piece is
    left out, which happens at small widths; the bound then gains the term A_r |w_r|_2.

    Args:
        cosines: the sum to approximate.
        width: the intended number of hidden units; rounding changes it by at most 1.5 per cosine.
        negative_slope: of the activation left of 0; 0 gives ReLU.

    Raises:
        ValueError: a width too small for a single cosine.
    """
    span_R = cosines.frequency_RI.abs().sum(1)
    share_R = (cosines.amplitude_R * cosines.frequency_RI.norm(dim=1) * span_R).sqrt()
    pieces_R = (share_R * (width / share_R.sum()) - 1).round().to(torch.int64)  # n pieces take n + 1 units
    kept = (pieces_R >= 1).nonzero()[:, 0].tolist()
    if not kept:
        raise ValueError(f"a width of {width} leaves no piece for any of {len(pieces_R)} cosines: take a larger one")
    profiles = []
    for r in kept:
        z_K = torch.linspace(-1, 1, int(pieces_R[r]) + 1, dtype=span_R.dtype) * span_R[r]
        profiles.append(Profile(z_K, cosines.amplitude_R[r] * (z_K + cosines.phase_R[r]).cos()))
    network = ridge_network(cosines.frequency_RI[kept], profiles, negative_slope)
    with torch.no_grad():
        _, bias = network[-1].parameters()
        bias.add_(cosines.mean)
    return network
