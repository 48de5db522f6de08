"""A game that the paper does not have: played, distilled, collected and drawn without a change to what ships."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.distillation import figures
from experiments.distillation.appendix import tables
from experiments.distillation.claims import DISTILLATION
from experiments.evidence.collect import collect
from experiments.evidence.report import read_evidence
from experiments.evidence.rows import select
from experiments.evidence.verdicts import Finding
from sobolev.atari import AtariOptions, Environments, load_teacher, teacher_bytes
from sobolev.networks.atari_policies import teacher
from sobolev.seeding import generator
from tests import front_door
from tests.conftest import ROOT, TINY

GAME = "freeway"
FRAMES = 400
OPTIONS = {
    **{"game": GAME, "actions": [], "action_repeat": 4, "stack": 4, "max_pool": "true", "noop_max": 30},
    **{"fire_reset": "true", "sticky_actions": 0.0, "max_episode_frames": FRAMES},
}


@pytest.fixture
def own(tmp_path) -> list[str]:
    """The arguments of a command that plays the game, whose config lies in a folder beside those that ship."""
    config = tmp_path / "configs" / "dataset" / "atari" / f"{GAME}.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("# @package dataset\n" + "".join(f"{key}: {value}\n" for key, value in OPTIONS.items()))
    run = [f"runs_dir={tmp_path / 'runs'}", "recorder=disabled", "compute.threads=1", "compute.device=cpu"]
    return ["--config-dir", str(tmp_path / "configs"), f"dataset=atari/{GAME}", *run]


def untrained_teacher(path: Path) -> Path:
    actions = Environments(AtariOptions(GAME), 1, 1).actions
    policy = teacher(len(actions), generator(0, "teacher"))
    torch.nn.init.normal_(policy.actions.weight, std=0.3, generator=generator(0, "actions"))
    path.write_bytes(teacher_bytes(policy, AtariOptions(GAME, tuple(actions), max_episode_frames=FRAMES)))
    return path


def findings(results: Path) -> dict[str, Finding]:
    evidence = read_evidence(results)
    return {claim.key: claim.judge(evidence) for claim in DISTILLATION.claims}


def test_it_is_shown_and_leaves_every_finding_as_it_was(own, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(ROOT / "results" / "distillation", results / "distillation")
    before = findings(results)
    path = untrained_teacher(tmp_path / "teacher.safetensors")
    distilling = [*own, "experiment=distill_atari", f"dataset.teacher={path}", f"dataset.folder={tmp_path}"]
    tiny = [choice for choice in TINY["distill"] if not choice.startswith("dataset.max_episode_frames")]
    for objective in ("value", "sobolev"):
        done = front_door.run(*distilling, *tiny, f"objective={objective}", "compute_dtype=float32")
        assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "runs" / "distill_atari").iterdir())
    assert len(runs) == 2
    assert collect(runs, results / "distillation")

    assert findings(results) == before
    evidence = read_evidence(results)
    rows = select(evidence.rows, experiment="distill_atari", task=GAME)
    assert set(rows["method"]) == {"value", "sobolev"}
    assert f"| {GAME} | 120 | sobolev |" in tables(evidence)
    assert f"| {GAME} |" not in tables(read_evidence(ROOT / "results"))
    drawn = {file: figure for _, file, figure in figures.drawn(["distillation_curves", "saliency"], results)}
    assert f"distillation_saliency_{GAME}_120" in drawn
    panels = {axes.get_ylabel(): axes for axes in drawn["distillation_curves"].axes}
    lines = panels[f"{GAME}\nKL"].lines
    kl = select(rows, split="test", metric="kl", method="value")
    (line,) = (line for line in lines if line.get_marker() == "o")
    np.testing.assert_allclose(line.get_ydata(), kl["value"][kl["step"].isin(line.get_xdata())])


def test_a_teacher_of_it_is_trained_by_the_command_that_is_told(own, tmp_path):
    missing = front_door.run(*own, "experiment=distill_atari", f"dataset.teacher={tmp_path}/none", "dataset.folder=x")
    assert "`python run.py experiment=train_teacher" in missing.stderr
    done = front_door.run(*own, "experiment=train_teacher", *TINY["train_teacher"])
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "runs").glob("train_teacher/*/teacher.safetensors")
    assert load_teacher(made).options.game == GAME
