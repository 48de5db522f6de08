"""A shorter form of `make faults`: a run is broken on purpose and ends in the rows of one that was not."""

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.evidence.reading import read_csv
from scripts import disturbed_runs, faults, file_faults
from tests.front_door import FrontDoor


def start(overrides: list[str], runs: Path, **environment: str) -> FrontDoor:
    """As `disturbed_runs.start`, sooner."""
    return FrontDoor(
        *(override.replace("{runs}", str(runs)) for override in overrides), f"runs_dir={runs}", **environment
    )


@pytest.mark.slow
def test_a_broken_run_ends_in_the_same_rows(tmp_path, monkeypatch):
    for module in (faults, disturbed_runs):
        monkeypatch.setattr(module, "start", start, raising=False)
    fewer_steps = faults.EXPERIMENTS["regression"].replace("steps=8000", "steps=3000")
    monkeypatch.setitem(faults.EXPERIMENTS, "regression", fewer_steps)
    kinds = ["kill", "terminate", "flip", "together"]
    assert faults.main(["regression", "--kills", "2", "--faults", *kinds, "--results", str(tmp_path)]) == 0
    rows = read_csv(tmp_path / "faults.csv")
    assert [row["fault"] for row in rows] == kinds
    assert all(row["tried"] == row["survived"] for row in rows)


@pytest.mark.parametrize(("status", "said", "survived"), [(-9, "", True), (1, "", False), (-9, "Traceback", False)])
def test_what_ends_otherwise_than_by_the_kill_is_not_survived(tmp_path, status, said, survived):
    """However well the last command ends: one before it did not go on from what it found."""
    ends = iter([(status, said), (-9, ""), (0, "")])
    bench = SimpleNamespace(somewhere=lambda _: tmp_path, stopped=lambda *_: next(ends), ends_well=lambda _: True)
    assert list(faults.kill(bench, 3)) == [survived] * 3


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_a_fault_at_any_file_operation_is_one_line_and_the_rows_are_the_same(tmp_path):
    """A few of them, spread over a run that begins and one that goes on."""
    every = [file_faults.KILL, errno.ENOSPC, errno.EIO, errno.EACCES]
    assert list(file_faults.survived(faults.OPERATIONS.split(), tmp_path, every, most=6)) == [True] * 6


def test_lines_of_what_is_not_tried_stay(tmp_path, monkeypatch):
    file = tmp_path / "faults.csv"
    faults.write({("theory", "kill"): (20, 20, "other"), ("regression", "flip"): (20, 20, "other")}, file)
    assert flips(monkeypatch, tmp_path) == 1
    assert faults.read(file) == {
        ("theory", "kill"): (20, 20, "other"),
        ("regression", "flip"): (4, 4, faults.digest()),
    }


def test_typed_again_it_goes_on(tmp_path, monkeypatch):
    """What this code has survived as often is not tried again. What it has not, or fewer times, or another code, is."""
    code = faults.digest()
    for line, asked in (((4, 4, code), 0), ((5, 5, code), 0), ((4, 3, code), 1), ((3, 3, code), 1), ((4, 4, ""), 1)):
        faults.write({("regression", "flip"): line}, tmp_path / "faults.csv")
        assert flips(monkeypatch, tmp_path) == asked


def flips(monkeypatch, results: Path) -> int:
    """How often the flips of bits, all of which are survived, are asked for by a command."""
    asked = []
    monkeypatch.setattr(faults, "prepare", lambda *_: None)
    monkeypatch.setitem(faults.FAULTS, "flip", (lambda _, times: asked.append(times) or iter([True] * times), 0.2))
    assert faults.main(["regression", "--faults", "flip", "--results", str(results)]) == 0
    return len(asked)
