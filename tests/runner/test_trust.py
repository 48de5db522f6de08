"""Hostile text: overrides, folders of configs, checkpoints. None of it may run code."""

import os
import pickle
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import OmegaConf

from experiments.registry import register_settings
from experiments.runner import revision
from experiments.runner.command_line import explain
from experiments.runner.errors import BadInput
from experiments.runner.execute import execute, find_entry
from experiments.runner.identity import folder_of
from experiments.runner.trust import Loader, settings
from scripts.fuzz_configs import SECRET, front_door, survived
from tests.conftest import CONFIGS, ROOT


@pytest.fixture(scope="module")
def loader():
    register_settings()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("omegaconf.basecontainer.BaseContainer._resolvers", {})
        yield Loader(create_config_search_path(str(CONFIGS)))


REFUSED = {
    "hydra.callbacks.x={_target_:os.system,command:touch owned}": "hydra.callbacks.x",
    "+hydra.callbacks.x._target_=os.system": "hydra.callbacks.x._target_",
    "++hydra.callbacks.x='${oc.create:...}'": "hydra.callbacks.x",
    "hydra.job_logging.handlers.console.class=os.system": "hydra.job_logging.handlers.console.class",
    "hydra.searchpath=[pkg://this]": "hydra.searchpath",
    "hydra.sweeper._target_=hydra_plugins.theirs.Sweeper": "hydra.sweeper._target_",
    "+dataset@hydra.callbacks=booth": "hydra.callbacks.name",
    "+hydra.sweeper.params.x._target_=torch.utils.collect_env.run": "hydra.sweeper.params.x._target_",
    "hydra.sweeper.params={_target_:torch.utils.collect_env.run}": "hydra.sweeper.params._target_",
    "+hydra.sweeper.params.loss=${hydra.runtime.choices.theirs}": "hydra.sweeper.params.loss",
    "hydra.sweeper.params=all": "hydra.sweeper.params",
    "+hydra.launcher.x={_target_:torch.utils.collect_env.run}": "hydra.launcher.x._target_",
    "+hydra.job.env_set.PATH=theirs": "hydra.job.env_set.PATH",
    "hydra.job.env_copy=[PATH]": "hydra.job.env_set.PATH",
    "hydra.job.chdir=true": "hydra.job.chdir",
    "hydra.run.dir=elsewhere": "hydra.run.dir",
    "hydra.sweep.dir=elsewhere": "hydra.sweep.dir",
    "hydra.output_subdir=theirs": "hydra.output_subdir",
    "hydra/sweeper=basic": "hydra.sweeper._target_",
    "hydra/launcher=joblib": "hydra/launcher=joblib is not a choice; choose from basic, local, slurm",
    "hydra/job_logging=default": "hydra.job_logging",
}


@pytest.mark.parametrize("override", REFUSED)
def test_an_override_of_hydra_is_refused_by_its_key(loader, override):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        loader.load_configuration("config", [override], RunMode.MULTIRUN)
    line = explain(caught.value)
    assert line.startswith(REFUSED[override])
    assert "\n" not in line
    assert "this" not in sys.modules, "a package was imported that a config named"


SLURM = "hydra/launcher=slurm"
UNFIT = [
    ["hydra/launcher=local", "hydra.launcher.pre_dispatch='print(1)'"],
    [SLURM, "hydra.launcher.setup=[touch owned]"],
    [SLURM, "+hydra.launcher.additional_parameters.x='${oc.create:{_target_:os.system}}'"],
    [SLURM, "hydra.launcher.submitit_folder=/elsewhere"],
    *([SLURM, f"hydra.launcher.{key}='gpu\ntouch owned'"] for key in ("partition", "name", "comment")),
    [SLURM, "hydra.launcher.partition=${labels.task}"],
    [SLURM, "hydra.launcher.account='a b'"],
]


@pytest.mark.parametrize("overrides", UNFIT)
def test_a_launcher_takes_numbers_and_words(loader, overrides):
    with pytest.raises(BadInput, match=r"^hydra\.launcher\."):
        loader.load_configuration("config", overrides, RunMode.MULTIRUN)


