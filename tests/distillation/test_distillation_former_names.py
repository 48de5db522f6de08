"""Settings of distillation that were renamed: runs of before keep their names, are skipped, collected and compared."""

import json

import pytest
import yaml

from experiments.evidence.collect import differences
from experiments.evidence.runs import CompleteRun
from experiments.runner.execute import execute
from experiments.runner.former_names import KEYS, as_first_called
from experiments.runner.identity import folder_of, run_id
from tests import front_door
from tests.conftest import ROOT, composed

TEACHER = ("experiment=train_teacher", "dataset=atari/breakout")
STUDENT = ("experiment=distill_atari", "dataset=atari/breakout", "dataset.teacher_sha256=0")
IN_FLOAT32 = (*TEACHER, "teacher.compute_dtype=float32")
NAMED_BEFORE = {  # by the code that had the first names
    IN_FLOAT32: "breakout-ppo-n10000000-seed0-bf7880e99d",
    (*IN_FLOAT32, "teacher.gae_lambda=0.5"): "breakout-ppo-n10000000-seed0-9b293be098",
    (*IN_FLOAT32, "teacher.gamma=0.5"): "breakout-ppo-n10000000-seed0-9278f13dbc",
    (*IN_FLOAT32, "teacher.value_coef=0.25"): "breakout-ppo-n10000000-seed0-9f4bd9fc95",
    (*IN_FLOAT32, "teacher.entropy_coef=0.25"): "breakout-ppo-n10000000-seed0-7ee40ba34c",
    (*IN_FLOAT32, "teacher.max_grad_norm=0.25"): "breakout-ppo-n10000000-seed0-aad6a5ebf0",
    (*IN_FLOAT32, "teacher.episodic_life=false"): "breakout-ppo-n10000000-seed0-c20d98488a",
    (*TEACHER, "teacher.compute_dtype=bfloat16"): "breakout-ppo-n10000000-seed0-afecc053e5",
    (*IN_FLOAT32, "teacher=a2c"): "breakout-a2c-n10000000-seed0-41d49bd83f",
    (*STUDENT, "compute_dtype=float32"): "breakout-sobolev-n1000-seed0-79d50ec374",
    (*STUDENT, "compute_dtype=bfloat16"): "breakout-sobolev-n1000-seed0-3945328e75",
}


@pytest.mark.parametrize("asked", NAMED_BEFORE, ids=lambda asked: asked[-1])
def test_a_run_has_the_name_that_it_had(asked):
    assert run_id(composed(*asked)) == NAMED_BEFORE[asked]


@pytest.mark.parametrize(
    ("experiment", "renamed"),
    [("train_teacher", {key for key in KEYS if key.startswith("teacher.")}), ("distill_atari", {"compute_dtype"})],
)
def test_a_run_of_before_is_skipped_and_read_with_todays_names(make_config, experiment, renamed, capsys):
    config = make_config(f"experiment={experiment}")
    execute(config)
    path = folder_of(config) / "config.yaml"
    today = CompleteRun.read(path.parent)
    assert renamed <= today.settings.keys()
    path.write_text(yaml.safe_dump(as_first_called(yaml.safe_load(path.read_text()))))  # as the run of before left it
    assert all(KEYS[key].rpartition(".")[2] in path.read_text() for key in renamed)
    rows = (path.parent / "metrics.csv").read_bytes()
    capsys.readouterr()
    execute(config)
    assert "is complete: skipped" in capsys.readouterr().err
    assert (path.parent / "metrics.csv").read_bytes() == rows
    before = CompleteRun.read(path.parent)
    assert (before.settings, before.config) == (today.settings, today.config)


@pytest.mark.parametrize("domain", ["distillation", "teachers"])
def test_shipped_settings_have_todays_names_and_are_compared(domain):
    cells = json.loads((ROOT / "results" / domain / "settings.json").read_text())
    for of_cell in cells.values():
        assert not of_cell.keys() & {*KEYS.values()}
        present = of_cell.keys() & KEYS.keys()
        assert present
        for key in present:
            assert key in differences(of_cell | {key: "another"}, of_cell)


@pytest.mark.parametrize(
    ("experiment", "typed", "today"),
    [
        ("distill_atari", "products=float32", ""),
        ("train_teacher", "teacher.discount=0.9", ""),
        ("train_teacher", "teacher.value_weight=0.5", "teacher.value_coef"),
    ],
)
def test_a_first_name_on_the_command_line_is_refused_in_one_line(tmp_path, experiment, typed, today):
    done = front_door.run(f"experiment={experiment}", typed, f"runs_dir={tmp_path}")
    assert done.returncode != 0
    assert done.stderr.startswith(f"error: {typed.partition('=')[0]} is not a setting")
    assert done.stderr.count("\n") == 1
    assert today in done.stderr
