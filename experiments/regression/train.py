"""Section 4.1: regression on optimisation benchmarks, with and without the target's derivatives.

A run trains one ensemble: a network for each of `networks` seeds, on one function, one training size, one loss.
Network s draws its points, its initial weights and its batches only from seed s. So methods can be compared seed by
seed, and runs can train together (`train_together`): cells of a grid with the same loss then share one ensemble.

Shape suffixes: E networks, N samples per network, I inputs (2 for the paper's functions).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.regression.own_function import check_own
from experiments.regression.settings import PIECEWISE_LINEAR, RecipeConfig, RegressionConfig
from experiments.regression.updates import Update, batch_orders, gradient_computer
from experiments.runner import together
from experiments.runner.divergence import check_convergence
from experiments.runner.errors import BadInput, nearest
from experiments.runner.limits import A_MEASUREMENT, check_memory, mlp_bytes
from experiments.runner.run import Run, say
from experiments.runner.schedules import evaluation_steps, learning_rate
from sobolev.derivatives import derivatives
from sobolev.functions import FUNCTIONS, SHIPPED, BenchmarkFunction
from sobolev.losses import DISTANCES
from sobolev.networks import MLPEnsemble
from sobolev.seeding import generator

METRICS = ("value_mse", "gradient_mse", "hessian_mse")  # by order
TRAIN_POINTS_EVALUATED = 2_000  # at most, because train errors cost as much as test errors


def main(config: RegressionConfig, run: Run) -> dict:
    """Train and evaluate one ensemble; the objective is the median test error of the values."""
    ((_, outcome),) = train_together([config], [run])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def in_common(config: RegressionConfig) -> str:
    """What runs that train together share: all settings but the loss and the function, and the number of inputs."""
    asked = {name: group for name, group in vars(config).items() if name not in ("dataset", "loss", "labels")}
    return f"{FUNCTIONS[config.dataset.name].inputs} inputs, {asked}"


def train_together(
    configs: Sequence[RegressionConfig], runs: Sequence[Run]
) -> Iterator[tuple[Run, dict[str, Any] | Exception]]:
    """Train and evaluate the ensembles of several runs; yields each run with its summary or its error.

    Runs that resume at different steps are trained one group after another.
    """
    cells = []
    for config, run in zip(configs, runs, strict=True):
        try:
            cells.append(Cell(config, run))
        except Exception as error:
            yield run, error
    for first in dict.fromkeys(cell.first for cell in cells):
        yield from train([cell for cell in cells if cell.first == first], first)


def train(cells: Sequence[Cell], first: int) -> Iterator[tuple[Run, dict[str, Any] | Exception]]:
    """Train and evaluate cells from update `first` on. A cell that diverges is dropped, and the others go on."""
    config, seeds, device = cells[0].config, cells[0].seeds, cells[0].run.device
    batch_size, steps = min(config.n_train, config.optimizer.batch_size), config.optimizer.steps
    update = new_update(cells, batch_size)
    going = []
    for cell in cells:
        try:
            cell.restore()
            going.append(cell)
        except Exception as error:
            yield cell.run, error
    orders = batch_orders(config.n_train, batch_size, seeds, first, device)
    evaluate_at = set(evaluation_steps(steps, config.evaluations))
    for step in together.progress([cell.run for cell in going], first, steps + 1) if going else ():
        together.checkpoint({cell.run: partial(cell.state, step) for cell in going})
        for cell in [*going] if step in evaluate_at else ():
            try:
                cell.measure(step, step == steps)
            except BadInput as error:
                going.remove(cell)
                yield cell.run, error
        if not going:
            return
        if step < steps:
            update(learning_rate(config.optimizer, step), next(orders))
    for cell in going:
        yield cell.run, cell.summary()


def new_update(cells: Sequence[Cell], batch_size: int) -> Update:
    """Create the networks of all cells, one ensemble per loss, and the update that trains them."""
    losses, n_seeds = defaultdict(list), len(cells[0].seeds)
    for cell in cells:
        losses[repr(cell.config.loss)].append(cell)
    ensembles, gradients, data = [], [], []
    for alike in losses.values():
        config, seeds = alike[0].config, [*alike[0].seeds] * len(alike)
        ensembles.append(new_ensemble(config, alike[0].function.inputs, seeds, alike[0].run))
        data.append([torch.cat(tensors) for tensors in zip(*(cell.data for cell in alike), strict=True)])
        highest = max(order for order, weight in enumerate(config.loss.weights) if weight)
        weights, distances = (each[: highest + 1] for each in (config.loss.weights, config.loss.distances))
        gradients.append(gradient_computer(ensembles[-1], batch_size, weights, distances))
    update = Update(ensembles, gradients, data)
    for ensemble, alike in zip(ensembles, losses.values(), strict=True):
        for number, cell in enumerate(alike):
            networks = slice(number * n_seeds, (number + 1) * n_seeds)
            cell.ensemble, cell.moments = ensemble.part(networks), update.moments(ensemble, networks)
    return update


class Cell:
    """The part of a joint training that belongs to one run: function, data, networks, rows, checkpoints, summary."""

    ensemble: MLPEnsemble  # a view of the ensemble of its loss
    moments: dict[int, dict[str, Tensor]]  # Adam's state of its networks, by the number of the parameter

    def __init__(self, config: RegressionConfig, run: Run):
        self.config, self.run = config, run
        self.function = FUNCTIONS[config.dataset.name]
        self.seeds = range(config.seed, config.seed + config.networks)
        measured = highest_measured(config)

        # Data
        self.train = draw(self.function, config.n_train, self.seeds, "train", measured, run)
        self.test = draw(self.function, config.n_test, self.seeds, "test", measured, run)
        fit = Normalizer.fit(self.function, self.train) if config.normalise else Normalizer.identity(self.train)
        self.normalizer, self.data = fit, fit.normalise(self.train)
        self.of_zeros_E = self.test[1].double().square().mean((1, 2)).cpu()  # the error of a network of zeros
        self.saved = run.resume()
        self.first = self.saved["step"] if self.saved else 0

    def state(self, step: int) -> dict[str, Any]:
        """The state of a checkpoint; it can be resumed alone or together with others."""
        networks = {name: tensor.clone() for name, tensor in self.ensemble.state_dict().items()}
        moments = {number: {name: held.clone() for name, held in of.items()} for number, of in self.moments.items()}
        return {"step": step, "ensemble": networks, "optimizer": {"state": moments}}

    def restore(self) -> None:
        """Restore the saved state."""
        if not self.saved:
            return
        state, self.saved = self.saved, None
        self.ensemble.load_state_dict(state["ensemble"])
        for number, of_parameter in self.moments.items():
            for name, held in of_parameter.items():
                saved = state["optimizer"]["state"][number][name]
                if saved.shape != held.shape:
                    raise ValueError(f"{name} has shape {tuple(saved.shape)}, its parameter {tuple(held.shape)}")
                held.copy_(saved)

    def measure(self, step: int, last: bool) -> None:
        """Record the errors of the networks, and raise an error if one has diverged."""
        seen = [tensor[:, :TRAIN_POINTS_EVALUATED] for tensor in self.train]
        errors = {
            split: self.normalizer.errors(self.ensemble, data) for split, data in (("train", seen), ("test", self.test))
        }
        self.run.record(step, rows(errors, self.seeds))
        self.final = errors["test"]
        check_convergence(step, last, by_seed((self.final[0] / self.of_zeros_E).sqrt(), self.seeds))

    def summary(self) -> dict[str, Any]:
        value_E, run = self.final[0], self.run  # value MSE of each network
        if self.function.inputs == 2:  # of the first seed, whose points are the same for every method
            save_surface(run, self.function, self.normalizer, self.ensemble, self.train, self.seeds[0], run.scale)
        return {
            "objective": value_E.quantile(0.5).item(),
            "steps": self.config.optimizer.steps,
            **{f"test_{name}": error.quantile(0.5).item() for name, error in zip(METRICS, self.final, strict=False)},
        }


def highest_measured(config: RegressionConfig) -> int:
    """Gradients are measured even if they are not trained on, and so are Hessians unless the network's vanish."""
    return 1 if config.model.activation in PIECEWISE_LINEAR else 2


