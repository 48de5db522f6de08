"""Errors as part of the product: what a user did wrong is one line that says what would be right."""

from __future__ import annotations

import difflib
import errno
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from experiments.config import ROOT, TYPES, Precision, RunConfig

CONFIGS = ROOT / "configs"
OURS = "SOBOLEV_ONE_LINE_ERRORS"
FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk's


class BadInput(Exception):
    """A request that cannot be carried out. Its text is one line: what is wrong, and what would be right."""


class RunBusy(BadInput):
    """Another process works on the same run. A sweep passes over it."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line, and a status that is not 0, where the user can mend it.

    Anything else is ours to mend and keeps its traceback. HYDRA_FULL_ERROR=1 shows tracebacks for all.
    """
    if os.environ.get("HYDRA_FULL_ERROR") == "1" and OURS not in os.environ:
        yield
        return
    # Hydra would print several lines of its own: let errors through to here, in worker processes too.
    os.environ["HYDRA_FULL_ERROR"] = os.environ[OURS] = "1"
    try:
        yield
    except (BadInput, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {explain(error)}")
    except (OSError, MemoryError) as error:
        sys.exit(f"error: {explain(error)}")
    except KeyboardInterrupt:
        print("interrupted: the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def explain(error: Exception) -> str:
    """One line for an error of ours, of the system, of Hydra's or of OmegaConf's."""
    if isinstance(error, BadInput):
        return str(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if several := re.match(r"Ambiguous value for argument '(.+)'$", str(error).partition("\n")[0]):
        key, _, value = several[1].partition("=")
        return f"{several[1]}: several values are a sweep, with -m; a value with a comma is quoted: \"{key}='{value}'\""
    if elsewhere := _of_another_experiment(str(error)):
        return elsewhere
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        # Of a group within a group Hydra lists the outer one's choices.
        options = [path.stem for path in (CONFIGS / group).glob("*.yaml")] or error.options
        implied = "" if any(choice in argument for argument in sys.argv) else ", which another choice implies,"
        return f"{group}={choice}{implied} is not a choice{nearest(choice, options)}"
    if isinstance(error, OSError):
        where, again = error.filename or type(error).__name__, "the same command goes on"
        if error.errno in FULL:
            return f"the disk is full ({where}): make room, and {again}"
        return f"{where}: {error.strerror or error}; once that is mended, {again}"
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        node = cause.parent_node
        if cause.full_key.startswith("hydra."):
            return f"{cause.full_key} is not open to change: only configs/ itself may say it"
        if "not in" in str(cause) and node is not None:
            parent = cause.full_key.rpartition(".")[0]
            keys = [f"{parent}.{key}".lstrip(".") for key in node]
            return f"{cause.full_key} is not a setting{nearest(cause.full_key, keys)}"
        return f"{cause.full_key}: {_first_line(cause)}"
    return _first_line(error)


def _unreadable(override: str) -> str:
    """Of an override that Hydra's grammar does not take."""
    key, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"[\w./@~+-]+", key, re.ASCII):
        return f"{override}: expected <setting>=<value>"
    if value.startswith(("[", "{")):
        return f"{override}: expected brackets that match, with commas between what they hold"
    bare = value.strip("'\"").replace("'", r"\'")
    return f"{override}: such a value is quoted, and the whole once more for the shell: \"{key}='{bare}'\""


def _of_another_experiment(message: str) -> str:
    """Of a choice that the experiment at hand has no use for: which ones have. '' for other errors.

    An experiment has a use for it if its type has the group, and the group's type all that the choice sets.
    """
    if unused := re.match(r"Could not override '(\w+)'\. No match in the defaults list\.\nTo .* use \+(.+)", message):
        group, choice, sets = unused[1], unused[2].partition("=")[2], set()
    elif unfit := re.match(r"In '(\w+)/(.+)': ConfigKeyError", message):
        group, choice = unfit[1], unfit[2]
        sets = set(_yaml(f"{group}/{choice}")) - {"defaults"}
    else:
        return ""
    homes = []
    for path in sorted((CONFIGS / "experiment").glob("*.yaml")):
        first = str(_yaml(f"experiment/{path.stem}").get("defaults", [""])[0]).lstrip("/")
        of_group = get_type_hints(TYPES[first]).get(group) if first in TYPES else None
        if is_dataclass(of_group) and sets <= {field.name for field in fields(of_group)}:
            homes.append(f"experiment={path.stem}")
    return f"{group}={choice} belongs to {' and '.join(homes)}" if homes else ""


def _yaml(name: str) -> dict:
    path = CONFIGS / f"{name}.yaml"
    return yaml.safe_load(path.read_text()) if path.is_file() else {}


def check_names(config: RunConfig) -> None:
    """Refuse a name or label that would not be one word in rows, or would be a path as the name of a folder."""
    names = {"name": config.name, "labels.task": config.labels.task, "labels.method": config.labels.method}
    for key, name in names.items():
        if not re.fullmatch(r"\w[\w.,:+=-]{0,99}", name):
            raise BadInput(f"{key}={name!r}: one word is expected, for rows, files and cells are named by it")


def check_positive(**settings: float) -> None:
    """Refuse settings that are not positive and finite."""
    for key, value in settings.items():
        if not 0 < value < math.inf:
            raise BadInput(f"{key} must be positive{'' if math.isfinite(value) else ' and finite'}, not {value}")


def check_seed(config: RunConfig) -> None:
    if not 0 <= config.seed < 2**62:  # files of rows hold 64 bits
        raise BadInput(f"seed must be 0 or more and below 2^62, not {config.seed}")


def check_precision(config: RunConfig, *computed_in: Precision) -> None:
    """Refuse a precision that products are not computed in: rows would say that they were. None named: not bfloat16."""
    computed_in = computed_in or (Precision.float32, Precision.float64)
    if (asked := config.compute.precision) not in computed_in:
        names = " or ".join(precision.name for precision in computed_in)
        raise BadInput(f"compute.precision={asked.name}: {config.name} computes in {names}")


def nearest(name: str, choices: list[str]) -> str:
    """The end of a refusal: the closest choice where there is one, and all of them."""
    close = difflib.get_close_matches(name, choices, n=1)
    return f"{f' (did you mean {close[0]}?)' if close else ''}; choose from {', '.join(sorted(choices))}"


def _first_line(error: BaseException) -> str:
    """What is wrong, without OmegaConf's and Hydra's second thoughts."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type=", "See "))]
    return ": ".join(lines[:2]) or type(error).__name__
