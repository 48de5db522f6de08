"""Errors for users: one line that says what is wrong and what would be right."""

from __future__ import annotations

import difflib
import errno
import math
import re
from collections.abc import Iterable

from experiments.runner.settings import ROOT, MLPConfig, Precision, RunConfig

CONFIGS = ROOT / "configs"
LONGEST_NAME = 64  # bytes: three names and a number fit into the 255 of a file name
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk is full, or the user's quota


class BadInput(Exception):
    """A request that cannot be carried out. Its text is one line: what is wrong, and what would be right."""


class RunBusy(BadInput):
    """Another process works on the same run. A sweep skips it."""


class OutOfTime(BadInput):
    """A run was stopped at its time limit. The same command continues it."""


def check_names(config: RunConfig) -> None:
    """Refuse a name or label that is not a single word, because rows and folders are named by it.

    What is accepted here, `experiments.evidence.schemas` accepts too: else rows could be recorded but not collected.
    """
    names = {"name": config.name, "labels.task": config.labels.task, "labels.method": config.labels.method}
    for key, name in names.items():
        if not re.fullmatch(r"[^\W_][\w.,:+=-]*", name) or len(name.encode()) > LONGEST_NAME:
            expected = f"one word that begins with a letter or digit, {LONGEST_NAME} bytes at most"
            raise BadInput(f"{key}={name!r}: expected {expected}, because it names rows, files and cells")


def check_no_labels(overrides: Iterable[str], experiment: str) -> None:
    """Refuse labels on the command line of a shipped experiment: `scripts.collect` would leave out its rows."""
    typed = [override for override in overrides if re.match(r"[+~]*labels\b", override)]
    if typed and (CONFIGS / "experiment" / f"{experiment}.yaml").is_file():
        raise BadInput(f"{typed[0]}: labels of experiment={experiment} follow from its settings; yours may set them")


def check_positive(**settings: float) -> None:
    """Refuse settings that are not positive and finite."""
    for key, value in settings.items():
        if not 0 < value < math.inf:
            raise BadInput(f"{key} must be positive{'' if math.isfinite(value) else ' and finite'}, not {value}")


def check_seed(config: RunConfig) -> None:
    if not 0 <= config.seed < 2**62:  # files of rows hold 64 bits
        raise BadInput(f"seed must be 0 or more and below 2^62, not {config.seed}")


def check_precision(config: RunConfig, *computed_in: Precision) -> None:
    """Refuse a precision that the experiment does not compute in, because its rows would claim it.

    By default all but bfloat16 are accepted; `prepare_process` checks whether this machine has TF32.
    """
    computed_in = computed_in or (Precision.float32, Precision.float64, Precision.tf32)
    if (asked := config.compute.precision) not in computed_in:
        names = " or ".join(precision.name for precision in computed_in)
        raise BadInput(f"compute.precision={asked.name}: {config.name} computes in {names}")


def check_labelled_activation(activation: str, model: MLPConfig) -> None:
    """Refuse a network whose activation differs from the label of its rows.

    Raises:
        BadInput: names both activations and the one to set.
    """
    if model.activation.name != activation:
        raise BadInput(
            f"model.activation={model.activation.name} with activation={activation}: rows are labelled by activation, "
            "so set activation alone"
        )


def nearest(name: str, choices: list[str]) -> str:
    """The end of an error message: the closest choice, if there is one, and the list of all choices."""
    in_a_group = [choice for choice in choices if choice.endswith(f"/{name}")]
    close = in_a_group or difflib.get_close_matches(name, choices, n=1)
    return f"{f' (did you mean {close[0]}?)' if close else ''}; choose from {', '.join(sorted(choices))}"
