"""Shared code of the trained parts: one network per seed, trained as an ensemble and evaluated after training.

Shape suffixes: E networks, N samples per network, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from experiments.runner.divergence import check_convergence
from experiments.runner.limits import check_memory, mlp_bytes
from experiments.runner.run import Run
from experiments.runner.schedules import learning_rate
from experiments.theory.settings import TrainingConfig
from experiments.theory.target import Data, sobolev_errors
from sobolev.losses import SobolevLoss
from sobolev.networks import MLPEnsemble, ReLUSobolevStep
from sobolev.seeding import generator

ComputeGradients = Callable[..., None]  # takes a batch (inputs, values, gradients) and fills the parameters' `.grad`


def train(
    config: TrainingConfig, run: Run, data: Data, objective: Callable[[MLPEnsemble, int], ComputeGradients]
) -> MLPEnsemble:
    """Train one network per seed with Adam; each draws its weights and batches from its own seed.

    `objective(ensemble, batch_size)` returns a function of a batch that fills the parameters' `.grad`.
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


def by_derivatives(value_weight: float, gradient_weight: float) -> Callable[[MLPEnsemble, int], ComputeGradients]:
    """The objective of Eq. 1 at order 1: the fused step for ReLU, autograd for other activations."""
    loss = SobolevLoss(order=1, weights=[value_weight, gradient_weight], reduction="none", batch_dims=2)

    def objective(ensemble: MLPEnsemble, batch_size: int) -> ComputeGradients:
        if type(ensemble.activation) is nn.ReLU:
            return ReLUSobolevStep(ensemble, batch_size, value_weight, gradient_weight)

        def compute_gradients(x_ENI: Tensor, f_EN1: Tensor, df_ENI: Tensor) -> None:
            ensemble.zero_grad()
            # Networks have separate parameters, so the gradient of the sum is each network's own gradient.
            loss(ensemble, x_ENI, (f_EN1, df_ENI.unsqueeze(2))).total.mean(1).sum().backward()

        return compute_gradients

    return objective


def errors_in_the_end(config: TrainingConfig, ensemble: MLPEnsemble, test: Data) -> dict[str, Tensor]:
    """`sobolev_errors` of the trained networks; raises `BadInput` if one of them diverged."""
    errors = sobolev_errors(ensemble, test)
    joint_E = errors["value_l2"].square() + errors["gradient_l2"].square()
    of_zeros_E = sum(target.square().sum(-1).mean(1) for target in test[1:])
    relative_E = (joint_E / of_zeros_E).sqrt().tolist()
    check_convergence(config.optimizer.steps, True, dict(zip(seeds_of(config), relative_E, strict=True)))
    return errors


def finish(config: TrainingConfig, run: Run, errors: dict[str, Tensor], objective: str) -> dict:
    """Record the test errors of every network; returns the summary."""
    rows = [
        (seed, "test", metric, value)
        for metric, error_E in errors.items()
        for seed, value in zip(seeds_of(config), error_E.tolist(), strict=True)
    ]
    run.record(config.optimizer.steps, rows)
    return {"objective": errors[objective].quantile(0.5).item()}


def seeds_of(config: TrainingConfig) -> range:
    """The seeds, one per network."""
    return range(config.seed, config.seed + config.networks)


def in_precision(run: Run, *tensors: Tensor) -> Data:
    """Round float64 tensors to the run's precision, on its device."""
    return tuple(tensor.to(run.device, run.dtype) for tensor in tensors)


def check_training(config: TrainingConfig) -> None:
    """Refuse networks, data and batches that exceed the machine's memory.

    Raises:
        BadInput: what is wrong, in one line.
    """
    optimizer, hidden, networks = config.optimizer, config.model.hidden, config.networks
    inputs = getattr(config, "n_inputs", 1)
    batch_size = min(config.n_train, optimizer.batch_size)
    check_memory(
        {
            "networks, model.hidden and n_inputs": mlp_bytes(config, (inputs, *hidden, 1), networks, batch_size),
            # Data are drawn in float64.
            "networks, n_train, n_test and n_inputs": 8 * inputs * networks * max(config.n_train, config.n_test),
            "networks, optimizer.steps and optimizer.batch_size": 8 * networks * optimizer.steps * batch_size,
            "networks, teacher_units and n_inputs": 8 * networks * inputs * getattr(config, "teacher_units", 0),
        }
    )
