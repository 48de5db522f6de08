"""Section 4.1: regression on optimisation benchmarks, with and without the target's derivatives.

A run trains one ensemble: a network for each of `networks` seeds, on one function, one training size, one loss.
Network s draws its points, its initial weights and its batches from seed s alone, so that methods compare pairwise.

Shape suffixes: E networks, N samples of each, I inputs (2 for the paper's functions).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.regression.settings import PIECEWISE_LINEAR, RecipeConfig, RegressionConfig
from experiments.runner.divergence import check_convergence
from experiments.runner.errors import BadInput, nearest
from experiments.runner.limits import A_MEASUREMENT, check_memory, mlp_bytes
from experiments.runner.run import Run
from experiments.runner.schedules import evaluation_steps, learning_rate
from sobolev.derivatives import derivatives
from sobolev.functions import FUNCTIONS, SHIPPED, BenchmarkFunction
from sobolev.losses import DISTANCES, SobolevLoss
from sobolev.networks import MLPEnsemble, ReLUSobolevStep
from sobolev.seeding import generator

METRICS = ("value_mse", "gradient_mse", "hessian_mse")  # by order
TRAIN_POINTS_EVALUATED = 2_000  # at most: train errors cost as much as test errors


def main(config: RegressionConfig, run: Run) -> dict:
    """Train and evaluate one ensemble; the objective is the median test error of the values."""
    function = FUNCTIONS[config.dataset.name]
    seeds = range(config.seed, config.seed + config.networks)
    highest = max(order for order, weight in enumerate(config.loss.weights) if weight)
    # Gradients are measured even where they are not trained on, and so are Hessians where they do not vanish.
    measured = 1 if config.model.activation in PIECEWISE_LINEAR else 2

    # Data
    train = draw(function, config.n_train, seeds, "train", measured, run)
    test = draw(function, config.n_test, seeds, "test", measured, run)
    normalizer = Normalizer.fit(function, train) if config.normalise else Normalizer.identity(train)
    inputs, *targets = normalizer.normalise(train)
    seen = tuple(tensor[:, :TRAIN_POINTS_EVALUATED] for tensor in train)
    of_zeros_E = test[1].double().square().mean((1, 2)).cpu()  # the error of a network of zeros

    # Model and loss
    ensemble = new_ensemble(config, function.inputs, seeds, run)
    batch_size = min(config.n_train, config.optimizer.batch_size)
    loss = config.loss
    compute_gradients = gradient_computer(
        ensemble, batch_size, loss.weights[: highest + 1], loss.distances[: highest + 1]
    )
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=config.optimizer.learning_rate, fused=True)

    # Loop
    first, steps = 0, config.optimizer.steps
    if state := run.resume():
        first = state["step"]
        ensemble.load_state_dict(state["ensemble"])
        optimizer.load_state_dict(state["optimizer"])
    evaluate_at = set(evaluation_steps(steps, config.evaluations))
    batches = shuffled_batches([inputs, *targets], batch_size, seeds, first)
    for step in run.progress(first, steps + 1):
        run.checkpoint(
            lambda step=step: {"step": step, "ensemble": ensemble.state_dict(), "optimizer": optimizer.state_dict()}
        )
        if step in evaluate_at:
            errors = {"train": normalizer.errors(ensemble, seen), "test": normalizer.errors(ensemble, test)}
            run.record(step, rows(errors, seeds))
            check_convergence(step, step == steps, by_seed((errors["test"][0] / of_zeros_E).sqrt(), seeds))
        if step < steps:
            compute_gradients(*next(batches))
            optimizer.param_groups[0]["lr"] = learning_rate(config.optimizer, step)
            optimizer.step()

    # Evaluate
    final = errors["test"][0]  # value MSE of each network
    shown = int(final.argsort()[(len(final) - 1) // 2])
    if function.inputs == 2:
        save_surface(run, function, normalizer, ensemble, shown, train, seeds[shown], run.scale)
    return {
        "objective": final.quantile(0.5).item(),
        "steps": steps,
        **{f"test_{name}": error.quantile(0.5).item() for name, error in zip(METRICS, errors["test"], strict=False)},
    }


def check(config: RegressionConfig) -> None:
    """Refuse a function or distance that the library does not have, and more than this machine's memory holds."""
    check_function(config)
    for distance in config.loss.distances:
        if distance not in DISTANCES:
            raise BadInput(f"loss.distances: {distance} is not one of {', '.join(DISTANCES)}")


