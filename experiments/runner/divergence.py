"""A run whose training has diverged is ended: one rule for every experiment, independent of units.

The relative error of a network is its error divided by that of a network that outputs zeros: the root mean square for
regression, cross-entropy over that of guessing for classes, the distance between gradients over their length.

Seeds that train as one ensemble end together. Dropping a network that diverged would judge the method by its lucky
seeds, and keeping it would put a meaningless number into a quantile. So the run fails and names the seeds; its
measurements stay in metrics.csv, and its cell is missing from the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from experiments.runner.errors import BadInput

# Training can recover from a large error, and does at high learning rates: one shipped network recovered from 260
# (bukin, sobolev_2, 20 points, seed 2). With 100 points that seed ended at 115; hardly any other network exceeds 20.
ON_THE_WAY, IN_THE_END = 1e5, 1e3


def check_convergence(
    step: int,
    last: bool,
    relative_errors: dict[int, float],
    measured: Iterable[float] = (),
    lower: str = "optimizer.learning_rate",
) -> None:
    """End the run if a network has diverged.

    Args:
        step: The number of updates before this measurement.
        last: Whether training ends here.
        relative_errors: The relative error of each seed.
        measured: Other measurements that must be finite.
        lower: The setting that the message advises to lower.

    Raises:
        BadInput: a relative error is too large, or a measurement is not finite.
    """
    limit = IN_THE_END if last else ON_THE_WAY
    diverged = {seed: error for seed, error in relative_errors.items() if not error <= limit}  # NaN counts too
    if diverged:
        *others, final = map(str, diverged)
        seeds = f"seeds {', '.join(others)} and {final}" if others else f"seed {final}"
        worst = max(diverged.values(), key=lambda error: (math.isnan(error), error))
        said = f"the relative error of {seeds} (of {len(relative_errors)}) reaches {worst:.3g}"
    elif not all(map(math.isfinite, measured)):
        said = "not every number is finite"
    else:
        return
    raise BadInput(f"training diverged: at step {step} {said}: lower {lower}")
