"""Whether descent on the Sobolev loss (Eq. 1) makes it smaller, for networks that fit their values already.

The derivative of a ReLU network is constant between its kinks. Moving a kink changes the expected loss of derivatives,
but at no single sample, so the gradient that backpropagation finds lacks that part. For m(x) = max(0, x - b) and a
target u on [0, 1]

    G(b) = E (m' - u')^2,    dG/db = 2 u'(b) - 1,    and yet d/db (m'(x) - u'(x))^2 = 0 at every x but b.

So a step along it may raise the very loss. Networks are trained on values alone, then on values and gradients, in the
normalised protocol. With a smooth activation nothing is missing, and all else is equal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.regression import train
from experiments.regression.settings import DescentConfig
from experiments.regression.train import (
    FULL_HIDDEN,
    FULL_NETWORKS,
    TRAIN_POINTS_EVALUATED,
    Units,
    by_seed,
    draw,
    gradient_computer,
    new_ensemble,
    rows,
    shuffled_batches,
)
from experiments.runner.divergence import check_convergence
from experiments.runner.errors import BadInput, check_positive
from experiments.runner.limits import check_updates
from experiments.runner.run import Run
from experiments.runner.schedules import evaluation_steps, learning_rate
from experiments.runner.settings import Schedule
from sobolev.functions import BENCHMARKS

TERMS = ("value_loss", "gradient_loss")  # of the loss, by order, with their weights
# Below any of these, or in another protocol (rate and schedule of either training), a run is `reduced`.
FULL_STEPS, FULL_TEST_POINTS = 5_000, 2_000
PROTOCOL = (True, 1e-3, Schedule.cosine, 1e-4, Schedule.cosine)


def main(config: DescentConfig, run: Run) -> dict:
    """Train twice; the objective is the median of the loss's last value over the one where the second training began.

    Rows are the terms of the loss, which is the sum of the two metrics of the training points. Their step 0 is where
    the second training begins.
    """
    weights = config.loss.weights[:2]
    seeds = range(config.seed, config.seed + config.networks)

    # Data
    function = BENCHMARKS[config.dataset.name]
    train = draw(function, config.n_train, seeds, "train", 1, run)
    units = Units.of(function, train) if config.normalise else Units.raw(train)
    data = units.normalise(train)
    seen = tuple(tensor[:, :TRAIN_POINTS_EVALUATED] for tensor in data)
    test = tuple(units.normalise(draw(function, config.n_test, seeds, "test", 1, run)))
    as_they_are = Units.raw(test)

    # Model and losses
    ensemble = new_ensemble(config, seeds, run)
    batch_size = min(config.n_train, config.optimizer.batch_size)
    on_values = gradient_computer(ensemble, batch_size, [1.0], ["squared_l2"])
    on_both = gradient_computer(ensemble, batch_size, weights, ["squared_l2"] * 2)
    optimizer = torch.optim.Adam(ensemble.parameters(), fused=True)

    def terms_of(points: tuple[Tensor, ...]) -> list[Tensor]:
        return [weight * error for weight, error in zip(weights, as_they_are.errors(ensemble, points), strict=True)]

    zeros = zip(weights, test[1:], strict=True)
    of_zeros_E = sum(weight * target.double().square().sum(-1).mean(1).cpu() for weight, target in zeros)

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
            optimizer.state.clear()  # the second training is Adam's anew
        if step - before in evaluate_at:
            terms = {"train": terms_of(seen), "test": terms_of(test)}
            run.record(step - before, rows(terms, seeds, TERMS))
            errors, rates = (sum(terms["test"]) / of_zeros_E).sqrt(), "start.learning_rate or optimizer.learning_rate"
            check_convergence(step - before, step == last, by_seed(errors, seeds), lower=rates)
            losses[step - before] = sum(terms["train"])
        if step < last:
            compute_gradients = on_values if step < before else on_both
            compute_gradients(*next(batches))
            optimizer.param_groups[0]["lr"] = (
                learning_rate(config.start, step) if step < before else learning_rate(config.optimizer, step - before)
            )
            optimizer.step()

    # Evaluate
    ratio = losses[config.optimizer.steps] / losses[0]
    return {"objective": ratio.quantile(0.5).item(), "scale": scale(config), "steps": config.optimizer.steps}


def check(config: DescentConfig) -> None:
    """Refuse what no type can."""
    train.check(config)
    check_positive(**{f"start.{key}": getattr(config.start, key) for key in ("steps", "batch_size", "learning_rate")})
    check_updates(**{"start.steps": config.start.steps})
    weights, distances = config.loss.weights, config.loss.distances
    if sum(weights[2:]) or not sum(weights[1:2]) or set(distances[:2]) != {"squared_l2"}:
        raise BadInput(
            f"loss={config.loss.name}: expected squared norms, of values and gradients, such as loss=sobolev"
        )
    if config.start.batch_size != config.optimizer.batch_size:
        raise BadInput(
            f"start.batch_size={config.start.batch_size} is not optimizer.batch_size={config.optimizer.batch_size}: "
            "both trainings go through the same batches"
        )


def scale(config: DescentConfig) -> str:
    """`paper` where nothing is smaller than in the shipped experiment and the protocol is its own, else `reduced`."""
    start, optimizer = config.start, config.optimizer
    rates = (start.learning_rate, start.schedule, optimizer.learning_rate, optimizer.schedule)
    whole = (
        config.name == "regression_descent"
        and min(start.steps, optimizer.steps) >= FULL_STEPS
        and config.networks >= FULL_NETWORKS
        and config.n_test >= FULL_TEST_POINTS
        and len(config.model.hidden) >= len(FULL_HIDDEN)
        and min(config.model.hidden) >= min(FULL_HIDDEN)
        and (config.normalise, *rates) == PROTOCOL
    )
    return "paper" if whole else "reduced"
