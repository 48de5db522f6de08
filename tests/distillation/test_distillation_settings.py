"""The settings of distillation: what is at the paper's scale, what is refused, and whose teacher is asked for."""

import hashlib
import os
from dataclasses import fields

import pytest

from experiments.distillation.settings import AtariDatasetConfig, DistillConfig, TeacherConfig
from experiments.runner.errors import BadInput
from experiments.runner.execute import execute
from experiments.runner.scale import scale_of
from experiments.runner.settings import file_sha256
from sobolev.atari import AtariOptions, Objective
from tests.conftest import ROOT, composed
from tests.distillation.test_distill_atari import SHIPPED, make


def shipped(*overrides: str) -> DistillConfig:
    return composed("experiment=distill_atari", *overrides)


@pytest.mark.parametrize("game", ["breakout", "space_invaders", "pong"])
@pytest.mark.parametrize("objective", ["value", "sobolev", "derivative"])
def test_what_ships_is_of_the_papers_scale(game, objective):
    tuned = ["optimizer.learning_rate=1e-4", "n_train=50000", "seed=5"]
    if objective != "value":
        tuned.append("objective.gradient_weight=0.03")
    assert scale_of(shipped(f"dataset=atari/{game}", f"objective={objective}", *tuned)) == "paper"


@pytest.mark.parametrize("rate", ["1e-5", "1e-3"])
def test_the_ends_of_the_papers_learning_rates_are_of_its_scale(rate):
    assert scale_of(shipped(f"optimizer.learning_rate={rate}")) == "paper"


@pytest.mark.parametrize(
    "overrides",
    [
        ("objective=sobolev", "objective.kl_weight=0"),
        ("objective=sobolev", "objective.gradient_weight=0"),
        ("objective=value", "objective.gradient_weight=0.1"),
        ("objective=value", "objective.kl_weight=2"),
        ("objective=derivative", "objective.kl_weight=1"),
        ("objective.name=mine",),
    ],
)
def test_an_objective_of_other_weights_than_its_name_says_is_not_of_the_papers_scale(overrides):
    assert scale_of(shipped(*overrides)) == "reduced"


@pytest.mark.parametrize(
    "override",
    [
        *("objective.divergence=teacher_student", "objective.norm=squared_l2", "objective.projection=gaussian"),
        *("objective.falls_until=0.5", "objective.balanced=true"),
        "student.initialisation=uniform_fan_in",
        *("objective.samples=2", "n_gradients=8", "n_evaluate=100", "student=quarter"),
        *("optimizer.steps=100", "optimizer.batch_size=50", "optimizer.batch_size=1000", "optimizer.schedule=cosine"),
        *("optimizer.learning_rate=9e-6", "optimizer.learning_rate=2e-3", "evaluations=19"),
        *("dataset.n_states=200000", "dataset.recording_environments=8", "dataset.recording_seed=1"),
        *("dataset.split=[0.5,0.25,0.25]", "dataset.teacher=mine.safetensors"),
    ],
)
def test_another_loss_or_other_states_are_not_of_the_papers_scale(override):
    assert scale_of(shipped(override)) == "reduced"


def test_an_alpha_that_falls_or_is_balanced_is_not_the_papers_although_it_ships():
    assert scale_of(shipped("objective=sobolev_falling")) == "reduced"
    assert shipped().in_paper
    assert not shipped("objective.balanced=true").in_paper


