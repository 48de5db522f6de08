"""The library as others get it: a wheel that holds all of it and nothing else, and trains where the project is not."""

import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT

TRAINED = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, sobolev
assert sobolev.__file__.startswith(sys.argv[1]), sobolev.__file__
student = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
terms = sobolev.SobolevLoss(order=1)(student, torch.rand(4, 2), lambda x: x.square().sum(-1, keepdim=True))
terms.total.backward()
print(sorted(terms.by_order))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building leaves files beside the sources
    shutil.copytree(ROOT / "sobolev", source / "sobolev", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_a_wheel_holds_the_library_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sobolev").rglob("*.py")}
    assert names == sources | {"sobolev/py.typed"}


@pytest.mark.slow
def test_a_wheel_trains_away_from_the_project(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    command = [sys.executable, "-I", "-c", TRAINED, str(tmp_path / "installed")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "[0, 1]", done.stderr
