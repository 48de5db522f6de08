"""Whether descent on the Sobolev loss (Eq. 1) reduces it, for networks that already fit the values.

The derivative of a ReLU network is constant between its kinks. Moving a kink changes the expected loss of derivatives,
but not the loss at any single sample, so backpropagation misses that part of the gradient. For m(x) = max(0, x - b) and
a target u on [0, 1]

    G(b) = E (m' - u')^2,    dG/db = 2 u'(b) - 1,    and yet d/db (m'(x) - u'(x))^2 = 0 at every x but b.

So a descent step may increase the expected loss. Networks are trained on values only, then on values and gradients, in
the normalised protocol. As a control, networks with a smooth activation, whose gradient misses nothing, are trained in
the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.regression import train
from experiments.regression.settings import DescentConfig
from experiments.regression.train import (
    TRAIN_POINTS_EVALUATED,
    Normalizer,
    by_seed,
    draw,
    new_ensemble,
    rows,
)
from experiments.regression.updates import gradient_computer, shuffled_batches
from experiments.runner.divergence import check_convergence
from experiments.runner.run import Run
from experiments.runner.schedules import evaluation_steps, learning_rate
from sobolev.functions import FUNCTIONS
from sobolev.networks import MLPEnsemble

TERMS = ("value_loss", "gradient_loss")  # the weighted terms of the loss, by order


def main(config: DescentConfig, run: Run) -> dict:
    """Train twice; the objective is the median ratio of the final loss to the loss when the second training starts.

    Rows are the terms of the loss; the loss is the sum of the two metrics on the training points. Step 0 is the start
    of the second training.
    """
    weights = config.loss.weights[:2]
    seeds = range(config.seed, config.seed + config.networks)

    # Data
    data, test = draw_normalised(config, seeds, run)
    seen = [tensor[:, :TRAIN_POINTS_EVALUATED] for tensor in data]

    # Model and losses
    ensemble = new_ensemble(config, FUNCTIONS[config.dataset.name].inputs, seeds, run)
    batch_size = min(config.n_train, config.optimizer.batch_size)
    on_values = gradient_computer(ensemble, batch_size, [1.0], ["squared_l2"])
    on_both = gradient_computer(ensemble, batch_size, weights, ["squared_l2"] * 2)
    optimizer = torch.optim.Adam(ensemble.parameters(), fused=True)
    of_zeros_E = loss_of_zeros(test, weights)

    # Loop: `step` counts the updates of both trainings.
    first, before, losses = 0, config.start.steps, {}
    last = before + config.optimizer.steps
    if state := run.resume():
        first, losses = state["step"], state["losses"]
        ensemble.load_state_dict(state["ensemble"])
        optimizer.load_state_dict(state["optimizer"])
    evaluate_at = set(evaluation_steps(config.optimizer.steps, config.evaluations))
    batches = shuffled_batches(data, batch_size, seeds, first)
    for step in run.progress(first, last + 1):
        run.checkpoint(
            lambda step=step: {
                "step": step,
                "losses": losses,
                "ensemble": ensemble.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
        )
        if step == before:
            optimizer.state.clear()  # the second training starts with a new Adam
        if step - before in evaluate_at:
            terms = {"train": loss_terms(ensemble, seen, weights), "test": loss_terms(ensemble, test, weights)}
            run.record(step - before, rows(terms, seeds, TERMS))
            errors, rates = (sum(terms["test"]) / of_zeros_E).sqrt(), "start.learning_rate or optimizer.learning_rate"
            check_convergence(step - before, step == last, by_seed(errors, seeds), lower=rates)
            losses[step - before] = sum(terms["train"])
        if step < last:
            compute_gradients = on_values if step < before else on_both
            compute_gradients(*next(batches))
            training, since = (config.start, 0) if step < before else (config.optimizer, before)
            optimizer.param_groups[0]["lr"] = learning_rate(training, step - since)
            optimizer.step()

    # Evaluate
    ratio = losses[config.optimizer.steps] / losses[0]
    return {"objective": ratio.quantile(0.5).item(), "steps": config.optimizer.steps}


def check(config: DescentConfig) -> None:
    """Refuse the same settings as regression."""
    train.check(config)


def draw_normalised(config: DescentConfig, seeds: range, run: Run) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs, values and gradients of the training and test points, in the network's units."""
    function = FUNCTIONS[config.dataset.name]
    train_data = draw(function, config.n_train, seeds, "train", 1, run)
    test_data = draw(function, config.n_test, seeds, "test", 1, run)
    normalizer = Normalizer.fit(function, train_data) if config.normalise else Normalizer.identity(train_data)
    return normalizer.normalise(train_data), normalizer.normalise(test_data)


def loss_terms(ensemble: MLPEnsemble, data: Sequence[Tensor], weights: list[float]) -> list[Tensor]:
    """The weighted terms of the loss by order, per network (E,), on data in the network's units."""
    errors = Normalizer.identity(data).errors(ensemble, data)
    return [weight * error_E for weight, error_E in zip(weights, errors, strict=True)]


def loss_of_zeros(data: Sequence[Tensor], weights: list[float]) -> Tensor:
    """The loss (E,) of networks that are zero everywhere, the reference for divergence."""
    targets = zip(weights, data[1:], strict=True)
    return sum(weight * target.double().square().sum(-1).mean(1).cpu() for weight, target in targets)
