"""What the README and docs/ show runs as it stands there."""

import re
import shlex

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from sobolev import SobolevRegressor
from tests import front_door
from tests.conftest import CONFIGS, ROOT

README = (ROOT / "README.md").read_text()


REGRESSOR, LOOP = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_regressors_example_learns_from_derivatives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(REGRESSOR.replace("SobolevRegressor()", "SobolevRegressor(random_state=0, max_iter=500)"), names)
    X = np.random.default_rng(1).uniform(-1, 1, (500, 2))
    y = np.sin(3 * X).prod(1)
    without = SobolevRegressor(random_state=0, max_iter=500).fit(names["X"], names["y"])
    assert 1 - names["model"].score(X, y) < 0.5 * (1 - without.score(X, y))
    assert SobolevRegressor.load(tmp_path / "model.pt").score(X, y) == names["model"].score(X, y)


def test_the_loops_example_learns():
    example = LOOP
    torch.manual_seed(0)
    first: dict = {}
    exec(example.replace("range(200)", "range(1)"), first)
    torch.manual_seed(0)
    last: dict = {}
    exec(example, last)
    assert last["terms"].total < 0.5 * first["terms"].total


def commands() -> list[list[str]]:
    """What follows `run.py` in the README and in docs/, but for the guide on extending: its own test types that."""
    guides = (path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "extending.md")
    texts = [
        re.sub(r"(?<!`)`(?!`)[^`]+`", lambda span: span[0].replace("\n", " "), text)  # a command that was wrapped
        for text in (README, *(path.read_text() for path in guides))
    ]
    return [
        shlex.split(command)
        for text in texts
        for command in re.findall(r"(?:python|torchrun [^\n`]*) ?run\.py ([^\n`]*)", re.sub(r"\\\n *", "", text))
    ]


def test_every_command_composes():
    assert len(commands()) > 20
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for command in commands():
            overrides = [
                part for part in command if "=" in part and not part.startswith(("-", "hydra")) and "(" not in part
            ]
            for choice in range(2 if any("," in part for part in overrides) else 1):
                compose(
                    "config",
                    [
                        f"{k}={v.split(',')[min(choice, v.count(','))]}"
                        for k, v in (part.split("=", 1) for part in overrides)
                    ],
                )


@pytest.mark.parametrize("command", [command for command in commands() if command[0].startswith("--")], ids=" ".join)
def test_what_shows_configs_does(command):
    done = front_door.run(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout
