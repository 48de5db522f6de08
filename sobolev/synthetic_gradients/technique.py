r"""Techniques: what crosses the split between two parts, and what its predictor learns from (Table 1, SM 4).

The parts above a hidden layer h of a sample with label y determine its true loss L and gradient dL/dh. A label
predictor p predicts the loss m(h, y) = L(p(h), y) = -log p_y(h). With a distance l, L1 by default,

    predictor loss = 1/B sum_b [ a l(m, L) + b l(dm/dh, dL/dh) + c l(dm/dy, dL/dy) ]

    technique       what crosses the split      a  b  c
    backprop        dL/dh, the true gradient
    noprop          nothing
    direct          g(h, y), a network's output    1      l(g, dL/dh)
    vfbn            dm/dh                          1
    critic          dm/dh                       1
    sobolev         dm/dh                       1  1
    sobolev_label   dm/dh                       1  1  1

Here dm/dy = -log p(h) and dL/dy = -log p of the network, over all classes: for y anywhere in the simplex, both losses
are linear in y. Derivatives are those of a sample's own loss, which are B times those of the batch's mean.

This module does not import PyTorch, because the experiments' settings are made from `Technique`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CROSSING = ("gradient", "nothing", "output", "derivative")
DISTANCES = ("squared_l2", "l2", "l1", "huber")  # the keys of `sobolev.losses.DISTANCES`
REDUCTIONS = ("sum", "mean")
TARGETS = ("true", "bootstrapped")


@dataclass(frozen=True)
class Technique:
    """One row of the table above.

    Attributes:
        crosses: what the part below a split learns from: the true `gradient`, `nothing`, a predictor's `output`, or the
            `derivative` dm/dh of a label predictor.
        value, gradient, label: the weights a, b and c.
        distance: l, a name in `sobolev.losses.DISTANCES`.
        reduction: whether the distances of gradients and labels are the `sum` over the components of a sample, or their
            `mean`, which makes the weight of a gradient independent of the layer's size. The paper says only L1.
        targets: what a predictor with another one above it learns from: the `true` loss and gradient, or those
            `bootstrapped` from the next predictor through the part between them.

    Raises:
        ValueError: an unknown name, weights that are negative or not finite, or weights that do not fit what crosses
            the splits.
    """

    crosses: str
    value: float = 0.0
    gradient: float = 0.0
    label: float = 0.0
    distance: str = "l1"
    reduction: str = "sum"
    targets: str = "true"

    def __post_init__(self) -> None:
        choices = {"crosses": CROSSING, "distance": DISTANCES, "reduction": REDUCTIONS, "targets": TARGETS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        weights = (self.value, self.gradient, self.label)
        if not all(0 <= weight < math.inf for weight in weights):
            said = f"value={self.value}, gradient={self.gradient}, label={self.label}"
            raise ValueError(f"weights must be 0 or more, and finite, not {said}")
        if self.has_predictor != any(weights):
            raise ValueError(f"crosses={self.crosses} needs {'a' if self.has_predictor else 'no'} weight above 0")
        if self.crosses == "output" and (self.value or self.label):
            raise ValueError("a predictor whose output is the gradient has no value and no label to match")

    @property
    def has_predictor(self) -> bool:
        """Whether there is a predictor at each split."""
        return self.crosses in ("output", "derivative")

    @property
    def needs_true_gradient(self) -> bool:
        """Whether parts or predictors' targets need the true gradients with respect to the hidden layers."""
        return self.crosses == "gradient" or self.gradient > 0


TECHNIQUES = {
    "backprop": Technique("gradient"),
    "noprop": Technique("nothing"),
    "direct": Technique("output", gradient=1),
    "vfbn": Technique("derivative", gradient=1),
    "critic": Technique("derivative", value=1),
    "sobolev": Technique("derivative", value=1, gradient=1),
    "sobolev_label": Technique("derivative", value=1, gradient=1, label=1),
}
