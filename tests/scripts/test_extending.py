"""docs/extending.md, done as it says: its files written to a folder of their own, its commands typed there."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.registry import results_folder
from experiments.runner.errors import BadInput
from experiments.runner.execute import find_entry
from experiments.runner.settings import RunConfig
from tests.conftest import ROOT, TINY

GUIDE = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL))
COMMON = ["recorder=disabled", "compute.threads=1", "compute.device=cpu"]


def test_what_the_guide_names_in_a_file_is_defined_there():
    named = re.findall(r"`([\w.]+)`(?: and `([\w.]+)`)?\s+of\s+`([\w/]+\.py)`", GUIDE)
    assert named
    for *names, path in named:
        for name in filter(None, names):
            body: list[ast.stmt] = ast.parse((ROOT / path).read_text()).body
            for part in name.split("."):
                defined = {of.name: of.body for of in body if isinstance(of, ast.ClassDef | ast.FunctionDef)}
                assigned = {of.id for node in body if isinstance(node, ast.Assign) for of in node.targets}
                assert part in {*defined, *assigned}, f"{path} has no {name}"
                body = defined.get(part, [])


TABLES = """
from typing import NamedTuple


class Line(NamedTuple):
    slope: float


def tables(results):
    yield "my_domain_slopes", "", [Line(2.5)]
"""
LINE = "SOBOLEV_EXTENSIONS=my_domain python run.py --config-dir my_configs experiment=line"


def blocks(section: str) -> list[tuple[str, str]]:
    """The blocks of code of a section: their language, empty for commands, and their text."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def write_files(section: str, folder: Path) -> None:
    """The files of a section: blocks of code whose first line is a comment with their path."""
    for path, _, content in (text.removeprefix("# ").partition("\n") for language, text in blocks(section) if language):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


def type_command(line: str, folder: Path) -> tuple[int, str]:
    """Type a command in the folder, a run at a tiny budget: its exit status, and what it said."""
    words = shlex.split(line)
    environment = {"PYTHONPATH": f"{folder}:{ROOT}"}
    while "=" in words[0]:
        environment |= [words.pop(0).split("=", 1)]
    command = [sys.executable, *(str(ROOT / word) if word == "run.py" else word for word in words[1:])]
    if "run.py" in words:
        asked = (word.partition("=")[2] for word in words if word.startswith("experiment="))
        experiment = next(asked, "regression")
        command += [*COMMON, *TINY.get(experiment, [])]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=600
    )
    return done.returncode, done.stdout + done.stderr


def type_commands(section: str, folder: Path) -> list[str]:
    """Type a section's commands, none of which may fail; what each of them said."""
    typed = "".join(text for language, text in blocks(section) if not language).splitlines()
    done = [type_command(line, folder) for line in typed]
    for line, (status, said) in zip(typed, done, strict=True):
        assert status == 0, (line, said)
    return [said for _, said in done]


def complete_runs(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("runs/*/*/summary.json"))


@pytest.mark.parametrize(
    ("title", "run"),
    [
        ("A benchmark function", "himmelblau-sobolev-"),
        ("A technique of synthetic gradients", "digits-mostly_value-"),
        ("A game", "freeway-ppo-"),
    ],
)
def test_a_section_of_the_guide_ends_in_a_run(tmp_path, title, run):
    write_files(SECTIONS[title], tmp_path)
    type_commands(SECTIONS[title], tmp_path)
    (name,) = complete_runs(tmp_path)
    assert name.startswith(run)


def test_a_sweep_of_ones_own_is_a_shipped_one_but_for_what_it_says(tmp_path):
    write_files(SECTIONS["A sweep"], tmp_path)
    (said,) = type_commands(SECTIONS["A sweep"], tmp_path)
    assert "few_points: 4 of 4 runs done" in said
    found = sorted(path.parent.name for path in tmp_path.glob("runs_of_few_points/regression/*/summary.json"))
    expected = [f"booth-{method}-n{n}-seed100" for method in ("sobolev", "value") for n in (10, 20)]
    assert [name.rpartition("-")[0] for name in found] == expected