def test_what_anyone_may_set_composes(loader):
    for overrides in (
        [
            "sweep=regression/figure_2",
            SLURM,
            "hydra.launcher.partition=gpu",
            "hydra.launcher.mem_gb=null",
            "dataset=booth,beale",
        ],
        [SLURM, "hydra.launcher.gres=gpu:a100:2", "hydra.launcher.constraint=a100|h100", "hydra.launcher.name=mine"],
        ["hydra/launcher=local", "hydra.launcher.n_jobs=-1", "hydra.sweeper.params={}", "hydra.mode=MULTIRUN"],
        ["+hydra.sweeper.params.loss='value,sobolev'"],
        ["runs_dir=../runs", "model.hidden=[16,16]", "optimizer.learning_rate=1e-3"],
        ["experiment=train_teacher", "start=../mine.safetensors"],
    ):
        loader.load_configuration("config", overrides, RunMode.MULTIRUN)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+foo=1", "foo is not a setting; choose from"),
        ("+model.foo=1", "model.foo is not a setting; choose from model.activation"),
        ("~labels", "labels.task is missing"),
        ("runs_dir='a\nb'", "runs_dir='a\\nb': expected text on one line"),
        ("labels.task=${oc.env:SECRET}", "labels.task: Unsupported interpolation type oc.env"),
        ("recorder.project=x${hydra:job.name}", "recorder.project: Unsupported interpolation type hydra"),
        ("labels.task=${oc.decode:x}", "labels.task: Unsupported interpolation type oc.decode"),
    ],
)
def test_a_setting_is_declared_and_says_what_it_is(loader, override, said):
    config = loader.load_configuration("config", [override], RunMode.RUN)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    with pytest.raises(Exception) as caught:  # noqa: PT011
        settings(config)
    assert explain(caught.value).startswith(said)


# In these texts CALL is something to call, which makes the file OWNED, and HERE the folder of the test.
CALL = "{_target_: shutil.copyfile, src: /dev/null, dst: OWNED}"
HALVES = """ "${oc.create:'{_tar${oc.decode:get_}: shutil.copyfile, src: /dev/null, dst: OWNED}'}" """
CREATED = """ "${oc.create:'CALL'}" """
SWEEP = "hydra: {mode: MULTIRUN, sweeper: {params: {VALUES}}}"
FILES = {  # beside the experiment, where their name is mentioned
    "theirs/theirs/moved.yaml": f"callbacks: {{x: {CREATED}}}",
    "theirs/theirs/packaged.yaml": f"# @package hydra.callbacks\nx: {CREATED}",
    "theirs/hydra/callbacks/called.yaml": "x: CALL",
    "outside.yaml": "# @package hydra.callbacks\nx: CALL",
    "bin/git": "#!/bin/sh\ntouch OWNED\n",
}
SHAPES = {  # what the experiment says, in its defaults list or below, and the command
    "git of one's own": ("", "hydra: {job: {env_set: {PATH: 'HERE/bin:/usr/bin:/bin'}}}"),
    "created callback": ("", f"hydra: {{callbacks: {{x: {CREATED}}}}}"),
    "created for the sweeper": ("", f"hydra: {{mode: MULTIRUN, sweeper: {{x: {CREATED}}}}}"),
    "created parameter of a sweep": ("", SWEEP.replace("VALUES", f"x: {CREATED}")),
    "created for the launcher": (
        "override /hydra/launcher: slurm",
        f"hydra: {{mode: MULTIRUN, launcher: {{additional_parameters: {{x: {CREATED}}}}}}}",
    ),
    "group moved by the command": ("", "", "+theirs@hydra=moved"),
    "group moved by a defaults list": ("/theirs@hydra: moved", ""),
    "string entry of a defaults list": ("/theirs/moved@hydra", ""),
    "package of a file": ("/theirs: packaged", ""),
    "group of Hydra's": ("", "", "hydra/callbacks=called"),
    "file of elsewhere": ("../../outside", ""),
    "target in two": ("", SWEEP.replace("VALUES", "x: HALVES")),
    "called as a parameter": ("", SWEEP.replace("VALUES", "x: CALL")),
    "kept among the choices": (
        "",
        SWEEP.replace("VALUES", "x: '${hydra.runtime.choices.y}'")[:-1] + ", runtime: {choices: {y: CALL}}}",
    ),
    "anchor": ("", "hydra: {runtime: {choices: {y: &y CALL}}, callbacks: {x: *y }}"),
    "escaped key": ("", 'hydra: {"\\x63allbacks": {x: CALL}}'),
    "log handler": ("", "hydra: {job_logging: {handlers: {x: {class: logging.FileHandler, filename: OWNED}}}}"),
    "override as a parameter": (
        "",
        SWEEP.replace("VALUES", '+hydra.callbacks.x: "CALL"').replace("CALL", CALL.replace(": ", ":")),
    ),
}


