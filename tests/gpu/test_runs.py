"""Every experiment on a GPU: it runs, it resumes, and its steps wait for nothing."""

import csv
import json

import pytest
import torch

import experiments.distillation.train
import experiments.regression.train
import experiments.synthetic_gradients.train
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of, is_complete
from experiments.runner.run import Run
from tests.gpu.conftest import DEVICE
from tests.runner.test_run import interrupted

ON_GPU = f"compute.device={DEVICE}"
EXPERIMENTS = (
    *("regression", "regression_normalised", "regression_second_order", "regression_descent"),
    *("theory_exact", "theory_construction", "theory_approximation", "theory_mismatch", "theory_points"),
    *("synthetic_gradients", "synthetic_gradients_imagenet", "distill_atari", "train_teacher", "continue_teacher"),
)


def rows(config) -> dict[tuple[str, ...], float]:
    """The value of each (seed, step, split, metric)."""
    with (folder_of(config) / "metrics.csv").open(newline="") as file:
        return {
            tuple(row[key] for key in ("seed", "step", "split", "metric")): float(row["value"])
            for row in csv.DictReader(file)
        }


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs_and_says_which_gpu(make_config, experiment):
    config = make_config(f"experiment={experiment}", ON_GPU)
    execute(config)
    assert is_complete(folder_of(config))
    device = json.loads((folder_of(config) / "manifest.json").read_text())["device"]
    assert DEVICE == "cpu" or device == torch.cuda.get_device_name()


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("technique", ["backprop", "sobolev", "direct"])
def test_a_training_measures_what_it_does_on_the_cpu(make_config, technique, precision):
    """Before the first update; by the end rounding has grown."""
    options = ["experiment=synthetic_gradients", f"technique={technique}"]
    here = make_config(*options, runs="cpu")
    there = make_config(*options, ON_GPU, f"compute.precision={precision}", runs="gpu")
    execute(here), execute(there)
    one, other = rows(here), rows(there)
    assert one.keys() == other.keys()
    key = ("0", "0", "test", "loss")
    assert other[key] == pytest.approx(one[key], rel=1e-5 if precision == "float32" else 2e-2)


@pytest.mark.parametrize(
    ("experiment", "module", "tolerance"),
    [
        ("regression", experiments.regression.train, 1e-4),
        ("synthetic_gradients", experiments.synthetic_gradients.train, 0.1),  # cuDNN adds up in any order
        ("distill_atari", experiments.distillation.train, 0.05),
    ],
)
def test_an_interrupted_run_ends_as_one_that_never_was(make_config, monkeypatch, experiment, module, tolerance):
    options = (f"experiment={experiment}", ON_GPU, "compute.checkpoint_seconds=0", "optimizer.steps=20")
    whole, parts = make_config(*options, runs="whole"), make_config(*options, runs="parts")
    execute(whole)
    for updates in (3, 4):
        interrupted(parts, monkeypatch, updates, module)
        assert (folder_of(parts) / "checkpoint.pt").exists()
    execute(parts)
    assert rows(parts).keys() == rows(whole).keys()
    losses = [key for key in rows(whole) if key[3] in ("loss", "value_mse", "kl")]
    assert losses
    for key in losses:
        assert rows(parts)[key] == pytest.approx(rows(whole)[key], rel=tolerance), key


def test_what_a_gpu_began_a_cpu_goes_on_with(make_config, monkeypatch):
    options = ("experiment=synthetic_gradients", "compute.checkpoint_seconds=0")
    interrupted(make_config(*options, ON_GPU), monkeypatch, 5, experiments.synthetic_gradients.train)
    config = make_config(*options)
    execute(config)
    assert max(int(step) for _, step, _, _ in rows(config)) == config.optimizer.steps


@pytest.mark.skipif(DEVICE == "cpu", reason="nothing waits")
@pytest.mark.parametrize(
    "experiment", ["synthetic_gradients technique=sobolev", "synthetic_gradients technique=direct", "distill_atari"]
)
def test_steps_between_measurements_do_not_wait_for_the_gpu(make_config, monkeypatch, experiment):
    """Each update but the first, which takes constants there, from one `checkpoint` to the next."""
    name, *choices = experiment.split()
    config = make_config(f"experiment={name}", *choices, ON_GPU, "optimizer.steps=8", "evaluations=1")
    true_checkpoint, calls = Run.checkpoint, []

    def checkpoint(self, state):
        torch.cuda.set_sync_debug_mode("default")
        true_checkpoint(self, state)
        calls.append(len(calls))
        if 1 < len(calls) - 1 < 8:  # it is measured at steps 0, 1 at the most, and 8
            torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(Run, "checkpoint", checkpoint)
    try:
        execute(config)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(calls) == 9
