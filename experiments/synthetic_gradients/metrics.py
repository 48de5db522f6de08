"""A run's metrics: loss and accuracy, and at each split how synthetic gradients compare with the true ones.

Everything is first summed over samples, batches and processes, and divided at the end. Splits of the network are
numbered from 1, from below: `gradient_cosine/1`.

Shape suffixes: B samples of a batch, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from experiments.runner.run import Run
from experiments.synthetic_gradients.data import EVALUATED, Images, evaluation_batches
from experiments.synthetic_gradients.settings import DecoupledConfig
from sobolev.synthetic_gradients import Comparison, DecoupledNetwork, Step

Sums = dict[str, Tensor]


@torch.no_grad()
def evaluate(network: DecoupledNetwork, images: Images, config: DecoupledConfig, run: Run) -> dict[str, float]:
    """All metrics, in evaluation mode; gradients are compared on batches spread over the split."""
    network.eval()
    run.ranks.broadcast(network.buffers())  # each process has its own BatchNorm statistics
    n_batches = -(-len(images) // EVALUATED)
    every = max(1, n_batches // -(-config.gradient_samples // EVALUATED))
    total: Sums = {}
    for number, (x_BCHW, labels_B) in enumerate(evaluation_batches(images, config, run)):
        with run.autocast():
            if number % every == 0:
                comparison = network.compare(x_BCHW, labels_B)
                sums = sums_of(comparison, labels_B) | comparison_sums(comparison)
            else:
                logits_BK = network(x_BCHW).to(run.dtype)
                loss_B = functional.cross_entropy(logits_BK, labels_B, reduction="none")
                sums = sums_of(Step(loss_B, logits_BK, [], []), labels_B)
        total = added(total, sums)
    network.train()
    return averages(run.ranks.all_reduce_sum(total))


def sums_of(seen: Step | Comparison, labels_B: Tensor) -> Sums:
    """Sums over the samples of a batch. A label predictor's metrics count `compared` samples."""
    top_B5 = seen.logits_BK.topk(min(5, seen.logits_BK.shape[1])).indices
    hits_B5 = top_B5 == labels_B[:, None]
    sums = {
        "samples": seen.loss_B.new_full((), len(labels_B)),
        "loss": seen.loss_B.sum(),
        "accuracy_top1": hits_B5[:, 0].sum(),
        "accuracy_top5": hits_B5.sum(),
    }
    for k, predicted_B in enumerate(seen.predicted_losses_B, 1):
        sums["compared"] = sums["samples"]
        sums[f"predicted_loss/{k}"] = predicted_B.sum()
        sums[f"predicted_loss_error/{k}"] = (predicted_B - seen.loss_B).abs().sum()
    if isinstance(seen, Step):
        for k, loss in enumerate(seen.predictor_losses, 1):
            sums[f"predictor_loss/{k}"] = loss * len(labels_B)
    return dict(zip(sums, torch.stack(list(sums.values())).double().unbind(), strict=True))


def added(total: Sums, sums: Sums) -> Sums:
    """Add two sets of sums, in one kernel, because a step has a dozen of them. A missing sum counts as 0."""
    common = [name for name in sums if name in total]
    of_both = torch._foreach_add([total[name] for name in common], [sums[name] for name in common]) if common else ()
    return total | sums | dict(zip(common, of_both, strict=True))


def comparison_sums(comparison: Comparison) -> Sums:
    """Products of synthetic and true gradients at each split."""
    sums = {}
    for k, (synthetic, true) in enumerate(zip(comparison.synthetic_B, comparison.true_B, strict=True), 1):
        synthetic, true = synthetic.double(), true.double()
        sums[f"synthetic_true/{k}"] = (synthetic * true).sum()
        sums[f"synthetic_squared/{k}"] = synthetic.square().sum()
        sums[f"true_squared/{k}"] = true.square().sum()
        sums[f"difference_squared/{k}"] = (synthetic - true).square().sum()
    return sums


def averages(sums: Sums) -> dict[str, float]:
    """Metrics from sums over samples.

    The gradients of all compared samples form one vector: its cosine is between synthetic and true (0 if undefined),
    and its error is |synthetic - true| / |true|.
    """
    total = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
    samples, compared = total.pop("samples"), total.pop("compared", 0)
    metrics = {}
    for name, value in total.items():
        metric, _, k = name.partition("/")
        if metric == "true_squared":
            product, own = total[f"synthetic_true/{k}"], total[f"synthetic_squared/{k}"]
            metrics[f"gradient_cosine/{k}"] = product / math.sqrt(own * value) if own * value > 0 else 0.0
            if value > 0:
                metrics[f"gradient_relative_error/{k}"] = math.sqrt(total[f"difference_squared/{k}"] / value)
        elif metric.startswith("predicted_loss"):
            metrics[name] = value / compared
        elif not metric.endswith(("_true", "_squared")):
            metrics[name] = value / samples
    return metrics
