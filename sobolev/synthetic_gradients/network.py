"""A network in parts, with gradient predictors where it is split: one training step (Section 4.3, SM 4).

Part k maps h_{k-1} to h_k, and h_0 = x. Its parameters get the gradient of

    1/B sum_b <h_k(b), SG_k(b)>        SG_k constant,

where SG_k is the synthetic gradient that predictor k computes from h_k alone, without the parts above. The last part
gets the true gradient of 1/B sum_b L(b). Predictor k learns from L and dL/dh_k as its `Technique` says.

Each part has its own graph, which ends at its input, so a backward pass goes through one part. It computes the gradient
with respect to the part's input only if a predictor or a part below learns from it. Gradients also pass through a part
without trainable parameters.

Shape suffixes: B samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sobolev.guards import check_log_probabilities
from sobolev.networks.gradient_predictors import at_least_float32
from sobolev.synthetic_gradients.prediction import Prediction, gradients_of, predict, trainable
from sobolev.synthetic_gradients.technique import Technique


@dataclass(frozen=True)
class Step:
    """What a training step computed besides the gradients. Nothing here has a graph.

    Attributes:
        loss_B: the true losses L.
        logits_BK: the last part's output.
        predicted_losses_B: the predicted loss m at each split, from below; empty if predictors do not predict a loss.
        predictor_losses: the loss of each predictor, from below.
    """

    loss_B: Tensor
    logits_BK: Tensor
    predicted_losses_B: list[Tensor]
    predictor_losses: list[Tensor]


@dataclass(frozen=True)
class Comparison:
    """Synthetic and true gradients, for evaluation. Nothing here has a graph.

    Attributes:
        loss_B: the true losses L.
        logits_BK: the last part's output.
        predicted_losses_B: the predicted loss m at each split, from below; empty if predictors do not predict a loss.
        synthetic_B: SG of each sample at each split, from below; zero if nothing crosses the splits.
        true_B: dL/dh of each sample at each split, from below.
    """

    loss_B: Tensor
    logits_BK: Tensor
    predicted_losses_B: list[Tensor]
    synthetic_B: list[Tensor]
    true_B: list[Tensor]


class DecoupledNetwork(nn.Module):
    """A network in parts and the predictors between them. `network(x)` returns logits, like any network.

    `step` fills the `.grad` of parts and predictors, for any optimiser to apply. With the technique `backprop` it is
    backpropagation, part by part.

    In training mode BatchNorm couples the samples of a batch. "The gradient of a sample's loss" with respect to its
    hidden layer is then that of the sum of the batch's losses.

    Args:
        parts: the parts from the input up. The last one ends in logits (B, K).
        predictors: one for each part except the last if the technique has predictors, else none.
        technique: what crosses the splits and what predictors learn from.

    Raises:
        ValueError: the number of predictors does not fit, or two parts or predictors share a trainable parameter. In
            use: a part changes its input in place; a label predictor's outputs are not log-probabilities.
    """

    def __init__(self, parts: Sequence[nn.Module], predictors: Sequence[nn.Module], technique: Technique):
        super().__init__()
        expected = len(parts) - 1 if technique.has_predictor else 0
        if len(parts) < 1 or len(predictors) != expected:
            raise ValueError(
                f"{len(parts)} parts with crosses={technique.crosses} need {expected} predictors, not {len(predictors)}"
            )
        _refuse_sharing(parts, predictors)
        self.parts = nn.ModuleList(parts)
        self.predictors = nn.ModuleList(predictors)
        self.technique = technique
        self._seen: set[torch.device] = set()
        if technique.crosses == "nothing":
            self.parts[:-1].requires_grad_(False)

    def forward(self, x_B: Tensor) -> Tensor:
        """Logits (B, K)."""
        for part in self.parts:
            x_B = part(x_B)
        return x_B

    def step(self, x_B: Tensor, labels_B: Tensor) -> Step:
        """Set the `.grad` of every part and predictor from one batch.

        Args:
            x_B: (B, ...), the input of the first part.
            labels_B: (B,) class numbers.
        """
        technique, batch = self.technique, len(labels_B)
        with torch.enable_grad():
            inputs, outputs = self._forward_in_parts(x_B)
            logits_BK, loss_B, log_p_BK = _loss_of(outputs[-1], labels_B)
        predictions = self._predict(outputs, labels_B)

        # The last part, from the true loss.
        top = trainable(self.parts[-1])
        passes_down = technique.needs_true_gradient and len(self.parts) > 1
        gradients = gradients_of(loss_B.sum(), [*inputs[-1:], *top] if passes_down else top)
        target_B = gradients.pop(0) if passes_down else None
        _fill(top, gradients, 1 / batch)

        # The others, from the top down, because the predictors' targets come through the parts above.
        target_loss_B: Tensor | None = loss_B
        target_log_p_BK: Tensor | None = log_p_BK
        predictor_losses: list[Tensor] = []
        for k in reversed(range(len(self.parts) - 1)):
            if technique.crosses == "nothing":
                break
            prediction = predictions[k] if predictions else None
            cotangent_B = prediction.gradient_B if prediction else target_B
            if prediction:
                shown, gradients = prediction.gradients(target_loss_B, target_B, target_log_p_BK)
                predictor_losses.insert(0, shown)
                _fill(trainable(prediction.predictor), gradients)
            own = trainable(self.parts[k])
            passes_down = technique.needs_true_gradient and k > 0
            from_below = technique.crosses == "gradient" or technique.targets == "bootstrapped"
            if passes_down and not from_below:
                (target_B,) = torch.autograd.grad(outputs[k], inputs[k], target_B, retain_graph=True)
            together = passes_down and from_below
            gradients = gradients_of(outputs[k], [inputs[k], *own] if together else own, cotangent_B)
            if together:
                target_B = gradients.pop(0)
            if prediction and technique.targets == "bootstrapped":
                target_loss_B, target_log_p_BK = prediction.loss_B, prediction.log_p_BK
            _fill(own, gradients, 1 / batch)
        predicted = [p.loss_B.detach() for p in predictions if p.loss_B is not None]
        return Step(loss_B.detach(), logits_BK.detach(), predicted, predictor_losses)

    def compare(self, x_B: Tensor, labels_B: Tensor) -> Comparison:
        """Synthetic and true gradients at each split. Leaves every `.grad` unchanged, and works under `no_grad`."""
        with torch.enable_grad():
            # One graph from the first split on.
            h_B = self.parts[0](x_B).detach().requires_grad_()
            outputs = [h_B]
            for part in self.parts[1:]:
                outputs.append(part(outputs[-1]))
            logits_BK, loss_B, _ = _loss_of(outputs[-1], labels_B)
            true_B = torch.autograd.grad(loss_B.sum(), outputs[:-1]) if len(self.parts) > 1 else ()
        predictions = self._predict(outputs, labels_B)
        synthetic_B = [p.gradient_B for p in predictions]
        if not predictions:
            synthetic_B = [g.clone() if self.technique.crosses == "gradient" else torch.zeros_like(g) for g in true_B]
        predicted = [p.loss_B.detach() for p in predictions if p.loss_B is not None]
        return Comparison(loss_B.detach(), logits_BK.detach(), predicted, synthetic_B, list(true_B))

    def main_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters of the parts. With `noprop` only the last part has any."""
        return trainable(self.parts)

    def _forward_in_parts(self, x_B: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The input and the output of each part. Each input is a leaf of its part's graph."""
        inputs, outputs = [], []
        for k, part in enumerate(self.parts):
            learns = self.technique.crosses != "nothing" or part is self.parts[-1]
            inputs.append(x_B.detach().requires_grad_(k > 0 and self.technique.needs_true_gradient))
            before = inputs[-1]._version
            with torch.set_grad_enabled(learns):
                x_B = part(inputs[-1])
            if k:
                _refuse_in_place(inputs[-1], before)
            outputs.append(x_B)
        return inputs, outputs

    def _predict(self, outputs: list[Tensor], labels_B: Tensor) -> list[Prediction]:
        """Each predictor's prediction from the hidden layer at its split."""
        predictions = [
            predict(self.technique, predictor, h_B, labels_B)
            for predictor, h_B in zip(self.predictors, outputs, strict=False)
        ]
        said = {f"predictor {k}": p.log_p_BK for k, p in enumerate(predictions) if p.log_p_BK is not None}
        check_log_probabilities(said, self._seen)
        return predictions


def _loss_of(logits_BK: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(logits, L, log p), in float32 or better."""
    logits_BK = at_least_float32(logits_BK)
    log_p_BK = logits_BK.log_softmax(1)
    return logits_BK, functional.nll_loss(log_p_BK, labels_B, reduction="none"), log_p_BK


def _refuse_sharing(parts: Sequence[nn.Module], predictors: Sequence[nn.Module]) -> None:
    """Refuse shared parameters: each part and predictor sets `.grad`, so one would overwrite the other's gradient."""
    owners: dict[nn.Parameter, str] = {}
    named = [(f"part {k}", part) for k, part in enumerate(parts)]
    named += [(f"predictor {k}", predictor) for k, predictor in enumerate(predictors)]
    for owner, module in named:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and owners.setdefault(parameter, owner) != owner:
                raise ValueError(
                    f"{owners[parameter]} and {owner} share {name}, and each learns from a gradient of its own: "
                    "give each a parameter of its own, or freeze it"
                )


def _refuse_in_place(input_B: Tensor, before: int) -> None:
    """Refuse a part that changed its input since version `before`, because the predictor would see the change."""
    if input_B._version != before:
        raise ValueError(
            "a part changes its input in place, which is the output of the part below: let it begin with a layer of "
            "inplace=False"
        )


def _fill(parameters: Sequence[nn.Parameter], gradients: list[Tensor], factor: float | None = None) -> None:
    """Set each `.grad` to a gradient times `factor`, in its parameter's memory layout, as fused optimisers need."""
    if factor is not None and gradients:
        # Out of place, because autograd may return one tensor for several parameters (the terms of a sum, say) and for
        # the part below.
        gradients = [*torch._foreach_mul(gradients, factor)]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        same = gradient.stride() == parameter.stride()
        parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
