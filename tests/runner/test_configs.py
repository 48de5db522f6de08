"""Every shipped choice composes and runs; every mistake is one line that says what would be right."""

import hashlib
import math
import os
import shutil
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.distillation.train_teacher import atari_options, initial_policy
from experiments.registry import register_settings
from experiments.runner.command_line import explain
from experiments.runner.errors import BadInput
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of
from scripts.fuzz_configs import front_door as asked
from tests import front_door
from tests.conftest import CONFIGS, ROOT, composed

register_settings()
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
SWEEPS = sorted(
    path.relative_to(CONFIGS / "sweep").with_suffix("").as_posix() for path in (CONFIGS / "sweep").rglob("*.yaml")
)


@pytest.mark.curves
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_shipped_experiment_runs_and_the_same_command_gives_the_same_rows(make_config, monkeypatch, experiment):
    first, again = make_config(f"experiment={experiment}"), make_config(f"experiment={experiment}", runs="again")
    assert math.isfinite(execute(first))
    monkeypatch.setattr("experiments.runner.curves.draw_curves", lambda *_: None)  # drawn once
    execute(again)
    rows, rows_again = ((folder_of(config) / "metrics.csv").read_bytes() for config in (first, again))
    assert rows.count(b"\n") > 1
    assert rows == rows_again


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_first_line_of_an_experiment_is_its_command(experiment):
    lines = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert lines[1].startswith(f"# python run.py experiment={experiment}")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_what_an_experiment_says_holds(experiment):
    """No group that is composed later overrides it."""
    said = OmegaConf.load(CONFIGS / "experiment" / f"{experiment}.yaml")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = OmegaConf.to_container(compose("config", [f"experiment={experiment}"]), enum_to_str=True)
    del said["defaults"]
    asked = OmegaConf.to_container(said, resolve=False)
    assert OmegaConf.to_container(OmegaConf.merge(composed, asked), resolve=False) == composed


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_choice_of_a_sweep_composes(sweep):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", [f"sweep={sweep}"], return_hydra_config=True)
    params = {key: str(choices).split(",") for key, choices in config.hydra.sweeper.params.items()}
    for at in range(max(map(len, params.values()))):  # all keys at once, so that no choice is left out
        composed(f"sweep={sweep}", *(f"{key}={choices[at % len(choices)]}" for key, choices in params.items()))


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=distill_atari", "dataset=atari/breakout", "optimizer.steps=7", "objective=value", "seed=3"],
        [
            "sweep=synthetic_gradients/imagenette_reduced",
            "model=resnet50_3_short",
            "technique=critic",
            "compute.threads=2",
        ],
        ["loss=sobolev_norm", "loss.weights=[1,2]", "labels.task=mine", "optimizer=fast", "recorder=disabled"],
    ],
)
def test_tests_compose_as_hydra_does(overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        by_hydra = OmegaConf.to_object(compose("config", overrides))
    for _ in range(2):
        assert composed(*overrides) == by_hydra
        assert composed(*overrides, "seed=9").seed == 9


def test_a_game_of_ones_own_has_default_rates_until_they_are_tuned(tmp_path):
    configs = shutil.copytree(CONFIGS, tmp_path / "configs")
    breakout = configs / "dataset" / "atari" / "breakout.yaml"
    breakout.with_stem("seaquest").write_text(breakout.read_text().replace("game: breakout", "game: seaquest"))
    with initialize_config_dir(str(configs), version_base="1.3"):
        asked = ["experiment=distill_atari", "dataset=atari/seaquest"]
        untuned = compose("config", asked)
        tuned = configs / "tuned" / "atari" / "seaquest_sobolev.yaml"
        tuned.write_text("# @package _global_\noptimizer: {learning_rate: 2e-4}")
        assert compose("config", asked).optimizer.learning_rate == 2e-4
    assert (untuned.dataset.game, untuned.optimizer.learning_rate) == ("seaquest", 3e-4)
    assert untuned.objective.gradient_weight == 0.1


MISTAKES = {
    "dataset=rosenbrok": ["did you mean rosenbrock?", "styblinski_tang"],
    "experiment=regresion": ["did you mean regression?", "regression_normalised"],
    "optimizer.stepz=3": ["did you mean optimizer.steps?", "optimizer.batch_size"],
    "n_trian=3": ["did you mean n_train?", "networks"],
    "n_train=abc": ["n_train", "'abc'", "Integer"],
    "model.activation=mish": ["relu, leaky_relu, tanh, softplus, silu, gelu"],
    "n_train": ["n_train: expected <setting>=<value>"],
    "runs_dir=/my/a=b": ["runs_dir=/my/a=b: ", "quote such a value", """ "runs_dir='/my/a=b'" """.strip()],
    "seed=1,2": ["seed=1,2: several values are a sweep, with -m", """ "seed='1,2'" """.strip()],
    "runs_dir=/über": [""" "runs_dir='/über'" """.strip()],
    "loss.weights=[1,": ["loss.weights=[1,: expected matching brackets"],
    "dataset=cifar10": ["dataset=cifar10 belongs to experiment=synthetic_gradients"],
    "dataset=atari/pong": ["belongs to experiment=distill_atari and experiment=train_teacher"],
    "objective=value": ["objective=value belongs to experiment=distill_atari"],
    "hydra.foo=1": ["hydra.foo cannot be changed"],
}


@pytest.mark.parametrize("override", MISTAKES)
def test_mistakes_are_refused_in_one_line(override):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"), pytest.raises(Exception) as caught:  # noqa: PT011
        compose("config", [override])
    line = explain(caught.value)
    assert "\n" not in line
    for part in MISTAKES[override]:
        assert part in line


def test_a_choice_that_nobody_typed_is_said_to_follow_from_another():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"), pytest.raises(Exception) as caught:  # noqa: PT011
        compose("config", ["experiment=synthetic_gradients", "dataset=imagenet"])
    assert explain(caught.value).startswith("model=convnet_imagenet, which another choice implies, is not a choice")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["dataset=atari/pong"], "dataset=atari/pong belongs to experiment=distill_atari and experiment=train_teacher"),
        (
            ["experiment=synthetic_gradients", "dataset=booth"],
            "optimizer=sgd_booth, which dataset=booth implies, is not a choice; choose from ",
        ),
        (
            ["sweep=regresion/figure_2"],
            "sweep=regresion/figure_2 is not a choice (did you mean regression/figure_2?); choose from distillation/",
        ),
    ],
)
def test_what_was_typed_is_named(monkeypatch, arguments, answer):
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    with initialize_config_dir(str(CONFIGS), version_base="1.3"), pytest.raises(Exception) as caught:  # noqa: PT011
        compose("config", arguments)
    assert explain(caught.value).startswith(answer)


