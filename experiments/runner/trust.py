"""Makes untrusted configs safe: a command line or a folder of configs can name choices and values, but no code.

Hydra calls what a config names as callback, log handler, sweeper or launcher, sets the environment variables that it
lists, and launchers write some settings into scripts. All of these come from the loader that composes configs. Our
loader composes as Hydra's does and then checks the result before anything is called. A setting of Hydra's that differs
from what `configs/` alone composes is refused by its key, unless it is in the short list below. All other settings must
be declared by the experiment's type. The check looks at the result and not for forbidden text, so it does not matter
how a value got to its place.

An interpolation can only name another key: OmegaConf's and Hydra's resolvers, which read the environment and build
values from strings, are removed before anything is composed. Weights and checkpoints are loaded by readers that cannot
run code (safetensors, `weights_only=True`).

`configs/` itself is trusted like code. An untrusted config can still name files to read and folders to write to, and
ask for days of computing.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra._internal.hydra
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf, flag_override
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

from experiments.runner.errors import CONFIGS, BadInput, check_no_labels, nearest
from experiments.runner.limit import check_limit
from experiments.runner.settings import RunConfig, file_sha256

LAUNCHERS = ("basic", "local", "slurm", "together")
NUMBERS = (
    *("n_jobs", "nodes", "tasks_per_node", "cpus_per_task", "cpus_per_gpu", "gpus_per_node", "gpus_per_task"),
    *("mem_gb", "timeout_min", "array_parallelism", "max_num_timeout", "signal_delay_s"),
)
WORDS = (
    *("partition", "qos", "account", "constraint", "exclude", "gres", "mem_per_gpu", "mem_per_cpu", "name", "comment"),
)
# The only settings of Hydra that may be changed, besides the parameters of a sweep, with the pattern of their values.
# A word has no space, quote or line break, because it is written into a script.
NUMBER, WORD = r"-?\d{1,9}", r"[\w.,:+=&|\[\]-]{1,100}"
OPEN = {
    ("mode",): r"RunMode\.\w+",
    ("job", "name"): WORD,
    **{("launcher", key): NUMBER for key in NUMBERS},
    **{("launcher", key): WORD for key in WORDS},
}
PARAMETERS = ("sweeper", "params")  # each becomes an override of a run, whose config is then checked itself
PARAMETER = r"[+~]{0,2}[a-zA-Z][\w./@-]*"  # excludes the leading underscore of _target_
WRITTEN_BY_HYDRA = (("runtime",), ("overrides",), ("job", "override_dirname"))  # filled in after composing


def install() -> None:
    """Make Hydra use the loader below, in this process and in those that its launchers start.

    Raises:
        BadInput: the command line names another config, or two of Hydra's commands at once.
    """
    asked = get_args_parser().parse_args()
    said = vars(asked)
    if len(modes := [f"--{mode}" for mode in ("run", "multirun", "cfg", "info", "shell_completion") if said[mode]]) > 1:
        raise BadInput(f"{' and '.join(modes)} are two commands: give one of them")
    if asked.experimental_rerun is not None:
        raise BadInput("--experimental-rerun loads files that can run code: repeat the command to continue a run")
    if asked.config_path is not None or asked.config_name is not None:
        raise BadInput("the config is configs/config.yaml: add a folder by --config-dir and choose from its groups")
    hydra._internal.hydra.ConfigLoaderImpl = Loader


def settings(config: DictConfig) -> RunConfig:
    """The settings objects of a composed config.

    Raises:
        BadInput: a key is not declared, a value is missing, or a text has unprintable characters.
    """
    if not issubclass(OmegaConf.get_type(config), RunConfig):
        raise BadInput("no experiment's type is named: the defaults list of an experiment begins with it")
    asked = OmegaConf.to_object(config)
    _check_settings(asked, "")
    check_limit(asked)
    return asked


def asked_settings(config: DictConfig, hydra: DictConfig) -> RunConfig:
    """The settings of a run, from its composed config and Hydra's own part of it.

    Raises:
        BadInput: as in `settings`, or because labels were typed for a shipped experiment.
    """
    if "hydra" in config:
        config = copy.copy(config)
        with flag_override(config, ["struct", "readonly"], False):
            del config["hydra"]
    asked = settings(config)
    check_no_labels(hydra.overrides.task, hydra.runtime.choices["experiment"])
    if not asked.recorder.group:
        asked.recorder.group = hydra.runtime.choices.get("sweep") or asked.name
    return asked


class Loader(ConfigLoaderImpl):
    """Hydra's loader, which returns only configs that passed the check."""

    def load_configuration(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, **options: Any
    ) -> DictConfig:
        leave_only_our_resolvers()
        for place in self.config_search_path.get_path():
            if place.provider == "command-line":
                _refuse_aliases(folder := Path(place.path.removeprefix("file://")))
                self._refuse_names_that_ship(folder)
        try:
            config = super().load_configuration(config_name, overrides, run_mode, **options)
        except (HydraException, OmegaConfBaseException):
            raise
        except Exception as error:  # a file that is not YAML, a defaults list that is not a list
            first = next(iter(str(error).splitlines()), "")
            raise BadInput(f"the config does not compose: {type(error).__name__}: {first}") from error
        self._refuse_choices_without_a_file(overrides)
        launcher = config.hydra.runtime.choices["hydra/launcher"]
        if launcher not in LAUNCHERS:
            raise BadInput(f"hydra/launcher={launcher} is not a choice{nearest(str(launcher), [*LAUNCHERS])}")
        (folder,) = (place.path for place in self.config_search_path.get_path() if place.provider == "main")
        judge(config, composed_alone(folder, config_name, launcher))
        return config

    def _refuse_names_that_ship(self, folder: Path) -> None:
        """Refuse a user's file with a shipped name: it would be ignored, or be mistaken for the shipped one."""
        for path in sorted(folder.rglob("*.yaml")):
            name = path.relative_to(folder).as_posix()
            (shipped,) = (place for place in self.config_search_path.get_path() if place.provider == "main")
            if (Path(shipped.path.removeprefix("file://")) / name).is_file() or _is_stored(name):
                raise BadInput(f"{path}: {name.removesuffix('.yaml')} ships: give yours another name")

    def _refuse_choices_without_a_file(self, overrides: list[str]) -> None:
        """Refuse a misspelt choice of an optional group, such as `tuned`, which Hydra would silently ignore."""
        for override in OverridesParser.create(config_loader=self).parse_overrides(overrides):
            group, choice = override.key_or_group, None if override.is_sweep_override() else override.value()
            if not isinstance(choice, str) or not self.repository.group_exists(group):
                continue
            if not self.repository.config_exists(f"{group}/{choice}"):
                folder = CONFIGS / group
                choices = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
                raise BadInput(f"{group}={choice} is not a choice{nearest(choice, choices)}")

    def _process_config_searchpath(self, *_: Any) -> None:
        """Do nothing: Hydra would import the packages in `hydra.searchpath` before our check refuses them."""

    def get_group_options(self, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG, *_: Any) -> Any:
        """The choices in the folders. Hydra's version copies its whole config store for each of 64 groups in --help."""
        return self.repository.get_group_options(group_name, results_filter)


