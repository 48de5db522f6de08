"""What the README and docs/ show runs as it stands there."""

import re
import shlex

import pytest
import torch
from hydra import compose, initialize_config_dir

from tests import front_door
from tests.conftest import CONFIGS, ROOT

README = (ROOT / "README.md").read_text()


def test_the_library_example_learns():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
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