def test_what_an_experiment_or_a_sweep_says_of_seed_and_folder_counts(tmp_path):
    configs = shutil.copytree(CONFIGS, tmp_path / "configs")
    for group in ("experiment", "sweep"):
        text = (
            "# @package _global_\ndefaults: [regression, _self_]\nseed: 7\n"
            if group == "experiment"
            else "# @package _global_\n"
        )
        recorder = f"recorder: {{project: {group}}}"
        (configs / group / "mine.yaml").write_text(f"{text}runs_dir: {group}\n{recorder}")
    with initialize_config_dir(str(configs), version_base="1.3"):
        config = compose("config", ["experiment=mine"])
        assert (config.seed, config.runs_dir, config.recorder.project) == (7, "experiment", "experiment")
        config = compose("config", ["experiment=mine", "sweep=mine"])
        assert (config.seed, config.runs_dir, config.recorder.project) == (7, "sweep", "sweep")
        assert compose("config", ["experiment=mine", "seed=3"]).seed == 3


def test_what_ships_is_found_from_anywhere(make_config, tmp_path, monkeypatch):
    command = ["experiment=continue_teacher", "dataset=atari/pong"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        here = OmegaConf.to_object(compose("config", command))
        monkeypatch.chdir(tmp_path)
        there = OmegaConf.to_object(compose("config", command))
        assert there == here
        assert there.start_sha256 == hashlib.sha256((ROOT / there.start).read_bytes()).hexdigest()
        assert initial_policy(there, atari_options(there.dataset))
        (tmp_path / there.start).parent.mkdir(parents=True)
        (tmp_path / there.start).write_bytes(b"mine")
        assert OmegaConf.to_object(compose("config", command)).start_sha256 == hashlib.sha256(b"mine").hexdigest()


@pytest.mark.parametrize("missing", ["hydra", "torch"])
def test_without_its_environment_one_line_says_how_to_make_it(tmp_path, missing):
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{missing!r}] = None")  # importing it fails
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "run.py"], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"error: {sys.executable} has no {missing}: type `make setup`, then `source .venv/bin/activate`\n"
    )


