r"""What crosses the split between two parts, and what its predictor learns from (Table 1, SM 4).

The hidden layer h of a sample with label y has the true loss L and gradient dL/dh of the parts above it. A label
predictor p gives m(h, y) = L(p(h), y) = -log p_y(h). With the distance l, here L1 unless one asks otherwise,

    predictor loss = 1/B sum_b [ a l(m, L) + b l(dm/dh, dL/dh) + c l(dm/dy, dL/dy) ]

    technique       what crosses the split      a  b  c
    backprop        dL/dh, the true gradient
    noprop          nothing
    direct          g(h, y), a network's output    1      l(g, dL/dh)
    vfbn            dm/dh                          1
    critic          dm/dh                       1
    sobolev         dm/dh                       1  1
    sobolev_label   dm/dh                       1  1  1

dm/dy = -log p(h) and dL/dy = -log p of the network, all classes: with y free in its simplex, both losses are linear in
it. Derivatives are those of a sample's own loss: B times those of the batch's mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sobolev.losses import DISTANCES

CROSSING = ("gradient", "nothing", "output", "derivative")
REDUCTIONS = ("sum", "mean")
TARGETS = ("true", "bootstrapped")


@dataclass(frozen=True)
class Technique:
    """One row of the table above.

    Attributes:
        crosses: what the part below a split learns from: the true `gradient`, `nothing`, a predictor's `output`, or the
            `derivative` dm/dh of a label predictor.
        value, gradient, label: the weights a, b and c.
        distance: l, by its name in `sobolev.losses.DISTANCES`.
        reduction: how the distances of gradients and labels add up over the components of one sample: their `sum`, or
            their `mean`, which makes the weight of a gradient independent of the layer's size. Ours: the paper says
            only L1.
        targets: where a predictor below others learns from: the `true` loss and gradient, or those `bootstrapped` from
            the next predictor's through the part between.

    Raises:
        ValueError: an unknown name, or weights that leave a predictor nothing to learn from, or that need another one.
    """

    crosses: str
    value: float = 0.0
    gradient: float = 0.0
    label: float = 0.0
    distance: str = "l1"
    reduction: str = "sum"
    targets: str = "true"

    def __post_init__(self) -> None:
        choices = {"crosses": CROSSING, "distance": tuple(DISTANCES), "reduction": REDUCTIONS, "targets": TARGETS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        weights = (self.value, self.gradient, self.label)
        if min(weights) < 0:
            raise ValueError(
                f"weights must be 0 or more, not value={self.value}, gradient={self.gradient}, label={self.label}"
            )
        if self.has_predictor != any(weights):
            raise ValueError(f"crosses={self.crosses} needs {'a' if self.has_predictor else 'no'} weight above 0")
        if self.crosses == "output" and (self.value or self.label):
            raise ValueError("a predictor that puts out the gradient has no value and no label to match")

    @property
    def has_predictor(self) -> bool:
        return self.crosses in ("output", "derivative")

    @property
    def needs_true_gradient(self) -> bool:
        return self.crosses == "gradient" or self.gradient > 0

    def predict(self, predictor: nn.Module, h_B: Tensor, labels_B: Tensor) -> Prediction:
        """What a predictor makes of a hidden layer: the synthetic gradient, and what it takes to learn from a target.

        Args:
            predictor: of the label, h -> log p (B, K), or of the gradient, (h, y) -> g. A label predictor with a method
                `linearise` (see `LabelPredictor`) learns from gradients without double backward.
            h_B: (B, ...), of any shape beyond.
            labels_B: (B,) class numbers.
        """
        with torch.enable_grad():
            h_B = h_B.detach()
            if self.crosses == "output":
                output_B = predictor(h_B, labels_B)
                return Prediction(self, predictor, labels_B, output_B.detach(), output_B=output_B)
            h_B.requires_grad_()
            tangent = None
            if self.gradient and hasattr(predictor, "linearise"):
                log_p_BK, tangent = predictor.linearise(h_B)
            else:
                log_p_BK = predictor(h_B)
            loss_B = -log_p_BK.gather(1, labels_B[:, None]).squeeze(1)
            double = bool(self.gradient) and tangent is None
            (derivative_B,) = torch.autograd.grad(loss_B.sum(), h_B, retain_graph=True, create_graph=double)
        return Prediction(
            self,
            predictor,
            labels_B,
            derivative_B.detach(),
            derivative_B if double else None,
            loss_B,
            log_p_BK,
            tangent,
        )

    def distances(self, prediction_B: Tensor, target_B: Tensor) -> Tensor:
        """The distance l of each sample, (B,), its components summed or averaged as `reduction` says."""
        prediction_BC, target_BC = _components(prediction_B), _components(target_B)
        distance_B = DISTANCES[self.distance](prediction_BC, target_BC)
        return distance_B / prediction_BC.shape[1] if self.reduction == "mean" else distance_B


@dataclass
class Prediction:
    """A predictor's answer for one batch. The graph goes down to the hidden layer and no further.

    Attributes:
        gradient_B: the synthetic gradient of each sample's loss, of h's shape, without a graph.
        loss_B: m (B,), of a label predictor.
        log_p_BK: its log-probabilities.
    """

    technique: Technique
    predictor: nn.Module
    labels_B: Tensor
    gradient_B: Tensor
    output_B: Tensor | None = None  # the gradient with its graph: of a direct predictor, or where double backward is
    loss_B: Tensor | None = None
    log_p_BK: Tensor | None = None
    tangent: Callable[[Tensor], Tensor] | None = None

    def gradients(
        self, target_loss_B: Tensor, target_gradient_B: Tensor | None, target_log_p_BK: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The predictor loss, and its gradients by the predictor's trainable parameters. The targets are constants.

        The gradient of b l(dm/dh, t) needs no double backward where the predictor is piecewise linear up to its
        softmax: with the cotangent c = b dl/d(dm/dh), it is that of the directional derivative D_h m c at constant c.
        """
        technique = self.technique
        with torch.enable_grad():
            terms = []
            if technique.value:
                terms.append(technique.value * technique.distances(self.loss_B, target_loss_B.detach()).mean())
            if technique.label:
                terms.append(technique.label * technique.distances(self.log_p_BK, target_log_p_BK.detach()).mean())
            shown = [*terms]
            if technique.gradient:
                synthetic_B = self.gradient_B.clone().requires_grad_() if self.tangent else self.output_B
                distance_B = technique.distances(synthetic_B, target_gradient_B.detach())
                terms.append(technique.gradient * distance_B.mean())
                shown.append(terms[-1])
                if self.tangent:
                    (cotangent_B,) = torch.autograd.grad(terms.pop(), synthetic_B)
                    slope_BK = self.tangent(cotangent_B)
                    terms.append(-slope_BK.gather(1, self.labels_B[:, None]).sum())
            parameters = trainable(self.predictor)
            # A bias need not enter a derivative: where only gradients are matched, some parameters have none.
            gradients = gradients_of(sum(terms), parameters, allow_unused=True, materialize_grads=True)
        return sum(term.detach() for term in shown), gradients


def trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def gradients_of(
    output: Tensor, wanted: Sequence[Tensor], cotangent: Tensor | None = None, **settings: bool
) -> list[Tensor]:
    """`torch.autograd.grad`, which refuses to be asked for nothing; some parts have nothing to learn."""
    return list(torch.autograd.grad(output, wanted, cotangent, **settings)) if wanted else []


def _components(tensor_B: Tensor) -> Tensor:
    """(B, ...) to (B, components), in float32 or better; channels last, which is how images lie in memory."""
    if tensor_B.dtype in (torch.bfloat16, torch.float16):
        tensor_B = tensor_B.float()
    return tensor_B.movedim(1, -1).flatten(1) if tensor_B.dim() > 1 else tensor_B[:, None]


TECHNIQUES = {
    "backprop": Technique("gradient"),
    "noprop": Technique("nothing"),
    "direct": Technique("output", gradient=1),
    "vfbn": Technique("derivative", gradient=1),
    "critic": Technique("derivative", value=1),
    "sobolev": Technique("derivative", value=1, gradient=1),
    "sobolev_label": Technique("derivative", value=1, gradient=1, label=1),
}
