"""The scale of a run: `paper` if it asks what the shipped experiment asks, else `reduced`.

There is one rule for every experiment. The settings of a run are compared with those that `configs/` composes for the
experiment of its name. The type of its settings says which of them span the experiment's grid and may take any value
(`axes`), and which are a budget that may grow but not shrink (`budget`). If anything else differs, the run answers
another question, and its rows must not appear beside those at the paper's scale.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from enum import Enum
from functools import lru_cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from experiments.runner.errors import CONFIGS
from experiments.runner.identity import OUTSIDE_IDENTITY, OUTSIDE_IDENTITY_OF_DATASETS
from experiments.runner.settings import RunConfig

# Settings that a user's own data set may set freely.
OWN_DATA = ("dataset.name", "dataset.game", "dataset.actions", "dataset.teacher")
FREE = (*OUTSIDE_IDENTITY, "labels", "seed", *(f"dataset.{key}" for key in OUTSIDE_IDENTITY_OF_DATASETS))


def scale_of(config: RunConfig) -> str:
    """`paper` if the settings are those of the shipped experiment, or exceed its budget; else `reduced`.

    A user's own data set, such as another game, is one more value of an axis. A user's own loss or technique is
    another question.
    """
    choices = {group: template.format(**vars(config)) for group, template in config.choices.items()}
    free = (*FREE, *config.axes)
    if not all(re.fullmatch(r"\w[\w/]*", choice) for choice in choices.values()):  # all shipped names are words
        return "reduced"
    if "dataset" in choices and not (CONFIGS / "dataset" / f"{choices['dataset']}.yaml").is_file():
        del choices["dataset"]
        free = (*free, *OWN_DATA)
    shipped = composed(config.name, *(f"{group}={choice}" for group, choice in choices.items()))
    if shipped is None or not config.in_paper or any(differences(config, shipped, free)):
        return "reduced"
    return "paper"


def differences(config: RunConfig, shipped: dict[str, Any], free: tuple[str, ...]) -> Iterator[str]:
    """The dotted keys of settings that differ from the shipped ones, or fall below their budget."""
    for key, value in flat(asdict(config)):
        if any(key == each or key.startswith(f"{each}.") for each in free) or shipped.get(key) == value:
            continue
        if key not in config.budget or key not in shipped or not at_least(value, shipped[key]):
            yield key


def at_least(value: Any, shipped: Any) -> bool:
    """Whether a budget is no smaller: a number, or at least as many layers of at least the same width."""
    if isinstance(shipped, list):
        return len(value) >= len(shipped) and min(value) >= min(shipped)
    return value >= shipped


@lru_cache
def composed(experiment: str, *groups: str) -> dict[str, Any] | None:
    """The settings of a shipped experiment by dotted keys; None if it, its loss or its technique does not ship."""
    if not (CONFIGS / "experiment" / f"{experiment}.yaml").is_file():
        return None
    loader = ConfigLoaderImpl(create_config_search_path(str(CONFIGS)))
    try:
        config = loader.load_configuration("config", [f"experiment={experiment}", *groups], RunMode.RUN)
    except (MissingConfigException, ConfigCompositionException):
        return None
    with open_dict(config):
        del config["hydra"]
    return dict(flat(OmegaConf.to_container(config, resolve=True, enum_to_str=True)))


def flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted keys."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", spelt(value)


def spelt(value: Any) -> Any:
    """A setting as in YAML: members of an Enum become their names."""
    if isinstance(value, list):
        return [spelt(entry) for entry in value]
    return value.name if isinstance(value, Enum) else value
