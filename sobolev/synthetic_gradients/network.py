"""A network in parts, with gradient predictors where it is split: one training step (Section 4.3, SM 4).

Part k maps h_{k-1} to h_k, and h_0 = x. Its parameters get the gradient of

    1/B sum_b <h_k(b), SG_k(b)>        SG_k constant,

where SG_k is the synthetic gradient that predictor k makes of h_k. Nothing of it comes from above h_k. The last part
gets the true gradient of 1/B sum_b L(b). Predictor k learns from L and dL/dh_k as its `Technique` says.

Each part has a graph of its own that ends at its input, so a backward pass goes through one part, and computes what is
asked for and no more: the input's gradient only where someone learns from it. A part without trainable parameters
learns nothing; gradients still go through it.

Shape suffixes: B samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sobolev.networks.gradient_predictors import at_least_float32
from sobolev.synthetic_gradients.technique import Prediction, Technique, gradients_of, trainable


@dataclass(frozen=True)
class Step:
    """What one step saw; every `.grad` is filled. Nothing here has a graph.

    Attributes:
        loss_B: the true losses L.
        logits_BK: of the last part.
        predicted_losses_B: m at each split, from below; empty where predictors know no loss.
        predictor_losses: what each predictor learns from, from below.
    """

    loss_B: Tensor
    logits_BK: Tensor
    predicted_losses_B: list[Tensor]
    predictor_losses: list[Tensor]


@dataclass(frozen=True)
class Comparison:
    """Synthetic beside true gradients, for evaluation. Nothing here has a graph.

    Attributes:
        loss_B: the true losses L.
        logits_BK: of the last part.
        predicted_losses_B: m at each split, from below; empty where predictors know no loss.
        synthetic_B: SG of each sample at each split, from below; zero where nothing crosses.
        true_B: dL/dh of each sample at each split, from below.
    """

    loss_B: Tensor
    logits_BK: Tensor
    predicted_losses_B: list[Tensor]
    synthetic_B: list[Tensor]
    true_B: list[Tensor]


class DecoupledNetwork(nn.Module):
    """A network in parts and the predictors between them. `network(x)` is the logits, as of any network.

    `step` fills the `.grad` of parts and predictors, which any optimiser then applies. With the technique `backprop` it
    is backpropagation, part by part.

    In training mode BatchNorm couples the samples of a batch; "the gradient of a sample's loss" then means that of the
    sum of the batch's losses.

    Args:
        parts: from the input up; the last one ends in logits (B, K).
        predictors: one for each part but the last where the technique has them, else none.
        technique: what crosses the splits and what predictors learn from.

    Raises:
        ValueError: the number of predictors does not fit, or parts and predictors share a trainable parameter.
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
        if technique.crosses == "nothing":
            self.parts[:-1].requires_grad_(False)

    def forward(self, x_B: Tensor) -> Tensor:
        """Logits (B, K)."""
        for part in self.parts:
            x_B = part(x_B)
        return x_B

    def step(self, x_B: Tensor, labels_B: Tensor) -> Step:
        """One forward pass, and the gradients that every part and predictor learns from, in `.grad`.

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

        # The others, from above: here only because a target goes down through the parts.
        target_loss_B, target_log_p_BK = loss_B, log_p_BK
        predictor_losses = []
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
        """Synthetic and true gradients of each sample at each split. No `.grad` is touched; works under `no_grad`."""
        with torch.enable_grad():
            # From the first split on, one graph.
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
        """Those of the parts that learn: with `noprop` the last one's."""
        return trainable(self.parts)

    def _forward_in_parts(self, x_B: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Input and output of each part; each input is a leaf."""
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
        """Each predictor's answer; it needs the hidden layer beneath it and nothing else."""
        return [
            self.technique.predict(predictor, h_B, labels_B)
            for predictor, h_B in zip(self.predictors, outputs, strict=False)
        ]


def _loss_of(logits_BK: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(logits, L, log p), in float32 or better."""
    logits_BK = at_least_float32(logits_BK)
    log_p_BK = logits_BK.log_softmax(1)
    return logits_BK, functional.nll_loss(log_p_BK, labels_B, reduction="none"), log_p_BK


def _refuse_sharing(parts: Sequence[nn.Module], predictors: Sequence[nn.Module]) -> None:
    """Each part and predictor fills `.grad` with its own gradient: of two that share a parameter, one would be lost."""
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
    """Of the version `before` a part saw it: the predictor beneath would see what the part made of it."""
    if input_B._version != before:
        raise ValueError(
            "a part changes its input in place, which is the output of the part beneath: let it begin with a layer of "
            "inplace=False"
        )


def _fill(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor], factor: float | None = None) -> None:
    """Set each `.grad`, in the memory layout of its parameter, as fused optimisers take for granted."""
    if factor is not None and gradients:
        # Out of place: autograd may hand one tensor to several parameters, those of a sum, and to the part below.
        gradients = torch._foreach_mul(gradients, factor)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        same = gradient.stride() == parameter.stride()
        parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
