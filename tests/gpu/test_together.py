"""Runs of regression that train together on a GPU: a recorded update, and each run's rows."""

import json

import pytest
import torch

from experiments.regression.updates import Update, batch_orders, gradient_computer
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of
from experiments.runner.together import execute_together
from scripts.bench.regression import bench_grid
from sobolev.networks import MLPEnsemble
from sobolev.seeding import generator
from tests.gpu.conftest import DEVICE
from tests.gpu.test_runs import ON_GPU, rows
from tests.runner.test_run import interrupted

STEPS = 100


def assert_equal_to_rounding(found: dict, expected: dict) -> None:
    """Of values and, where rounding may put a point on the other side of a kink, of derivatives."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-4 if key[3] == "value_mse" else 1e-2), key


def updated(record: bool, steps: int = STEPS) -> tuple[list[torch.Tensor], Update]:
    """Weights of two ensembles after some updates at rates that fall, and what has updated them."""
    ensembles, gradients, data = [], [], []
    for weights in ([1.0], [1.0, 1.0]):
        ensembles.append(MLPEnsemble((2, 64, 64, 1), [generator(seed, "init") for seed in range(6)]).to(DEVICE))
        gradients.append(gradient_computer(ensembles[-1], 8, weights, ["squared_l2"] * len(weights)))
        data.append([torch.randn(6, 30, n, generator=generator(0, "data")).to(DEVICE) for n in (2, 1, 2)])
    update = Update(ensembles, gradients, data, record)
    orders = batch_orders(30, 8, range(3), 0, torch.device(DEVICE))
    for step in range(steps):
        update(1e-3 / (1 + step), next(orders))
    return [parameter.detach().clone() for ensemble in ensembles for parameter in ensemble.parameters()], update


def test_a_recorded_update_does_what_it_does_without():
    """From the first one on: calls that only warm up leave no trace, in weights or in Adam's moments."""
    for steps in (1, STEPS):
        (found, update), (expected, _) = updated(True, steps), updated(False, steps)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        assert {held["step"].item() for held in update._adam.state.values()} == {steps}


@pytest.mark.skipif(DEVICE == "cpu", reason="nothing waits")
def test_an_update_does_not_wait_for_the_gpu():
    _, update = updated(True, 1)
    orders = batch_orders(30, 8, range(3), 0, torch.device(DEVICE))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(200):  # several blocks of batches
            update(1e-3, next(orders))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("n_train", [20, 100])
def test_a_run_of_several_has_the_rows_that_it_has_alone(make_config, n_train):
    def configs(runs: str) -> list:
        return [
            make_config(f"dataset={function}", f"loss={loss}", f"n_train={n_train}", ON_GPU, runs=runs)
            for function in ("booth", "bukin")
            for loss in ("value", "sobolev")
        ]

    together, alone = configs("together"), configs("alone")
    objectives = execute_together(together)
    assert objectives == pytest.approx([execute(config) for config in alone], rel=1e-4)
    for one, other in zip(together, alone, strict=True):
        assert json.loads((folder_of(one) / "manifest.json").read_text())["runs_together"] == 4
        assert_equal_to_rounding(rows(one), rows(other))


def test_what_was_begun_alone_goes_on_together(make_config, monkeypatch):
    options = ("n_train=100", ON_GPU, "compute.checkpoint_seconds=0")
    whole = [make_config(*options, f"loss={loss}", runs="whole") for loss in ("value", "sobolev")]
    parts = [make_config(*options, f"loss={loss}", runs="parts") for loss in ("value", "sobolev")]
    for config in parts:
        interrupted(config, monkeypatch, 7)
    execute_together(whole), execute_together(parts)
    for one, other in zip(parts, whole, strict=True):
        assert_equal_to_rounding(rows(one), rows(other))


def test_an_update_of_figure_2_takes_no_less_than_it_must_and_little_more_than_eager(monkeypatch):
    monkeypatch.setattr("scripts.bench.regression.GRID", {"cpu": ((20, 10),), DEVICE: ((100, 140),)})
    (row,) = bench_grid(2, torch.device(DEVICE))
    assert float(row["times_floor"]) > 0.9  # a cache may be faster than a copy
    assert float(row["ms_per_step"]) < 1.5 * float(row["eager_ms"])
