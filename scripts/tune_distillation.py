"""From the search's runs to configs/tuned:  python -m scripts.tune_distillation [--runs runs] [--configs configs]

For each game and approach, the learning rate and alpha whose runs of `sweep=figure_4_search` and
`sweep=figure_4_search_value` ended with the least KL divergence on the validation episodes (the median over seeds).
A best value at the end of its grid is said: the grid should then be wider. Runs of a game that differ in anything else,
and runs measured on test episodes, are refused.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from experiments.run import OUTSIDE_IDENTITY, OUTSIDE_IDENTITY_OF_DATASETS, replacing

EXPERIMENT = "distill_atari_search"
SWEPT = {"seed", "optimizer.learning_rate", "objective.gradient_weight"}
APPROACH = {"objective.name", "objective.kl_weight"}  # what makes the difference between approaches, besides alpha


class Choice(NamedTuple):
    learning_rate: float
    gradient_weight: float


Found = dict[tuple[str, str], dict[Choice, list[float]]]  # {(game, approach): {choice: validation KL of each seed}}


def main(arguments: list[str] | None = None) -> int:
    """Write one file a game and approach, print its path and choice, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.tune_distillation", description=__doc__.split("\n\n")[1])
    parser.add_argument("--runs", type=Path, nargs="+", default=[Path("runs")], help="folders of runs")
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="folder that holds tuned/atari")
    options = parser.parse_args(arguments)
    try:
        found = read(options.runs)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for (game, approach), by_choice in sorted(found.items()):
        best = min(by_choice, key=lambda choice: statistics.median(by_choice[choice]))
        path = options.configs / "tuned" / "atari" / f"{game}_{approach}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(describe(best, by_choice))
        print(f"{path}: learning rate {best.learning_rate:g}, alpha {best.gradient_weight:g}")
        for name in Choice._fields:
            tried = sorted({getattr(choice, name) for choice in by_choice})
            if len(tried) > 1 and getattr(best, name) in (tried[0], tried[-1]):
                print(f"  {name} is at the end of its grid ({', '.join(f'{x:g}' for x in tried)})", file=sys.stderr)
    return 0


def read(roots: list[Path]) -> Found:
    """Validation KL of every complete run of the search.

    Raises:
        ValueError: there is no run, one was not measured on validation episodes, or two of a game differ in more than
            what is searched for.
    """
    found: Found = {}
    first: dict[tuple[str, ...], tuple[Path, dict[str, Any]]] = {}
    for summary in (path for root in roots for path in sorted(root.glob(f"{EXPERIMENT}/*/summary.json"))):
        config, folder = OmegaConf.load(summary.with_name("config.yaml")), summary.parent
        if config.evaluate_on != "validation":
            raise ValueError(f"{folder} was measured with evaluate_on={config.evaluate_on}: choose on validation alone")
        game, approach, asked = config.dataset.game, config.objective.name, settings(config)
        for group, free in (((game, approach), SWEPT), ((game,), SWEPT | APPROACH)):
            other, expected = first.setdefault(group, (folder, asked))
            keys = sorted((asked.keys() | expected.keys()) - free)
            if differ := [key for key in keys if asked.get(key) != expected.get(key)]:
                said = ", ".join(f"{key} ({asked.get(key)} and {expected.get(key)})" for key in differ)
                raise ValueError(f"{folder} and {other} differ in {said}: keep the runs of one search only")
        choice = Choice(config.optimizer.learning_rate, config.objective.gradient_weight)
        by_choice = found.setdefault((game, approach), {})
        by_choice.setdefault(choice, []).append(json.loads(summary.read_text())["objective"])
    if not found:
        where = ", ".join(map(str, roots))
        raise ValueError(f"no complete run of {EXPERIMENT} under {where}: `python run.py -m sweep=figure_4_search`")
    return found


def settings(config: DictConfig) -> dict[str, Any]:
    """What a run's rows depend on, {"optimizer.steps": 5000, ...}; labels repeat it and are left out."""
    asked = OmegaConf.to_container(config)
    asked["precision"] = asked["compute"]["precision"]
    for key in (*OUTSIDE_IDENTITY, "labels"):
        asked.pop(key, None)
    for key in OUTSIDE_IDENTITY_OF_DATASETS:
        asked["dataset"].pop(key, None)
    flat = {}
    for name, value in asked.items():
        flat |= {f"{name}.{key}": entry for key, entry in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def describe(best: Choice, by_choice: dict[Choice, list[float]]) -> str:
    """A choice as a config, with what it was chosen from."""
    score = statistics.median(by_choice[best])
    lines = [
        "# @package _global_",
        f"# Written by scripts.tune_distillation: validation KL {score:.4g}, the least of {len(by_choice)} choices.",
        "optimizer:",
        f"  learning_rate: {best.learning_rate:g}",
        "objective:",
        f"  gradient_weight: {best.gradient_weight:g}",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
