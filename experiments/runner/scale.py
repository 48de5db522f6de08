"""Whether a run is what the shipped experiment asks: `paper`, or `reduced`.

One rule for every experiment. The settings of a run are compared with those that `configs/` composes for the experiment
of its name. The type of its settings says which of them span the experiment's grid and may take any value (`axes`), and
which are a budget that may grow but not shrink (`budget`). With anything else changed, a run answers another question,
and its rows do not belong beside those at the paper's scale.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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

FREE = (*OUTSIDE_IDENTITY, "labels", "seed", *(f"dataset.{key}" for key in OUTSIDE_IDENTITY_OF_DATASETS))


def scale_of(config: RunConfig) -> str:
    """`paper` where the settings are those of the shipped experiment, or more of its budget; else `reduced`."""
    shipped = shipped_settings(config)
    same = shipped is not None and not any(differences(config, shipped))
    return "paper" if same and config.in_paper else "reduced"


def differences(config: RunConfig, shipped: dict[str, Any]) -> Iterator[str]:
    """The settings, by dotted key, in which a run is another one than ships, or a smaller one."""
    free = (*FREE, *config.axes)
    for key, value in flat(OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)):
        if any(key == each or key.startswith(f"{each}.") for each in free) or shipped.get(key) == value:
            continue
        if key not in config.budget or key not in shipped or not at_least(value, shipped[key]):
            yield key


def at_least(value: Any, shipped: Any) -> bool:
    """Whether a budget is not smaller: a number, or layers that are as many and as wide."""
    if isinstance(shipped, list):
        return len(value) >= len(shipped) and min(value) >= min(shipped)
    return value >= shipped


def shipped_settings(config: RunConfig) -> dict[str, Any] | None:
    """What `configs/` composes for the experiment of this name with these groups; None where it has none of them."""
    if not (CONFIGS / "experiment" / f"{config.name}.yaml").is_file():
        return None
    chosen = {group: template.format(**vars(config)) for group, template in config.choices.items()}
    if not all(re.fullmatch(r"[\w/]+", choice) for choice in chosen.values()):  # names that ship are words
        return None
    return composed(config.name, *(f"{group}={choice}" for group, choice in chosen.items()))


@lru_cache
def composed(experiment: str, *groups: str) -> dict[str, Any] | None:
    """The settings of a shipped experiment by dotted keys; None where a data set, loss or technique does not ship."""
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
            yield f"{prefix}{key}", value
