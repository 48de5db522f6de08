"""The code that decided a run's rows is noted, and the user is told where it is not the code that is here."""

import json
import shutil
import sys
from importlib import import_module

import pytest
import torch

import experiments.runner.run
from experiments.runner.code_identity import code_identity, code_of, other_code
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of
from sobolev.functions import BENCHMARKS, BenchmarkFunction
from sobolev.losses import DISTANCES
from tests.conftest import ROOT
from tests.runner.test_run import interrupted

ENTRY = "experiments.regression.train.main"


@pytest.fixture
def edited(tmp_path):
    """A function of (file, old, new) that gives the digest after an edit."""
    for package in ("experiments", "sobolev"):
        compiled = shutil.ignore_patterns("__pycache__")  # which other processes write meanwhile
        shutil.copytree(ROOT / package, tmp_path / package, ignore=compiled)

    def edit(file: str, old: str, new: str) -> str:
        source = (tmp_path / file).read_text()
        assert old in source
        (tmp_path / file).write_text(source.replace(old, new))
        code_identity.cache_clear()
        return code_identity(ENTRY, tmp_path)

    return edit


@pytest.mark.parametrize(
    ("file", "old", "new", "same"),
    [
        ("sobolev/functions/benchmarks.py", "+", "-", False),
        ("sobolev/networks/ensemble.py", "xavier_uniform_", "xavier_normal_", False),
        ("experiments/runner/schedules.py", "/ 2", "/ 3", False),
        ("experiments/regression/train.py", "    # Data\n", "    # Points\n\n", True),
        (
            "experiments/regression/train.py",
            '    """Train and evaluate one ensemble; the objective is the median test error of the values."""\n',
            "",
            True,
        ),
        ("experiments/theory/target.py", "2 * x", "3 * x", True),  # of another experiment
        ("experiments/runner/execute.py", "is complete", "is done", True),  # of no row
    ],
)
def test_what_decides_rows_and_nothing_else(edited, file, old, new, same):
    assert (edited(file, old, new) == code_identity(ENTRY)) is same


def test_of_a_users_domain_its_package_decides(tmp_path, monkeypatch):
    package = tmp_path / "lab_of_ours"
    package.mkdir()
    for name, text in {"__init__": "", "train": "from .step import RATE\nimport json", "step": "RATE = 1"}.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)

    def digest() -> str:
        code_identity.cache_clear()
        return code_identity("lab_of_ours.train.main")

    first = digest()
    (package / "step.py").write_text("RATE = 1  # of gradient descent")
    assert digest() == first
    (package / "step.py").write_text("RATE = 2")
    assert digest() != first
    assert digest() != code_identity("nowhere_to_be_found.train.main")


def test_the_formula_of_a_users_function_decides_the_rows_of_that_function_alone(make_config, tmp_path, monkeypatch):
    """The module that holds it, with what it imports of its own package; a library's functions are left out."""
    (tmp_path / "formulas").mkdir()
    (tmp_path / "formulas" / "__init__.py").touch()
    (tmp_path / "formulas" / "bowls.py").write_text(
        "from formulas.steep import k\n\n\ndef bowl(x, y): return k * x + y"
    )
    (tmp_path / "formulas" / "steep.py").write_text("k = 2")
    monkeypatch.syspath_prepend(tmp_path)
    for package in [name for name in sys.modules if name.startswith("formulas")]:
        monkeypatch.delitem(sys.modules, package)
    bowl = BenchmarkFunction("bowl", ((0.0, 1.0), (0.0, 1.0)), import_module("formulas.bowls").bowl)
    monkeypatch.setitem(BENCHMARKS, "bowl", bowl)
    monkeypatch.setitem(DISTANCES, "of_torch", torch.nn.functional.huber_loss)
    of_bowl, of_booth = make_config("dataset.name=bowl"), make_config("dataset=booth")

    def digests() -> tuple[str, str]:
        code_identity.cache_clear()
        return code_of(of_bowl), code_of(of_booth)

    first, booth = digests()
    assert booth == code_identity(ENTRY) != first
    assert code_of(make_config("loss.distances=[of_torch,l2,l2]")) == booth
    (tmp_path / "formulas" / "steep.py").write_text("k = 2  # as steep as that")
    assert digests() == (first, booth)
    (tmp_path / "formulas" / "steep.py").write_text("k = 3")
    assert digests() == (code_of(of_bowl), booth)
    assert code_of(of_bowl) != first
    execute(of_bowl)
    (tmp_path / "formulas" / "bowls.py").write_text("def bowl(x, y): return x * y")
    digests()
    assert "but computed by different code" in other_code(folder_of(of_bowl), of_bowl)


def test_a_complete_run_of_other_code_is_skipped_with_a_word(make_config, monkeypatch, capsys):
    execute(config := make_config())
    manifest = json.loads((folder_of(config) / "manifest.json").read_text())
    assert manifest["code"] == [code_identity(ENTRY)]
    capsys.readouterr()
    execute(config)
    assert capsys.readouterr().err.endswith("is complete: skipped\n")
    monkeypatch.setattr("experiments.runner.code_identity.code_of", lambda _: "edited")
    execute(config)
    said = capsys.readouterr().err
    revision = (manifest["revision"] or "unknown")[:7]
    assert f"but computed by different code (revision {revision}): remove the folder" in said


def test_a_run_that_goes_on_with_other_code_says_so_and_notes_both(make_config, monkeypatch, capsys):
    interrupted(config := make_config("compute.checkpoint_seconds=0"), monkeypatch, 20)
    monkeypatch.setattr(experiments.runner.run, "code_of", lambda _: "edited")
    execute(config)
    assert "resumes with different code: remove the folder to start again" in capsys.readouterr().err
    manifest = json.loads((folder_of(config) / "manifest.json").read_text())
    assert manifest["code"] == [code_identity(ENTRY), "edited"]
