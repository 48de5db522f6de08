"""Ratios of two methods' distances to the teacher, as figures draw them: within limits, because a distance may be 0."""

from __future__ import annotations

import numpy as np

from experiments.evidence.rows import BySeed, Interval, log_ratio

FARTHEST = 1000.0  # the largest ratio that is drawn; its reciprocal is the least


def ratio(numerator: BySeed, denominator: BySeed) -> Interval:
    """The ratio of two distances, paired by seed, and its interval, within the limits."""
    of_logs = log_ratio(numerator, denominator)
    return Interval(*np.clip(10 ** np.array(of_logs[:3]), 1 / FARTHEST, FARTHEST), of_logs.n)


def beyond(ratios: list[Interval]) -> str:
    """What a panel's title adds if a ratio, or an end of its interval, is drawn at a limit and may be farther away."""
    ends = np.array([each[:3] for each in ratios])
    at_limit = ((ends <= 1 / FARTHEST) | (ends >= FARTHEST)).any()
    return f",\n{FARTHEST:,.0f}: or more, {1 / FARTHEST:g}: or less" if at_limit else ""