def check(config: RegressionConfig) -> None:
    """Refuse a function or distance that the library does not have, and a run that exceeds this machine's memory."""
    check_function(config, highest_measured(config))
    for distance in config.loss.distances:
        if distance not in DISTANCES:
            raise BadInput(f"loss.distances: {distance} is not one of {', '.join(DISTANCES)}")


def check_function(config: RegressionConfig | RecipeConfig, order: int) -> None:
    """Refuse a function that is unknown, replaces a shipped one or is wrong, and a run that exceeds the memory.

    `order` is that of the highest derivative that the run computes.
    """
    if config.dataset.name not in FUNCTIONS:
        raise BadInput(f"dataset.name={config.dataset.name} is unknown{nearest(config.dataset.name, [*FUNCTIONS])}")
    function = FUNCTIONS[config.dataset.name]
    if function is not SHIPPED.get(config.dataset.name, function):
        raise BadInput(f"dataset.name={config.dataset.name} ships, and an extension has put its own there: rename it")
    if config.dataset.name not in SHIPPED:
        check_own(config.dataset.name, function, order)
    inputs, networks = function.inputs, config.networks
    batch_size = min(config.n_train, config.optimizer.batch_size)
    check_memory(
        {
            "networks, model.hidden and optimizer.batch_size": mlp_bytes(
                config, (inputs, *config.model.hidden, 1), networks, batch_size
            ),
            # Inputs, values, gradients and Hessians are computed in float64.
            "networks, n_train and n_test": 8 * (inputs + 1) ** 2 * networks * max(config.n_train, config.n_test),
            "evaluations": A_MEASUREMENT * config.evaluations,
        }
    )


