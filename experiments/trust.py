"""What text from others may reach: a command line or a folder of configs names choices and values, never code.

Hydra calls whatever `_target_` names in `hydra.callbacks`, and logging whatever `()` or `class` names in
`hydra.job_logging`. No experiment needs either, so overrides and foreign configs that touch them are refused before
Hydra reads a word, and so are choices that lead by `..` to a file that nobody has looked at. Weights and checkpoints
are loaded by readers that cannot run code (safetensors, `weights_only=True`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.errors import BadInput

# The one callable that our own configs name. A prefix such as `torch.` would not do: modules lead to other modules.
TARGET = "hydra_plugins.resuming_sweeper.ResumingSweeper"
CALLING = ("_target_", "()", "class")  # keys whose value Hydra or logging calls
CLOSED = ("hydra.callbacks", "hydra.job_logging", "hydra.hydra_logging", "hydra.searchpath")
PATHS = ("runs_dir", "start")  # what looks like a choice, has no dot, but is a path to anywhere


def check_command_line(arguments: Sequence[str]) -> None:
    """Refuse overrides, and folders of configs, that name code to call.

    Raises:
        BadInput: naming the override or file, and what is wrong with it.
    """
    folder_follows = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if _begins(option, "--experimental-rerun"):
            raise BadInput(f"{option}: what it loads can hold code; the same command goes on where a run stopped")
        names_folder = option in ("-cd", "-cp") or _begins(option, "--config-dir", "--config-path")
        if folder_follows or (names_folder and equals):
            _check_folder(Path(argument if folder_follows else value))
        elif argument.startswith("-"):
            _refuse_outside("", value, argument)  # of --config-name
        else:
            _check_override(argument)
        folder_follows = names_folder and not equals


def _begins(option: str, *whole: str) -> bool:
    """argparse takes a long option by any beginning of it."""
    return len(option) > 2 and any(name.startswith(option) for name in whole)


def _check_override(override: str) -> None:
    key, _, value = override.lstrip("+~/").partition("=")
    _refuse_outside(key, value, override)
    _refuse_closed(key, override)
    if key.rpartition(".")[2] in CALLING:
        _check_target(value, override)
    if any(re.search(rf"(?<!\w){re.escape(name)}['\"]?\s*:", value) for name in CALLING):
        raise BadInput(f"{override}: an override cannot name code to call")


def _check_folder(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_symlink() and path.is_dir():
            raise BadInput(f"{path} leads out of the folder: a folder of configs holds its files itself")
    for path in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
        try:
            text = path.read_text()
            content = yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise BadInput(f"{path} cannot be read as YAML: {str(error).splitlines()[0]}") from None
        header = re.search(r"^#\s*@package\s+(\S+)", text, re.MULTILINE)
        group = ".".join(path.relative_to(folder).parts[:-1])  # where a file without a header lands
        package = group if header is None or header[1].startswith("_group_") else header[1].replace("_global_", "")
        for key, value in _walk(content, package):
            _refuse_closed(key, str(path))
            _refuse_outside(key, value if isinstance(value, str) else "", str(path))
            if key.rpartition(".")[2] in CALLING:
                _check_target(str(value), str(path))


def _walk(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    yield key, node
    if isinstance(node, dict):
        for name, child in node.items():
            yield from _walk(child, f"{key}.{name}".lstrip("."))
            # An entry of a defaults list names a group: `override hydra/callbacks@here`.
            yield str(name).removeprefix("override ").lstrip("/"), None
    elif isinstance(node, list):
        for child in node:
            yield from _walk(child, key)


def _refuse_closed(key: str, where: str) -> None:
    for plain in key.replace("/", ".").split("@"):  # `/` names a group, `@` moves its content to another package
        if any(plain == closed or plain.startswith(closed + ".") for closed in CLOSED):
            raise BadInput(f"{where}: {plain} decides what code is called, and is not open to change")


def _refuse_outside(key: str, value: str, where: str) -> None:
    """A choice is the value of a group, which has no dot in its name, of a defaults list or of a sweep's parameter."""
    group = key.partition("@")[0]
    chooses = "." not in group or "defaults" in group.split(".") or group.startswith("hydra.sweeper.")
    texts = [key, value] if chooses and group not in PATHS else [key]
    if any(re.search(r"(?<![\w.])\.\.(?![\w.])", text) for text in texts):
        raise BadInput(f"{where}: a choice names a file of its group, and cannot lead elsewhere by `..`")


def _check_target(called: str, where: str) -> None:
    if called.strip("'\"") != TARGET:
        raise BadInput(f"{where}: names {called or 'something'} to call; only {TARGET} may be named")
