"""Arrays, teachers and searches of other hands: a bad one is named, and neither exported nor written elsewhere."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments.distillation import export_teachers
from experiments.evidence.reading import EvidenceError, read_arrays, read_sums
from experiments.evidence.schemas import SURFACE
from experiments.runner.identity import digest_of
from scripts import tune
from tests.evidence.test_collect import MANIFEST
from tests.evidence.test_evidence_files import change, full_disk_after
from tests.regression.test_evidence import make_surface, write_surface
from tests.scripts.test_tune import asked, write_runs

# --- Arrays ---


def test_an_array_that_claims_to_be_huge_takes_no_memory(tmp_path):
    path = write_surface(tmp_path / "surface.npz", make_surface())
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(118)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("value.npy", b"\x93NUMPY\x01\x00\x76\x00" + header)
    with pytest.raises(EvidenceError, match="its header gives another size"):
        read_arrays(path, SURFACE)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(2**25))
    with pytest.raises(EvidenceError, match="npz: cannot be read"):
        read_arrays(path, {"x": ("f", "G")})


@pytest.mark.parametrize(
    "to",
    [
        *({"value": np.zeros((3, 3))}, {"x": np.full((41, 41, 2), np.nan)}, {"seed": np.array([1, 2])}),
        *({"value": np.array("text")}, {"scale": np.array("huge")}, {"x": np.array([{}], dtype=object)}),
    ],
    ids=lambda to: next(iter(to)),
)
def test_arrays_are_of_their_kinds_and_shapes(tmp_path, to):
    path = write_surface(tmp_path / "surface.npz", make_surface())
    with np.load(path) as whole:
        np.savez(path, **dict(whole) | to)
    with pytest.raises(EvidenceError, match="npz: cannot be read"):
        read_arrays(path, SURFACE)


# --- Teachers and tuning ---


def make_teacher_run(root: Path, teacher: Path, name: str = "a", **options: object) -> Path:
    """A complete run of train_teacher, as far as exporting reads it."""
    run = root / "train_teacher" / name
    run.mkdir(parents=True)
    played = {"game": "breakout", "actions": ["noop"], "action_repeat": 4} | options
    (run / "summary.json").write_text(json.dumps({"objective": -1.0, "steps": 96, "score": 1.0, "options": played}))
    (run / "manifest.json").write_text(json.dumps(MANIFEST | {"run_id": name}))
    (run / "config.yaml").write_text(yaml.safe_dump({"seed": 0, "teacher": {"algorithm": "ppo", "steps": 96}}))
    np.savez(run / "scores.npz", score=np.array([1.0, 2.0]), score_greedy=np.array([3.0]))
    (run / "teacher.safetensors").write_bytes(teacher.read_bytes())
    return run


def export(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["export", "--runs", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        export_teachers.main()
    assert stopped.value.code == 1


def test_a_bad_teacher_is_left_out_and_the_others_are_exported(atari_folder, tmp_path, monkeypatch, capsys):
    teacher = atari_folder / "teacher.safetensors"
    outside = make_teacher_run(tmp_path, teacher, "outside", game="../../breakout")
    linked, half = (make_teacher_run(tmp_path, teacher, name) for name in ("linked", "half"))
    (linked / "teacher.safetensors").unlink()
    (linked / "teacher.safetensors").symlink_to(teacher)
    (half / "scores.npz").write_bytes(b"PK")
    whole = make_teacher_run(tmp_path, teacher, "whole")
    export(monkeypatch, tmp_path)
    said = capsys.readouterr()
    assert "summary.json: options.game: not a name" in said.err
    assert "teacher.safetensors leads out of its folder" in said.err
    assert "scores.npz: cannot be read" in said.err
    assert all(str(run) in said.err for run in (outside, linked, half))
    assert json.loads((tmp_path / "out" / "breakout.json").read_text())["run_id"] == whole.name
    assert set(read_sums(tmp_path / "out")) == {"breakout.json", "breakout.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {"train_teacher", "out"}


def test_a_full_disk_leaves_the_teacher_and_its_card_as_they_were(atari_folder, tmp_path, monkeypatch, capsys):
    make_teacher_run(tmp_path, atari_folder / "teacher.safetensors")
    full_disk_after(monkeypatch, 1)
    monkeypatch.setattr("sys.argv", ["export", "--runs", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="No space left on device"):
        export_teachers.main()
    assert not (tmp_path / "out" / "breakout.safetensors").exists()


@pytest.mark.parametrize(
    "to", [{"dataset__game": "../../pong"}, {"optimizer__learning_rate": "${oc.env:HOME}"}], ids=str
)
def test_a_search_run_writes_no_config_elsewhere_and_no_code(tmp_path, capsys, to):
    arguments = write_runs(tmp_path, [asked(rate=1e-4), asked(rate=1e-3)], [0.2, 0.1])
    change(tmp_path / "runs" / "distill_atari_search" / "1", "config.yaml", **to)
    assert tune.main(arguments) == 1
    assert "left out, " in capsys.readouterr().err
    (written,) = (tmp_path / "tuned").rglob("*.yaml")
    assert yaml.safe_load(written.read_text())["optimizer"] == {"learning_rate": 0.0001}


def test_a_searchs_long_names_are_names(tmp_path):
    """Of a run, whose folder has labels, seed and digest in its name."""
    arguments = write_runs(tmp_path, [asked()], [0.1])
    run = tmp_path / "runs" / "distill_atari_search" / "0"
    digest = digest_of(yaml.safe_load((run / "config.yaml").read_text()))
    name = f"space_invaders-sobolev_lr0.0005_alpha0.03-n5000-seed1000-{digest}"
    change(run, "manifest.json", run_id=name)
    run.rename(run.with_name(name))
    assert tune.main(arguments) == 0
