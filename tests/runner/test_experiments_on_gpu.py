"""Small ensembles on a GPU that is not there, where `compute.device=cuda` puts them: devices do not mix.

Steps of the other domains are in their folders.
"""

from importlib import import_module

import pytest
import torch

from experiments.runner.settings import Precision
from tests.fakecuda import FakeGPU, FakeRun

EXPERIMENTS = (
    *("regression", "regression_normalised", "regression_second_order", "regression_descent"),
    *("theory_construction", "theory_approximation", "theory_mismatch", "theory_points"),
)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_tensor_is_where_its_step_is(make_config, tmp_path, experiment):
    config = make_config(f"experiment={experiment}")
    module, _, function = config.entry.rpartition(".")
    with FakeGPU() as gpu:
        run = FakeRun(config, gpu, tmp_path)
        run.dtype = torch.float64 if config.compute.precision is Precision.float64 else torch.float32
        getattr(import_module(module), function)(config, run)
    assert gpu.launches or run.steps


@pytest.mark.parametrize("n_train", [20, 100])
def test_an_update_of_regression_waits_for_nothing(make_config, tmp_path, n_train):
    """Its batches are taken there many at a time, from pinned memory."""
    config = make_config(f"n_train={n_train}", "optimizer.steps=100", "evaluations=2")
    with FakeGPU() as gpu:
        run = FakeRun(config, gpu, tmp_path)
        import_module("experiments.regression.train").main(config, run)
    updates = run.between_measurements()
    assert len(updates) > 90
    assert not any(update["pageable"] or update["waits"] for update in updates)
    assert sum(update["pinned"] for update in updates) <= 2
