"""The moving picture of a teacher and its students: it shows the games that were measured, or says why it cannot."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.distillation import playing
from experiments.evidence.runs import CompleteRun
from experiments.evidence.schemas import StudentConfig
from experiments.runner.execute import execute
from sobolev.atari import load_teacher
from tests.distillation.test_distill_atari import folder, make


@pytest.fixture
def runs(make_config) -> list[Path]:
    """Of two tiny students, Sobolev first."""
    configs = [make(make_config, f"objective={name}") for name in ("sobolev", "value")]
    for config in configs:
        execute(config)
    return [folder(config) for config in configs]


def test_a_picture_shows_teacher_and_students_over_time(runs, tmp_path, capsys):
    out = tmp_path / "new" / "picture.gif"
    assert playing.main([*map(str, runs), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    with Image.open(out) as picture:
        assert picture.width == playing.MARGIN + 3 * (84 * playing.ZOOM + playing.MARGIN)
        shown = []
        for number in range(picture.n_frames):
            picture.seek(number)
            shown.append(np.asarray(picture.convert("L"), dtype=float))
    assert len(shown) == 25  # 100 steps of 400 frames, of which every fourth is shown
    first, last = shown[0], shown[-1]
    side = 84 * playing.ZOOM
    panels = np.arange(3)[:, None] * (side + playing.MARGIN) + playing.MARGIN + np.arange(side)
    for panel in panels:
        assert np.abs(first[:, panel] - last[:, panel]).max() > 50
    assert np.abs(last[:, panels[1]] - last[:, panels[2]]).max() > 50  # the students play other games


def test_a_game_is_the_first_of_those_that_were_measured(runs):
    """A run's only game has the score that it recorded."""
    for path in runs:
        run = CompleteRun.read(path, StudentConfig)
        teacher = load_teacher(run.config["dataset"]["teacher"])
        game = playing.first_game("student", playing.student_of(run, teacher), teacher, run.config)
        assert game.over
        assert game.states_THW.shape == (len(game.score_T), 84, 84)
        assert game.score_T[-1] == json.loads((path / "summary.json").read_text())["play_score"]


def test_what_cannot_be_shown_is_one_line(runs, make_config, tmp_path, capsys):
    def refused(*paths: Path) -> str:
        capsys.readouterr()  # of training
        assert playing.main([*map(str, paths), "--out", str(tmp_path / "none.gif")]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        return printed.err

    longer = make(make_config, "objective=value", "optimizer.steps=12")
    execute(longer)
    assert "has another optimizer.steps than" in refused(runs[0], folder(longer))
    without = shutil.copytree(runs[0], tmp_path / "copy" / runs[0].name)
    (without / "student.npz").unlink()
    assert "has no student.npz" in refused(without)
    (without / "student.npz").write_bytes((runs[0] / "student.npz").read_bytes()[:1000])
    assert "does not hold the student of the run's config" in refused(without)
    other = make(make_config, "student.hidden=8")
    execute(other)
    shutil.copy(folder(other) / "student.npz", without)
    assert "does not hold the student of the run's config" in refused(without)
    assert "no-such-run" in refused(tmp_path / "no-such-run")
    assert not (tmp_path / "none.gif").exists()