def _is_stored(name: str) -> bool:
    """Whether the config store holds this choice, as it holds technique/sobolev.yaml from the library."""
    node = ConfigStore.instance().repo
    for part in name.split("/"):
        node = node.get(part) if isinstance(node, dict) else None
    return node is not None


def _refuse_aliases(folder: Path) -> None:
    """Refuse YAML aliases: nine lines of nested aliases expand to a billion entries."""
    for path in sorted(path for path in folder.rglob("*.yaml") if path.is_file()):
        try:
            found = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(path.read_bytes()))
        except (OSError, yaml.YAMLError):  # composing reports it if the file is chosen
            continue
        if found:
            raise BadInput(f"{path} holds a YAML alias, *name: write out its value")


@lru_cache
def composed_alone(configs: str, config_name: str | None, launcher: str) -> DictConfig:
    """What `configs/` composes without a user's folder and without overrides."""
    loader = ConfigLoaderImpl(create_config_search_path(configs))
    return loader.load_configuration(config_name, [f"hydra/launcher={launcher}"], RunMode.RUN)


def leave_only_our_resolvers() -> None:
    """Remove all resolvers but ours, `${sha256:<path>}`: the digest of a file, '' if there is none."""
    for name in [*BaseContainer._resolvers]:
        OmegaConf.clear_resolver(name)
    OmegaConf.register_new_resolver("sha256", file_sha256)


def judge(config: DictConfig, ours: DictConfig) -> None:
    """Refuse settings of Hydra that differ from `ours`. Both are compared without resolving interpolations.

    Raises:
        BadInput: names the key.
    """
    found, expected = (dict(_leaves(OmegaConf.to_container(each)["hydra"])) for each in (config, ours))
    for path in found | expected:
        written_by_hydra = any(path[: len(place)] == place for place in WRITTEN_BY_HYDRA)
        if written_by_hydra or (path in found and path in expected and found[path] == expected[path]):
            continue
        key, value = ".".join(map(str, ("hydra", *path))), found.get(path)
        if path[: len(PARAMETERS)] == PARAMETERS:
            _check_parameter(path[len(PARAMETERS) :], value, key)
        elif path not in OPEN:
            raise BadInput(f"{key} cannot be changed: only configs/ itself may set it")
        elif value is not None and not re.fullmatch(OPEN[path], str(value), re.ASCII):
            form = "a whole number" if OPEN[path] == NUMBER else "one word, of letters, digits and .,:+=&|[]-"
            raise BadInput(f"{key}={value!r}: expected {form}")


def _check_parameter(name: tuple[Any, ...], value: Any, key: str) -> None:
    if not name and not value:  # there are no parameters
        return
    named = len(name) == 1 and re.fullmatch(PARAMETER, str(name[0]), re.ASCII)
    if not named or not isinstance(value, str | int | float) or "$" in str(value):
        raise BadInput(f"{key}: a parameter of a sweep is a setting or group, with its values as text")


def _leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every leaf (a value, or an empty dictionary) with its path."""
    if isinstance(node, dict) and node:
        for key, child in node.items():
            yield from _leaves(child, (*path, key))
    else:
        yield path, node


def _check_settings(asked: Any, prefix: str) -> None:
    known = [field.name for field in fields(asked)]
    for name, value in vars(asked).items():
        key = prefix + name
        if name not in known:
            raise BadInput(f"{key} is not a setting{nearest(key, [prefix + other for other in known])}")
        if isinstance(value, str) and value == MISSING:
            raise BadInput(f"{key} is missing: set it in a chosen config or on the command line")
        if isinstance(value, str) and not value.isprintable():
            raise BadInput(f"{key}={value!r}: expected text on one line")
        if is_dataclass(value):
            _check_settings(value, f"{key}.")
