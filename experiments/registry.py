"""The one list of domains.

A domain is a folder beside this file with four modules: `settings` (the types of its configs), `train` (its loops),
`figures` and `claims`. Adding one is a line here, its folder and its configs.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from hydra.core.config_store import ConfigStore

from experiments.runner.settings import RunConfig, register_resolvers

DOMAINS = ("regression", "theory", "distillation", "synthetic_gradients")  # in the order of the report


def modules(name: str) -> dict[str, ModuleType]:
    """The module of this name of each domain that has one, by domain."""
    names = {domain: f"experiments.{domain}.{name}" for domain in DOMAINS}
    return {domain: import_module(module) for domain, module in names.items() if find_spec(module)}


def register_settings() -> None:
    """Make the types of every domain known to Hydra, and the choices that domains take from the library.

    An experiment names its type in its defaults list.
    """
    register_resolvers()
    for name, node in settings_types().items():
        ConfigStore.instance().store(name=name, node=node, package="_global_")
    for settings in modules("settings").values():
        for group, choices in getattr(settings, "CHOICES", {}).items():
            for name, node in choices.items():
                ConfigStore.instance().store(group=group, name=name, node=node)


def settings_types() -> dict[str, type[RunConfig]]:
    """The type of each experiment's settings, by the name that its defaults list calls it by."""
    types = {}
    for settings in modules("settings").values():
        types |= settings.TYPES
    return types
