"""Errors as part of the product: what a user did wrong is one line that says what would be right."""

from __future__ import annotations

import difflib
import errno
import math
import re
from collections.abc import Iterable

from experiments.runner.settings import ROOT, MLPConfig, Precision, RunConfig

CONFIGS = ROOT / "configs"
FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk's


class BadInput(Exception):
    """A request that cannot be carried out. Its text is one line: what is wrong, and what would be right."""


class RunBusy(BadInput):
    """Another process works on the same run. A sweep passes over it."""


class OutOfTime(BadInput):
    """A run was stopped because the time that it was given is up. The same command goes on."""


def check_names(config: RunConfig) -> None:
    """Refuse a name or label that would not be one word in rows, or would be a path as the name of a folder."""
    names = {"name": config.name, "labels.task": config.labels.task, "labels.method": config.labels.method}
    for key, name in names.items():
        if not re.fullmatch(r"\w[\w.,:+=-]{0,99}", name):
            raise BadInput(f"{key}={name!r}: one word is expected, for rows, files and cells are named by it")


def check_no_labels(overrides: Iterable[str], experiment: str) -> None:
    """Refuse labels that were typed for an experiment that ships: collecting leaves out rows with such labels."""
    typed = [override for override in overrides if re.match(r"[+~]*labels\b", override)]
    if typed and (CONFIGS / "experiment" / f"{experiment}.yaml").is_file():
        raise BadInput(f"{typed[0]}: labels of experiment={experiment} follow from its settings; yours may name them")


def check_positive(**settings: float) -> None:
    """Refuse settings that are not positive and finite."""
    for key, value in settings.items():
        if not 0 < value < math.inf:
            raise BadInput(f"{key} must be positive{'' if math.isfinite(value) else ' and finite'}, not {value}")


def check_seed(config: RunConfig) -> None:
    if not 0 <= config.seed < 2**62:  # files of rows hold 64 bits
        raise BadInput(f"seed must be 0 or more and below 2^62, not {config.seed}")


def check_precision(config: RunConfig, *computed_in: Precision) -> None:
    """Refuse a precision that products are not computed in: rows would say that they were. None named: not bfloat16.

    Where float32 may be rounded to TF32, which is of GPUs, `prepare_process` says whether this machine has it.
    """
    computed_in = computed_in or (Precision.float32, Precision.float64, Precision.tf32)
    if (asked := config.compute.precision) not in computed_in:
        names = " or ".join(precision.name for precision in computed_in)
        raise BadInput(f"compute.precision={asked.name}: {config.name} computes in {names}")


def check_labelled_activation(activation: str, model: MLPConfig) -> None:
    """Refuse a network whose activation is not the one that its rows are labelled by.

    Raises:
        BadInput: both activations, and which of them to set.
    """
    if model.activation.name != activation:
        raise BadInput(
            f"model.activation={model.activation.name} with activation={activation}: rows are labelled by activation, "
            "so set activation alone"
        )


def nearest(name: str, choices: list[str]) -> str:
    """The end of a refusal: the closest choice where there is one, and all of them."""
    in_a_group = [choice for choice in choices if choice.endswith(f"/{name}")]
    close = in_a_group or difflib.get_close_matches(name, choices, n=1)
    return f"{f' (did you mean {close[0]}?)' if close else ''}; choose from {', '.join(sorted(choices))}"
