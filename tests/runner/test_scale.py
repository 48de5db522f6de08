"""The scale of a run follows from one rule, and the rows that ship have the scale that it gives."""

from __future__ import annotations

import json
from functools import cache, reduce
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from experiments.evidence.reading import rows_path
from experiments.evidence.rows import groups, read_rows
from experiments.registry import settings_types
from experiments.runner.errors import CONFIGS
from experiments.runner.former_names import as_called_today
from experiments.runner.scale import scale_of
from experiments.runner.settings import RunConfig
from tests.conftest import ROOT, composed

OF_A_MACHINE = {  # what the settings of a cell leave out of a config
    "labels": {"task": "any", "method": "any", "n_train": 1},
    "recorder": {"wandb": "disabled", "project": "any", "group": "any"},
    "compute": {"device": "cpu", "threads": 1, "precision": "float32", "checkpoint_seconds": 60.0},
    **{"runs_dir": "runs", "seed": 0},
    **{"dataset.folder": "data", "dataset.download": False, "dataset.workers": 0},
    **{
        "networks": 10,
        "start": "",
        "start_sha256": "",
        "value_steps": 0,
    },  # which all shipped cells, or older ones, lack
}


@cache
def type_of(experiment: str) -> type[RunConfig] | None:
    """The type of the settings of an experiment in `configs/`."""
    path = CONFIGS / "experiment" / f"{experiment}.yaml"
    first = yaml.safe_load(path.read_text())["defaults"][0] if path.is_file() else ""
    name = first if isinstance(first, str) else next(iter(first))
    return settings_types().get(name.lstrip("/")) or (type_of(name) if name else None)


@cache
def empty(kind: type[RunConfig]) -> DictConfig:
    return OmegaConf.structured(kind)


def config_of(settings: dict[str, Any], kind: type[RunConfig]) -> RunConfig:
    """The config of a cell, from its line of settings.json."""
    known = {key: value for key, value in settings.items() if key != "precision"}
    if game := settings.get("dataset.game"):
        known["dataset.teacher"] = f"results/teachers/{game}.safetensors"
    config = OmegaConf.merge(empty(kind), nested(known))
    lacking = OmegaConf.missing_keys(config) | {"labels", "recorder", "compute"}
    config.merge_with(nested({key: value for key, value in OF_A_MACHINE.items() if key in lacking}))
    config.compute.precision = settings.get("precision", "float32")
    return OmegaConf.to_object(config)


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        *groups_of, name = key.split(".")
        reduce(lambda group, word: group.setdefault(word, {}), groups_of, found)[name] = value
    return found


@pytest.mark.parametrize("domain", ["regression", "theory", "distillation", "synthetic_gradients", "surrogates"])
def test_shipped_rows_have_the_scale_that_the_rule_gives(domain):
    settings = json.loads((ROOT / "results" / domain / "settings.json").read_text())
    columns = ("experiment", "task", "method", "n_train")
    scales = {
        " ".join(map(str, cell)): rows["scale"].iloc[0]
        for cell, rows in groups(read_rows(rows_path(ROOT / "results" / domain)), *columns)
    }
    kinds = {name: type_of(name) for name in {asked["name"] for asked in settings.values()}}
    assert any(kinds.values())
    for cell, asked in settings.items():
        if kind := kinds[asked["name"]]:
            assert scale_of(config_of(as_called_today(asked), kind)) == scales[cell], cell
        else:  # a grid with a name of its own has no experiment, hence no budget of the paper's
            assert scales[cell] == "reduced", cell


@pytest.mark.parametrize(
    ("overrides", "scale"),
    [
        ((), "paper"),
        (("seed=7", "runs_dir=elsewhere", "compute.threads=3"), "paper"),
        (("optimizer.steps=200000", "networks=20", "model.hidden=[512,256,256]"), "paper"),
        (("optimizer.steps=99999",), "reduced"),
        (("model.hidden=[256,128]",), "reduced"),
        (("optimizer.batch_size=64",), "reduced"),  # larger, but another question
        (("loss.weights=[1,10,0]",), "reduced"),  # not what its name says
        (("loss.name=mine",), "reduced"),
        (("dataset.name=mine",), "paper"),  # a function is an axis: its rows stand beside the others
        (("name=mine",), "reduced"),
        (("loss.name='../loss/value'",), "reduced"),
    ],
)
def test_axes_are_free_budgets_may_grow_and_nothing_else_may_change(overrides, scale):
    assert scale_of(composed("experiment=regression", *overrides)) == scale


@pytest.mark.parametrize(
    ("overrides", "scale"),
    [
        (["experiment=theory_points", "networks=20"], "paper"),
        (["experiment=theory_points", "teacher_units=16"], "reduced"),  # harder to learn: another question
    ],
)
def test_what_is_learned_is_no_budget(overrides, scale):
    assert scale_of(composed(*overrides)) == scale
