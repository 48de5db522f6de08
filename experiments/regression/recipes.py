"""Recipes for learning from derivatives: a network, its optimiser and the gradient term of the loss.

As in `experiments.regression.train`, a run trains one ensemble in the normalised protocol, with a network for each of
`networks` seeds. With inputs x in [-1, 1]^I, standardised values f, and gradients df in these units, each network
minimises

    1/N sum_n [ (m(x_n) - f_n)^2 + w_t d(D m(x_n), df_n) ]

    w_t = c w phi(t / T)          c is `gradient.factor`, T the number of updates
    w       none: 0               unit: 1               balanced: 1 / mean_n d(0, df_n), over all its training points
    phi(s)  flat: 1               late: (1 + cos(pi s)) / 2, as the learning rate      early: late(2s), 0 from s = 1/2
    d(p, q) square: ||p - q||^2   norm: ||p - q||
    D m     exact: grad m         finite: differences of values, (m(x + h e_i) - m(x - h e_i)) / 2h for each input i

The recipe is chosen on functions outside the paper's seven (`experiments.regression.choosing`).

Shape suffixes: E networks, N samples per network, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from experiments.regression.settings import GradientTermConfig, RecipeConfig
from experiments.regression.train import (
    METRICS,
    Normalizer,
    by_seed,
    check_function,
    draw,
    new_ensemble,
    rows,
)
from experiments.regression.updates import shuffled_batches
from experiments.runner.divergence import check_convergence
from experiments.runner.run import Run
from experiments.runner.schedules import evaluation_steps, learning_rate
from sobolev import schedules
from sobolev.functions import FUNCTIONS
from sobolev.losses import SobolevLoss
from sobolev.networks import MLPEnsemble, ReLUSobolevStep, SmoothSobolevStep
from sobolev.seeding import generator

STEP = 0.05  # h of the differences, for inputs in [-1, 1]
FALLS = {"flat": schedules.constant(), "late": schedules.cosine(), "early": schedules.cosine(until=0.5)}  # phi
DISTANCES = {"square": "squared_l2", "norm": "l2"}


def main(config: RecipeConfig, run: Run) -> dict:
    """Train and evaluate one ensemble; the objective is the median error of the values on the split's points."""
    function = FUNCTIONS[config.dataset.name]
    seeds = range(config.seed, config.seed + config.networks)

    # Data
    train = draw(function, config.n_train, seeds, "train", 1, run)
    held_out = draw(function, config.n_test, seeds, config.split, 1, run)
    normalizer = Normalizer.fit(function, train)
    inputs, values, exact = normalizer.normalise(train)
    gradients = with_noise(exact, config.gradient.noise, seeds)
    of_zeros_E = held_out[1].double().square().mean((1, 2)).cpu()  # the error of a network of zeros

    # Model and loss
    ensemble = new_ensemble(config, function.inputs, seeds, run)
    batch_size = min(config.n_train, config.optimizer.batch_size)
    objective = Objective(ensemble, batch_size, config.gradient, gradients)
    batches = partial(shuffled_batches, [inputs, values, gradients], batch_size, seeds)
    return learn(config, run, ensemble, objective, batches, lambda: normalizer.errors(ensemble, held_out), of_zeros_E)


def learn(
    config: RecipeConfig,
    run: Run,
    ensemble: MLPEnsemble,
    compute_gradients: Callable[..., None],
    batches_from: Callable[[int], Iterator[list[Tensor]]],
    measure: Callable[[], list[Tensor]],
    of_zeros_E: Tensor,
) -> dict:
    """Train an ensemble and record its errors by order; returns the summary.

    Args:
        config: The budget, the learning rate, and the split on which errors are measured.
        run: The run that receives rows and checkpoints.
        ensemble: The networks.
        compute_gradients: Fills their `.grad`, given the fraction of updates done and the tensors of a batch.
        batches_from: The batches from a given update on.
        measure: Returns the errors (E,) by order.
        of_zeros_E: The errors of networks of zeros, the reference for divergence.
    """
    seeds, steps = range(config.seed, config.seed + config.networks), config.optimizer.steps
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=config.optimizer.learning_rate, fused=True)

    first = 0
    if state := run.resume():
        first = state["step"]
        ensemble.load_state_dict(state["ensemble"])
        optimizer.load_state_dict(state["optimizer"])
    evaluate_at = {*evaluation_steps(steps, config.evaluations)} if config.evaluations > 1 else {steps}
    batches = batches_from(first)
    for step in run.progress(first, steps + 1):
        run.checkpoint(
            lambda step=step: {"step": step, "ensemble": ensemble.state_dict(), "optimizer": optimizer.state_dict()}
        )
        if step in evaluate_at:
            errors = measure()
            run.record(step, rows({config.split: errors}, seeds))
            check_convergence(step, step == steps, by_seed((errors[0] / of_zeros_E).sqrt(), seeds))
        if step < steps:
            compute_gradients(step / steps, *next(batches))
            optimizer.param_groups[0]["lr"] = learning_rate(config.optimizer, step)
            optimizer.step()
    medians = {f"{config.split}_{name}": e.quantile(0.5).item() for name, e in zip(METRICS, errors, strict=False)}
    return {"objective": errors[0].quantile(0.5).item(), "steps": steps, **medians}


