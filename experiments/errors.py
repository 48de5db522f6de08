"""Errors as part of the product: what a user did wrong is one line that says what would be right."""

from __future__ import annotations

import difflib
import errno
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from experiments.config import Precision, RunConfig

CONFIGS = Path(__file__).parents[1] / "configs"
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
    except ValueError as error:
        if not str(error).startswith("Config group override"):  # Hydra's, for one that is no name
            raise
        sys.exit(f"error: a choice is the name of a file in configs/: {error}")
    except (OSError, MemoryError) as error:
        sys.exit(f"error: {explain(error)}")
    except KeyboardInterrupt:
        print("interrupted: the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def explain(error: Exception) -> str:
    """One line for an error of ours, of the system, of Hydra's or of OmegaConf's."""
    if isinstance(error, BadInput):
        return str(error)
    if isinstance(error, OSError):
        where, again = error.filename or type(error).__name__, "the same command goes on"
        if error.errno in FULL:
            return f"the disk is full ({where}): make room, and {again}"
        return f"{where}: {error.strerror or error}; once that is mended, {again}"
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        # Of a group within a group Hydra lists the outer one's choices.
        options = [path.stem for path in (CONFIGS / group).glob("*.yaml")] or error.options
        implied = "" if any(choice in argument for argument in sys.argv) else ", which another choice implies,"
        return f"{group}={choice}{implied} is not a choice{nearest(choice, options)}"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        node = cause.parent_node
        if "not in" in str(cause) and node is not None:
            parent = cause.full_key.rpartition(".")[0]
            keys = [f"{parent}.{key}".lstrip(".") for key in node]
            return f"{cause.full_key} is not a setting{nearest(cause.full_key, keys)}"
        return f"{cause.full_key}: {_first_line(cause)}"
    return _first_line(error)


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
