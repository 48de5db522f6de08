"""From a search's runs to configs/tuned:  python -m scripts.tune [--runs runs] [--configs configs] [--results results]

For each task and approach, the choice whose runs of a search (`SEARCHES`) ended with the least mean over seeds, on
validation data, of what its experiment minimises: a mean, because a choice at which some trainings fail is none. A best
value at the end of its grid is said: the grid should then be wider. A choice that lacks a seed that others have is left
out, for a training that diverged leaves no summary. Runs of a task that differ in anything else, and
runs measured on test data, are refused. Every run is noted in the results, in `tuning.csv`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf

from scripts.collect import domain, left_out, read_csv, settings, write_csv
from sobolev.files import replacing


class Search(NamedTuple):
    """What is searched for, as keys of a run's config, and how it is called."""

    sweeps: str
    task: str
    approach: tuple[str, ...]  # its name, and what else makes it
    chosen: dict[str, str]
    noted: dict[str, str]  # what else tells its runs apart
    measured: tuple[str, ...]  # metrics that are noted, or how their names begin
    measure: str
    folder: str = ""  # in configs/tuned


SEARCHES = {
    "distill_atari_search": Search(
        sweeps="figure_4_search and figure_4_search_value, or the same with _reduced",
        task="dataset.game",
        approach=("objective.name", "objective.kl_weight"),
        chosen={"learning_rate": "optimizer.learning_rate", "gradient_weight": "objective.gradient_weight"},
        noted={
            **{"teacher_sha256": "dataset.teacher_sha256", "n_train": "n_train"},
            **{"initialisation": "student.initialisation", "updates": "optimizer.steps", "seed": "seed"},
        },
        measured=("kl", "action_error", "gradient_error"),
        measure="validation KL",
        folder="atari",
    ),
    "synthetic_gradients_search": Search(
        sweeps="synthetic_gradients_search",
        task="dataset.name",
        approach=tuple(f"technique.{key}" for key in ("name", "crosses", "value", "gradient", "label")),
        chosen={"predictor_learning_rate": "optimizer.predictor_learning_rate"},
        noted={
            **{"model": "model.name", "reduction": "technique.reduction", "updates": "optimizer.steps"},
            **{"hold_out": "dataset.hold_out", "seed": "seed"},
        },
        measured=("accuracy_top1", "gradient_cosine"),
        measure="validation error",
    ),
}

Choice = tuple[float, ...]  # a value for each key of `Search.chosen`


class SearchRun(NamedTuple):
    folder: Path
    config: DictConfig
    summary: dict[str, Any]
    manifest: dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Write one file a task and approach, print its path and choice, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.tune", description=__doc__.split("\n\n")[1])
    parser.add_argument("--runs", type=Path, nargs="+", default=[Path("runs")], help="folders of runs")
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="folder that holds tuned/")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds tuning.csv by domain")
    options = parser.parse_args(arguments)
    runs = {name: complete(options.runs, name) for name in SEARCHES}
    if not any(runs.values()):
        where = ", ".join(map(str, options.runs))
        sweeps = "; ".join(search.sweeps for search in SEARCHES.values())
        print(
            f"error: no complete run of a search under {where}: `python run.py -m sweep=...` ({sweeps})",
            file=sys.stderr,
        )
        return 1
    try:
        found = {name: compare(SEARCHES[name], of_search) for name, of_search in runs.items()}
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, search in SEARCHES.items():
        for (task, approach), by_choice in sorted(found[name].items()):
            path = options.configs / "tuned" / search.folder / f"{task}_{approach}.yaml"
            write_best(search, by_choice, path)
        if runs[name]:
            note(search, runs[name], options.results / domain(name) / "tuning.csv")
    return 0


def complete(roots: list[Path], name: str) -> list[SearchRun]:
    """The complete runs of a search, less those whose files are damaged."""
    runs = []
    for folder in [path.parent for root in roots for path in sorted(root.glob(f"{name}/*/summary.json"))]:
        try:
            noted = [json.loads((folder / f"{file}.json").read_text()) for file in ("summary", "manifest")]
            runs.append(SearchRun(folder, OmegaConf.load(folder / "config.yaml"), *noted))
        except (OSError, ValueError, yaml.YAMLError) as error:
            left_out(folder, f"its files are damaged ({type(error).__name__})")
    return runs


