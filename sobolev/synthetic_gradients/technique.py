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
        distance: l, a name in `sobolev.losses.DISTANCES`.
        reduction: whether the distances of gradients and labels are the `sum` over the components of a sample, or their
            `mean`, which makes the weight of a gradient independent of the layer's size. The paper says only L1.
        targets: what a predictor learns from if there is another one above it: the `true` loss and gradient, or those
            `bootstrapped` from the next predictor through the part between them.

    Raises:
        ValueError: an unknown name, negative weights, or weights that do not fit what crosses the splits.
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
            raise ValueError("a predictor whose output is the gradient has no value and no label to match")

    @property
    def has_predictor(self) -> bool:
        """Whether there is a predictor at each split."""
        return self.crosses in ("output", "derivative")

    @property
    def needs_true_gradient(self) -> bool:
        """Whether gradients by the hidden layers are needed from above: by the parts, or as predictors' targets."""
        return self.crosses == "gradient" or self.gradient > 0

    def predict(self, predictor: nn.Module, h_B: Tensor, labels_B: Tensor) -> Prediction:
        """A predictor's synthetic gradient for a hidden layer, and what it needs to learn from a target afterwards.

        Args:
            predictor: a label predictor, h -> log p (B, K), or a gradient predictor, (h, y) -> g. A label predictor
                with a method `linearise` (see `LabelPredictor`) learns from gradients without double backward.
            h_B: the hidden layer (B, ...).
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
    """A predictor's output for one batch. Its graph ends at the hidden layer.

    Attributes:
        technique: what the predictor learns from.
        predictor: the predictor itself.
        labels_B: the labels that it was given.
        gradient_B: the synthetic gradient of each sample's loss, of h's shape, without a graph.
        output_B: the same gradient with its graph, of a gradient predictor or where double backward is needed.
        loss_B: the predicted loss m (B,) of a label predictor.
        log_p_BK: the log-probabilities of a label predictor.
        tangent: the function v -> D_h log p v of a label predictor with `linearise`.
    """

    technique: Technique
    predictor: nn.Module
    labels_B: Tensor
    gradient_B: Tensor
    output_B: Tensor | None = None
    loss_B: Tensor | None = None
    log_p_BK: Tensor | None = None
    tangent: Callable[[Tensor], Tensor] | None = None

    def gradients(
        self, target_loss_B: Tensor, target_gradient_B: Tensor | None, target_log_p_BK: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The predictor loss, and its gradients by the predictor's trainable parameters. The targets are constants.

        The gradient of b l(dm/dh, t) needs no double backward if the predictor is piecewise linear up to its softmax:
        with the cotangent c = b dl/d(dm/dh), it is that of the directional derivative D_h m c at constant c.
        """
        technique = self.technique
        with torch.enable_grad():
            terms = []
            if technique.value:
                terms.append(technique.value * technique.distances(self.loss_B, target_loss_B.detach()).mean())
            if technique.label:
                terms.append(technique.label * technique.distances(self.log_p_BK, target_log_p_BK.detach()).mean())
            reported = [*terms]
            if technique.gradient:
                synthetic_B = self.gradient_B.clone().requires_grad_() if self.tangent else self.output_B
                distance_B = technique.distances(synthetic_B, target_gradient_B.detach())
                terms.append(technique.gradient * distance_B.mean())
                reported.append(terms[-1])
                if self.tangent:
                    (cotangent_B,) = torch.autograd.grad(terms.pop(), synthetic_B)
                    slope_BK = self.tangent(cotangent_B)
                    terms.append(-slope_BK.gather(1, self.labels_B[:, None]).sum())
            parameters = trainable(self.predictor)
            # If only gradients are matched, some parameters (the last bias, say) have no gradient.
            gradients = gradients_of(sum(terms), parameters, allow_unused=True, materialize_grads=True)
        return sum(term.detach() for term in reported), gradients


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that require gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def gradients_of(
    output: Tensor, wanted: Sequence[Tensor], cotangent: Tensor | None = None, **settings: bool
) -> list[Tensor]:
    """`torch.autograd.grad` as a list, empty where nothing is wanted, which PyTorch refuses."""
    return list(torch.autograd.grad(output, wanted, cotangent, **settings)) if wanted else []


def _components(tensor_B: Tensor) -> Tensor:
    """(B, ...) to (B, components), in float32 or better. Channels come last, as they lie in memory."""
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