def check_function(config: RegressionConfig | RecipeConfig) -> None:
    """Refuse a function that nobody defined or in a shipped one's place, and more than this machine's memory holds."""
    if config.dataset.name not in FUNCTIONS:
        raise BadInput(f"dataset.name={config.dataset.name} is unknown{nearest(config.dataset.name, [*FUNCTIONS])}")
    function = FUNCTIONS[config.dataset.name]
    if function is not SHIPPED.get(config.dataset.name, function):
        raise BadInput(f"dataset.name={config.dataset.name} ships, and an extension has put its own there: rename it")
    inputs, networks = function.inputs, config.networks
    batch_size = min(config.n_train, config.optimizer.batch_size)
    check_memory(
        {
            "networks, model.hidden and optimizer.batch_size": mlp_bytes(
                config, (inputs, *config.model.hidden, 1), networks, batch_size
            ),
            # Inputs, values, gradients and Hessians are drawn in float64.
            "networks, n_train and n_test": 8 * (inputs + 1) ** 2 * networks * max(config.n_train, config.n_test),
            "evaluations": A_MEASUREMENT * config.evaluations,
        }
    )


def draw(function: BenchmarkFunction, n: int, seeds: range, split: str, order: int, run: Run) -> tuple[Tensor, ...]:
    """Inputs (E, N, I), values (E, N, 1), gradients (E, N, I) and, at order 2, Hessians (E, N, I, I).

    Uniform over the domain, computed in float64, then rounded to the run's precision.
    """
    x = torch.stack([function.sample(n, generator(seed, split), dtype=torch.float64) for seed in seeds])
    exact = (x, function.value(x)[..., None], function.gradient(x))
    exact += (function.hessian(x),) if order == 2 else ()
    return tuple(tensor.to(run.device, run.dtype) for tensor in exact)


def new_ensemble(config: RegressionConfig | RecipeConfig, inputs: int, seeds: range, run: Run) -> MLPEnsemble:
    """The networks as they begin, one a seed."""
    return MLPEnsemble(
        sizes=(inputs, *config.model.hidden, 1),
        generators=[generator(seed, "init") for seed in seeds],
        activation=config.model.activation.name,
        initialisation=config.model.initialisation.name,
    ).to(run.device, run.dtype)


@dataclass(frozen=True)
class Normalizer:
    """The network's units: x' = (x - center) / half_width and f' = (f - mean) / deviation.

    Derivatives follow by the chain rule: df'/dx' = df/dx half_width / deviation.
    """

    center_I: Tensor
    half_width_I: Tensor
    mean_E11: Tensor
    deviation_E11: Tensor

    @classmethod
    def identity(cls, data: Sequence[Tensor]) -> Normalizer:
        """The paper's protocol: nothing is scaled."""
        x, value = data[:2]
        zero, one = torch.zeros_like(value[:, :1]), torch.ones_like(value[:, :1])
        return cls(x.new_zeros(x.shape[-1]), x.new_ones(x.shape[-1]), zero, one)

    @classmethod
    def fit(cls, function: BenchmarkFunction, train: tuple[Tensor, ...]) -> Normalizer:
        """The domain becomes [-1, 1]^I; values are standardised by each network's own training points."""
        x, value = train[:2]
        low, high = torch.tensor(function.domain, dtype=x.dtype, device=x.device).unbind(-1)
        # One training point has no deviation.
        deviation = value.std(1, keepdim=True, correction=0)
        deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        return cls((low + high) / 2, (high - low) / 2, value.mean(1, keepdim=True), deviation)

    def normalise(self, data: Sequence[Tensor]) -> list[Tensor]:
        """(x, f, df, d2f) in the network's normalizer."""
        x, value, *higher = data
        normalised = [(x - self.center_I) / self.half_width_I, (value - self.mean_E11) / self.deviation_E11]
        return normalised + [tensor * factor for tensor, factor in zip(higher, self._chain_rule(), strict=False)]

    def predict(self, ensemble: MLPEnsemble, x_ENI: Tensor, order: int) -> list[Tensor]:
        """Values (E, N, 1), gradients (E, N, I), ... of the networks in raw units."""
        ensemble_in = (x_ENI - self.center_I) / self.half_width_I
        value, *higher = derivatives(ensemble, ensemble_in, order, batch_dims=2)
        raw = [value * self.deviation_E11 + self.mean_E11]
        return raw + [tensor.squeeze(2) / factor for tensor, factor in zip(higher, self._chain_rule(), strict=False)]

    def errors(self, ensemble: MLPEnsemble, data: Sequence[Tensor], chunk: int = 500) -> list[Tensor]:
        """By order: the mean over samples of the squared norm of the error, in raw units, a network (E,)."""
        order = len(data) - 2
        sums = [torch.zeros(len(ensemble), dtype=torch.float64) for _ in range(order + 1)]
        for x, *targets in zip(*(tensor.split(chunk, 1) for tensor in data), strict=True):
            for total, guess, target in zip(sums, self.predict(ensemble, x, order), targets, strict=True):
                total += (guess - target).double().square().flatten(1).sum(1).cpu()
        return [total / data[0].shape[1] for total in sums]

    def _chain_rule(self) -> tuple[Tensor, Tensor]:
        outer = self.half_width_I[:, None] * self.half_width_I
        return self.half_width_I / self.deviation_E11, outer / self.deviation_E11[..., None]


