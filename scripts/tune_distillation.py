"""From the search's runs to configs/tuned:  python -m scripts.tune_distillation [--runs runs] [--configs configs]

For each game and approach, the learning rate and alpha whose runs of `sweep=figure_4_search` and
`sweep=figure_4_search_value` ended with the least KL divergence on the validation episodes (the median over seeds).
A best value at the end of its grid is said: the grid should then be wider.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf

from experiments.run import replacing

EXPERIMENT = "distill_atari_search"


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
    found = read(options.runs)
    if not found:
        where = ", ".join(map(str, options.runs))
        print(f"error: no complete run of {EXPERIMENT} under {where}: `python run.py -m sweep=figure_4_search`")
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
    found: Found = {}
    for root in roots:
        for summary in sorted(root.glob(f"{EXPERIMENT}/*/summary.json")):
            config = OmegaConf.load(summary.with_name("config.yaml"))
            objective = config.objective
            choice = Choice(config.optimizer.learning_rate, objective.gradient_weight)
            by_choice = found.setdefault((config.dataset.game, objective.name), {})
            by_choice.setdefault(choice, []).append(json.loads(summary.read_text())["objective"])
    return found


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
