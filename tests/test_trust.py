"""Hostile text: overrides, folders of configs, checkpoints. None of it may run code."""

import os
import pickle
from pathlib import Path

import pytest
import torch
import yaml

from experiments.errors import BadInput
from experiments.run import execute, find_entry, folder_of
from experiments.trust import TARGET, _walk, check_command_line
from tests import front_door
from tests.conftest import CONFIGS

HOSTILE_OVERRIDES = [
    "hydra.callbacks.x={_target_:os.system,command:touch owned}",
    "+hydra.callbacks.x._target_=os.system",
    "++hydra.callbacks.x='${oc.create:...}'",
    "hydra.job_logging.handlers.x.class=os.system",
    "+hydra.job_logging.handlers.x={'()':os.system}",
    "hydra.searchpath=[file://theirs]",
    "hydra.sweeper._target_=hydra_plugins.theirs.Sweeper",
    "model={_target_:os.system}",
    "+model={'_target_': os.system}",
    "+dataset@hydra.callbacks=booth",
    "+hydra/callbacks=theirs",
    "+hydra.sweeper.params.x._target_=torch.utils.collect_env.run",
    "+hydra.launcher.x={_target_:torch.utils.collect_env.run,command:touch owned}",
    "sweep=../../theirs/callback",
    "+model@theirs='../../theirs/callback'",
    "dataset=booth,../../theirs/callback",
    "hydra.sweeper.params.sweep=../../theirs/callback",
    "hydra.sweeper.params={sweep:../../theirs/callback}",
    "--config-name=../../theirs/callback",
    "--experimental-rerun=theirs/config.pickle",
    "--exp",
]


@pytest.mark.parametrize("override", HOSTILE_OVERRIDES)
def test_an_override_cannot_name_code(override):
    with pytest.raises(BadInput):
        check_command_line(["-m", override])


def test_ordinary_commands_pass():
    check_command_line(
        ["-m", "sweep=figure_2", "hydra/launcher=slurm", "hydra.launcher.partition=gpu", "dataset=booth,beale"]
    )
    check_command_line(["--config-name=config", "model.hidden=[16,16]", "optimizer.learning_rate=1e-3"])
    check_command_line(["runs_dir=../runs", "start=../mine.safetensors", "dataset.folder=../data", "loss=value..x"])
    check_command_line(["hydra.sweeper.params={}", "loss=sobolev", "hydra.launcher.setup=[module load python]"])


EVIL = "hydra:\n  callbacks:\n    x:\n      _target_: os.system\n      command: touch {owned}\n"
HOSTILE_FILES = {
    "callback": "# @package _global_\n" + EVIL,
    "escaped": '# @package _global_\nhydra:\n  "\\x63allbacks":\n    x: {{"\\x5ftarget_": os.system}}\n',
    "moved": "# @package hydra.callbacks\nx:\n  _target_: os.system\n  command: touch {owned}\n",
    "not yaml": "a: [",
}


def test_a_config_name_that_stands_alone_is_read_too():
    with pytest.raises(BadInput, match="cannot lead elsewhere"):
        check_command_line(["--config-name", "../../theirs/callback"])


@pytest.mark.parametrize(
    "content",
    [
        "defaults: [../../theirs/callback]",
        "defaults: [{/dataset: ../../theirs/callback}]",
        "defaults: [{../../theirs: callback}]",
        "# @package _global_\nhydra: {sweeper: {params: {sweep: ../../theirs/callback}}}",
    ],
)
def test_a_folder_of_configs_leads_nowhere_else(tmp_path, content):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nruns_dir: ../runs\nstart:\n")
    check_command_line(["--config-dir", str(tmp_path)])
    (tmp_path / "experiment" / "theirs.yaml").write_text(content)
    with pytest.raises(BadInput, match="cannot lead elsewhere"):
        check_command_line(["--config-dir", str(tmp_path)])


def test_a_folder_of_configs_holds_its_files_itself(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "experiment").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="leads out of the folder"):
        check_command_line(["--config-dir", str(tmp_path / "theirs")])


def test_a_file_lands_where_its_folder_says(tmp_path):
    for place, content in (
        ("hydra/callbacks", "x: {a: 1}"),
        ("experiment", "defaults:\n  - override /hydra/callbacks: x"),
    ):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "theirs.yaml").write_text(content)
        with pytest.raises(BadInput, match="decides what code is called"):
            check_command_line(["--config-dir", str(tmp_path)])
        (tmp_path / place / "theirs.yaml").unlink()


@pytest.mark.parametrize("content", HOSTILE_FILES.values(), ids=HOSTILE_FILES)
@pytest.mark.parametrize("option", [["--config-dir", "{}"], ["--config-dir={}"], ["--config-d", "{}"], ["-cd={}"]])
def test_a_folder_of_configs_cannot_name_code(tmp_path, content, option):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "theirs.yaml").write_text(content.format(owned=tmp_path / "owned"))
    with pytest.raises(BadInput):
        check_command_line([part.format(tmp_path) for part in option] + ["experiment=theirs"])


def test_the_front_door_refuses_before_anything_is_called(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "theirs.yaml").write_text(HOSTILE_FILES["callback"].format(owned=tmp_path / "owned"))
    done = front_door.run("--config-dir", str(tmp_path), "experiment=theirs")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "owned").exists()


def test_our_own_configs_name_only_our_own_code():
    for path in CONFIGS.rglob("*.yaml"):
        for key, value in _walk(yaml.safe_load(path.read_text()), ""):
            assert not key.endswith("._target_") or value == TARGET, path


@pytest.mark.parametrize(
    "entry", ["os.system", "experiments.run.execute", "experiments.run.main", "experiments.nothing.main"]
)
def test_an_entry_is_an_experiment(entry):
    with pytest.raises(BadInput, match="expected experiments"):
        find_entry(entry)


class Payload:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    "save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))], ids=["torch", "pickle"]
)
def test_a_hostile_checkpoint_is_not_run(make_config, tmp_path, capsys, save):
    config = make_config()
    folder_of(config).mkdir(parents=True)
    save({"state": Payload(tmp_path / "owned")}, folder_of(config) / "checkpoint.pt")
    execute(config)
    assert "damaged" in capsys.readouterr().err
    assert not (tmp_path / "owned").exists()