@pytest.fixture
def ask(tmp_path):
    """Writes a folder of configs whose experiment has this in its defaults list and below, and asks for it."""

    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        text = (
            text.replace("CALL", CALL)
            .replace("HALVES", HALVES)
            .replace("OWNED", str(tmp_path / "owned"))
            .replace("HERE", str(tmp_path))
        )
        (tmp_path / name).write_text(text)

    def ask(entry: str, text: str, *arguments: str, **files: str) -> tuple[str, list]:
        for name, content in (FILES | files).items():
            if name in files or Path(name).stem in f"{entry} {text} {arguments} git":
                write(name, content)
        (tmp_path / "bin" / "git").chmod(0o700)
        entry = f"{{{entry}}}, " if ": " in entry else f"{entry}, " if entry else ""
        head = f"# @package _global_\ndefaults: [regression, {entry}_self_]\n"
        write("theirs/experiment/theirs.yaml", text if text.startswith("#") else head + text)
        command = ("--config-dir", str(tmp_path / "theirs"), "experiment=theirs", *arguments)
        return front_door(*command)

    return ask


@pytest.mark.parametrize("shape", SHAPES)
def test_a_folder_of_configs_runs_nothing(ask, tmp_path, shape):
    said, started = ask(*SHAPES[shape])
    assert not (tmp_path / "owned").exists()
    assert not started
    assert re.fullmatch("error: .+", said)


@pytest.mark.parametrize("how", ["${oc.env:SECRET}", "${hydra.job.env_set.SECRET}", "x${oc.decode:${oc.env:SECRET}}"])
def test_a_secret_of_the_environment_stays_there(ask, how):
    copied = "\nhydra: {job: {env_copy: [SECRET]}}" if "env_set" in how else ""
    said, started = ask("", f"labels: {{task: '{how}'}}" + copied)
    assert SECRET not in said
    assert not started
    assert re.fullmatch("error: .+", said)


def test_aliases_that_unfold_to_a_billion_entries_are_refused(ask):
    lines = ["a0: &a0 [1, 2, 3]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))]
    said, started = ask("", "x:\n" + "\n".join(f"  {line}" for line in lines))
    assert not started
    assert re.fullmatch("error: .+theirs.yaml holds a YAML alias, .+", said)


def test_the_folder_of_a_sweep_is_on_one_line(ask):
    """A launcher writes it into a script, whatever the folder of each run is."""
    said, started = ask("", 'runs_dir: "a\\ntouch OWNED"\n' + SWEEP.replace("VALUES", "runs_dir: elsewhere"))
    assert not started
    assert re.fullmatch("error: runs_dir=.+: expected text on one line", said)


def test_a_secret_is_not_the_name_of_a_choice(ask):
    """Which would be kept among Hydra's choices, where a label could name it."""
    said, started = ask("optional /tuned: '${oc.env:SECRET}'", "labels: {task: '${hydra.runtime.choices.tuned}'}")
    assert SECRET not in said
    assert not started
    assert re.fullmatch("error: .+", said)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config-name=../../theirs/callback"],
        ["--config-name", "theirs"],
        ["--config-path=theirs"],
        ["-cp", "pkg://this"],
        ["--config-p=theirs"],
        ["--experimental-rerun=theirs/config.pickle"],
        ["--exp", "theirs/config.pickle"],
        ["-m", "--cfg", "job"],
        ["experiment=distill_atari", "tuned=atari/pong_sobolv"],
    ],
)
def test_what_is_composed_is_our_config(arguments):
    said, started = front_door(*arguments)
    assert re.fullmatch("error: .+", said)
    assert not started