@pytest.mark.slow
def test_a_domain_of_ones_own_runs_resumes_sweeps_is_collected_and_drawn(tmp_path):
    write_files(SECTIONS["A domain"], tmp_path)
    said = type_commands(SECTIONS["A domain"], tmp_path)
    assert [name.partition("-descent")[0] for name in complete_runs(tmp_path)] == ["slope2.0"] * 3
    assert "my_results/my_domain: 3 runs" in said[2]
    assert (tmp_path / "my_results" / "figures" / "my_domain_line.png").stat().st_size > 1000
    assert "| Line | " in (tmp_path / "my_results" / "REPORT.md").read_text()
    assert "### Line: reproduced\n" in (tmp_path / "my_results" / "report" / "my_domain.md").read_text()
    (tmp_path / "my_domain" / "tables.py").write_text(TABLES)
    type_commands("```\nSOBOLEV_EXTENSIONS=my_domain python -m scripts.tables --results my_results\n```", tmp_path)
    assert (tmp_path / "my_results" / "tables" / "my_domain_slopes.csv").read_text() == "slope\n2.5\n"
    assert type_command(f"{LINE} steps=0", tmp_path) == (1, "error: steps must be positive, not 0\n")

    assert type_command(LINE, tmp_path)[1].endswith("is complete: skipped\n")
    with (tmp_path / "my_domain" / "train.py").open("a") as file:
        file.write("RATE = 0.1\n")
    assert "is complete: skipped, but computed by different code" in type_command(LINE, tmp_path)[1]


def test_a_file_of_a_domain_of_ones_own_is_none_that_ships(tmp_path):
    write_files(SECTIONS["A domain"], tmp_path)
    assert type_command(LINE, tmp_path)[0] == 0
    collect = "SOBOLEV_EXTENSIONS=my_domain python -m scripts.collect --runs runs --results my_results"
    assert type_command(collect, tmp_path)[0] == 0
    file = tmp_path / "my_domain" / "figures.py"
    file.write_text(file.read_text().replace('"my_domain_line"', '"figure_2"'))
    (tmp_path / "my_domain" / "tables.py").write_text(TABLES.replace('"my_domain_slopes"', '"table_1"'))
    for program, name in {"figures": "figure_2", "tables": "table_1"}.items():
        command = f"SOBOLEV_EXTENSIONS=my_domain python -m scripts.{program} --results my_results"
        answer = f"error: my_domain.{program} writes {name}: names of its files begin with my_domain_\n"
        assert type_command(command, tmp_path) == (1, answer)
    assert not [*tmp_path.glob("my_results/*/figure_2.*"), *tmp_path.glob("my_results/*/table_1.*")]


def test_a_function_of_ones_own_is_none_that_ships(tmp_path):
    write_files(SECTIONS["A benchmark function"], tmp_path)
    file = tmp_path / "my_functions.py"
    file.write_text(file.read_text().replace("himmelblau", "booth"))
    command = "SOBOLEV_EXTENSIONS=my_functions python run.py experiment=regression dataset=booth"
    answer = "error: dataset.name=booth ships, and an extension has put its own there: rename it\n"
    assert type_command(command, tmp_path) == (1, answer)
    assert not complete_runs(tmp_path)


