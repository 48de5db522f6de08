"""The structure that docs/architecture.md draws: arrows run one way, files are short, drawing needs no torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from experiments.registry import DOMAINS
from tests.conftest import ROOT

# Floors from below: a module imports from its own floor or from those below it.
FLOORS = (("sobolev",), ("experiments.runner",), ("experiments.evidence",), tuple(f"experiments.{d}" for d in DOMAINS))
SOURCES = [
    *(path for room in ("sobolev", "experiments", "scripts", "hydra_plugins") for path in (ROOT / room).rglob("*.py")),
    ROOT / "run.py",
]


def imports(path: Path) -> set[str]:
    """The modules of this project that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.partition(".")[0] in ("sobolev", "experiments", "scripts", "run")}


def room_of(module: str) -> str:
    """The room of a module: `experiments.runner`, `sobolev`, `scripts`."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "experiments" else parts[0]


def floor_of(room: str) -> int:
    return next((number for number, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_arrows_run_one_way(path):
    room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for imported in sorted(imports(path)):
        other = room_of(imported)
        if other == room or other == "experiments":
            continue
        assert floor_of(other) < floor_of(room) or floor_of(room) == len(FLOORS), f"{room} imports {imported}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_are_read_in_one_sight(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


@pytest.mark.parametrize("room", [*DOMAINS, "evidence", "runner"])
def test_the_map_names_every_module(room):
    """A family of modules, such as claims_<of what>, may be named once."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = text.partition("\nexperiments/")[2].partition("\nhydra_plugins/")[0]
    of_room = re.search(rf"^  {room}/ .*?(?=^  \w+/ |\Z)", tree, re.MULTILINE | re.DOTALL)[0]
    named = set(re.findall(r"\w+", of_room))
    modules = {path.stem for path in (ROOT / "experiments" / room).glob("*.py")} - {"__init__"}
    assert not [module for module in modules if not {module, f"{module.partition('_')[0]}_"} & named]


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_domain_has_four_modules_and_its_figures_and_claims_need_no_torch(domain):
    modules = ", ".join(f"experiments.{domain}.{name}" for name in ("settings", "figures", "claims"))
    program = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    folder = ROOT / "experiments" / domain
    assert {f"{name}.py" for name in ("settings", "figures", "claims")} <= {path.name for path in folder.iterdir()}


def test_what_is_pinned_twice_is_pinned_alike():
    """A formatter or a type checker of another version asks for other code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = [name for name in project["project"]["optional-dependencies"]["dev"] if "==" in name]
    assert {name.partition("==")[0] for name in pinned} == {"mypy", "ruff"}
    assert set(pinned) <= set((ROOT / "constraints.txt").read_text().splitlines())
