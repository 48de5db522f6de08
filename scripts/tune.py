"""Write configs/tuned from searches:  python -m scripts.tune [--runs runs] [--configs configs] [--results results]

For each task and approach of a search (`SEARCHES`) this writes the choice with the least mean over seeds of the
experiment's objective on validation data. Choices are compared by their mean, so that an unstable one cannot win. A
choice that lacks a seed that others have is left out, because a training that diverged leaves no summary. A best value
at the end of its grid is reported, because the grid should then be wider. Runs of a task that differ in any other
setting, and runs measured on test data, are refused. Every run is noted in `tuning.csv` in the results.

An approach that is to have one choice for all tasks (`Search.shared`) gets the one with the least geometric mean over
tasks, since the objectives of different tasks differ in size.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import FiniteFloat

from experiments.evidence.collect import as_csv
from experiments.evidence.reading import EvidenceError, check, read_csv
from experiments.evidence.results import alone
from experiments.evidence.runs import CompleteRun, flat, left_out
from experiments.evidence.schemas import Name, SearchConfig
from experiments.registry import results_folder
from experiments.runner.command_line import one_line_errors
from sobolev.files import replacing


class Search(NamedTuple):
    """One search. Keys of a run's config are dotted."""

    sweeps: str  # the sweeps that run it
    task: str  # the key of the task
    approach: tuple[str, ...]  # the key of the approach's name, and the other keys that define it
    chosen: dict[str, str]  # {name: key} of the settings that are searched for
    noted: dict[str, str]  # {column: key} of further settings in tuning.csv
    measured: tuple[str, ...]  # the metrics in tuning.csv, by the prefix of their names
    measure: str  # the objective in words
    folder: str = ""  # the folder in configs/tuned
    shared: tuple[str, ...] = ()  # approaches with one choice for all tasks


