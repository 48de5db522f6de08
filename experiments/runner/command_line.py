"""One-line error messages for mistakes that Hydra, OmegaConf, the system or this project detects."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.runner.errors import CONFIGS, FULL, BadInput, OutOfTime, nearest

OURS = "SOBOLEV_ONE_LINE_ERRORS"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line and a non-zero status for errors that the user can fix.

    Any other error is a bug and keeps its traceback. HYDRA_FULL_ERROR=1 shows all tracebacks.
    """
    if os.environ.get("HYDRA_FULL_ERROR") == "1" and OURS not in os.environ:
        yield
        return
    # Hydra would print several lines of its own. This lets errors through to here, in worker processes too.
    os.environ["HYDRA_FULL_ERROR"] = os.environ[OURS] = "1"
    try:
        yield
    except OutOfTime as stopped:  # the user asked for it: not an error
        print(explain(stopped), file=sys.stderr)
    except (BadInput, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {explain(error)}")
    except (OSError, MemoryError) as error:
        sys.exit(f"error: {explain(error)}")
    except KeyboardInterrupt:
        print("interrupted: the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def explain(error: Exception) -> str:
    """One line for an error that this project, the system, Hydra or OmegaConf raised."""
    if isinstance(error, BadInput):
        return str(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if several := re.match(r"Ambiguous value for argument '(.+)'$", str(error).partition("\n")[0]):
        key, _, value = several[1].partition("=")
        return f"{several[1]}: several values are a sweep, with -m; a value with a comma is quoted: \"{key}='{value}'\""
    if elsewhere := _of_another_experiment(str(error)):
        return elsewhere
    if unknown := re.match(r"In '([^']+)': ConfigKeyError[^\n]*\nKey '([^']+)' not in", str(error)):
        return f"{unknown[1]}.yaml says {unknown[2]}, which is not a setting there"
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        while not error.options and "/" in group and not (CONFIGS / group).is_dir():  # sweep/nothing=here
            group, _, inner = group.rpartition("/")
            choice = f"{inner}/{choice}"
        # For a nested group Hydra lists the choices of the outer one.
        folder = CONFIGS / group
        files = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml"))
        options = [file.as_posix() for file in files] or error.options
        implied = "" if any(choice in argument for argument in sys.argv) else f", which {_cause(choice)} implies,"
        return f"{group}={choice}{implied} is not a choice{nearest(choice, options)}"
    if isinstance(error, MissingConfigException):  # a file in another file's defaults list
        return str(error).partition("\n")[0]
    if isinstance(error, OSError):
        where, again = error.filename or type(error).__name__, "the same command continues"
        if error.errno in FULL:
            return f"the disk is full ({where}): make room, and {again}"
        return f"{where}: {error.strerror or error}; once that is fixed, {again}"
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        node = cause.parent_node
        if cause.full_key.startswith("hydra."):
            return f"{cause.full_key} cannot be changed: only configs/ itself may set it"
        if "not in" in str(cause) and node is not None:
            parent = cause.full_key.rpartition(".")[0]
            keys = [f"{parent}.{key}".lstrip(".") for key in node]
            return f"{cause.full_key} is not a setting{nearest(cause.full_key, keys)}"
        return f"{cause.full_key}: {_first_line(cause)}"
    return _first_line(error)


def _cause(choice: str) -> str:
    """The argument that implies a choice, as dataset=booth implies optimizer=sgd_booth."""
    typed = (argument for argument in sys.argv[1:] if choice.endswith(f"_{argument.partition('=')[2]}"))
    return next(typed, "another choice")


def _unreadable(override: str) -> str:
    """The message for an override that Hydra's grammar rejects."""
    key, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"[\w./@~+-]+", key, re.ASCII):
        return f"{override}: expected <setting>=<value>"
    if value.startswith(("[", "{")):
        return f"{override}: expected matching brackets, with commas between the values"
    bare = value.strip("'\"").replace("'", r"\'")
    return f"{override}: quote such a value, and quote the whole once more for the shell: \"{key}='{bare}'\""


def _of_another_experiment(message: str) -> str:
    """The message for a choice that this experiment cannot use: which experiments can. '' for other errors.

    An experiment can use it if its settings have the group, and the group's type has every key that the choice sets.
    """
    if unused := re.match(r"Could not override '(\w+)'\. No match in the defaults list\.\nTo .* use \+(.+)", message):
        group, choice = unused[1], unused[2].partition("=")[2]
    elif unfit := re.match(r"In '(\w+)/(.+)': ConfigKeyError", message):
        group, choice = unfit[1], unfit[2]
        if not (CONFIGS / group / f"{choice}.yaml").is_file():  # a user's file with an unknown key
            return ""
    else:
        return ""
    sets = set(_yaml(f"{group}/{choice}")) - {"defaults"}
    homes = []
    for path in sorted((CONFIGS / "experiment").glob("*.yaml")):
        first = str(_yaml(f"experiment/{path.stem}").get("defaults", [""])[0]).lstrip("/")
        registered = ConfigStore.instance().repo.get(f"{first}.yaml")
        of_group = get_type_hints(OmegaConf.get_type(registered.node)).get(group) if registered else None
        if is_dataclass(of_group) and sets <= {field.name for field in fields(of_group)}:
            homes.append(f"experiment={path.stem}")
    # One choice may build on another, as atari/pong does on atari/breakout: name the one that was typed.
    typed = (argument for argument in sys.argv[1:] if re.fullmatch(rf"{group}=[\w/]+", argument))
    return f"{next(typed, f'{group}={choice}')} belongs to {' and '.join(homes)}" if homes else ""


def _yaml(name: str) -> dict:
    path = CONFIGS / f"{name}.yaml"
    return yaml.safe_load(path.read_text()) if path.is_file() else {}


def _first_line(error: BaseException) -> str:
    """What is wrong, without the details that OmegaConf and Hydra append."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type=", "See "))]
    return ": ".join(lines[:2]) or type(error).__name__