def test_a_game_of_ones_own_and_its_teacher_are_an_axis():
    assert scale_of(shipped("dataset.game=qbert", "dataset.teacher=runs/teacher.safetensors")) == "paper"
    assert scale_of(shipped("dataset.game=qbert", "dataset.teacher=runs/teacher.safetensors", "n_train=50")) == "paper"
    assert scale_of(shipped("dataset.game=qbert", "optimizer.steps=100")) == "reduced"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_teachers_digest_is_resolved_by_game(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = shipped(f"dataset=atari/{path.stem}").dataset.teacher_sha256
    assert found == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_digest_follows_the_file(tmp_path):
    path = tmp_path / "file"
    assert file_sha256(str(path)) == file_sha256(str(tmp_path)) == file_sha256("a\0b") == ""
    for content in (b"one", b"two!"):
        path.write_bytes(content)
        assert file_sha256(str(path)) == hashlib.sha256(content).hexdigest()
    time = path.stat().st_mtime_ns
    path.write_bytes(b"six!")
    os.utime(path, ns=(time, time))  # as where the clock of files has not ticked since
    assert file_sha256(str(path)) == hashlib.sha256(b"six!").hexdigest()


REFUSALS = {
    "n_train=350": "the train part of the recording has",
    "student.initialisation=ones": "student.initialisation=ones is not one of uniform_fan_in, orthogonal",
    "objective.divergence=js": "objective.divergence=js is not one of student_teacher, teacher_student",
    "objective.norm=l1": "objective.norm=l1 is not one of l2, squared_l2",
    "objective.projection=ball": "sphere, gaussian, rademacher, coordinate",
    "evaluate_on=train": "validation, test",
    "dataset.split=[0.5,0.5,0.5]": "that sum to 1",
    "dataset.teacher=nowhere.safetensors": "there is no teacher at nowhere.safetensors.*experiment=train_teacher",
    "dataset=atari/pong": r"dataset.game=pong, but the teacher at .* was trained with breakout",
    "dataset.actions=[noop,right,left]": r"was trained with .*: dataset.actions=\[\] takes the teacher's",
    "dataset.sticky_actions=0.25": "dataset.sticky_actions=0.25, but the teacher .* with 0.0",
    "student.convolutions=[[16,7,4]]": "the stride must divide both",
    "student.convolutions=[[16,8]]": r"layer 1 is not \[channels, kernel, stride\]",
    "student.convolutions=[]": "one convolution or more",
    "student.convolutions=[[0,8,4]]": "layer 1 is not .* all positive",
    "student.convolutions=[[16,8,0]]": "layer 1 is not .* all positive",
    "student.convolutions=[[16,8,4],[32,4,2],[8,12,3]]": "the kernel of layer 3 is larger than its input of 9 x 9",
}


@pytest.mark.parametrize("override", REFUSALS)
def test_refusals_are_one_line_and_leave_no_run(make_config, tmp_path, override):
    with pytest.raises(BadInput, match=REFUSALS[override]) as caught:
        execute(make(make_config, override))
    assert "\n" not in str(caught.value)
    assert not any((tmp_path / "runs").glob("*/*"))


OUT_OF_RANGE = {
    **dict.fromkeys(("n_train=0", "n_evaluate=0", "n_gradients=0", "evaluations=0"), "must be positive"),
    **dict.fromkeys(("dataset.n_states=0", "dataset.recording_environments=0"), "must be positive"),
    **dict.fromkeys(("optimizer.steps=0", "optimizer.batch_size=0", "optimizer.learning_rate=0"), "must be positive"),
    **dict.fromkeys(("objective.samples=0", "student.hidden=0"), "must be positive"),
    **dict.fromkeys(("play_episodes=-1", "recorded_gib=inf", "dataset.recording_seed=-1"), "must be 0 or more"),
    **dict.fromkeys(("objective.falls_until=-0.1", "objective.falls_until=1.5"), "a share of the training"),
    **dict.fromkeys(("objective.kl_weight=-1", "objective.gradient_weight=nan"), "must be 0 or more"),
    "dataset.split=[0.5,0.5]": "that sum to 1",
    "dataset.split=[1.5,-0.75,0.25]": "that sum to 1",
    "dataset.stack=3": "read 4 frames",
    "n_train=200000": "n_train=200000 must be less than dataset.n_states=",
    "seed=-1": "seed must be",
    "compute.precision=bfloat16": "computes in float32 or float64",
    "evaluations=1001": "more than there are updates",
}


@pytest.mark.parametrize("override", OUT_OF_RANGE)
def test_numbers_out_of_range_are_refused_as_settings_are_built(make_config, override):
    with pytest.raises(BadInput, match=OUT_OF_RANGE[override]) as caught:
        make(make_config, override)
    assert override.partition("=")[0] in str(caught.value)


def test_fields_are_those_of_the_librarys_options():
    """The types repeat them, for they could not be the library's own (`settings` says why)."""
    options = {field.name for field in fields(AtariOptions)}
    assert options == {field.name for field in fields(AtariDatasetConfig)}
    assert {field.name for field in fields(Objective)} < {field.name for field in fields(TeacherConfig)}


def test_both_weights_0_are_refused(make_config):
    with pytest.raises(BadInput, match="nothing to learn from"):
        execute(make(make_config, "objective=value", "objective.kl_weight=0"))


@pytest.mark.parametrize(
    ("game", "training"),
    [("pong", "train_teacher dataset=atari/pong`"), ("seaquest", "train_teacher dataset.game=seaquest`")],
)
def test_a_missing_teacher_is_made_by_a_command_that_exists(make_config, tmp_path, monkeypatch, game, training):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.runner.settings.ROOT", tmp_path)
    config = make(make_config, f"dataset.game={game}")
    config.dataset.teacher = f"results/teachers/{game}.safetensors"
    with pytest.raises(BadInput, match=training + ".*export_teachers"):
        execute(config)
    config.dataset.teacher = "mine.safetensors"  # where no export writes
    with pytest.raises(BadInput, match=training + ".*dataset.teacher may name") as caught:
        execute(config)
    assert "export" not in str(caught.value)
