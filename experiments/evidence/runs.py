"""Complete runs: their files, validated against schemas, and the labels that follow from their settings."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from experiments.evidence.reading import EvidenceError, inside, read_json, read_yaml
from experiments.evidence.schemas import Composed, Config, Manifest, Summary
from experiments.runner.errors import CONFIGS
from experiments.runner.former_names import as_called_today
from experiments.runner.identity import OUTSIDE_IDENTITY, OUTSIDE_IDENTITY_OF_DATASETS, digest_of


@dataclass(frozen=True, eq=False)
class CompleteRun:
    """A run's folder and the contents of its files."""

    path: Path
    config: dict[str, Any]
    manifest: Manifest
    summary: Summary

    @classmethod
    def read(cls, path: Path, config: type = Config, summary: type[Summary] = Summary) -> CompleteRun:
        """Read a run that is complete.

        Raises:
            EvidenceError: a file is damaged, belongs to another run, was edited or lies outside the folder.
        """
        manifest = read_json(inside(path, "manifest.json"), Manifest)
        if manifest.run_id != path.name:
            raise EvidenceError(f"{path / 'manifest.json'} belongs to {manifest.run_id}")
        ended = read_json(inside(path, "summary.json"), summary)
        asked = as_called_today(read_yaml(inside(path, "config.yaml"), config))
        check_name(path, asked)
        return cls(path, asked, manifest, ended)

    @property
    def settings(self) -> dict[str, JsonValue]:
        """The settings that its rows depend on, {"optimizer.steps": 5000, ...}, without labels, which repeat them.

        The path of a file whose digest is a setting is left out too: rows do not depend on it, and it may be private.
        """
        compute = self.config.get("compute")
        asked = self.config | {"precision": compute.get("precision") if isinstance(compute, dict) else None}
        asked = {key: value for key, value in asked.items() if key not in (*OUTSIDE_IDENTITY, "labels")}
        outside = {f"dataset.{key}" for key in OUTSIDE_IDENTITY_OF_DATASETS}
        entries = flat(asked)
        return {key: value for key, value in entries.items() if key not in outside and f"{key}_sha256" not in entries}


def flat(config: dict[str, Any]) -> dict[str, JsonValue]:
    """A config with dotted keys, two levels deep: {"optimizer.steps": 5000, ...}."""
    entries: dict[str, JsonValue] = {}
    for name, value in config.items():
        entries |= (
            {f"{name}.{key}": entry for key, entry in value.items()} if isinstance(value, dict) else {name: value}
        )
    return entries


def left_out(run: Path, reason: object) -> None:
    print(f"left out, {str(reason).replace(f'{run}/', '')}: {run}", file=sys.stderr)


def check_name(run: Path, config: dict[str, Any]) -> None:
    """Refuse settings from which the run's name does not follow, since its rows would then be shown as another run's.

    Raises:
        EvidenceError: the config was edited.
    """
    named = re.search(r"-seed\d+-([0-9a-f]{10})$", run.name)
    digest = None
    with suppress(AttributeError, TypeError):  # the config may be of any shape
        digest = digest_of(config)
    if named and named[1] != digest:
        raise EvidenceError(f"{run / 'config.yaml'} was edited: the run's name follows from other settings")


def check_labels(config: dict[str, Any]) -> None:
    """Refuse labels that do not follow from a run's settings. An experiment outside `configs/` may use any labels.

    Raises:
        EvidenceError: no experiment or sweep with the run's name gives these labels for these settings.
    """
    labels, settings = config["labels"], flat(config)
    filled = [
        {
            key: re.sub(r"\$\{([\w.]+)\}", lambda found: str(settings.get(found[1])), str(template))
            for key, template in templates.items()
        }
        for templates in _templates_of_labels().get(config["name"], [])
    ]
    wrong = [{key: text for key, text in given.items() if str(labels[key]) != text} for given in filled]
    if wrong and all(wrong):
        key, text = next(iter(wrong[0].items()))
        raise EvidenceError(f"labels.{key} is {labels[key]}, but its settings give {text}")


@cache
def _templates_of_labels() -> dict[str | None, list[dict[str, str]]]:
    """The label templates of each experiment and of its sweeps, with `${...}` for settings, by experiment."""
    templates: dict[str | None, list[dict[str, str]]] = {}
    for group in ("experiment", "sweep"):
        for path in sorted((CONFIGS / group).rglob("*.yaml")):
            each = _composed(path)
            of_name = templates.setdefault(each.name, [])
            if each.labels not in of_name:
                of_name.append(each.labels)
    return templates


def _composed(path: Path) -> Composed:
    """A config with the name and labels that it inherits from its defaults list, or from a sweep's experiment."""
    own = Composed(**read_yaml(path, Composed))
    entries = [entry for entry in own.defaults if isinstance(entry, str)]
    below = [
        (CONFIGS / f"{entry[1:]}.yaml" if entry[0] == "/" else path.with_name(f"{entry}.yaml")) for entry in entries
    ]
    chosen = {key: choice for entry in own.defaults if isinstance(entry, dict) for key, choice in entry.items()}
    if experiment := chosen.get("override /experiment"):
        below.append(CONFIGS / "experiment" / f"{experiment}.yaml")
    whole = Composed()
    for each in (*(_composed(file) for file in below if file.is_file()), own):
        whole = Composed(name=each.name or whole.name, labels=whole.labels | each.labels)
    return whole
