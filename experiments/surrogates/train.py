"""A surrogate: a perceptron that learns values, or values and derivatives, from given samples.

Inputs and outputs are z-scored, the loss terms of values and of derivatives are divided by the mean squares of their
targets, and the learning rate follows a cosine schedule. Each method tries the same activations and learning rates
briefly, and trains at length with the pair of least validation error in the values. The test part is used once, at the
end. For noisy labels (`search.keeps=best`) each network is kept at its least validation loss instead of at the end, and
the pair is chosen by that loss too. The loss includes derivatives for a method that learns them, because they say more
than noisy values alone.

Shape suffixes: E networks, N samples per network, B samples per batch, I inputs, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
from torch import Tensor

from experiments.runner.divergence import check_convergence
from experiments.runner.errors import BadInput
from experiments.runner.limits import check_memory, mlp_bytes
from experiments.runner.run import Run
from experiments.runner.schedules import learning_rate
from experiments.runner.settings import Activation, OptimizerConfig, Schedule
from experiments.surrogates.data import Parts, load, shape_of
from experiments.surrogates.files import SPLITS, Samples
from experiments.surrogates.settings import SurrogateConfig
from sobolev import Derivatives, Normalizer, SobolevLoss, checking
from sobolev.files import replacing
from sobolev.networks import MLPEnsemble
from sobolev.seeding import generator
from sobolev.surrogate import Surrogate

Choice = tuple[Activation, float]  # activation and learning rate
Units = list[Normalizer]  # one per network, from its own training points, in float64
MEASUREMENTS = 60  # evaluations on the validation part per training, if the best network is kept
SHOWN = 200  # the most test samples whose predictions are saved for figures


class Training:
    """An ensemble, one network per seed with its own points, that trains with one activation and learning rate."""

    def __init__(self, config: SurrogateConfig, data: tuple[Tensor, Tensor, Tensor], choice: Choice, steps: int):
        (activation, rate), (x_ENI, y_ENO, dy_ENOI) = choice, data
        self.data, self.steps = data, steps
        self.ensemble = MLPEnsemble(
            sizes=(x_ENI.shape[-1], *config.network.hidden, y_ENO.shape[-1]),
            generators=[generator(seed, "init") for seed in seeds_of(config)],
            activation=activation.name,
            initialisation=config.network.initialisation.name,
        ).to(x_ENI)
        self.schedule = OptimizerConfig(rate, Schedule.cosine, steps, config.optimizer.batch_size)
        self.adam = torch.optim.Adam(self.ensemble.parameters(), lr=rate)
        self.loss = SobolevLoss(
            order=1,
            weights=config.loss.weights[:2],
            balance="order",
            distances=config.loss.distances[:2],
            reduction="none",
            batch_dims=2,
        ).balance((y_ENO, dy_ENOI), x_ENI)
        every = max(1, steps // MEASUREMENTS)
        self.measured_after = {steps, *(range(every, steps, every) if config.search.keeps == "best" else ())}
        self.least_E: Tensor | None = None  # `held_out_error` of the kept networks
        self.kept: dict[str, Tensor] = {}

    def keep(self, error_E: Tensor) -> None:
        """Keep each network whose error is the least so far."""
        error_E = error_E.nan_to_num(math.inf)
        better_E = error_E < (math.inf if self.least_E is None else self.least_E)
        now = {name: tensor.clone() for name, tensor in self.ensemble.state_dict().items()}
        before = self.kept or now
        self.kept = {name: torch.where(better_E[:, None, None], now[name], before[name]) for name in now}
        self.least_E = error_E if self.least_E is None else torch.minimum(error_E, self.least_E)

    def update(self, step: int, picks_EB: Tensor) -> None:
        """One Adam step on each network's own batch."""
        network_E1 = torch.arange(len(picks_EB), device=picks_EB.device)[:, None]
        x_EBI, *targets = (tensor[network_E1, picks_EB] for tensor in self.data)
        self.ensemble.zero_grad()
        # Networks have separate parameters, so the gradient of the sum is each network's own gradient.
        self.loss(self.ensemble, x_EBI, tuple(targets)).total.mean(1).sum().backward()
        self.adam.param_groups[0]["lr"] = learning_rate(self.schedule, step)
        self.adam.step()


