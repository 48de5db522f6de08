r"""How many projections a derivative needs, and which kind: a field is learned from projected Jacobians.

For a network with one output, the full gradient costs as much as one projection. Here the network has as many outputs
as inputs: m: R^I -> R^I learns the field f = grad F of a function F, whose Jacobian is the Hessian of F, in the
normalised protocol (inputs in [-1, 1]^I, each output standardised). The loss is that of a recipe, with a projected
distance (Eq. 2):

    1/N sum_n [ ||m(x_n) - f_n||^2 / I + w_t 1/S sum_s d(D <m(x_n), v_ns>, D <f_n, v_ns>) ]

The vectors v are drawn anew for each sample and update. d is divided by c for squares and by sqrt(c) for norms
(`sobolev.projections` defines c), so that w_t has the same effect as for full Jacobians. The cost of an update is the
number of floating-point operations in its products, which does not depend on the load of the machine.

Shape suffixes: E networks, N samples per network, S vectors per sample, O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.regression.recipes import DISTANCES, FALLS, learn, weights
from experiments.regression.settings import GradientTermConfig, ProjectedConfig
from experiments.regression.train import check_function, draw, new_ensemble
from experiments.regression.updates import shuffled_batches
from experiments.runner.operations import operations_of
from experiments.runner.run import Run
from sobolev import Projected, projections
from sobolev.derivatives import derivatives
from sobolev.functions import FUNCTIONS
from sobolev.losses import SobolevLoss
from sobolev.networks import MLPEnsemble
from sobolev.projections import Projection
from sobolev.seeding import generator


def main(config: ProjectedConfig, run: Run) -> dict:
    """Train and evaluate one ensemble and count an update's operations; the objective is the median error of values."""
    function = FUNCTIONS[config.dataset.name]
    seeds = range(config.seed, config.seed + config.networks)
    train, held_out = (
        Field.of(draw(function, n, seeds, split, 2, run))
        for n, split in ((config.n_train, "train"), (config.n_test, config.split))
    )
    scales = Scales.of(function.domain, train)
    train, held_out = scales.scaled(train), scales.scaled(held_out)
    ensemble = new_ensemble(config, function.inputs, seeds, run, outputs=function.inputs)
    projection = None
    if config.projection != "full":
        projection = getattr(projections, config.projection.capitalize())(config.samples)
    objective = Objective(ensemble, config.gradient, train.jacobian_ENOI, projection)
    batch_size = min(config.n_train, config.optimizer.batch_size)

    def batches(first: int) -> Iterator[list[Tensor]]:
        drawn = shuffled_batches(train, batch_size, seeds, first)
        return drawn if projection is None else with_vectors(drawn, projection, seeds, first)

    of_zeros_E = held_out.value_ENO.double().square().mean((1, 2)).cpu()
    summary = learn(config, run, ensemble, objective, batches, lambda: errors(ensemble, held_out), of_zeros_E)
    operations = operations_of(lambda: objective(0.0, *next(batches(0)))).total / len(seeds)
    run.record(config.optimizer.steps, [(seed, "cost", "mflop_per_update", operations / 1e6) for seed in seeds])
    return summary


def check(config: ProjectedConfig) -> None:
    """Refuse an unknown function, and a run that exceeds this machine's memory."""
    check_function(config, order=2)


class Field(NamedTuple):
    """Points with a field's values and Jacobians."""

    x_ENI: Tensor
    value_ENO: Tensor
    jacobian_ENOI: Tensor

    @classmethod
    def of(cls, drawn: tuple[Tensor, ...]) -> Field:
        """The gradient field of a function, from its points, values, gradients and Hessians."""
        x_ENI, _, gradient_ENI, hessian_ENII = drawn
        return cls(x_ENI, gradient_ENI, hessian_ENII)


