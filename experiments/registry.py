"""The list of domains, including those that users add.

A domain is a folder beside this file with `settings` (the types of its configs), `figures`, `claims` and its
experiments, one module each, such as `train`. To add one here, add its folder, its configs and a line in DOMAINS.

A user's own domain is a package of the same shape outside this project. The environment variable SOBOLEV_EXTENSIONS
names it: a comma-separated list of modules to import before anything is composed. A module that is not a domain is
imported as well, for example to add a function to `sobolev.functions.BENCHMARKS`. No config can name an extension,
because configs are untrusted and importing runs code.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from hydra.core.config_store import ConfigStore

from experiments.runner.errors import CONFIGS, BadInput
from experiments.runner.settings import RunConfig, register_resolvers

DOMAINS = ("regression", "theory", "distillation", "synthetic_gradients", "surrogates")  # in the order of the report
EXTENSIONS = "SOBOLEV_EXTENSIONS"
# Results folders of experiments whose name begins with one of these words; all others go to their domain's folder.
RESULTS = {
    **{"distill": "distillation", "train": "teachers", "synthetic": "synthetic_gradients", "surrogate": "surrogates"},
}


def packages() -> dict[str, str]:
    """The package of each domain, users' domains last. Imports the modules in SOBOLEV_EXTENSIONS.

    Raises:
        BadInput: such a module cannot be imported, or is a domain whose name is taken.
    """
    found = {domain: f"experiments.{domain}" for domain in DOMAINS}
    for name in filter(None, map(str.strip, os.environ.get(EXTENSIONS, "").split(","))):
        if not all(part.isidentifier() for part in name.split(".")):
            raise BadInput(f"{EXTENSIONS}={name}: expected names of modules, with commas between")
        try:
            extension = import_module(name)
        except ImportError as error:
            raise BadInput(f"{EXTENSIONS}={name}: {error}") from None
        if hasattr(extension, "__path__") and find_spec(f"{name}.settings"):
            domain = name.rpartition(".")[2]
            if domain not in DOMAINS and (theirs := _shipped_experiment_of(domain)):
                raise BadInput(f"{EXTENSIONS}={name}: {theirs} would be an experiment of {domain}; rename the package")
            if found.setdefault(domain, name) != name:
                raise BadInput(f"{EXTENSIONS}={name}: {found[domain]} is the domain {domain}; rename the package")
    return found


def _shipped_experiment_of(domain: str) -> str:
    """A shipped experiment whose rows would go to the folder of a user's domain with this name; '' if none would."""
    experiments = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
    return next((name for name in experiments if name == domain or name.startswith(f"{domain}_")), "")


def modules(name: str) -> dict[str, ModuleType]:
    """The module with this name of each domain that has one, by domain."""
    named = {domain: f"{package}.{name}" for domain, package in packages().items()}
    return {domain: import_module(module) for domain, module in named.items() if find_spec(module)}


def check_file_name(file: str, module: ModuleType) -> None:
    """Refuse a figure or table of a user's domain that could overwrite another domain's file.

    Raises:
        BadInput: the file name does not begin with the name of its domain.
    """
    package = module.__name__.rpartition(".")[0]
    domain = package.rpartition(".")[2]
    if package != f"experiments.{domain}" and not re.fullmatch(rf"{domain}(_.*)?", file):
        raise BadInput(f"{module.__name__} writes {file}: names of its files begin with {domain}_")


def register_settings() -> None:
    """Register with Hydra the types of every domain, and the choices that domains take from the library.

    An experiment names its type in its defaults list.

    Raises:
        BadInput: two domains define the same name of a type or a choice.
    """
    register_resolvers()
    for name, node in settings_types().items():
        ConfigStore.instance().store(name=name, node=node, package="_global_")
    stored: dict[tuple[str, str], ModuleType] = {}
    for settings in modules("settings").values():
        for group, choices in getattr(settings, "CHOICES", {}).items():
            for name, node in choices.items():
                if stored.setdefault((group, name), settings) is not settings:
                    first = stored[group, name].__name__
                    raise BadInput(f"{settings.__name__}: {group}={name} is a choice of {first}; rename it")
                ConfigStore.instance().store(group=group, name=name, node=node)


def settings_types() -> dict[str, type[RunConfig]]:
    """The type of each experiment's settings, by its name in defaults lists.

    Raises:
        BadInput: a domain has no `TYPES`, or two define the same name.
    """
    types = {}
    for settings in modules("settings").values():
        if not hasattr(settings, "TYPES"):
            raise BadInput(f"{settings.__name__} has no TYPES: the types of its experiments' settings, by name")
        for name, node in settings.TYPES.items():
            if types.setdefault(name, node) is not node:
                raise BadInput(f"{settings.__name__}: {name} is a type of {types[name].__module__}; rename it")
    return types


def results_folder(experiment: str) -> str:
    """The results folder of an experiment's rows."""
    domains = [domain for domain in packages() if experiment == domain or experiment.startswith(f"{domain}_")]
    word = experiment.partition("_")[0]
    return max(domains, key=len) if domains else RESULTS.get(word, word)
