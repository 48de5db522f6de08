"""Sections 2 and 3, made executable: what derivatives determine, and what ReLU networks can represent.

    exact           Proposition 1 on random instances; K_reg and K_sob of each family; hypotheses of Figure 2, left
    construction    Theorem 1: S_1 error of the networks that are written down, against width
    approximation   the same target by training, with and without derivatives (RQ2)
    mismatch        Theorem 2: the joint error that a wrong derivative leaves, against its closed form
    points          points needed for a test error, with and without derivatives, against dimension (RQ1)

Shape suffixes: E networks, N samples of each, I inputs, U units, V vertices, P points, C cells, K corners of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from experiments.runner.divergence import check_convergence
from experiments.runner.errors import BadInput, check_positive, check_precision, check_seed, nearest
from experiments.runner.limits import check_memory, check_updates, mlp_bytes
from experiments.runner.run import Run
from experiments.runner.schedules import learning_rate
from experiments.runner.settings import Precision, RunConfig
from experiments.theory.settings import (
    ApproximationConfig,
    ConstructionConfig,
    ExactConfig,
    MismatchConfig,
    PointsConfig,
    TrainingConfig,
)
from sobolev.derivatives import derivatives
from sobolev.losses import SobolevLoss
from sobolev.networks import MLPEnsemble, ReLUSobolevStep
from sobolev.seeding import generator
from sobolev.theory import cosine_network, fit_cosines, interpolating_network, piecewise_linear_network
from sobolev.theory import mismatch as floors
from sobolev.theory import sample_complexity as sc

LATTICE = 10**6  # frequencies that a construction may list
# Rows an instance; of parts that have more of them than a figure needs, 0.
PARTS = {"proposition_1": 20, "polynomials": 0, "gaussian": 4, "piecewise_linear": 0, "hypotheses": 0}
A_ROW = 100  # bytes
METHODS = ("value", "sobolev", "differences")
INPUTS = {"interval": 1, "disc": 2}  # by domain

Data = tuple[Tensor, Tensor, Tensor]  # inputs (E, N, I), values (E, N, 1), gradients (E, N, I)
Rows = Iterator[tuple[int, str, str, float]]  # seed, split, metric, value

FULL = {  # below any of these a run is `reduced`
    "theory_exact": {"instances": 100},
    "theory_construction": {"degree": 10, "n_train": 3_000, "n_test": 10_000},
    "theory_approximation": {"networks": 6, "steps": 5_000, "n_train": 4_096, "n_test": 10_000},
    "theory_mismatch": {"networks": 6, "steps": 4_000, "hidden": 64, "n_train": 256, "n_test": 4_096},
    "theory_points": {"networks": 10, "steps": 2_000, "layers": 2, "hidden": 64, "teacher_units": 8, "n_test": 2_000},
}

# --- What needs no training ----------------------------------------------------------------------------


def exact(config: ExactConfig, run: Run) -> dict:
    """One part of the theory; the objective is its number of rows."""
    parts = (proposition_1, polynomials, gaussian, piecewise_linear, hypotheses)
    part = next(part for part in parts if part.__name__ == config.part)
    run.resume()
    rows = list(part(config))
    run.record(0, rows)
    return {"objective": len(rows), "scale": scale(config)}


def proposition_1(config: ExactConfig) -> Rows:
    """Largest relative errors of values and gradients of the constructed network, in 1 to 10 dimensions."""
    for n_inputs in range(1, 11):
        for instance in range(config.instances):
            rng = generator(config.seed, "proposition_1", n_inputs, instance)
            x = torch.randn(30, n_inputs, generator=rng, dtype=torch.float64)
            if instance % 2:  # points of a small lattice share most of their coordinates
                x = torch.randint(0, 3, x.shape, generator=rng).double().unique(dim=0)
            y = torch.randn(len(x), generator=rng, dtype=torch.float64)
            dy = torch.randn(x.shape, generator=rng, dtype=torch.float64)
            network = interpolating_network(x, y, dy, negative_slope=0.01 if instance % 4 > 1 else 0.0)
            h, dh = (d.squeeze(1) for d in derivatives(network, x, order=1))
            yield instance, "train", f"value_error_d{n_inputs}", ((h - y).abs().max() / y.abs().max()).item()
            yield instance, "train", f"gradient_error_d{n_inputs}", ((dh - dy).abs().max() / dy.abs().max()).item()


def polynomials(config: ExactConfig) -> Rows:
    """K_reg, K_sob and what counting equations says, by inputs and degree; as printed, for one input."""
    rng = np.random.default_rng(config.seed)
    degrees = {1: range(1, 10), 2: range(1, 6), 3: range(1, 5), 4: range(1, 5)}
    for n_inputs, of_inputs in degrees.items():
        for degree in of_inputs:
            family = f"d{n_inputs}_n{degree}"
            unknowns = math.comb(n_inputs + degree, degree)
            yield 0, "exact", f"k_reg_{family}", sc.polynomial_points(n_inputs, degree, False, rng)
            yield 0, "exact", f"k_sob_{family}", sc.polynomial_points(n_inputs, degree, True, rng)
            yield 0, "exact", f"k_sob_counted_{family}", math.ceil(unknowns / (n_inputs + 1))
            if n_inputs == 1:
                yield 0, "exact", f"k_sob_printed_{family}", math.ceil(degree / 2)


def gaussian(config: ExactConfig) -> Rows:
    """The paper's pair; then, on random densities, recovery from one value and slope, from three, and twins."""
    pair = sc.gaussian_twin(2, 1, 0, 3)
    for name, number in zip(("mean", "std"), pair, strict=True):
        yield 0, "exact", f"twin_{name}", number
    for x in (0, 3):
        yield 0, "exact", f"twin_residual_x{x}", abs(sc.gaussian_density(x, *pair) / sc.gaussian_density(x, 2, 1) - 1)
    rng = np.random.default_rng(config.seed)
    for instance in range(config.instances):
        mean, std = rng.uniform(-5, 5), rng.uniform(0.2, 5)
        x = mean + std * rng.uniform(-3, 3, size=3)
        y = sc.gaussian_density(x, mean, std)
        one_slope = sc.gaussian_from_slope(x[0], y[0], -(x[0] - mean) / std**2 * y[0])
        twin = sc.gaussian_twin(mean, std, *x[:2])
        errors = {
            "k_sob_1_error": recovery_error(one_slope, mean, std),
            "k_reg_3_error": recovery_error(sc.gaussian_from_values(x, y), mean, std),
            "twin_error": np.abs(sc.gaussian_density(x[:2], *twin) / y[:2] - 1).max(),
            "twin_distance": recovery_error(twin, mean, std),
        }
        for metric, value in errors.items():
            yield instance, "exact", metric, value


