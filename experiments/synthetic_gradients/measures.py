"""What claims compare: accuracies and errors by seed, and their differences and ratios with 95% intervals.

There are few seeds, so intervals of means are Student's or Welch's, and those of ratios of standard deviations come
from the F distribution. All assume that results are normally distributed over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from experiments.evidence.rows import BySeed, Estimate, final, groups, mean_estimate, select
from experiments.synthetic_gradients.names import Line


def accuracy(rows: pd.DataFrame, line: Line, technique: str) -> BySeed:
    """Top-1 test accuracy at the end of training, per cent."""
    rows = select(rows, **line._asdict(), method=technique, split="test", metric="accuracy_top1")
    return {seed: 100 * value for seed, value in final(rows).items()}


def mean_error(rows: pd.DataFrame, line: Line, technique: str) -> BySeed:
    """Top-1 test error in per cent, averaged over training: the area under its curve by the trapezoidal rule."""
    rows = select(rows, **line._asdict(), method=technique, split="test", metric="accuracy_top1")
    errors = {}
    for (seed,), of_seed in groups(rows, "seed"):
        step, value = (of_seed.sort_values("step")[column].to_numpy() for column in ("step", "value"))
        if len(step) > 1:
            errors[seed] = float(np.trapezoid(100 * (1 - value), step) / np.ptp(step))
    return errors


def difference(a: BySeed, b: BySeed) -> Estimate:
    """The mean of a - b, paired by seed."""
    return mean_estimate(a[seed] - b[seed] for seed in sorted(a.keys() & b.keys()))


def unpaired_difference(a: BySeed, b: BySeed) -> Estimate:
    """mean(a) - mean(b) of independent samples with Welch's interval."""
    x, y = (np.array(list(values.values())) for values in (a, b))
    n = min(len(x), len(y))
    middle = float(x.mean() - y.mean()) if n else np.nan
    if n < 2 or x.var() + y.var() == 0:
        return Estimate(middle, np.nan, np.nan, n)
    interval = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    return Estimate(middle, float(interval.low), float(interval.high), n)


def ratio_of_deviations(a: BySeed, b: BySeed) -> Estimate:
    """std(a) / std(b). If both are normal, its square over that of the true ratio has an F distribution."""
    n = min(len(a), len(b))
    x, y = (np.std(list(values.values()), ddof=1) if n > 1 else 0.0 for values in (a, b))
    if min(x, y) == 0:  # with few test images, a few seeds may have the same accuracy
        return Estimate(np.nan, np.nan, np.nan, n)
    reach = stats.f.ppf([0.975, 0.025], len(a) - 1, len(b) - 1)
    return Estimate(float(x / y), *(float(x / y / np.sqrt(f)) for f in reach), n)


def ratio_that_decides(seeds: int) -> float:
    """The ratio of standard deviations, with `seeds` seeds each, above which its 95% interval lies above 1."""
    return float(np.sqrt(stats.f.ppf(0.975, seeds - 1, seeds - 1)))


def seeds_that_decide(ratio: float, most: int = 1_000) -> int | None:
    """The seeds per technique that put the interval of such a ratio above 1; None if `most` are not enough."""
    return next((seeds for seeds in range(2, most + 1) if ratio > ratio_that_decides(seeds)), None)


def gap(rows: pd.DataFrame, line: Line, with_loss: Sequence[str], without_loss: Sequence[str]) -> BySeed:
    """For each seed, the mean accuracy of the techniques that match the loss minus that of those that do not."""
    groups = [[accuracy(rows, line, t) for t in group] for group in (with_loss, without_loss)]
    seeds = set.intersection(*(set(of_technique) for group in groups for of_technique in group))
    means = [{s: np.mean([of_technique[s] for of_technique in group]) for s in seeds} for group in groups]
    return {seed: float(means[0][seed] - means[1][seed]) for seed in sorted(seeds)}