@pytest.mark.parametrize("launcher", ["local", "slurm"])
def test_a_launcher_without_a_sweep_is_refused(launcher):
    said, started = asked(f"hydra/launcher={launcher}")
    assert said == f"error: hydra/launcher={launcher} starts the runs of a sweep: add -m, or leave it out"
    assert not started


REFUSALS = {
    "n_train=0": "n_train must be positive",
    "loss.weights=[0,0]": "not all 0",
    "loss=sobolev_2": "use a smooth activation",
    "loss.distances=[l3,l2,l2]": "loss.distances: l3 is not one of squared_l2, l2, l1, huber",
    "loss.distances=[l2]": "expected one per order, 3",
    "entry=os.system": "expected experiments",
    "compute.device=cuda:99": "not on this machine",
    "compute.threads=1000000000": "a number of threads up to 1,024",
    "compute.checkpoint_seconds=nan": "expected 0 .each step. or more",
    "seed=-1": "seed must be 0 or more",
    "loss.weights=[nan,1]": "none negative",
    "optimizer.learning_rate=nan": "must be positive and finite, not nan",
    "compute.precision=bfloat16": "regression computes in float32 or float64",
    "labels.method='my loss'": "labels.method='my loss': expected one word",
    "labels.task=''": "labels.task='': expected one word",
    "name=a/b": "name='a/b': expected one word",
    "name=..": "name='..': expected one word",
    "loss.name=.. and name=${loss.name}": "name='..': expected one word",
    "labels.task=a/b": "labels.task='a/b': expected one word",
    "labels.method=.hidden": "labels.method='.hidden': expected one word",
    "labels.method=_hidden": "labels.method='_hidden': expected one word",
    "labels.method=" + "long" * 17: "expected one word that begins with a letter or digit, 64 bytes at most",
    "labels.method='" + "ü" * 33 + "'": "expected one word that begins with a letter or digit, 64 bytes at most",
    "name=''": "name='': expected one word",
}


@pytest.mark.parametrize("override", REFUSALS)
def test_what_types_cannot_refuse_is_refused_before_training(make_config, tmp_path, override):
    with pytest.raises(BadInput, match=REFUSALS[override]):
        execute(make_config(*override.split(" and ")))
    assert not any((tmp_path / "runs").glob("*/*")), "a refused run leaves no folder"


@pytest.mark.parametrize(
    "arguments",
    [
        *(["dataset=rosenbrok"], ["n_train=0", "recorder=disabled"], ["recorder=null"]),
        *(["runs_dir=/proc/none"], ["-m", "runs_dir=/proc/none"]),
    ],
)
def test_the_command_line_says_one_line_and_fails(tmp_path, arguments):
    if not any(argument.startswith("runs_dir=") for argument in arguments):
        arguments = [*arguments, f"runs_dir={tmp_path}"]
    done = front_door.run(*arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")


def test_a_default_that_is_not_there_is_one_line(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.yaml").write_text("defaults: [nowhere, _self_]\nname: mine\n")
    said = front_door.run("--config-dir", str(tmp_path), "dataset=mine").stderr
    assert said == "error: In 'dataset/mine': Could not load 'dataset/nowhere'.\n"


def test_labels_of_what_ships_are_not_typed(tmp_path):
    """Collecting would leave such rows out, after the hours that they took."""
    for override in ("labels.task=booth", "++labels.method=mine"):
        done = front_door.run(override, f"runs_dir='{tmp_path}'")
        said = f"error: {override}: labels of experiment=regression follow from its settings; yours may set them\n"
        assert (done.returncode, done.stderr) == (1, said)
    assert not [*tmp_path.iterdir()]