class Scales(NamedTuple):
    """The network's units: x' = (x - center) / half_width and f' = (f - mean) / deviation, output by output."""

    center_I: Tensor
    half_width_I: Tensor
    mean_E1O: Tensor
    deviation_E1O: Tensor

    @classmethod
    def of(cls, domain: tuple[tuple[float, float], ...], train: Field) -> Scales:
        low, high = torch.tensor(domain).to(train.x_ENI).unbind(-1)
        deviation = train.value_ENO.std(1, keepdim=True, correction=0)
        deviation = torch.where(deviation > 0, deviation, 1.0)
        return cls((low + high) / 2, (high - low) / 2, train.value_ENO.mean(1, keepdim=True), deviation)

    def scaled(self, field: Field) -> Field:
        return Field(
            (field.x_ENI - self.center_I) / self.half_width_I,
            (field.value_ENO - self.mean_E1O) / self.deviation_E1O,
            field.jacobian_ENOI * self.half_width_I / self.deviation_E1O[..., None],
        )


def errors(ensemble: MLPEnsemble, field: Field, chunk: int = 250) -> list[Tensor]:
    """Mean squared errors (E,) of values and Jacobians over samples and components, in the network's units."""
    sums = [torch.zeros(len(ensemble), dtype=torch.float64) for _ in range(2)]
    for x, *targets in zip(*(tensor.split(chunk, 1) for tensor in field), strict=True):
        for total, guess, target in zip(sums, derivatives(ensemble, x, 1, batch_dims=2), targets, strict=True):
            total += (guess - target).double().square().flatten(2).mean(2).sum(1).cpu()
    return [total / field.x_ENI.shape[1] for total in sums]


def with_vectors(
    batches: Iterable[list[Tensor]], projection: Projection, seeds: range, first: int
) -> Iterator[list[Tensor]]:
    """Batches with vectors (S, E, N, O); the vectors of update k and seed s are drawn from (s, k)."""
    for step, batch in zip(count(first), batches, strict=False):
        like_NO = torch.empty(batch[1].shape[1:])
        drawn = [projection.draw(like_NO, 1, generator(seed, "projection", step)) for seed in seeds]
        yield [*batch, torch.stack(drawn, 1).to(batch[1])]


class Objective:
    """Fills the parameters' `.grad` with the gradient of the loss, by autograd; s is the fraction of updates done."""

    def __init__(
        self, ensemble: MLPEnsemble, term: GradientTermConfig, jacobian_ENOI: Tensor, projection: Projection | None
    ) -> None:
        self.ensemble, self.term = ensemble, term
        self.weight_E1 = term.factor * weights(term, jacobian_ENOI.flatten(2))[..., 0]
        options = {"reduction": "none", "batch_dims": 2}
        self.on_values = SobolevLoss(0, **options)
        self.on_both = SobolevLoss(1, distances=["squared_l2", DISTANCES[term.distance]], **options)
        c = projection.second_moment(jacobian_ENOI.shape[2]) if projection else 1.0
        self.size = c if term.distance == "square" else c**0.5

    def __call__(self, s: float, x_ENI: Tensor, f_ENO: Tensor, df_ENOI: Tensor, v_SENO: Tensor | None = None) -> None:
        self.ensemble.zero_grad()
        # Networks have separate parameters, so the gradient of the sum is each network's own gradient.
        self.per_sample(s, x_ENI, f_ENO, df_ENOI, v_SENO).mean(1).sum().backward()

    def per_sample(
        self, s: float, x_ENI: Tensor, f_ENO: Tensor, df_ENOI: Tensor, v_SENO: Tensor | None = None
    ) -> Tensor:
        """The loss of each sample (E, N)."""
        outputs, phi = f_ENO.shape[-1], 0.0 if self.term.weight == "none" else FALLS[self.term.falls](s)
        if not phi:
            return self.on_values(self.ensemble, x_ENI, (f_ENO,)).by_order[0] / outputs
        if v_SENO is not None:
            df_ENOI = Projected(v_SENO, torch.einsum("seno,enoi->seni", v_SENO, df_ENOI))
        of_values, of_derivatives = self.on_both(self.ensemble, x_ENI, (f_ENO, df_ENOI)).by_order.values()
        return of_values / outputs + phi * self.weight_E1 / self.size * of_derivatives
