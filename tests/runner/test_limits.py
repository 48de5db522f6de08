"""What no patience and no memory would do is refused in one line, before a run's folder or W&B is opened."""

import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.registry import register_settings
from experiments.runner import limits
from experiments.runner.errors import BadInput
from experiments.runner.execute import execute, find_entry
from experiments.runner.run import Run
from tests.conftest import CONFIGS
from tests.fake_images import write_folder

MEMORY = r"^this run would take [\d,]+ GiB of memory or more, and the machine has \d+; most is for .*{}.*: lower them$"
UPDATES = r"^{}=\d+ would take [\d,]+ years or more at 10,000 a second: lower it$"
EVALUATIONS = r"^evaluations=1000000000 is more than there are updates, \d+: lower it$"
TOO_MUCH = [
    ("regression", "networks=1000000000", MEMORY.format("networks")),
    ("regression", "n_train=1000000000000", MEMORY.format("n_train")),
    ("regression", "n_test=1000000000000", MEMORY.format("n_test")),
    ("regression", "model.hidden=[1000000000]", MEMORY.format("model.hidden")),
    ("regression", "optimizer.steps=4611686018427387904", UPDATES.format("optimizer.steps")),
    ("regression", "evaluations=1000000000", EVALUATIONS),
    ("regression", "seed=9223372036854775808", r"below 2\^62"),
    ("regression_descent", "start.steps=4611686018427387904", UPDATES.format("start.steps")),
    ("theory_exact", "instances=100000000000", MEMORY.format("instances")),
    ("theory_construction", "n_inputs=1000000000", "use fewer inputs"),
    ("theory_construction", "width=1000000000000", MEMORY.format("width")),
    ("theory_approximation", "width=1000000000000", MEMORY.format("model.hidden")),
    ("theory_mismatch", "optimizer.steps=10000000000", MEMORY.format("optimizer.steps")),
    ("theory_mismatch", "optimizer.steps=4611686018427387904", UPDATES.format("optimizer.steps")),
    ("theory_points", "n_inputs=1000000000", MEMORY.format("n_inputs")),
    ("theory_points", "teacher_units=1000000000000", MEMORY.format("teacher_units")),
    ("synthetic_gradients", "optimizer.steps=4611686018427387904", UPDATES.format("optimizer.steps")),
    ("synthetic_gradients", "evaluations=1000000000", EVALUATIONS),
    ("synthetic_gradients", "optimizer.batch_size=1000000000000", MEMORY.format("batch_size")),
    ("synthetic_gradients", "model.channels=[1000000,1000000,1000000,8]", MEMORY.format("channels")),
    ("synthetic_gradients_imagenet", "dataset.workers=1000000000", MEMORY.format("workers")),
    ("synthetic_gradients_imagenet", "dataset.resize=1000000000", MEMORY.format("resize")),
    ("train_teacher", "teacher.steps=4611686018427387904", UPDATES.format("teacher.steps")),
    ("train_teacher", "evaluation_episodes=1000000000", MEMORY.format("evaluation_episodes")),
    ("train_teacher", "teacher.epochs=1000000000000000", UPDATES.format("teacher.epochs x minibatches")),
    ("distill_atari", "dataset.n_states=1000000000000", MEMORY.format("dataset.n_states")),
    ("distill_atari", "n_train=1000000000000", "n_train=1000000000000 must be less than dataset.n_states="),
    ("distill_atari", "student.hidden=1000000000000", MEMORY.format("student")),
    ("distill_atari", "student.convolutions=[[1000000000,8,4]]", MEMORY.format("student")),
    ("distill_atari", "objective.samples=1000000000000", MEMORY.format("objective.samples")),
    ("distill_atari", "dataset.recording_environments=1000000000", MEMORY.format("recording_environments")),
    ("distill_atari", "play_episodes=1000000000", MEMORY.format("play_episodes")),
    ("distill_atari", "evaluations=1000000000", EVALUATIONS),
]


@pytest.mark.parametrize(("experiment", "override", "said"), TOO_MUCH)
def test_too_much_is_refused_before_anything_is_opened(make_config, monkeypatch, tmp_path, experiment, override, said):
    part = ["part=proposition_1"] if experiment == "theory_exact" else []
    monkeypatch.setattr(Run, "__init__", lambda *_: pytest.fail("a run was opened"))
    monkeypatch.setattr(limits, "memory", lambda: 128 * 2**30)  # there are machines that hold the least of these
    with pytest.raises(BadInput, match=said):
        execute(make_config(f"experiment={experiment}", *part, override))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("experiment/*.yaml")) + sorted(CONFIGS.glob("sweep/*/*.yaml")))
def test_what_ships_is_refused_on_no_machine_that_can_hold_it(monkeypatch, tmp_path, samples_file, file):
    monkeypatch.setattr(limits, "memory", lambda: 8 * 2**30)
    register_settings()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        group, _, choice = file.relative_to(CONFIGS).with_suffix("").as_posix().partition("/")
        composed = compose("config", [f"{group}={choice}"], return_hydra_config=True)
        params = composed.hydra.sweeper.params or {}
        largest = [f"{key}={str(choices).split(',')[-1]}" for key, choices in params.items()]
        own = [f"dataset.path={samples_file}"] if "path" in composed.get("dataset", {}) else []
        if "directory" in composed.get("dataset", {}):  # images that nobody downloads must be there
            write_folder(tmp_path / composed.dataset.directory, train=1, val=1)
            own = [f"dataset.folder={tmp_path}"]
        config = OmegaConf.to_object(compose("config", [f"{group}={choice}", *largest, *own]))
    sys.modules[find_entry(config).__module__].check(config)


def test_a_complete_run_of_a_larger_machine_is_skipped(make_config, monkeypatch):
    objective = execute(config := make_config())
    monkeypatch.setattr(limits, "memory", lambda: 1)
    assert execute(config) == objective


def test_few_updates_are_each_measured_and_many_are_not_too_many():
    limits.check_evaluations(20, 6)
    limits.check_evaluations(5_000, 100_000)
    limits.check_updates(steps=300_000)
    assert limits.memory() > 2**28