def gradient_computer(ensemble: MLPEnsemble, batch_size: int, weights: list[float], distances: list[str]):
    """A function of a batch (x, f, df, ...) that fills the parameters' `.grad` with those of the loss."""
    fast = ensemble.activation.__class__ is torch.nn.ReLU and len(ensemble.sizes) > 2 and len(weights) <= 2
    if fast and set(distances) == {"squared_l2"}:
        value_weight, gradient_weight = (*weights, 0.0)[:2]
        return ReLUSobolevStep(ensemble, batch_size, value_weight, gradient_weight)

    loss = SobolevLoss(len(weights) - 1, weights=weights, distances=distances, reduction="none", batch_dims=2)

    def by_autograd(x_ENI: Tensor, f_EN1: Tensor, *higher: Tensor) -> None:
        target = (f_EN1, *(tensor.unsqueeze(2) for tensor in higher[: len(weights) - 1]))
        ensemble.zero_grad()
        # Each network has its own parameters, so the sum over networks trains each on its own mean.
        loss(ensemble, x_ENI, target).total.mean(1).sum().backward()

    return by_autograd


def shuffled_batches(data: list[Tensor], batch_size: int, seeds: range, first: int) -> Iterator[list[Tensor]]:
    """Endless batches from update `first` on; each network shuffles its own points anew each epoch.

    The order of epoch k is drawn from (seed, k), so it does not matter where one begins. Points that do not
    fill a last batch wait for the next epoch. With one batch an epoch there is nothing to shuffle.
    """
    n = data[0].shape[1]
    per_epoch = n // batch_size
    if n == batch_size:
        while True:
            yield data
    for epoch in range(first // per_epoch, 2**62):
        order = [torch.randperm(n, generator=generator(seed, "shuffle", epoch)) for seed in seeds]
        order_EN = torch.stack(order).to(data[0].device)
        network_E1 = torch.arange(len(seeds), device=order_EN.device)[:, None]
        shuffled = [tensor[network_E1, order_EN] for tensor in data]
        start = first % per_epoch if epoch == first // per_epoch else 0
        for batch in range(start, per_epoch):
            yield [tensor[:, batch * batch_size : (batch + 1) * batch_size] for tensor in shuffled]


def by_seed(value_E: Tensor, seeds: range) -> dict[int, float]:
    return dict(zip(seeds, value_E.tolist(), strict=True))


def rows(
    errors: dict[str, list[Tensor]], seeds: range, metrics: tuple[str, ...] = METRICS
) -> Iterator[tuple[int, str, str, float]]:
    """(seed, split, metric, value) of each network, from its errors by order."""
    for split, by_order in errors.items():
        for metric, error_E in zip(metrics, by_order, strict=False):
            for seed, value in by_seed(error_E, seeds).items():
                yield seed, split, metric, value


def save_surface(
    run: Run,
    function: BenchmarkFunction,
    normalizer: Normalizer,
    ensemble: MLPEnsemble,
    network: int,
    train: tuple[Tensor, ...],
    seed: int,
    scale: str,
    resolution: int = 41,
) -> None:
    """Values and gradients of target and network over the domain, for Figure 3 and SM 5-11."""
    axes = [torch.linspace(low, high, resolution, dtype=run.dtype, device=run.device) for low, high in function.domain]
    x = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    flat = x.reshape(1, -1, 2).expand(len(ensemble), -1, 2)
    parts = [normalizer.predict(ensemble, part, order=1) for part in flat.split(500, dim=1)]
    value, gradient = (torch.cat(of_parts, dim=1) for of_parts in zip(*parts, strict=True))
    arrays = {
        "x": x,
        "value": value[network].view(resolution, resolution),
        "gradient": gradient[network].view(resolution, resolution, 2),
        "target_value": function.value(x),
        "target_gradient": function.gradient(x),
        "x_train": train[0][network, :100],
    }
    numbers = {name: tensor.float().cpu().numpy() for name, tensor in arrays.items()}
    run.save_arrays("surface", **numbers, seed=np.array(seed), scale=np.array(scale))
