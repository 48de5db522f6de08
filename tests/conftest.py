"""What tests share: composing configs and tiny budgets."""

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from experiments.registry import register_settings
from experiments.runner.settings import RunConfig
from sobolev.atari import AtariOptions, teacher_bytes
from sobolev.networks.atari_policies import teacher
from sobolev.seeding import generator
from tests.fake_images import write_folder

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"

register_settings()  # takes as long as composing a config does

# What makes an experiment end in seconds, by the beginning of its name.
TINY = {  # by the first words of an experiment's name, of which the first that fits is taken
    "regression_descent": [
        *("model.hidden=[16,16]", "networks=2", "n_test=200", "start.steps=20", "optimizer.steps=20", "evaluations=4"),
    ],
    "regression": ["model.hidden=[16,16]", "networks=2", "n_test=200", "optimizer.steps=40", "evaluations=4"],
    "synthetic_gradients_imagenet": [
        *("optimizer.steps=2", "optimizer.batch_size=4", "evaluations=1", "gradient_samples=4"),
        "optimizer.learning_rate=0.001",  # the paper's diverges in two updates of four images
        *(
            "dataset.workers=0",
            "dataset.size=32",
            "dataset.resize=40",
            "dataset.n_train=6",
            "compute.precision=float32",
        ),
    ],
    "synthetic_gradients": ["optimizer.steps=12", "evaluations=2", "gradient_samples=100"],
    "train_teacher": [
        *("teacher.steps=96", "teacher.segment=32", "teacher.environments=2", "teacher.horizon=8"),
        *("teacher.minibatches=2", "evaluation_episodes=2", "dataset.max_episode_frames=100"),
    ],
    "continue_teacher": [
        *("teacher.steps=96", "teacher.segment=32", "teacher.environments=2", "teacher.horizon=8", "value_steps=16"),
        *("teacher.minibatches=2", "evaluation_episodes=2", "dataset.max_episode_frames=400"),
    ],
    "distill": [
        *("dataset.n_states=400", "dataset.max_episode_frames=400", "n_train=120", "n_evaluate=40", "n_gradients=8"),
        *("optimizer.steps=6", "optimizer.batch_size=40", "evaluations=3", "play_episodes=1"),
        *("student.convolutions=[[4,8,4],[8,4,2]]", "student.hidden=16"),
    ],
    "theory_exact": ["instances=2"],
    "theory_construction": ["width=32", "n_test=50"],
    "theory_approximation": ["width=8", "networks=2", "n_train=32", "n_test=50", "optimizer.steps=20"],
    "theory_mismatch": ["model.hidden=[8]", "networks=2", "n_train=32", "n_test=50", "optimizer.steps=20"],
    "surrogate": ["network.hidden=[8,8]", "networks=2", "optimizer.steps=10", "search.steps=5"],
    "theory_points": ["model.hidden=[8,8]", "networks=2", "n_test=50", "optimizer.steps=20"],
}


@pytest.fixture(autouse=True)
def _denormals():
    """A run flushes denormal numbers for its whole process; tests share theirs."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def _curves(request, monkeypatch):
    """To draw a run's figure takes longer than a tiny run does: only tests that are marked `curves` do."""
    if "curves" not in request.keywords:
        monkeypatch.setattr("experiments.runner.curves.draw_curves", lambda *_: None)


@pytest.fixture(scope="session")
def atari_folder(tmp_path_factory):
    """A folder with an untrained teacher of Breakout, teacher.safetensors, and room for the states that it visits."""
    folder = tmp_path_factory.mktemp("atari")
    options = AtariOptions("breakout", ("noop", "fire", "right", "left"), max_episode_frames=400)
    policy = teacher(4, generator(0, "teacher"))
    # A policy that is not uniform, and no unit whose kink lies at a black frame.
    torch.nn.init.normal_(policy.actions.weight, std=0.3, generator=generator(0, "actions"))
    for number, layer in enumerate((*policy.convolutions, policy.hidden)):
        torch.nn.init.normal_(layer.bias, std=0.05, generator=generator(0, "biases", number))
    (folder / "teacher.safetensors").write_bytes(teacher_bytes(policy, options))
    return folder


@pytest.fixture(scope="session")
def samples_file(tmp_path_factory):
    """A file of 60 samples of (x1 x2 sin x3, x1^2 + x3) with their derivatives."""
    path = tmp_path_factory.mktemp("samples") / "mine.npz"
    x = np.random.default_rng(0).uniform(-1, 1, (60, 3))
    a, b, c = x.T
    zero, one = np.zeros(60), np.ones(60)
    dy = np.stack(((b * np.sin(c), a * np.sin(c), a * b * np.cos(c)), (2 * a, zero, one)))
    np.savez(path, x=x, y=np.stack((a * b * np.sin(c), a**2 + c), 1), dy=dy.transpose(2, 0, 1))
    return path


@cache
def _composed_of_files(choices: tuple[str, ...]) -> DictConfig:
    return compose("config", list(choices))


def composed(*overrides: str) -> RunConfig:
    """The typed config, as Hydra composes it.

    That takes 0.2 s. Overrides that choose the same config files differ in values alone, and share it, as in a sweep.
    """
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
        choices = [o.input_line for o in parsed if loader.repository.group_exists(o.key_or_group)]
        config = copy.deepcopy(_composed_of_files(tuple(choices)))
        loader._apply_overrides_to_config([o for o in parsed if o.input_line not in choices], config)
    return OmegaConf.to_object(config)


@pytest.fixture
def make_config(tmp_path, request):
    """A function of overrides that composes a tiny config whose runs go to a folder of the test."""

    def make(*overrides: str, runs: str = "runs") -> RunConfig:
        base = [f"runs_dir={tmp_path / runs}", "recorder=disabled", "compute.threads=1", "compute.device=cpu"]
        experiment = next((o.partition("=")[2] for o in overrides if o.startswith("experiment=")), "regression")
        tiny = next(tiny for name, tiny in TINY.items() if experiment.startswith(name))
        if experiment.endswith("_imagenet"):
            if not (tmp_path / "data").exists():
                write_folder(tmp_path / "data" / "imagenet", train=2, val=1)
            base.append(f"dataset.folder={tmp_path / 'data'}")
        if experiment.startswith("distill"):
            folder = request.getfixturevalue("atari_folder")
            base += [f"dataset.teacher={folder / 'teacher.safetensors'}", f"dataset.folder={folder}"]
            if not any(override.startswith("dataset=") for override in overrides):
                base.append("dataset=atari/breakout")
        if experiment == "surrogate":
            base.append(f"dataset.path={request.getfixturevalue('samples_file')}")
        elif experiment.startswith("surrogate"):
            base += [f"dataset.folder={tmp_path}", "dataset.n_samples=80", "n_train=20"]
        if experiment == "continue_teacher":
            base.append(f"start={request.getfixturevalue('atari_folder') / 'teacher.safetensors'}")
        return composed(*base, *tiny, *overrides)

    return make