def draw(function: BenchmarkFunction, n: int, seeds: range, split: str, order: int, run: Run) -> tuple[Tensor, ...]:
    """Inputs (E, N, I), values (E, N, 1), gradients (E, N, I) and, at order 2, Hessians (E, N, I, I).

    Inputs are uniform over the domain. All is computed in float64, then rounded to the run's precision.
    """
    x = torch.stack([function.sample(n, generator(seed, split), dtype=torch.float64) for seed in seeds])
    exact = (x, function.value(x)[..., None], function.gradient(x))
    exact += (function.hessian(x),) if order == 2 else ()
    return tuple(tensor.to(run.device, run.dtype) for tensor in exact)


def new_ensemble(
    config: RegressionConfig | RecipeConfig, inputs: int, seeds: Sequence[int], run: Run, outputs: int = 1
) -> MLPEnsemble:
    """The untrained networks, one per seed."""
    return MLPEnsemble(
        sizes=(inputs, *config.model.hidden, outputs),
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
        """No scaling, as in the paper's protocol."""
        x, value = data[:2]
        zero, one = torch.zeros_like(value[:, :1]), torch.ones_like(value[:, :1])
        return cls(x.new_zeros(x.shape[-1]), x.new_ones(x.shape[-1]), zero, one)

    @classmethod
    def fit(cls, function: BenchmarkFunction, train: tuple[Tensor, ...]) -> Normalizer:
        """The domain becomes [-1, 1]^I, and values are standardised with each network's own training points."""
        x, value = train[:2]
        low, high = torch.tensor(function.domain, dtype=x.dtype, device=x.device).unbind(-1)
        # The deviation of a single training point, or of equal values, is 0.
        deviation = value.std(1, keepdim=True, correction=0)
        deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        return cls((low + high) / 2, (high - low) / 2, value.mean(1, keepdim=True), deviation)

    def normalise(self, data: Sequence[Tensor]) -> list[Tensor]:
        """(x, f, df, d2f) in the network's units."""
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
        """By order: the mean over samples of the squared norm of the error in raw units, per network (E,)."""
        order = len(data) - 2
        sums = [torch.zeros(len(ensemble), dtype=torch.float64) for _ in range(order + 1)]
        for x, *targets in zip(*(tensor.split(chunk, 1) for tensor in data), strict=True):
            for total, guess, target in zip(sums, self.predict(ensemble, x, order), targets, strict=True):
                total += (guess - target).double().square().flatten(1).sum(1).cpu()
        return [total / data[0].shape[1] for total in sums]

    def _chain_rule(self) -> tuple[Tensor, Tensor]:
        outer = self.half_width_I[:, None] * self.half_width_I
        return self.half_width_I / self.deviation_E11, outer / self.deviation_E11[..., None]


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
    train: tuple[Tensor, ...],
    seed: int,
    scale: str,
    resolution: int = 41,
) -> None:
    """Save values and gradients of the target and of the first network over the domain, for Figure 3 and SM 5-11.

    A user's function may have a singularity at a point of the grid. Such a surface is not saved, because a run with an
    array that is not finite could not be collected.
    """
    axes = [torch.linspace(low, high, resolution, dtype=run.dtype, device=run.device) for low, high in function.domain]
    x = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    flat = x.reshape(1, -1, 2).expand(len(ensemble), -1, 2)
    parts = [normalizer.predict(ensemble, part, order=1) for part in flat.split(500, dim=1)]
    value, gradient = (torch.cat(of_parts, dim=1) for of_parts in zip(*parts, strict=True))
    arrays = {
        "x": x,
        "value": value[0].view(resolution, resolution),
        "gradient": gradient[0].view(resolution, resolution, 2),
        "target_value": function.value(x),
        "target_gradient": function.gradient(x),
        "x_train": train[0][0, :100],
    }
    numbers = {name: tensor.float().cpu().numpy() for name, tensor in arrays.items()}
    if not all(np.isfinite(array).all() for array in numbers.values()):
        say(f"{run.directory}: no surface is saved, because the function is not finite at a point of its grid")
        return
    run.save_arrays("surface", **numbers, seed=np.array(seed), scale=np.array(scale))