def check(config: RecipeConfig) -> None:
    """Refuse an unknown function, and a run that exceeds this machine's memory."""
    check_function(config, order=1)


def with_noise(gradient_ENI: Tensor, relative: float, seeds: range) -> Tensor:
    """Gradients with normal noise; its deviation is relative to the root mean square of each network's gradients."""
    if not relative:
        return gradient_ENI
    noise = [torch.randn(gradient_ENI.shape[1:], generator=generator(seed, "noise")) for seed in seeds]
    size_E11 = gradient_ENI.square().mean((1, 2), keepdim=True).sqrt()
    return gradient_ENI + relative * size_E11 * torch.stack(noise).to(gradient_ENI)


class Objective:
    """Fills the parameters' `.grad` with the gradient of the loss on a batch (x, f, df); s is the fraction of updates.

    It uses a hand-written step if there is one: for values, and for exact derivatives except for the norm with ReLU.
    """

    def __init__(self, ensemble: MLPEnsemble, batch_size: int, term: GradientTermConfig, gradient_ENI: Tensor) -> None:
        self.ensemble, self.term = ensemble, term
        self.weight_E11 = term.factor * weights(term, gradient_ENI)
        distances = ["squared_l2", DISTANCES[term.distance]]
        way = {"mode": "differences", "step": STEP} if term.derivative == "finite" else {}
        self.on_both = SobolevLoss(1, distances=distances, reduction="none", batch_dims=2, **way)
        self.relu = self.relu_values = self.smooth = None
        if isinstance(ensemble.activation, torch.nn.ReLU):
            self.relu = ReLUSobolevStep(ensemble, batch_size, 1.0, self.weight_E11)
            self.relu_values = ReLUSobolevStep(ensemble, batch_size, 1.0, 0.0)
        elif SmoothSobolevStep.takes(ensemble):
            self.smooth = SmoothSobolevStep(ensemble, DISTANCES[term.distance])

    def __call__(self, s: float, x_ENI: Tensor, f_EN1: Tensor, df_ENI: Tensor) -> None:
        phi = 0.0 if self.term.weight == "none" else FALLS[self.term.falls](s)
        exact = self.term.derivative == "exact"
        if self.smooth and (exact or not phi):
            self.smooth(x_ENI, f_EN1, df_ENI, phi * self.weight_E11 if phi else 0.0)
        elif self.relu and not phi:
            self.relu_values(x_ENI, f_EN1, df_ENI)
        elif self.relu and exact and self.term.distance == "square":
            self.relu.gradient_factor = 2.0 / x_ENI.shape[1] * phi * self.weight_E11
            self.relu(x_ENI, f_EN1, df_ENI)
        else:
            self.ensemble.zero_grad()
            # Networks have separate parameters, so the gradient of the sum is each network's own gradient.
            self.per_sample(phi, x_ENI, f_EN1, df_ENI).mean(1).sum().backward()

    def per_sample(self, phi: float, x_ENI: Tensor, f_EN1: Tensor, df_ENI: Tensor) -> Tensor:
        """The loss of each sample (E, N), by autograd."""
        by_order = self.on_both(self.ensemble, x_ENI, (f_EN1, df_ENI.unsqueeze(2))).by_order
        return by_order[0] + phi * self.weight_E11[..., 0] * by_order[1]


def weights(term: GradientTermConfig, gradient_ENI: Tensor) -> Tensor:
    """The weight w of each network (E, 1, 1), from the gradients at its training points."""
    ones_E11 = torch.ones_like(gradient_ENI[:, :1, :1])
    if term.weight != "balanced":
        return ones_E11
    size_EN1 = gradient_ENI.norm(dim=-1, keepdim=True)
    size_E11 = (size_EN1.square() if term.distance == "square" else size_EN1).mean(1, keepdim=True)
    return torch.where(size_E11 > 0, 1 / size_E11, ones_E11)