def recovery_error(found: tuple[float, float], mean: float, std: float) -> float:
    """The larger error of mean and standard deviation, in units of the true standard deviation."""
    return max(abs(found[0] - mean), abs(found[1] - std)) / std


def piecewise_linear(config: ExactConfig) -> Rows:
    """Points that determine a continuous piecewise-linear function, by who places them, in 1 to 3 dimensions."""
    rng = np.random.default_rng(config.seed)
    for n_inputs, cells_per_axis in {1: 5, 2: 3, 3: 2}.items():
        vertices, cells = sc.kuhn_partition(n_inputs, cells_per_axis)

        # The least number of values a cell, in general position, that no placement defeats: up to I there is one.
        values_a_cell = 1 + sum(
            not determines(cells, *sc.undetermined_values(n_inputs, cells_per_axis, k, rng), with_gradients=False)
            for k in range(1, n_inputs + 1)
        )
        one_a_cell = np.arange(len(cells)), rng.integers(1, 1000, (len(cells), n_inputs + 1))
        numbers = {
            "vertices": len(vertices),
            "cells": len(cells),
            "values_a_cell": values_a_cell,
            "one_gradient_a_cell_determines": determines(cells, *one_a_cell, with_gradients=True),
            "k_reg_placed": len(vertices),
            "k_sob_placed": sc.placed_points(cells),
        }
        for metric, value in numbers.items():
            yield 0, "exact", f"{metric}_d{n_inputs}", float(value)
        for instance in range(min(config.instances, 20)):
            for metric, with_gradients in (("k_reg_random", False), ("k_sob_random", True)):
                draws = np.random.default_rng([config.seed, n_inputs, instance])
                value = sc.random_points_until_determined(cells, with_gradients, draws)
                yield instance, "exact", f"{metric}_d{n_inputs}", value


