"""The training step of regression: batches, gradients of a loss, and an update of the networks of several runs.

Networks of runs with the same loss form one ensemble. An update computes the gradients of each ensemble and passes all
of them to one Adam. Networks share no parameters or data, so a network's training does not depend on the others.

Shape suffixes: E networks in an ensemble (S seeds per run, run after run), N points per network, B points in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from sobolev.cuda_graphs import CapturedStep
from sobolev.devices import to_device
from sobolev.losses import SobolevLoss
from sobolev.networks import MLPEnsemble, ReLUSobolevStep, SmoothSobolevStep
from sobolev.networks.smooth_step import DISTANCES as SMOOTH_DISTANCES
from sobolev.seeding import generator

STAGED = 64  # the approximate number of updates whose batches are drawn and copied to the device at once

Gradients = Callable[..., None]  # takes a batch (x, f, df, ...) and fills `.grad`


def gradient_computer(ensemble: MLPEnsemble, batch_size: int, weights: list[float], distances: list[str]) -> Gradients:
    """A function of a batch (x, f, df, ...) that fills the parameters' `.grad` with the gradient of the loss.

    It uses a hand-written step if there is one for this loss of values and gradients, else autograd.
    """
    by_hand = len(weights) <= 2 and distances[0] == "squared_l2"
    value_weight, gradient_weight = (*weights, 0.0)[:2]
    relu = ensemble.activation.__class__ is torch.nn.ReLU and len(ensemble.sizes) > 2
    if by_hand and relu and distances[-1] == "squared_l2":
        return ReLUSobolevStep(ensemble, batch_size, value_weight, gradient_weight)
    if by_hand and distances[-1] in SMOOTH_DISTANCES and SmoothSobolevStep.takes(ensemble):
        smooth = SmoothSobolevStep(ensemble, distances[-1], value_weight)
        return lambda x_ENI, f_EN1, df_ENI, *higher: smooth(x_ENI, f_EN1, df_ENI, gradient_weight)

    loss = SobolevLoss(len(weights) - 1, weights=weights, distances=distances, reduction="none", batch_dims=2)

    def by_autograd(x_ENI: Tensor, f_EN1: Tensor, *higher: Tensor) -> None:
        target = (f_EN1, *(tensor.unsqueeze(2) for tensor in higher[: len(weights) - 1]))
        ensemble.zero_grad()
        # Networks have separate parameters, so the gradient of the sum is each network's own gradient.
        loss(ensemble, x_ENI, target).total.mean(1).sum().backward()

    return by_autograd


class Update:
    """One Adam update of several ensembles, each with the gradients of its own loss on a batch of its own data.

    On a GPU the update is captured as a CUDA graph if all gradients come from `ReLUSobolevStep`, because its 28 small
    kernels per ensemble take longer to launch than to compute.

    Args:
        ensembles: The networks.
        gradients: For each ensemble, the function that fills its `.grad`.
        data: For each ensemble, all points (x, f, df, ...), of shape (E, N, ...).
        record: Whether the update may be captured.
    """

    def __init__(
        self,
        ensembles: Sequence[MLPEnsemble],
        gradients: Sequence[Gradients],
        data: Sequence[Sequence[Tensor]],
        record: bool = True,
    ):
        parameters = [parameter for ensemble in ensembles for parameter in ensemble.parameters()]
        device = parameters[0].device
        recorded = record and device.type == "cuda" and all(isinstance(each, ReLUSobolevStep) for each in gradients)
        self._steps = [*zip(gradients, data, strict=True)]
        self._adam = torch.optim.Adam(parameters, fused=True, capturable=recorded)
        for parameter in parameters:  # Adam's initial state, allocated before the step is captured
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self._adam.state[parameter] = {"step": torch.zeros((), device=device), **moments}
        self._rate = torch.zeros((), device=device) if recorded else None
        state = [*parameters, *(held for moments in self._adam.state.values() for held in moments.values())]
        self._step = CapturedStep(self._update, state) if recorded else self._update

    def __call__(self, rate: float, order_SB: Tensor | None = None) -> None:
        """Update with a learning rate on these points of each run's seeds, or on all points."""
        if self._rate is None:
            self._adam.param_groups[0]["lr"] = rate
        else:
            self._rate.fill_(rate)
        self._step(*([] if order_SB is None else [order_SB]))

    def _update(self, *order: Tensor) -> None:
        for gradients, data in self._steps:
            gradients(*(batch_of(data, *order) if order else data))
        if self._rate is not None:
            self._adam.param_groups[0]["lr"] = self._rate
        self._adam.step()

    def moments(self, ensemble: MLPEnsemble, networks: slice) -> dict[int, dict[str, Tensor]]:
        """Views of Adam's state for some networks of an ensemble, in the layout of `state_dict`."""
        return {
            number: {name: held[networks] if held.dim() else held for name, held in self._adam.state[parameter].items()}
            for number, parameter in enumerate(ensemble.parameters())
        }


def batch_of(data: Sequence[Tensor], order_SB: Tensor) -> list[Tensor]:
    """Select points from each tensor (E, N, ...), giving (E, B, ...); networks with the same seed get the same."""
    n_networks = len(data[0])
    network_E1 = torch.arange(n_networks, device=order_SB.device)[:, None]
    order_EB = order_SB.repeat(n_networks // len(order_SB), 1)
    return [tensor[network_E1, order_EB] for tensor in data]


def batch_orders(
    n: int, batch_size: int, seeds: Sequence[int], first: int, device: torch.device
) -> Iterator[Tensor | None]:
    """An endless iterator over the points (S, B) of each seed's batch, from update `first` on; None means all points.

    The order of epoch k is drawn from (seed, k), so it depends neither on the first update nor on the other networks.
    Points that do not fill a last batch are left out until the next epoch. With one batch per epoch there is nothing to
    shuffle. The orders are always drawn on the CPU, several epochs ahead.
    """
    per_epoch = n // batch_size
    while n == batch_size:
        yield None
    staged = -(-STAGED // per_epoch)
    skipped = first % per_epoch
    for epoch in range(first // per_epoch, 2**62, staged):
        drawn = [
            torch.randperm(n, generator=generator(seed, "shuffle", epoch + later))
            for later in range(staged)
            for seed in seeds
        ]
        order_KSN = to_device(torch.stack(drawn).unflatten(0, (staged, len(seeds))), device)
        for order_SN in order_KSN:
            batches = order_SN[:, : per_epoch * batch_size].split(batch_size, 1)
            yield from batches[skipped:]
            skipped = 0


def shuffled_batches(
    data: Sequence[Tensor], batch_size: int, seeds: Sequence[int], first: int
) -> Iterator[list[Tensor]]:
    """Endless batches (E, B, ...) from update `first` on, for data (E, N, ...) with one network per seed."""
    for order in batch_orders(data[0].shape[1], batch_size, seeds, first, data[0].device):
        yield [*data] if order is None else batch_of(data, order)
