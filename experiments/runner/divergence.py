"""Training that has diverged ends its run: one rule, in terms of the problem, wherever a training is measured.

The relative error of a network is its error over that of a network of zeros, so it says the same in any units: the root
mean square for regression, cross-entropy over that of guessing for classes, a distance of gradients over their length.

Seeds that train as one ensemble end as one. Leaving out a network that diverged would make the method look as good as
its lucky seeds, and keeping it would make a quantile out of a number without meaning. So the run is refused, and says
whose networks they are; what was measured stays in its metrics.csv, and its cell is missing from the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from experiments.runner.errors import BadInput

# Training may come back from far off, and does at high learning rates: of the shipped networks one from 260 (bukin,
# sobolev_2, 20 points, seed 2). The same function's seed 2 ended at 115 with 100 points; hardly any other passes 20.
ON_THE_WAY, IN_THE_END = 1e5, 1e3


def check_convergence(
    step: int,
    last: bool,
    relative_errors: dict[int, float],
    measured: Iterable[float] = (),
    lower: str = "optimizer.learning_rate",
) -> None:
    """Refuse to go on where a network has diverged.

    Args:
        step: after how many updates it was measured.
        last: whether training ends there.
        relative_errors: by seed.
        measured: whatever else must be finite.
        lower: what to lower.
    """
    limit = IN_THE_END if last else ON_THE_WAY
    diverged = {seed: error for seed, error in relative_errors.items() if not error <= limit}  # NaN is not either
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