def compare(search: Search, runs: list[SearchRun]) -> dict[tuple[str, str], dict[Choice, dict[int, float]]]:
    """By task and approach, what the runs of each choice ended with, {seed: value}.

    Raises:
        ValueError: a run was not measured on validation data, or two of a task differ in more than what is searched
            for.
    """
    found: dict[tuple[str, str], dict[Choice, dict[int, float]]] = {}
    first: dict[tuple[str, ...], tuple[Path, dict[str, Any]]] = {}
    swept = {"seed", *search.chosen.values()}
    for folder, config, summary, _ in runs:
        if config.evaluate_on != "validation":
            raise ValueError(f"{folder} was measured with evaluate_on={config.evaluate_on}: choose on validation alone")
        task, approach = (OmegaConf.select(config, key) for key in (search.task, search.approach[0]))
        asked = settings(config)
        for group, free in (((task, approach), swept), ((task,), swept | {*search.approach})):
            other, expected = first.setdefault(group, (folder, asked))
            keys = sorted((asked.keys() | expected.keys()) - free)
            if differ := [key for key in keys if asked.get(key) != expected.get(key)]:
                said = ", ".join(f"{key} ({asked.get(key)} and {expected.get(key)})" for key in differ)
                raise ValueError(f"{folder} and {other} differ in {said}: keep the runs of one search only")
        choice = tuple(OmegaConf.select(config, key) for key in search.chosen.values())
        found.setdefault((task, approach), {}).setdefault(choice, {})[config.seed] = summary["objective"]
    return found


def write_best(search: Search, by_choice: dict[Choice, dict[int, float]], path: Path) -> None:
    """The best choice as a config, with what it was chosen from."""
    seeds = set().union(*by_choice.values())
    means = {choice: statistics.fmean(values.values()) for choice, values in by_choice.items() if set(values) == seeds}
    for choice in by_choice.keys() - means.keys():
        lacking = ", ".join(map(str, sorted(seeds - set(by_choice[choice]))))
        print(f"{path.stem}, {named(search, choice)}: left out, there is no run of seed {lacking}", file=sys.stderr)
    if not means:
        return
    best = min(means, key=means.get)
    config = OmegaConf.create()
    for key, value in zip(search.chosen.values(), best, strict=True):
        OmegaConf.update(config, key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(
            "# @package _global_\n"
            f"# Written by scripts.tune: {search.measure} {means[best]:.4g}, the least of {len(means)} choices.\n"
            + OmegaConf.to_yaml(config)
        )
    print(f"{path}: {named(search, best)}")
    for name, value, tried in zip(search.chosen, best, zip(*means, strict=True), strict=True):
        tried = sorted({*tried})
        if len(tried) > 1 and value in (tried[0], tried[-1]):
            print(f"  {name} is at the end of its grid ({', '.join(f'{x:g}' for x in tried)})", file=sys.stderr)


def named(search: Search, choice: Choice) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in zip(search.chosen, choice, strict=True))


def note(search: Search, runs: list[SearchRun], path: Path) -> None:
    """Add the runs to what has been tried, or put them in the place of what they were."""
    rows = {row["run_id"]: row for row in read_csv(path)}
    measured = tuple(f"validation_{metric}" for metric in search.measured)
    for folder, config, summary, manifest in runs:
        keys = {"task": search.task, "method": search.approach[0], **search.chosen, **search.noted}
        rows[folder.name] = {
            **{name: OmegaConf.select(config, key) for name, key in keys.items()},
            **{name.replace("/", "_"): f"{x:.6g}" for name, x in summary.items() if name.startswith(measured)},
            **{name: manifest[name] for name in ("run_id", "revision", "dirty")},
        }
    columns = dict.fromkeys(name for row in rows.values() for name in row)
    write_csv(path, tuple(columns), list(rows.values()))


if __name__ == "__main__":
    sys.exit(main())