def determines(cells_CK: np.ndarray, cell_P: np.ndarray, weights_PK: np.ndarray, with_gradients: bool) -> bool:
    """Whether data at points (their cells and barycentric weights) fix the value at every vertex, exactly."""
    return sc.exact_rank(sc.piecewise_linear_equations(cells_CK, cell_P, weights_PK, with_gradients)) > cells_CK.max()


def hypotheses(config: ExactConfig) -> Rows:
    """Figure 2, left: piecewise-linear functions on 5 cells that agree with 3 values, and with 3 slopes too.

    A function is its values at the 6 vertices. All solutions of A v = y are a particular one plus the null
    space of A, in which hypotheses are drawn; with slopes the null space is empty.
    """
    rng = np.random.default_rng(config.seed)
    vertices, cells = sc.kuhn_partition(1, 5)
    target_V = rng.normal(size=len(vertices))
    cell_3, place_3 = np.array([0, 2, 4]), np.array([0.5, 0.4, 0.6])
    weights_32 = np.stack([1 - place_3, place_3], axis=1)
    values_3V = np.zeros((3, len(target_V)))
    values_3V[np.arange(3)[:, None], cells[cell_3]] = weights_32
    slopes_3V = (np.eye(6)[cell_3 + 1] - np.eye(6)[cell_3]) * 5  # cells are 1/5 wide
    for k, vertex in enumerate(target_V):
        yield 0, "target", f"vertex_{k}", vertex
    for k in range(3):
        yield 0, "train", f"x_{k}", (cell_3[k] + place_3[k]) / 5
        yield 0, "train", f"y_{k}", values_3V[k] @ target_V
        yield 0, "train", f"dy_{k}", slopes_3V[k] @ target_V
    for method, equations in (("value", values_3V), ("sobolev", np.concatenate([values_3V, slopes_3V]))):
        particular_V, _, rank, _ = np.linalg.lstsq(equations, equations @ target_V, rcond=None)
        null_space = np.linalg.svd(equations)[2][rank:]
        yield 0, "exact", f"{method}_dimension", len(null_space)
        for hypothesis in range(min(config.instances, 40)):
            vertices_V = particular_V + rng.normal(size=len(null_space)) @ null_space
            for k, vertex in enumerate(vertices_V):
                yield hypothesis, "hypothesis", f"{method}_vertex_{k}", vertex


# --- Approximation: Theorem 1 and RQ2 ------------------------------------------------------------------