SEARCHES = {
    "distill_atari_search": Search(
        sweeps="distillation/search, search_value and search_falling, or the same with _reduced",
        task="dataset.game",
        approach=("objective.name", "objective.kl_weight", "objective.balanced"),
        chosen={
            "learning_rate": "optimizer.learning_rate",
            **{key: f"objective.{key}" for key in ("gradient_weight", "falls_until")},
        },
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

SEARCHES["distill_longer_search"] = SEARCHES["distill_atari_search"]._replace(
    sweeps="distillation/search_longer, search_longer_value and search_longer_balanced",
    folder="longer/atari",
    shared=("sobolev_balanced",),
)

Choice = tuple[float, ...]  # a value for each key of `Search.chosen`


def main(arguments: list[str] | None = None) -> int:
    """Write one file per task and approach, print its path and choice, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.tune", description=__doc__.split("\n\n")[1])
    parser.add_argument("--runs", type=Path, nargs="+", default=[Path("runs")], help="folders of runs")
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="folder that holds tuned/")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds tuning.csv by domain")
    options = parser.parse_args(arguments)
    read = {name: complete(options.runs, name) for name in SEARCHES}
    if not any(runs for runs, _ in read.values()):
        where = ", ".join(map(str, options.runs))
        sweeps = "; ".join(search.sweeps for search in SEARCHES.values())
        print(
            f"error: no complete run of a search under {where}: `python run.py -m sweep=...` ({sweeps})",
            file=sys.stderr,
        )
        return 1
    try:
        found = {name: compare(SEARCHES[name], runs) for name, (runs, _) in read.items()}
        for name, (runs, _) in read.items():
            if runs:
                with alone(options.results / results_folder(name)):
                    note(SEARCHES[name], runs, options.results / results_folder(name) / "tuning.csv")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, search in SEARCHES.items():
        for (task, approach), by_choice in sorted(found[name].items()):
            path = options.configs / "tuned" / search.folder / f"{task}_{approach}.yaml"
            measure = search.measure
            if approach in search.shared:
                by_choice = over_tasks([of_task for (_, a), of_task in found[name].items() if a == approach])
                measure += ", geometric mean over tasks,"
            write_best(search, by_choice, measure, path)
    return int(any(damaged for _, damaged in read.values()))


def complete(roots: list[Path], name: str) -> tuple[list[CompleteRun], bool]:
    """The complete runs of a search with intact files, and whether any run has a damaged file."""
    runs, damaged = [], False
    for folder in [path.parent for root in roots for path in sorted(root.glob(f"{name}/*/summary.json"))]:
        try:
            run = CompleteRun.read(folder, SearchConfig)
            check(names_and_choice(SEARCHES[name], run), tuple[Name, Name, tuple[FiniteFloat, ...]], folder)
            check(measured(SEARCHES[name], run), dict[str, float], folder)
            runs.append(run)
        except (EvidenceError, OSError) as error:
            left_out(folder, error)
            damaged = True
    return runs, damaged


def names_and_choice(search: Search, run: CompleteRun) -> tuple[str, str, Choice]:
    """A run's task, the name of its approach, and its values of the settings that are searched for."""
    asked = flat(run.config)
    chosen = tuple(asked.get(key) for key in search.chosen.values())
    return asked.get(search.task), asked.get(search.approach[0]), chosen


def measured(search: Search, run: CompleteRun) -> dict[str, float]:
    """The final metrics of a run that are noted."""
    begins = tuple(f"validation_{metric}" for metric in search.measured)
    return {name: x for name, x in run.summary.model_dump().items() if name.startswith(begins)}


def compare(search: Search, runs: list[CompleteRun]) -> dict[tuple[str, str], dict[Choice, dict[int, float]]]:
    """The objectives {seed: value} of each choice, by task and approach.

    Raises:
        ValueError: a run was not measured on validation data, or two runs of a task differ in a setting that is not
            searched for.
    """
    found: dict[tuple[str, str], dict[Choice, dict[int, float]]] = {}
    first: dict[tuple[str, ...], tuple[Path, dict[str, Any]]] = {}
    swept = {"seed", *search.chosen.values()}
    for run in runs:
        if (part := run.config["evaluate_on"]) != "validation":
            raise ValueError(f"{run.path} was measured with evaluate_on={part}: choose on validation data only")
        task, approach, choice = names_and_choice(search, run)
        asked = run.settings
        for group, free in (((task, approach), swept), ((task,), swept | {*search.approach})):
            other, expected = first.setdefault(group, (run.path, asked))
            keys = sorted((asked.keys() | expected.keys()) - free)
            if differ := [key for key in keys if asked.get(key) != expected.get(key)]:
                said = ", ".join(f"{key} ({asked.get(key)} and {expected.get(key)})" for key in differ)
                raise ValueError(f"{run.path} and {other} differ in {said}: keep the runs of one search only")
        found.setdefault((task, approach), {}).setdefault(choice, {})[run.config["seed"]] = run.summary.objective
    return found


def over_tasks(of_tasks: list[dict[Choice, dict[int, float]]]) -> dict[Choice, dict[int, float]]:
    """Geometric means over tasks of the objectives of the choices and seeds that all tasks have."""
    first, *others = of_tasks
    return {
        choice: {
            seed: statistics.geometric_mean(max(of_task[choice][seed], sys.float_info.min) for of_task in of_tasks)
            for seed in by_seed
            if all(seed in of_task.get(choice, {}) for of_task in others)
        }
        for choice, by_seed in first.items()
    }


def write_best(search: Search, by_choice: dict[Choice, dict[int, float]], measure: str, path: Path) -> None:
    """Write the best choice as a config, with the number of choices that it was compared with."""
    seeds = set().union(*by_choice.values())
    whole = {choice: values for choice, values in by_choice.items() if values and set(values) == seeds}
    means = {choice: statistics.fmean(values.values()) for choice, values in whole.items()}
    for choice in by_choice.keys() - means.keys():
        lacking = ", ".join(map(str, sorted(seeds - set(by_choice[choice]))))
        why = f"there is no run of seed {lacking}" if lacking else "it was not run for every task"
        print(f"{path.stem}, {named(search, choice)}: left out, {why}", file=sys.stderr)
    if not means:
        return
    best = min(means, key=means.get)
    config: dict[str, dict[str, float]] = {}
    for key, value in zip(search.chosen.values(), best, strict=True):
        group, _, name = key.partition(".")
        config.setdefault(group, {})[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(
            "# @package _global_\n"
            f"# Written by scripts.tune: {measure} {means[best]:.4g}, the least of {len(means)} choices.\n"
            + yaml.safe_dump(config, sort_keys=False)
        )
    print(f"{path}: {named(search, best)}")
    for name, value, tried in zip(search.chosen, best, zip(*means, strict=True), strict=True):
        tried = sorted({*tried})
        if len(tried) > 1 and value in (tried[0], tried[-1]):
            print(f"  {name} is at the end of its grid ({', '.join(f'{x:g}' for x in tried)})", file=sys.stderr)


def named(search: Search, choice: Choice) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in zip(search.chosen, choice, strict=True))


def note(search: Search, runs: list[CompleteRun], path: Path) -> None:
    """Add the runs to the table of what has been tried, replacing their earlier lines."""
    tried = read_csv(path) if path.exists() else []
    if tried and "run_id" not in tried[0]:
        raise EvidenceError(f"{path} has no column run_id")
    rows = {row["run_id"]: row for row in tried}
    for run in runs:
        asked = flat(run.config)
        keys = {"task": search.task, "method": search.approach[0], **search.chosen, **search.noted}
        rows[run.path.name] = {
            **{name: asked.get(key) for name, key in keys.items()},
            **{name.replace("/", "_"): f"{x:.6g}" for name, x in measured(search, run).items()},
            **{name: getattr(run.manifest, name) for name in ("run_id", "revision", "dirty")},
        }
    columns = dict.fromkeys(name for row in rows.values() for name in row)
    with replacing(path) as temporary:
        temporary.write_bytes(as_csv(columns, rows.values()))


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
