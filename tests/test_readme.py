"""What the README shows runs as it stands there."""

import re

import torch
from hydra import compose, initialize_config_dir

from experiments.config import register
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


def test_every_command_composes():
    register()
    commands = re.findall(r"python run\.py ([^\n`]*)", README)
    assert len(commands) > 5
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for command in commands:
            overrides = [part for part in command.split() if not part.startswith("-")]
            overrides = [part for part in overrides if "=" in part and not part.startswith("hydra")]
            for choice in range(2):
                compose(
                    "config",
                    [
                        f"{k}={v.split(',')[min(choice, v.count(','))]}"
                        for k, v in (part.split("=", 1) for part in overrides)
                    ],
                )
