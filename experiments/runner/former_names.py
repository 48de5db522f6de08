"""The original names of settings, so that renaming or adding a setting renames no run.

The folder of a run is named by a hash of its settings, and users have finished runs. The hash therefore uses the
original names. Configs of older runs are read with today's names, and with the settings that have been added since.
"""

from __future__ import annotations

from typing import Any

ENTRIES = {  # today's name: the original one
    "experiments.regression.train.main": "experiments.regression.main",
    "experiments.regression.descent.main": "experiments.descent.main",
    "experiments.distillation.train.main": "experiments.distill_atari.main",
    "experiments.distillation.train_teacher.main": "experiments.train_teacher.main",
    "experiments.synthetic_gradients.train.main": "experiments.synthetic_gradients.main",
    "experiments.theory.exact.main": "experiments.theory.exact",
    "experiments.theory.construction.main": "experiments.theory.construction",
    "experiments.theory.approximation.main": "experiments.theory.approximation",
    "experiments.theory.mismatch.main": "experiments.theory.mismatch",
    "experiments.theory.points.main": "experiments.theory.points",
}
KEYS = {  # today's dotted key: the original one
    "compute_dtype": "products",
    "teacher.compute_dtype": "teacher.products",
    "teacher.gamma": "teacher.discount",
    "teacher.gae_lambda": "teacher.trace",
    "teacher.value_coef": "teacher.value_weight",
    "teacher.entropy_coef": "teacher.entropy_weight",
    "teacher.max_grad_norm": "teacher.max_gradient_norm",
    "teacher.episodic_life": "teacher.life_is_episode",
}
# Settings that are newer than some shipped runs. With these values they ask what was asked before they existed.
AS_BEFORE = {
    "loss": {"distances": ["squared_l2"] * 3},
    "objective": {"falls_until": 0.0, "balanced": False},
    "search": {"keeps": "last"},
}


def as_first_called(asked: dict[str, Any]) -> dict[str, Any]:
    """A resolved config with the original names of its settings, without newer ones at their neutral values."""
    first = _renamed(asked, ENTRIES, KEYS)
    for group, newer in AS_BEFORE.items():
        if group in first:
            first[group] = {key: value for key, value in first[group].items() if newer.get(key) != value}
    return first


def as_called_today(config: dict[str, Any]) -> dict[str, Any]:
    """A resolved config, from a run of any age, with today's settings. It may be nested or have dotted keys."""
    today = _renamed(config, _inverse(ENTRIES), _inverse(KEYS))
    for group, newer in AS_BEFORE.items():
        if isinstance(today.get(group), dict):
            today[group] = newer | today[group]
        elif any(key.startswith(f"{group}.") for key in today):
            today = {f"{group}.{key}": value for key, value in newer.items()} | today
    return today


def _inverse(names: dict[str, str]) -> dict[str, str]:
    return {first: today for today, first in names.items()}


def _renamed(config: dict[str, Any], entries: dict[str, str], keys: dict[str, str], prefix: str = "") -> dict[str, Any]:
    renamed = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        new = keys.get(key, key).removeprefix(prefix)
        renamed[new] = _renamed(value, entries, keys, f"{key}.") if isinstance(value, dict) else value
    if not prefix and "entry" in renamed:
        renamed["entry"] = entries.get(renamed["entry"], renamed["entry"])
    return renamed
