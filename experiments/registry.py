"""The one list of domains.

A domain is a folder beside this file with four modules: `settings` (the types of its configs), `train` (its loops),
`figures` and `claims`. Adding one is a line here, its folder and its configs.
"""

from __future__ import annotations

from importlib import import_module

from hydra.core.config_store import ConfigStore

from experiments.runner.settings import RunConfig, register_resolvers

DOMAINS = ("regression", "distillation", "synthetic_gradients", "theory")


def register_settings() -> None:
    """Make the types of every domain known to Hydra; an experiment names its own in its defaults list."""
    register_resolvers()
    for name, node in settings_types().items():
        ConfigStore.instance().store(name=name, node=node, package="_global_")


def settings_types() -> dict[str, type[RunConfig]]:
    """The type of each experiment's settings, by the name that its defaults list calls it by."""
    types = {}
    for domain in DOMAINS:
        types |= import_module(f"experiments.{domain}.settings").TYPES
    return types
