"""How the networks of regression learn: batches, gradients of a loss, and an update of the networks of several runs.

Networks of runs that have their loss in common are one ensemble. An update computes the gradients of each ensemble and
gives all of them to one Adam. What a network learns from is its own, so it does not matter which others there are.

Shape suffixes: E networks of an ensemble are those of S seeds, run by run; N points of each, of which a batch has B.
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

STAGED = 64  # updates, about, whose batches are drawn and taken to the device at once

Gradients = Callable[..., None]  # of a batch (x, f, df, ...): fills `.grad`


def gradient_computer(ensemble: MLPEnsemble, batch_size: int, weights: list[float], distances: list[str]) -> Gradients:
    """A function of a batch (x, f, df, ...) that fills the parameters' `.grad` with those of the loss.

    By hand where there is a step for it, of values and gradients alone, and else by autograd.
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
        # Each network has its own parameters, so the sum over networks trains each on its own mean.
        loss(ensemble, x_ENI, target).total.mean(1).sum().backward()

    return by_autograd


class Update:
    """An update of ensembles, each by the gradients of its own loss on a batch of its own data, by Adam.

    On a GPU it is recorded and replayed where the gradients are those of `ReLUSobolevStep`: 28 small kernels an
    ensemble take longer to queue than to compute.

    Args:
        ensembles: the networks.
        gradients: of each ensemble, what fills its `.grad`.
        data: of each ensemble, all points (x, f, df, ...), of shape (E, N, ...).
        record: whether it may be recorded.
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
        for parameter in parameters:  # as Adam begins, but here already: a recorded step finds its memory
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self._adam.state[parameter] = {"step": torch.zeros((), device=device), **moments}
        self._rate = torch.zeros((), device=device) if recorded else None
        state = [*parameters, *(held for moments in self._adam.state.values() for held in moments.values())]
        self._step = CapturedStep(self._update, state) if recorded else self._update

    def __call__(self, rate: float, order_SB: Tensor | None = None) -> None:
        """Learn at a rate from these points of each run's seeds, or from all points."""
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
        """What Adam holds of some networks of an ensemble, as `state_dict` has it, in Adam's own memory."""
        return {
            number: {name: held[networks] if held.dim() else held for name, held in self._adam.state[parameter].items()}
            for number, parameter in enumerate(ensemble.parameters())
        }


def batch_of(data: Sequence[Tensor], order_SB: Tensor) -> list[Tensor]:
    """Of each tensor (E, N, ...) these points of each network, (E, B, ...): those of S seeds, run by run."""
    n_networks = len(data[0])
    network_E1 = torch.arange(n_networks, device=order_SB.device)[:, None]
    order_EB = order_SB.repeat(n_networks // len(order_SB), 1)
    return [tensor[network_E1, order_EB] for tensor in data]


def batch_orders(
    n: int, batch_size: int, seeds: Sequence[int], first: int, device: torch.device
) -> Iterator[Tensor | None]:
    """Which points (S, B) each seed's networks learn from, endlessly, from update `first` on; None for all of them.

    The order of epoch k is drawn from (seed, k), so it does not matter where one begins, nor with whom a network
    learns. Points that do not fill a last batch wait for the next epoch. With one batch an epoch there is nothing to
    shuffle. They are drawn on the CPU wherever networks learn, those of several epochs before they are needed.
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
    """Endless batches (E, B, ...) from update `first` on, of data (E, N, ...) of one network a seed."""
    for order in batch_orders(data[0].shape[1], batch_size, seeds, first, data[0].device):
        yield [*data] if order is None else batch_of(data, order)
