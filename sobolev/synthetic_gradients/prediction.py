"""How a predictor predicts from a hidden layer, and learns from the true loss and gradient: `Technique`'s equations.

Shape suffixes: B samples, C components, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sobolev.losses import DISTANCES
from sobolev.synthetic_gradients.technique import Technique


@dataclass
class Prediction:
    """A predictor's output for one batch. Its graph ends at the hidden layer.

    Attributes:
        technique: what the predictor learns from.
        predictor: the predictor itself.
        labels_B: the labels that it was given.
        output_B: the synthetic gradient of each sample's loss, of h's shape. It has a graph if it comes from a gradient
            predictor or if double backward is needed.
        loss_B: the predicted loss m (B,) of a label predictor.
        log_p_BK: the log-probabilities of a label predictor.
        tangent: the function v -> D_h log p v of a label predictor with `linearise`.
    """

    technique: Technique
    predictor: nn.Module
    labels_B: Tensor
    output_B: Tensor
    loss_B: Tensor | None = None
    log_p_BK: Tensor | None = None
    tangent: Callable[[Tensor], Tensor] | None = None

    @property
    def gradient_B(self) -> Tensor:
        """The synthetic gradient without a graph."""
        return self.output_B.detach()

    def gradients(
        self, target_loss_B: Tensor | None, target_gradient_B: Tensor | None, target_log_p_BK: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """The predictor loss, and its gradients with respect to the predictor's trainable parameters.

        The targets are constants; a target that the technique does not compare is None.

        The gradient of b l(dm/dh, t) needs no double backward if the predictor is piecewise linear up to its softmax:
        with the cotangent c = b dl/d(dm/dh), it is that of the directional derivative D_h m c at constant c.
        """
        technique = self.technique
        with torch.enable_grad():
            terms = []
            if technique.value:
                terms.append(technique.value * self._distance(self.loss_B, target_loss_B))
            if technique.label:
                terms.append(technique.label * self._distance(self.log_p_BK, target_log_p_BK))
            reported = [*terms]
            if technique.gradient:
                synthetic_B = self.gradient_B.clone().requires_grad_() if self.tangent else self.output_B
                terms.append(technique.gradient * self._distance(synthetic_B, target_gradient_B))
                reported.append(terms[-1])
                if self.tangent:
                    (cotangent_B,) = torch.autograd.grad(terms.pop(), synthetic_B)
                    slope_BK = self.tangent(cotangent_B)
                    terms.append(-slope_BK.gather(1, self.labels_B[:, None]).sum())
            gradients = gradients_of(sum(terms[1:], terms[0]), trainable(self.predictor))
        shown = [term.detach() for term in reported]
        return sum(shown[1:], shown[0]), gradients

    def _distance(self, prediction_B: Tensor | None, target_B: Tensor | None) -> Tensor:
        """The mean over samples of the distance l, summed or averaged over components according to `reduction`."""
        if prediction_B is None or target_B is None:
            raise ValueError("a weight of the technique is of something that was not predicted, or has no target")
        prediction_BC, target_BC = _components(prediction_B), _components(target_B.detach())
        distance_B = DISTANCES[self.technique.distance](prediction_BC, target_BC)
        return (distance_B / prediction_BC.shape[1] if self.technique.reduction == "mean" else distance_B).mean()


def predict(technique: Technique, predictor: nn.Module, h_B: Tensor, labels_B: Tensor) -> Prediction:
    """A predictor's synthetic gradient for a hidden layer, and what it needs to learn from a target later.

    Args:
        technique: what crosses the split, and what the predictor learns from.
        predictor: a label predictor, h -> log p (B, K), or a gradient predictor, (h, y) -> g. A label predictor
            with a method `linearise` (see `LabelPredictor`) learns from gradients without double backward.
        h_B: the hidden layer (B, ...).
        labels_B: (B,) class numbers.
    """
    with torch.enable_grad():
        h_B = h_B.detach()
        if technique.crosses == "output":
            output_B = predictor(h_B, labels_B)
            return Prediction(technique, predictor, labels_B, output_B)
        h_B.requires_grad_()
        tangent = None
        linearise = getattr(predictor, "linearise", None)
        if technique.gradient and linearise is not None:
            log_p_BK, tangent = linearise(h_B)
        else:
            log_p_BK = predictor(h_B)
        loss_B = -log_p_BK.gather(1, labels_B[:, None]).squeeze(1)
        double = bool(technique.gradient) and tangent is None
        (derivative_B,) = torch.autograd.grad(loss_B.sum(), h_B, retain_graph=True, create_graph=double)
    return Prediction(
        technique,
        predictor,
        labels_B,
        derivative_B,
        loss_B,
        log_p_BK,
        tangent,
    )


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that require gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def gradients_of(output: Tensor, wanted: Sequence[Tensor], cotangent: Tensor | None = None) -> list[Tensor]:
    """`torch.autograd.grad` as a list. The list is empty for no inputs, which PyTorch would refuse.

    The gradient is 0 for inputs that the output does not depend on, such as an unused head, or the last bias if only
    gradients are matched.
    """
    given = {"allow_unused": True, "materialize_grads": True}
    return list(torch.autograd.grad(output, wanted, cotangent, **given)) if wanted else []


def _components(tensor_B: Tensor) -> Tensor:
    """(B, ...) to (B, components), in float32 or better. Channels come last, as they do in memory."""
    if tensor_B.dtype in (torch.bfloat16, torch.float16):
        tensor_B = tensor_B.float()
    return tensor_B.movedim(1, -1).flatten(1) if tensor_B.dim() > 1 else tensor_B[:, None]