def ripple(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values (..., 1) and gradients (..., I) of sin(2 sum_i x_i) exp(-|x|^2), the target on [-1, 1]^I."""
    envelope = x.square().sum(-1, keepdim=True).neg().exp()
    phase = 2 * x.sum(-1, keepdim=True)
    value = phase.sin() * envelope
    return value, 2 * phase.cos() * envelope - 2 * x * value


def uniform(n: int, n_inputs: int, rng: torch.Generator) -> Tensor:
    """Points (n, I) uniform in [-1, 1]^I, in float64."""
    return 2 * torch.rand(n, n_inputs, generator=rng, dtype=torch.float64) - 1


def construction(config: ConstructionConfig, run: Run) -> dict:
    """Theorem 1: write the network down and measure it; the objective is the sup error of its gradient."""
    if config.n_inputs == 1:
        network = piecewise_linear_network(lambda x_K: ripple(x_K[:, None])[0][:, 0], -1, 1, max(config.width - 1, 1))
    else:
        x = uniform(config.n_train, config.n_inputs, generator(config.seed, "train"))
        y, dy = ripple(x)
        try:
            network = cosine_network(fit_cosines(x, y[:, 0], dy, config.degree, half_period=1.5), config.width)
        except ValueError as error:
            raise BadInput(str(error)) from None
    run.resume()
    x = uniform(config.n_test, config.n_inputs, generator(config.seed, "test"))
    errors = sobolev_errors(network, (x[None], *(t[None] for t in ripple(x))))
    rows = [(config.seed, "test", metric, error_E.item()) for metric, error_E in errors.items()]
    run.record(0, [*rows, (config.seed, "exact", "hidden_units", network[0].out_features)])
    return {"objective": errors["gradient_sup"].item(), "scale": scale(config)}


def approximation(config: ApproximationConfig, run: Run) -> dict:
    """Train one hidden layer on the same target; the objective is the median sup error of the gradient.

    The method `differences` matches central difference quotients of values in place of derivatives. For ReLU that is
    another thing: the gradient of a ReLU network jumps at its kinks, so autograd gives the kinks' places no part in the
    error of the gradients, which difference quotients do.
    """
    seeds = seeds_of(config)

    def draw(n: int, stream: str) -> Data:
        x = torch.stack([uniform(n, config.n_inputs, generator(seed, stream)) for seed in seeds])
        return in_precision(run, x, *ripple(x))

    x, y, dy = draw(config.n_train, "train")
    if config.method == "differences":
        h = config.difference_step
        dy = difference_quotients(lambda x: ripple(x)[0], x, h)
        ensemble = train(config, run, (x, y, dy), lambda ensemble, _: by_differences(ensemble, h))
    else:
        ensemble = train(config, run, (x, y, dy), by_derivatives(1.0, float(config.method == "sobolev")))
    errors = errors_in_the_end(config, ensemble, draw(config.n_test, "test"))
    return finish(config, run, errors, "gradient_sup")


def sobolev_errors(model: nn.Module, data: Data, chunk: int = 500) -> dict[str, Tensor]:
    """Root mean square and largest errors of values and gradients (Euclidean norm), a network (E,)."""
    value_parts, gradient_parts = [], []
    for x, y, dy in zip(*(tensor.split(chunk, 1) for tensor in data), strict=True):
        h, dh = derivatives(model, x, order=1, batch_dims=2)
        value_parts.append((h - y).squeeze(-1).abs())
        gradient_parts.append((dh.squeeze(2) - dy).norm(dim=-1))
    errors = {"value": torch.cat(value_parts, 1), "gradient": torch.cat(gradient_parts, 1)}
    root_mean_square = {f"{name}_l2": error.square().mean(1).sqrt() for name, error in errors.items()}
    return root_mean_square | {f"{name}_sup": error.amax(1) for name, error in errors.items()}


# --- Theorem 2: a wrong derivative ---------------------------------------------------------------------


def mismatch(config: MismatchConfig, run: Run) -> dict:
    """Train on gradients that are wrong by u; the objective is the median joint error, mean(r^2 + |grad r - u|^2).

    On the interval [-1, 1] u is the constant delta, on the unit disc the rotation delta (-x_2, x_1). Points lie
    evenly, so that the mean over them is the integral.
    """
    seeds = seeds_of(config)
    if config.domain == "interval":
        points, wrong = even_interval, lambda x: torch.full_like(x, config.delta)
        eta, floor = floors.constant_mismatch(config.delta, length=2)
    else:
        points, wrong = even_disc, lambda x: config.delta * torch.stack([-x[..., 1], x[..., 0]], -1)
        eta, floor = floors.rotation_mismatch(config.delta, radius=1)

    def data(n: int) -> Data:
        x = points(n).expand(len(seeds), -1, -1)
        y, dy = ripple(x)
        return in_precision(run, x, y, dy + wrong(x))

    ensemble = train(config, run, data(config.n_train), by_derivatives(1.0, 1.0))
    errors = errors_in_the_end(config, ensemble, data(config.n_test))
    errors["joint_mse"] = errors["value_l2"].square() + errors["gradient_l2"].square()
    errors["joint_sup"] = torch.maximum(errors["value_sup"], errors["gradient_sup"])
    run.record(0, [(config.seed, "exact", "joint_mse", floor), (config.seed, "exact", "joint_sup", eta)])
    return finish(config, run, errors, "joint_mse")


def even_interval(n: int) -> Tensor:
    """The middles (n, 1) of n equal pieces of [-1, 1]."""
    return ((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1)[:, None]


def even_disc(n: int) -> Tensor:
    """A sunflower of n points (n, 2), each at the middle of an equal area of the unit disc."""
    k = torch.arange(n, dtype=torch.float64)
    radius, angle = ((k + 0.5) / n).sqrt(), k * math.pi * (3 - math.sqrt(5))
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)


# --- RQ1 in practice: points against dimension ---------------------------------------------------------


def points(config: PointsConfig, run: Run) -> dict:
    """Learn a teacher from `n_train` points; the objective is the median share of its variance left unexplained."""
    value_weight, gradient_weight = (*config.loss.weights, 0.0)[:2]
    seeds = seeds_of(config)
    teachers = [random_teacher(config.n_inputs, config.teacher_units, generator(seed, "teacher")) for seed in seeds]

    def draw(n: int, stream: str) -> Data:
        x = [torch.randn(n, config.n_inputs, generator=generator(seed, stream), dtype=torch.float64) for seed in seeds]
        values, gradients = zip(*(teacher(x_NI) for teacher, x_NI in zip(teachers, x, strict=True)), strict=True)
        return in_precision(run, torch.stack(x), torch.stack(values), torch.stack(gradients))

    ensemble = train(config, run, draw(config.n_train, "train"), by_derivatives(value_weight, gradient_weight))
    test = draw(config.n_test, "test")
    errors = errors_in_the_end(config, ensemble, test)
    variance = test[1].var(1, correction=0).squeeze(-1)
    return finish(config, run, {"value_nmse": errors["value_l2"].square() / variance}, "value_nmse")


def random_teacher(n_inputs: int, units: int, rng: torch.Generator) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Values (N, 1) and gradients (N, I) of a random network of tanh units, scaled to unit variance.

    Inputs are standard normal; weights of variance 4 / I make every unit see a variance of 4 in any dimension.
    """
    weight_IU = 2 * torch.randn(n_inputs, units, generator=rng, dtype=torch.float64) / math.sqrt(n_inputs)
    bias_U, output_U = torch.randn(2, units, generator=rng, dtype=torch.float64)

    def raw(x_NI: Tensor) -> tuple[Tensor, Tensor]:
        hidden_NU = (x_NI @ weight_IU + bias_U).tanh()
        return (hidden_NU @ output_U)[:, None], ((1 - hidden_NU.square()) * output_U) @ weight_IU.mT

    sample = raw(torch.randn(20_000, n_inputs, generator=rng, dtype=torch.float64))[0]
    mean, std = sample.mean(), sample.std()
    return lambda x_NI: ((raw(x_NI)[0] - mean) / std, raw(x_NI)[1] / std)


# --- Training ------------------------------------------------------------------------------------------


def train(
    config: TrainingConfig, run: Run, data: Data, objective: Callable[[MLPEnsemble, int], Callable[..., None]]
) -> MLPEnsemble:
    """Train one network a seed by Adam; each draws its weights and its batches from its own seed.

    `objective(ensemble, batch_size)` is a function of a batch that fills the parameters' `.grad`.
    """
    seeds, inputs_ENI = seeds_of(config), data[0]
    ensemble = MLPEnsemble(
        sizes=(inputs_ENI.shape[-1], *config.model.hidden, 1),
        generators=[generator(seed, "init") for seed in seeds],
        activation=config.model.activation.name,
        initialisation=config.model.initialisation.name,
    ).to(run.device, run.dtype)
    n, steps = inputs_ENI.shape[1], config.optimizer.steps
    batch_size = min(n, config.optimizer.batch_size)
    compute_gradients = objective(ensemble, batch_size)
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=config.optimizer.learning_rate, fused=True)
    picks = torch.stack(
        [torch.randint(n, (steps, batch_size), generator=generator(seed, "batches")) for seed in seeds], 1
    ).to(run.device)
    network_E1 = torch.arange(len(seeds), device=run.device)[:, None]
    first = 0
    if state := run.resume():
        first = state["step"]
        ensemble.load_state_dict(state["ensemble"])
        optimizer.load_state_dict(state["optimizer"])
    for step in run.progress(first, steps):
        run.checkpoint(
            lambda step=step: {
                "step": step,
                "ensemble": ensemble.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
        )
        batch = data if n == batch_size else tuple(tensor[network_E1, picks[step]] for tensor in data)
        compute_gradients(*batch)
        optimizer.param_groups[0]["lr"] = learning_rate(config.optimizer, step)
        optimizer.step()
    return ensemble


def by_derivatives(value_weight: float, gradient_weight: float) -> Callable[[MLPEnsemble, int], Callable[..., None]]:
    """The objective of Eq. 1 at order 1: the fused step for ReLU, autograd for other activations."""
    loss = SobolevLoss(order=1, weights=[value_weight, gradient_weight], reduction="none", batch_dims=2)

    def objective(ensemble: MLPEnsemble, batch_size: int) -> Callable[..., None]:
        if type(ensemble.activation) is nn.ReLU:
            return ReLUSobolevStep(ensemble, batch_size, value_weight, gradient_weight)

        def compute_gradients(x_ENI: Tensor, f_EN1: Tensor, df_ENI: Tensor) -> None:
            ensemble.zero_grad()
            # Each network has its own parameters, so the sum over networks trains each on its own mean.
            loss(ensemble, x_ENI, (f_EN1, df_ENI.unsqueeze(2))).total.mean(1).sum().backward()

        return compute_gradients

    return objective


def by_differences(ensemble: MLPEnsemble, step: float) -> Callable[..., None]:
    """The same with difference quotients in place of derivatives."""

    def compute_gradients(x_ENI: Tensor, f_EN1: Tensor, quotients_ENI: Tensor) -> None:
        ensemble.zero_grad()
        error_EN = (ensemble(x_ENI) - f_EN1).square().sum(-1)
        error_EN = error_EN + (difference_quotients(ensemble, x_ENI, step) - quotients_ENI).square().sum(-1)
        error_EN.mean(1).sum().backward()

    return compute_gradients


def difference_quotients(f: Callable[[Tensor], Tensor], x_ENI: Tensor, step: float) -> Tensor:
    """Central differences (E, N, I) of f, whose values are (E, N, 1), over 2 step along each input."""
    shifts_II = step * torch.eye(x_ENI.shape[-1], dtype=x_ENI.dtype, device=x_ENI.device)
    return torch.cat([f(x_ENI + shift_I) - f(x_ENI - shift_I) for shift_I in shifts_II], -1) / (2 * step)


def errors_in_the_end(config: TrainingConfig, ensemble: MLPEnsemble, test: Data) -> dict[str, Tensor]:
    """`sobolev_errors` of networks that have trained, unless one of them diverged: these are measured once."""
    errors = sobolev_errors(ensemble, test)
    joint_E = errors["value_l2"].square() + errors["gradient_l2"].square()
    of_zeros_E = sum(target.square().sum(-1).mean(1) for target in test[1:])
    relative_E = (joint_E / of_zeros_E).sqrt().tolist()
    check_convergence(config.optimizer.steps, True, dict(zip(seeds_of(config), relative_E, strict=True)))
    return errors


def finish(config: TrainingConfig, run: Run, errors: dict[str, Tensor], objective: str) -> dict:
    """Record the test errors of every network and summarise them."""
    rows = [
        (seed, "test", metric, value)
        for metric, error_E in errors.items()
        for seed, value in zip(seeds_of(config), error_E.tolist(), strict=True)
    ]
    run.record(config.optimizer.steps, rows)
    return {"objective": errors[objective].quantile(0.5).item(), "scale": scale(config)}


def scale(config: RunConfig) -> str:
    """`paper` where nothing is smaller than the shipped experiment, else `reduced`."""
    sizes = dict(vars(config))
    if isinstance(config, TrainingConfig):
        hidden = config.model.hidden
        sizes |= {"steps": config.optimizer.steps, "layers": len(hidden), "hidden": min(hidden)}
    full = FULL.get(config.name, {})
    return "paper" if full and all(sizes[key] >= least for key, least in full.items()) else "reduced"


def seeds_of(config: TrainingConfig) -> range:
    """One seed a network."""
    return range(config.seed, config.seed + config.networks)


def in_precision(run: Run, *tensors: Tensor) -> Data:
    """Tensors computed in float64, rounded to the run's precision, on its device."""
    return tuple(tensor.to(run.device, run.dtype) for tensor in tensors)


# --- Refusing what no type can -------------------------------------------------------------------------


def check(config: RunConfig) -> None:
    """Whatever the part; then its own."""
    check_seed(config)
    trained = isinstance(config, TrainingConfig)
    check_precision(config, *(() if trained else (Precision.float64,)))
    sizes = ("instances", "n_inputs", "width", "degree", "n_train", "n_test", "networks", "difference_step")
    check_positive(**{key: getattr(config, key) for key in (*sizes, "teacher_units") if hasattr(config, key)})
    if trained:
        check_training(config)
    if isinstance(config, ExactConfig):
        if config.part not in PARTS:
            raise BadInput(f"part={config.part} is unknown{nearest(config.part, [*PARTS])}")
        check_memory({"instances": A_ROW * PARTS[config.part] * config.instances})
    elif isinstance(config, ConstructionConfig):
        if config.n_inputs * math.log(2 * config.degree + 1) > math.log(LATTICE):
            raise BadInput(
                f"n_inputs={config.n_inputs} with degree={config.degree} lists (2 degree + 1)^n_inputs frequencies, "
                f"more than {LATTICE:,}: take fewer inputs or a lower degree"
            )
        numbers, points = 8 * (config.n_inputs + 1), max(config.n_train, config.n_test)
        check_memory({"n_train, n_test and n_inputs": numbers * points, "width and n_inputs": numbers * config.width})
    elif isinstance(config, ApproximationConfig) and config.method not in METHODS:
        raise BadInput(f"method={config.method} is unknown{nearest(config.method, [*METHODS])}")
    elif isinstance(config, MismatchConfig):
        if config.domain not in INPUTS:
            raise BadInput(f"domain={config.domain} is unknown{nearest(config.domain, [*INPUTS])}")
        if not 0 <= config.delta < math.inf:
            raise BadInput(f"delta must be 0 or more, not {config.delta}")
    elif isinstance(config, PointsConfig):
        check_loss(config)


def check_training(config: TrainingConfig) -> None:
    optimizer, hidden, networks = config.optimizer, config.model.hidden, config.networks
    check_positive(
        **{f"optimizer.{key}": getattr(optimizer, key) for key in ("steps", "batch_size", "learning_rate")},
        **{"model.hidden": min(hidden, default=0)},
    )
    check_updates(**{"optimizer.steps": optimizer.steps})
    inputs = getattr(config, "n_inputs", 1)
    batch_size = min(config.n_train, optimizer.batch_size)
    check_memory(
        {
            "networks, model.hidden and n_inputs": mlp_bytes(config, (inputs, *hidden, 1), networks, batch_size),
            # In float64, as they are drawn.
            "networks, n_train, n_test and n_inputs": 8 * inputs * networks * max(config.n_train, config.n_test),
            "networks, optimizer.steps and optimizer.batch_size": 8 * networks * optimizer.steps * batch_size,
            "networks, teacher_units and n_inputs": 8 * networks * inputs * getattr(config, "teacher_units", 0),
        }
    )


def check_loss(config: PointsConfig) -> None:
    value_weight, gradient_weight, *higher = (*config.loss.weights, 0.0, 0.0)
    possible = all(0 <= weight < math.inf for weight in config.loss.weights)
    if not possible or not value_weight + gradient_weight or any(higher):
        raise BadInput(
            f"loss.weights={config.loss.weights}: expected weights of value and gradient, none negative, not both 0"
        )
    if set(config.loss.distances) != {"squared_l2"}:
        raise BadInput(f"loss.distances={config.loss.distances}: here all errors are squared (squared_l2)")
