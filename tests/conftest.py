"""What tests share: composing configs, tiny budgets, one thread."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.config import RunConfig, register

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"

# What makes an experiment end in seconds, by the beginning of its name.
TINY = {
    "regression": ["model.hidden=[16,16]", "networks=2", "n_test=200", "optimizer.steps=40", "evaluations=4"],
    "theory_exact": ["instances=2"],
    "theory_construction": ["width=32", "n_test=50"],
    "theory_approximation": ["width=8", "networks=2", "n_train=32", "n_test=50", "optimizer.steps=20"],
    "theory_mismatch": ["model.hidden=[8]", "networks=2", "n_train=32", "n_test=50", "optimizer.steps=20"],
    "theory_points": ["model.hidden=[8,8]", "networks=2", "n_test=50", "optimizer.steps=20"],
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _denormals():
    """A run flushes denormal numbers for its whole process; tests share theirs."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def make_config(tmp_path):
    """A function of overrides that composes a tiny config whose runs go to a folder of the test."""
    register()

    def make(*overrides: str, runs: str = "runs") -> RunConfig:
        base = [f"runs_dir={tmp_path / runs}", "recorder=disabled", "compute.threads=1", "compute.device=cpu"]
        experiment = next((o.partition("=")[2] for o in overrides if o.startswith("experiment=")), "regression")
        tiny = next(tiny for name, tiny in TINY.items() if experiment.startswith(name))
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return OmegaConf.to_object(compose("config", [*base, *tiny, *overrides]))

    return make