def main(config: SurrogateConfig, run: Run) -> dict:
    """Search briefly, train with the best choice at length, and evaluate; the objective is the test error of values."""
    parts, costs = load(config.dataset)
    points = training_points(config, parts["train"], run)
    units = [Normalizer.fit(x_NI, y_NO) for x_NI, y_NO in zip(*points[:2], strict=True)]
    data = scaled(units, points, run.dtype)
    tried, brief, steps = choices(config), config.search.steps, config.optimizer.steps
    searching = len(tried) * brief if len(tried) > 1 else 0
    batch_size = min(config.n_train, config.optimizer.batch_size)
    picks_SEB = torch.stack(
        [batches(config.n_train, batch_size, max(steps, brief), seed) for seed in seeds_of(config)], 1
    ).to(run.device)

    def begin(step: int, errors: list[float]) -> Training:
        """The training that starts at a step: each choice in turn, then the one with the least validation error."""
        if step < searching:
            return Training(config, data, tried[step // brief], brief)
        return Training(config, data, tried[int(np.argmin(errors or [0]))], steps)

    first, errors = 0, []
    if state := run.resume():
        first, errors = state["step"], state["errors"]
        training = begin(first, errors)
        training.ensemble.load_state_dict(state["ensemble"])
        training.adam.load_state_dict(state["adam"])
        training.least_E, training.kept = state.get("least"), state.get("kept", {})
    for step in run.progress(first, searching + steps):
        within = step % brief if step < searching else step - searching
        if not within:
            training = begin(step, errors)
        run.checkpoint(lambda step=step, training=training, errors=errors: state_of(step, training, errors))
        training.update(within, picks_SEB[within])
        if within + 1 in training.measured_after:
            training.keep(held_out_error(config, measure(training.ensemble, units, parts["validation"], run)))
        if step < searching and within == brief - 1:
            errors = [*errors, float(training.least_E.median())]
    training.ensemble.load_state_dict(training.kept)
    run.record(searching + steps, facts(config, errors, costs))
    return finish(config, run, training.ensemble, units, parts) | chosen(tried, errors)


def finish(config: SurrogateConfig, run: Run, ensemble: MLPEnsemble, units: Units, parts: Parts) -> dict:
    """Record the errors, and save the best model and the arrays for its figure."""
    errors = {split: measure(ensemble, units, parts[split], run) for split in SPLITS[1:]}
    relative = dict(zip(seeds_of(config), errors["test"]["value_error"].tolist(), strict=True))
    check_convergence(config.optimizer.steps, True, relative, lower="search.learning_rates")
    rows = [
        (seed, split, metric, value)
        for split, measured in errors.items()
        for metric, error_E in measured.items()
        for seed, value in zip(seeds_of(config), error_E.tolist(), strict=True)
    ]
    run.record(config.optimizer.steps, rows)
    e = int(errors["validation"]["value_error"].argmin())
    names = parts["test"].inputs, parts["test"].outputs
    Surrogate(ensemble.network(e), units[e], *names).save(run.directory / "surrogate.pt")
    save_predictions(run, ensemble, units, parts["test"], e)
    return {
        "objective": float(errors["test"]["value_error"].median()),
        **{f"test_{metric}": float(error_E.median()) for metric, error_E in errors["test"].items()},
    }


def held_out_error(config: SurrogateConfig, measured: dict[str, Tensor]) -> Tensor:
    """The error (E,) by which networks are chosen: of values, or of all that they learn, weighted as in the loss."""
    of_values, of_derivatives = config.loss.weights[:2]
    if config.search.keeps == "last" or not of_derivatives or "gradient_error" not in measured:
        return measured["value_error"]
    return (of_values * measured["value_error"] ** 2 + of_derivatives * measured["gradient_error"] ** 2).sqrt()


def choices(config: SurrogateConfig) -> list[Choice]:
    """The choices that the search tries, in order."""
    return [*product(config.search.activations, config.search.learning_rates)]


def facts(config: SurrogateConfig, errors: list[float], costs: dict[str, float]) -> Iterator[tuple]:
    """Rows with the costs of labels and the validation errors of the search; a choice that diverged has none."""
    for seed in seeds_of(config):
        for way, cost in costs.items():
            yield seed, "labels", way, cost
        for (activation, rate), error in zip(choices(config), errors, strict=False):
            if math.isfinite(error):
                yield seed, "search", f"error/{activation.name}_{rate:g}", error


def chosen(tried: list[Choice], errors: list[float]) -> dict:
    """The choice, for the summary."""
    activation, rate = tried[int(np.argmin(errors or [0]))]
    return {"activation": activation.name, "learning_rate": rate}


def training_points(config: SurrogateConfig, train: Samples, run: Run) -> tuple[Tensor, Tensor, Tensor]:
    """Points (E, N, I), values (E, N, O) and derivatives (E, N, O, I): each seed draws its own from the train part.

    They stay in float64, as in the file, because rounding to float32 could erase small differences.
    """
    index_EN = torch.stack(
        [
            torch.randperm(len(train.x), generator=generator(seed, "points"))[: config.n_train]
            for seed in seeds_of(config)
        ]
    )
    return tuple(torch.from_numpy(array)[index_EN].to(run.device) for array in (train.x, train.y, train.dy))


def scaled(units: Units, points: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The points in each network's units, in the dtype of training."""
    of_each = [(own.inputs(x), *own.targets(y, dy)) for own, x, y, dy in zip(units, *points, strict=True)]
    return tuple(torch.stack(tensors).to(dtype) for tensors in zip(*of_each, strict=True))


def batches(n: int, batch_size: int, steps: int, seed: int) -> Tensor:
    """The indices (S, B) of the points of each step: shuffled epochs."""
    epochs = -(-steps * batch_size // n)
    rng = generator(seed, "batches")
    return torch.cat([torch.randperm(n, generator=rng) for _ in range(epochs)])[: steps * batch_size].view(steps, -1)


def predictions(ensemble: MLPEnsemble, units: Units, samples: Samples, run: Run) -> tuple[Tensor, Tensor]:
    """Values (E, N, O) and derivatives (E, N, O, I), in the units of the data and in float64."""
    x_NI = torch.from_numpy(samples.x).to(run.device)
    z_ENI = torch.stack([own.inputs(x_NI) for own in units]).to(run.dtype)
    y_ENO, dy_ENOI = (tensor.double() for tensor in Derivatives(ensemble, batch_dims=2).eval()(z_ENI))
    of_each = [own.inverse(y, dy) for own, y, dy in zip(units, y_ENO, dy_ENOI, strict=True)]
    return tuple(map(torch.stack, zip(*of_each, strict=True)))


def measure(ensemble: MLPEnsemble, units: Units, samples: Samples, run: Run) -> dict[str, Tensor]:
    """Relative errors (E,) of values and, if samples have them, of derivatives; 1 is the error of a constant.

    Values are measured in standard deviations of these samples' outputs, and derivatives in the ratios of those to the
    standard deviations of the inputs, so that outputs and inputs count equally in whatever units they are:

        value_error^2 = sum ||m - y||^2 / sum ||y - mean y||^2
        gradient_error^2 = sum ||D m - D y||^2 / sum ||D y||^2
    """
    x_NI, *known = (torch.from_numpy(array).to(run.device) for array in (samples.x, samples.y, samples.dy))
    own = Normalizer.fit(x_NI, known[0])
    true, found = own.targets(*known), own.targets(*predictions(ensemble, units, samples, run))
    errors = {}
    for j, name in enumerate(("value_error", "gradient_error")):
        if size := float(_square(true[j], 2 + j)):  # 0: none is known, or the function is constant
            errors[name] = (_square(found[j] - true[j], 2 + j) / size).sqrt()
    return errors


def _square(t: Tensor, last: int) -> Tensor:
    """The sum of known squares over the last dimensions."""
    return t.square().nansum(tuple(range(t.dim() - last, t.dim())))


def save_predictions(run: Run, ensemble: MLPEnsemble, units: Units, test: Samples, e: int) -> None:
    """Save and draw the predictions of network e at completely known test samples."""
    known = np.isfinite(test.y).all(1)
    if test.has_derivatives:
        known &= np.isfinite(test.dy).all((1, 2))
    shown = test.at(np.flatnonzero(known)[:SHOWN])
    if not len(shown.x):
        return
    y_ENO, dy_ENOI = predictions(ensemble, units, shown, run)
    of_kind = {"y": (shown.y, y_ENO)} | ({"dy": (shown.dy, dy_ENOI)} if test.has_derivatives else {})
    arrays = {}
    for kind, (true, found) in of_kind.items():
        arrays[kind], arrays[f"{kind}_predicted"] = true, found[e].numpy(force=True)
    if test.has_derivatives:
        run.save_arrays("predictions", **arrays, scale=np.array(run.scale))
    from experiments.surrogates.figures import predicted  # slow to import, and only needed here

    labels = run.config.labels
    title = f"{labels.task}, {labels.method}, {labels.n_train} points"
    with replacing(run.directory / "predictions.png") as path:
        predicted(title, {labels.method: arrays}, shown.outputs, run.scale).savefig(path, format="png")


def state_of(step: int, training: Training, errors: list[float]) -> dict:
    return {
        "step": step,
        "errors": errors,
        "ensemble": training.ensemble.state_dict(),
        "adam": training.adam.state_dict(),
        "least": training.least_E,
        "kept": training.kept,
    }


def seeds_of(config: SurrogateConfig) -> range:
    """The seeds, one per network."""
    return range(config.seed, config.seed + config.networks)


def check(config: SurrogateConfig) -> None:
    """Refuse an unexpected file, derivatives that contradict the values, and more points than the file has.

    Raises:
        BadInput: what is wrong, in one line.
    """
    dataset = config.dataset
    if dataset.source == "file":
        parts, _ = load(dataset)
        check_samples(config, parts["train"])
        check_measurable(config, parts)
    elif min(dataset.part_sizes().values()) < 2:
        raise BadInput(f"dataset.n_samples={dataset.n_samples}: too few for dataset.split={dataset.split}")
    n = dataset.part_sizes()["train"]
    if not 2 <= config.n_train <= n:
        raise BadInput(f"n_train={config.n_train}: expected 2 to {n}, which the training part has")
    n_inputs, n_outputs = shape_of(dataset)
    layers = (n_inputs, *config.network.hidden, n_outputs)
    batch = min(config.n_train, config.optimizer.batch_size)
    steps = max(config.optimizer.steps, config.search.steps)
    check_memory(
        {
            "networks and network.hidden": mlp_bytes(config, layers, config.networks, batch),
            "networks, optimizer.steps and optimizer.batch_size": 8 * config.networks * steps * batch,
            "dataset.n_samples": 8 * dataset.n_samples * n_inputs * n_outputs if dataset.source != "file" else 0,
        }
    )


def check_samples(config: SurrogateConfig, train: Samples) -> None:
    """Refuse missing derivatives if they are to be learned, and derivatives of another function than the values."""
    path = config.dataset.path
    if not train.has_derivatives:
        if config.loss.weights[1]:
            raise BadInput(f"{path} has no derivatives to learn from: loss=value learns values alone")
        return
    x, y, dy = (torch.from_numpy(array) for array in (train.x, train.y, train.dy))
    units = Normalizer.fit(x, y)
    x, (y, dy) = units.inputs(x), units.targets(y, dy)
    student = MLPEnsemble((x.shape[1], 8, y.shape[1]), [generator(0, "check")], "tanh").network(0).to(x)
    try:
        checking.check(student, x, (y, dy))
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from None


def check_measurable(config: SurrogateConfig, parts: Parts) -> None:
    """Refuse validation and test parts with constant values, because the error of a constant is 0 there."""
    for name in SPLITS[1:]:
        known = [column[np.isfinite(column)] for column in parts[name].y.T]
        if not any(len(column) and np.ptp(column) for column in known):
            said = f"all known values of the {name} part ({len(parts[name].y)} samples) are the same"
            raise BadInput(f"{config.dataset.path}: {said}: try another dataset.seed, or more samples")
