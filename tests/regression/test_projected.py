"""Jacobians of fields on random vectors: what the loss is, what an update costs, runs and their figure."""

from __future__ import annotations

import itertools

import pytest
import torch

from experiments.evidence.rows import as_rows
from experiments.regression import figures, recipes
from experiments.regression.projected import Field, Objective, Scales, errors, with_vectors
from experiments.regression.settings import PROJECTIONS, GradientTermConfig
from experiments.runner.errors import BadInput
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of, read_summary
from experiments.runner.operations import operations_of
from sobolev import projections
from sobolev.functions import FUNCTIONS
from sobolev.networks import MLPEnsemble
from tests.runner.test_run import interrupted, metrics

RUN = "experiment=regression_projections"
SEEDS = range(2)


def term(distance: str) -> GradientTermConfig:
    return GradientTermConfig("balanced", "late", distance, "exact", 1.0, 0.0)


def networks(inputs: int = 3, width: int = 8) -> MLPEnsemble:
    return MLPEnsemble((inputs, width, width, inputs), [torch.Generator().manual_seed(s) for s in SEEDS], "gelu")


def batch(inputs: int = 3, n: int = 5) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(9)
    return [torch.randn(2, n, *sizes, generator=rng) for sizes in ((inputs,), (inputs,), (inputs, inputs))]


def kinds(samples: int) -> list[projections.Projection]:
    return [getattr(projections, name.capitalize())(samples) for name in PROJECTIONS if name != "full"]


@pytest.mark.parametrize("projection", kinds(20_000), ids=lambda p: type(p).__name__)
def test_many_vectors_weigh_what_the_jacobian_in_full_weighs(projection):
    ensemble, data = networks(), batch()
    ((*_, v),) = with_vectors([data], projection, SEEDS, 0)
    full = Objective(ensemble, term("square"), data[2], None).per_sample(0.3, *data)
    found = Objective(ensemble, term("square"), data[2], projection).per_sample(0.3, *data, v)
    torch.testing.assert_close(found, full, rtol=0.03, atol=0)


def test_the_norm_is_that_of_the_projected_residual_and_falls():
    ensemble, data, projection = networks(), batch(), projections.Rademacher(2)
    ((*_, v),) = with_vectors([data], projection, SEEDS, 0)
    objective = Objective(ensemble, term("norm"), data[2], projection)
    x, f, df = data
    jacobian = torch.func.vmap(torch.func.vmap(torch.func.jacrev(ensemble.network(1))))(x[1:])[0]
    residual = torch.einsum("sno,noi->sni", v[:, 1], jacobian - df[1])
    values = (ensemble(x)[1] - f[1]).square().mean(-1)
    expected = values + 0.5 * residual.norm(dim=-1).mean(0) / df[1].flatten(1).norm(dim=-1).mean()
    torch.testing.assert_close(objective.per_sample(0.5, *data, v)[1], expected)
    torch.testing.assert_close(objective.per_sample(1.0, *data, v)[1], values)


def test_vectors_are_of_the_seed_and_the_update_alone():
    data, projection = batch(), projections.Sphere(2)
    from_start = [v for *_, v in with_vectors([data] * 3, projection, SEEDS, 0)]
    (later,) = [v for *_, v in with_vectors([data], projection, SEEDS, 2)]
    assert later.shape == (2, 2, 5, 3)
    assert torch.equal(later, from_start[2])
    assert not torch.equal(later, from_start[1])
    alone = [v for *_, v in with_vectors([[t[1:] for t in data]], projection, range(1, 2), 2)]
    assert torch.equal(alone[0], later[:, 1:])


def test_an_update_costs_products_by_the_number_of_vectors():
    inputs, width = 6, 64
    ensemble, data = networks(inputs, width), batch(inputs, 32)
    assert products_of(Objective(ensemble, term("norm"), data[2], None), data) == 3 * inputs + 3
    for samples in (1, 2, 4):
        projection = projections.Sphere(samples)
        ((*drawn, v),) = with_vectors([data], projection, SEEDS, 0)
        assert products_of(Objective(ensemble, term("norm"), data[2], projection), [*drawn, v]) == 3 * samples + 3


def products_of(objective: Objective, data: list[torch.Tensor]) -> int:
    """H x H products of an update: the third, for the first two check besides that samples do not mix."""
    width, (networks_there, n, _) = objective.ensemble.sizes[1], data[0].shape
    for _ in range(2):
        objective(0.0, *data)
    found = operations_of(lambda: objective(0.0, *data))
    return sum(operations // (2 * networks_there * n * width * width) for operations, _, _ in found.each)


def test_a_field_in_the_networks_units_has_the_jacobian_of_these_units():
    function = FUNCTIONS["hartmann_6"]
    x = torch.stack([function.sample(4, torch.Generator().manual_seed(seed)) for seed in SEEDS])
    field = Field(x, function.gradient(x), function.hessian(x))
    scales = Scales.of(function.domain, field)

    def in_units(z: torch.Tensor) -> torch.Tensor:
        raw = function.gradient(z * scales.half_width_I + scales.center_I)
        return ((raw - scales.mean_E1O) / scales.deviation_E1O)[0, 0]

    z, value, jacobian = scales.scaled(field)
    torch.testing.assert_close(in_units(z[:1, :1]), value[0, 0])
    torch.testing.assert_close(torch.func.jacrev(in_units)(z[0, 0]), jacobian[0, 0])
    of_zeros = MLPEnsemble((6, 2, 6), [torch.Generator()] * 2).double()
    for parameter in of_zeros.parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(errors(of_zeros, scales.scaled(field), chunk=3)[0], torch.ones(2, dtype=torch.float64))


def test_a_stopped_run_ends_in_the_rows_of_one_that_was_not(make_config, monkeypatch):
    asked = [RUN, "projection=coordinate", "samples=2", "evaluations=3", "compute.checkpoint_seconds=0"]
    interrupted(config := make_config(*asked), monkeypatch, 20, recipes)
    execute(config)
    execute(whole := make_config(*asked, runs="whole"))
    assert metrics(config) == metrics(whole)
    assert read_summary(folder_of(config))["validation_value_mse"] > 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("projection=cube", "projection=cube: expected full, sphere"),
        ("samples=0", "samples must be positive"),
        ("gradient.noise=1", "the Jacobian of a field is exact here"),
        ("dataset.name=branim", "did you mean branin"),
    ],
)
def test_mistakes_are_one_line(make_config, override, said):
    with pytest.raises(BadInput, match=said):
        execute(make_config(RUN, override))


def test_the_figure_has_a_panel_a_field_and_a_line_a_kind():
    rows = []
    methods = ["value_full1", "sobolev_full1", *(f"sobolev_{k}{s}" for k in PROJECTIONS[1:] for s in (1, 2, 4))]
    for task, (k, method), seed in itertools.product(("hartmann_6", "piston"), enumerate(methods), range(6)):
        for split, metric, value in (("validation", "value_mse", 2.0**-k), ("cost", "mflop_per_update", 20.0 + k)):
            rows.append(("regression_projections", task, method, 100, 2000 + seed, 9, split, metric, value, "paper"))
    ((name, _, figure),) = figures.draw(figures.NAMES, as_rows(rows), {})
    assert name == "projections"
    assert [axes.get_title() for axes in figure.axes] == ["Hartmann, 6 inputs", "piston"]  # in the order of the names
    of_full = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in of_full] == [(21.0, pytest.approx(2.0))]
    assert not [*figures.draw(figures.NAMES, as_rows(rows[:0]), {})]