@pytest.mark.parametrize(
    "said",
    [
        *("hydra: {job: {env_set: {SOBOLEV_EXTENSIONS: stranger}}}", "SOBOLEV_EXTENSIONS: stranger"),
        *("entry: stranger.train.main", "entry: stranger.main", "dataset: {name: stranger}", ""),
    ],
)
def test_no_config_names_an_extension(tmp_path, said):
    """The experiment is run as `said` asks; where that is nothing, the environment names the extension."""
    (tmp_path / "stranger").mkdir()
    code = f"from pathlib import Path\nPath({str(tmp_path / 'imported')!r}).touch()\n"
    for name in ("__init__", "train"):
        (tmp_path / "stranger" / f"{name}.py").write_text(f"{code}def main(config, run):\n    return {{}}\n")
    config = tmp_path / "theirs" / "experiment" / "theirs.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(f"# @package _global_\ndefaults: [regression, _self_]\n{said}\n")
    environment = "" if said else "SOBOLEV_EXTENSIONS=stranger "
    extra = "" if said else " model.hidden=[4] networks=1 optimizer.steps=2 n_test=4 evaluations=1"
    command = f"{environment}python run.py --config-dir theirs experiment=theirs{extra}"
    status, answer = type_command(command, tmp_path)
    assert (status, (tmp_path / "imported").exists()) == ((1, False) if said else (0, True)), answer
    if said:
        assert re.fullmatch(r"error: .*\n", answer)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("lab.theory", "SOBOLEV_EXTENSIONS=lab.theory: experiments.theory is the domain theory; rename the package"),
        (
            "lab.distill",
            "SOBOLEV_EXTENSIONS=lab.distill: distill_atari would be an experiment of distill; rename the package",
        ),
        (
            "lab.choice",
            "lab.choice.settings: technique=sobolev is a choice of experiments.synthetic_gradients.settings; rename it",
        ),
        ("lab.mine", "lab.mine.settings: theory_exact_types is a type of experiments.theory.settings; rename it"),
        ("lab/mine.py", "SOBOLEV_EXTENSIONS=lab/mine.py: expected names of modules, with commas between"),
    ],
)
def test_an_extension_takes_the_place_of_nothing_that_ships(tmp_path, name, answer):
    types = "class Mine:\n    pass\n\n\nTYPES = {'theory_exact_types': Mine}\n"
    for file, text in {"__init__": "", "mine/__init__": "", "mine/settings": types}.items():
        (tmp_path / "lab" / f"{file}.py").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lab" / f"{file}.py").write_text(text)
    for package, text in {"theory": "", "distill": "", "choice": "CHOICES = {'technique': {'sobolev': {}}}"}.items():
        (tmp_path / "lab" / package).mkdir(exist_ok=True)
        (tmp_path / "lab" / package / "__init__.py").touch()
        (tmp_path / "lab" / package / "settings.py").write_text(f"TYPES = {{}}\n{text}")
    command = f"SOBOLEV_EXTENSIONS={name} python run.py experiment=theory_exact"
    assert type_command(command, tmp_path) == (1, f"error: {answer}\n")


def test_a_type_of_no_package_has_no_experiments():
    """Without a package to look in, an entry could name any module that Python finds."""

    @dataclass
    class Loose(RunConfig):
        pass

    Loose.__module__ = "loose_types"
    sys.modules.pop("this", None)
    with pytest.raises(BadInput, match=r"^entry=this\.main: expected <domain>\.<module>\.<function>"):
        find_entry(Loose(name="mine", entry="this.main"))
    assert "this" not in sys.modules


@pytest.mark.parametrize("command", [["run.py", "--help"], ["-m", "scripts.figures", "figure_2"]])
def test_an_extension_that_is_not_there_is_said_in_one_line(command):
    environment = os.environ | {"SOBOLEV_EXTENSIONS": "nowhere_to_be_found"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: SOBOLEV_EXTENSIONS=nowhere_to_be_found: No module named 'nowhere_to_be_found'\n"


def test_rows_go_to_the_folder_of_their_domain():
    folders = {name: results_folder(name) for name in ("regression_steep", "theory_exact", "distill_atari", "mine")}
    assert folders == {
        **{"regression_steep": "regression", "theory_exact": "theory"},
        **{"distill_atari": "distillation", "mine": "mine"},
    }
    assert results_folder("train_teacher") == "teachers"
    assert results_folder("synthetic_gradients_imagenet") == "synthetic_gradients"


def refusal(folder: Path, *arguments: str, **environment: str) -> str:
    command = [sys.executable, str(ROOT / "run.py"), *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


def test_mistakes_in_what_is_ones_own_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("__init__", "settings"):
        (tmp_path / "empty" / f"{name}.py").touch()
    said = refusal(tmp_path, SOBOLEV_EXTENSIONS="empty", PYTHONPATH=str(tmp_path))
    assert said == "error: empty.settings has no TYPES: the types of its experiments' settings, by name\n"

    (tmp_path / "technique").mkdir()
    (tmp_path / "technique" / "mine.yaml").write_text("defaults: [sobolev, _self_]\nname: mine\ngradiant: 1\n")
    said = refusal(tmp_path, "--config-dir", str(tmp_path), "experiment=synthetic_gradients", "technique=mine")
    assert said == "error: technique/mine.yaml says gradiant, which is not a setting there\n"
