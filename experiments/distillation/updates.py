"""How a student learns: the batches and projections of its updates, and an update itself.

Shape suffixes: S projections, N states, B samples of a batch, A actions, I inputs of a state as flat patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from experiments.distillation.settings import DistillConfig
from sobolev import projections
from sobolev.cuda_graphs import CapturedStep
from sobolev.devices import to_device
from sobolev.distillation import DistillationStep
from sobolev.networks.relu_passes import ReLUPasses
from sobolev.seeding import generator

PROJECTIONS = {
    "sphere": projections.Sphere,
    "gaussian": projections.Gaussian,
    "rademacher": projections.Rademacher,
    "coordinate": projections.Coordinate,
}
STAGED = 64  # updates whose batches and projections are drawn and copied to the device at once


class Update:
    """An update of a student: the gradients of its objective on a batch, then a step of Adam.

    On a GPU it is recorded and replayed: its 75 small operations, 142 with
    gradients, take longer to queue than to compute.

    Args:
        student: the policy that is trained.
        step: computes its gradients.
        raw_NI: the training states, as flat patches of raw frames.
        teacher_NA: the teacher's log-probabilities there.
        record: whether the update may be recorded.
    """

    def __init__(
        self, student: ReLUPasses, step: DistillationStep, raw_NI: Tensor, teacher_NA: Tensor, record: bool = True
    ):
        self._student, self._step, self._raw_NI, self._teacher_NA = student, step, raw_NI, teacher_NA
        self._parameters = [*student.parameters()]
        device = self._parameters[0].device
        self._recorded = record and device.type == "cuda"
        self._adam = torch.optim.Adam(self._parameters, fused=True, capturable=self._recorded)
        for parameter in self._parameters:  # Adam's initial state, allocated before an update is recorded
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self._adam.state[parameter] = {"step": torch.zeros((), device=device), **moments}
        self._rate, self._weight = (torch.zeros((), device=device) for _ in range(2))  # that a recorded update reads
        self._captured: CapturedStep[None] | None = None

    def __call__(self, rate: float, gradient_weight: float, index_B: Tensor, v_SBA: Tensor | None) -> None:
        """Learn from the states with these indices at a learning rate; `v_SBA` is None for value-only training."""
        if not self._recorded:
            self._adam.param_groups[0]["lr"], self._step.gradient_weight = rate, gradient_weight
            self._update(index_B, v_SBA)
            return
        if self._captured is None:
            self._adam.param_groups[0]["lr"] = self._rate
            self._step.gradient_weight = 0.0 if v_SBA is None else self._weight
            held = (tensor for moments in self._adam.state.values() for tensor in moments.values())
            self._captured = CapturedStep(self._update, [*self._parameters, *held])
        self._rate.fill_(rate)
        self._weight.fill_(gradient_weight)
        self._captured(index_B, *([] if v_SBA is None else [v_SBA]))

    def _update(self, index_B: Tensor, v_SBA: Tensor | None = None) -> None:
        self._student.refresh()  # after the weights changed in the last update
        raw_BI, teacher_BA = (tensor.index_select(0, index_B) for tensor in (self._raw_NI, self._teacher_NA))
        self._step(index_B, raw_BI, teacher_BA, v_SBA)
        self._adam.step()

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state, as if updates were not recorded."""
        state = self._adam.state_dict()
        for group in state["param_groups"]:
            group |= {"lr": float(group["lr"]), "capturable": False}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the optimiser's state; only before the first update."""
        self._adam.load_state_dict(state)
        self._adam.param_groups[0]["capturable"] = self._recorded


def batches_and_projections(
    config: DistillConfig, first: int, n_actions: int, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The state indices and the projections of each update from number `first` on, endlessly.

    The projections of update k are drawn from (seed, k), and the order of an epoch from (seed, epoch), always on the
    CPU. They are drawn for several updates at once, which saves copies to a GPU.
    """
    objective, seed = config.objective, config.seed
    projection = PROJECTIONS[objective.projection](objective.samples)
    batches = shuffled_batches(config.n_train, config.optimizer.batch_size, seed, first)
    like_BA = torch.empty(min(config.n_train, config.optimizer.batch_size), n_actions, dtype=dtype)
    for start in range(first, 2**62, STAGED):
        index_KB = to_device(torch.stack([*islice(batches, STAGED)]), device)
        if objective.gradient_weight:
            draws = [
                projection.draw(like_BA, 1, generator(seed, "projection", update))
                for update in range(start, start + STAGED)
            ]
            yield from zip(index_KB, to_device(torch.stack(draws), device), strict=True)
        else:
            yield from ((index_B, None) for index_B in index_KB)


def shuffled_batches(n: int, batch_size: int, seed: int, first: int) -> Iterator[Tensor]:
    """Endless batches of indices from update `first` on. The order of epoch k is drawn from (seed, k) alone.

    States that do not fill a last batch wait for the next epoch.
    """
    batch_size = min(n, batch_size)
    per_epoch = n // batch_size
    for epoch in range(first // per_epoch, 2**62):
        order = torch.randperm(n, generator=generator(seed, "shuffle", epoch))
        start = first % per_epoch if epoch == first // per_epoch else 0
        yield from order[: per_epoch * batch_size].view(per_epoch, batch_size)[start:]