@pytest.mark.parametrize("name", ["dataset/booth", "technique/sobolev", "experiment/regression", "config"])
def test_a_config_of_a_name_that_ships_is_refused(tmp_path, name):
    """Hydra would leave it out for the shipped file without a word, or take it for a choice of the library's."""
    path = tmp_path / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text("name: mine\n")
    said, started = front_door("--config-dir", str(tmp_path), "experiment=synthetic_gradients")
    assert said == f"error: {path}: {name} ships: give yours another name"
    assert not started


@pytest.mark.parametrize(
    "text", ["a: [", "- a", "defaults: 5", "defaults: [5]", "? [a]\n: b", "a: !!python/name:os.system"]
)
def test_a_file_that_is_no_config_is_one_line(ask, text):
    said, started = ask("", f"# @package _global_\n{text}")
    assert re.fullmatch("error: .+", said)
    assert not started


def test_an_experiment_names_its_types(ask):
    said, _ = ask("", "# @package _global_\nname: theirs")
    assert "no experiment's type is named" in said


def test_a_folder_of_configs_may_hold_experiments_and_sweeps(ask):
    sweep = "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {n_train: '20,30'}}}"
    mine = "name: mine\nseed: 7\nloss: {weights: [1, 2]}"
    said, started = ask("", mine, "sweep=mine", **{"theirs/sweep/mine.yaml": sweep})
    assert said == ""
    asked = [(one.name, one.seed, one.loss.weights, one.n_train) for one in started]
    assert asked == [("mine", 7, [1, 2], 20), ("mine", 7, [1, 2], 30)]


def test_what_experiments_and_sweeps_of_a_folder_say_of_seed_and_folder_counts(ask, tmp_path):
    mine = f"name: mine\nseed: 7\nruns_dir: {tmp_path}/mine"
    said, started = ask("", mine)
    assert said == ""
    assert [(one.seed, one.runs_dir) for one in started] == [(7, f"{tmp_path}/mine")]
    sweep = (
        "# @package _global_\ndefaults: [/sweep/regression/figure_2, override /experiment: theirs, _self_]\n"
        f"seed: 8\nruns_dir: {tmp_path}/grid\nhydra: {{sweeper: {{params: {{dataset: booth, n_train: '20,30'}}}}}}"
    )
    said, started = ask("", mine, "sweep=mine", **{"theirs/sweep/mine.yaml": sweep})
    assert said == ""
    assert [(one.name, one.dataset.name, one.n_train, one.loss.name) for one in started] == [
        ("mine", "booth", n_train, loss) for n_train in (20, 30) for loss in ("value", "sobolev")
    ]
    assert {(one.seed, one.runs_dir) for one in started} == {(8, f"{tmp_path}/grid")}
    assert {one.recorder.group for one in started} == {"mine"}
    assert {one.seed for one in ask("", mine, "sweep=mine", "seed=3")[1]} == {3}


def test_the_front_door_refuses_before_anything_is_called(tmp_path):
    """The command itself, which the tests above imitate, and without waiting for torch."""
    command = [sys.executable, "-X", "importtime", "run.py", f"+hydra.callbacks.x={CALL}".replace(" ", "")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    *imported, said = done.stderr.splitlines()
    assert said == "error: hydra.callbacks.x._target_ cannot be changed: only configs/ itself may set it"
    assert not any(line.endswith(" torch") for line in imported)


def test_random_attacks_fail(tmp_path):
    """A short form of `python -m scripts.fuzz_configs`, on seeds that succeed where nothing is judged."""
    for seed in (8, 10, 17):
        (folder := tmp_path / str(seed)).mkdir()
        assert survived(random.Random(seed), folder)
    (folder := tmp_path / "not judged").mkdir()
    assert not survived(random.Random(8), folder, judged=False), "what is tried would do no harm"


def test_git_is_called_without_what_the_environment_says_of_it(tmp_path, monkeypatch):
    owned = tmp_path / "owned"
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", f"touch {owned}; false")
    revision._git(ROOT, "status", "--porcelain")
    assert not owned.exists()


@pytest.mark.parametrize(
    "entry",
    [
        *("os.system", "experiments.runner.execute.execute", "experiments.runner.run.main", "experiments.nothing.main"),
        "experiments.theory.points.main",  # of another domain
    ],
)
def test_an_entry_is_an_experiment(make_config, entry):
    config = make_config()
    config.entry = entry
    with pytest.raises(BadInput, match="expected experiments"):
        find_entry(config)


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
