"""From a search's runs to the tuned configs."""

import csv
import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scripts import tune
from tests.conftest import CONFIGS, composed
from tests.evidence.test_collect import MANIFEST


def asked(approach: str = "sobolev", alpha: float = 0.1, rate: float = 3e-4, game: str = "pong", **other) -> dict:
    """A search run's config, as far as choosing reads it; a dotted key of `other` has __ for its dot."""
    config = {
        **{"seed": 1000, "runs_dir": "runs", "evaluate_on": "validation", "n_train": 5000},
        "dataset": {"game": game, "folder": "data/atari"},
        "student": {"hidden": 256},
        "objective": {"name": approach, "kl_weight": float(approach != "derivative"), "gradient_weight": alpha},
        "optimizer": {"learning_rate": rate, "steps": 5000},
        "labels": {"method": f"{approach}_lr{rate}_alpha{alpha}"},
        **{"recorder": {"group": "distillation/search"}, "compute": {"threads": 1, "precision": "float32"}},
    }
    for key, value in other.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    return config


def write_runs(folder: Path, configs: list[dict], kl: list[float], search: str = "distill_atari_search") -> list[str]:
    """Complete runs, and the arguments that choose among them."""
    for number, (config, value) in enumerate(zip(configs, kl, strict=True)):
        run = folder / "runs" / search / str(number)
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        (run / "summary.json").write_text(json.dumps({"objective": value, "validation_kl": value, "steps": 5000}))
        (run / "manifest.json").write_text(json.dumps(MANIFEST | {"run_id": str(number)}))
    return ["--runs", str(folder / "runs"), "--configs", str(folder), "--results", str(folder / "results")]


def test_the_least_validation_kl_is_chosen(tmp_path, capsys):
    kl = {1e-4: [0.3, 0.1, 0.2], 3e-4: [0.15, 0.16, 0.17], 1e-3: [0.01, 0.01, 0.9]}  # at 1e-3 one fails
    configs = [asked(rate=rate, seed=seed) for rate in kl for seed in range(3)]
    arguments = write_runs(tmp_path, configs, [value for by_seed in kl.values() for value in by_seed])
    assert tune.main(arguments) == 0
    written = tmp_path / "tuned" / "atari" / "pong_sobolev.yaml"
    assert yaml.safe_load(written.read_text()) == {
        "optimizer": {"learning_rate": 0.0003},
        "objective": {"gradient_weight": 0.1, "falls_until": 0.0},
    }
    assert written.read_text().startswith("# @package _global_\n")
    said = capsys.readouterr()
    assert "learning_rate 0.0003, gradient_weight 0.1" in said.out
    assert "end of its grid" not in said.err
    assert tune.main(["--runs", str(tmp_path / "none")]) == 1


def test_a_balanced_alpha_is_the_same_in_all_games(tmp_path, capsys):
    """The geometric mean: by the sum, Pong's small KLs would not count. A choice that one game lacks is left out."""
    kl = {("pong", 30.0): 0.01, ("pong", 100.0): 0.04, ("breakout", 30.0): 0.6, ("breakout", 100.0): 0.3}
    balanced = {"objective__balanced": True, "objective__falls_until": 0.5}
    configs = [asked("sobolev_balanced", alpha, game=game, **balanced) for game, alpha in kl]
    configs += [asked("sobolev_balanced", 300.0, **balanced), asked("value", 0.0), asked("value", 0.0, game="breakout")]
    assert tune.main(write_runs(tmp_path, configs, [*kl.values(), 0.001, 0.2, 0.2], "distill_longer_search")) == 0
    for game in ("pong", "breakout"):
        written = yaml.safe_load(
            (tmp_path / "tuned" / "longer" / "atari" / f"{game}_sobolev_balanced.yaml").read_text()
        )
        assert written["objective"] == {"gradient_weight": 30.0, "falls_until": 0.5}
    assert "gradient_weight 300, falls_until 0.5: left out" in capsys.readouterr().err


def test_a_choice_whose_training_failed_is_none(tmp_path, capsys):
    """A run that diverges leaves no summary; the seeds that went well say nothing of its rate."""
    configs = [asked(rate=1e-4, seed=0), asked(rate=1e-4, seed=1), asked(rate=1e-3, seed=0)]
    assert tune.main(write_runs(tmp_path, configs, [0.2, 0.2, 0.1])) == 0
    said = capsys.readouterr()
    assert "learning_rate 0.0001" in said.out
    assert (
        "pong_sobolev, learning_rate 0.001, gradient_weight 0.1, falls_until 0: left out, there is no run of seed 1"
        in said.err
    )


@pytest.mark.parametrize("file", ["summary.json", "manifest.json", "config.yaml"])
def test_a_damaged_run_is_left_out(tmp_path, capsys, file):
    arguments = write_runs(tmp_path, [asked(rate=1e-4), asked(rate=1e-3)], [0.2, 0.1])
    (tmp_path / "runs" / "distill_atari_search" / "1" / file).write_text("{")
    assert tune.main(arguments) == 1
    said = capsys.readouterr()
    assert "learning_rate 0.0001" in said.out
    assert re.search(rf"left out, .*{file}.*: .*/1$", said.err, re.MULTILINE)


def test_what_was_tried_is_noted_once(tmp_path):
    arguments = write_runs(tmp_path, [asked(), asked(rate=1e-3)], [0.1, 0.2])
    path = tmp_path / "results" / "distillation" / "tuning.csv"
    path.parent.mkdir(parents=True)
    path.write_text("task,run_id,by_hand\nbreakout,9,x\n")
    assert tune.main(arguments) == tune.main(arguments) == 0
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["task"], row["run_id"], row["by_hand"]) for row in rows] == [
        *(("breakout", "9", "x"), ("pong", "0", ""), ("pong", "1", "")),
    ]
    assert (rows[2]["method"], rows[2]["learning_rate"], rows[2]["validation_kl"]) == ("sobolev", "0.001", "0.2")
    assert "validation_steps" not in rows[2]


def test_approaches_games_and_machines_may_differ(tmp_path):
    configs = [
        *(asked("value", 0.0), asked("sobolev", 0.1), asked("sobolev", 0.3), asked("derivative", 1.0)),
        asked("value", 0.0, compute__threads=16, dataset__folder="elsewhere", seed=1001),
        asked("value", 0.0, game="breakout", optimizer__steps=9),
    ]
    assert tune.main(write_runs(tmp_path, configs, [0.1] * len(configs))) == 0
    names = {"pong_value", "pong_sobolev", "pong_derivative", "breakout_value"}
    assert {path.stem for path in (tmp_path / "tuned" / "atari").iterdir()} == names


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (asked(rate=1e-3, evaluate_on="test"), "1 was measured with evaluate_on=test: choose on validation data only"),
        (asked(rate=1e-3, optimizer__steps=50), r"1 and .*0 differ in optimizer.steps \(50 and 5000\)"),
        (asked(rate=1e-3, n_train=10), r"differ in n_train \(10 and 5000\)"),
        (asked(rate=1e-3, student__hidden=64), r"differ in student.hidden \(64 and 256\)"),
        (asked(rate=1e-3, compute__precision="float64"), r"differ in precision \(float64 and float32\)"),
        (asked(rate=1e-3, compute_dtype="float32"), r"differ in compute_dtype \(float32 and None\)"),
        (asked(rate=1e-3, objective__kl_weight=2.0), r"differ in objective.kl_weight \(2.0 and 1.0\)"),
        (asked("value", 0.0, optimizer__steps=50), r"differ in optimizer.steps \(50 and 5000\)"),
    ],
)
def test_runs_of_several_searches_and_test_episodes_are_refused(tmp_path, capsys, second, said):
    assert tune.main(write_runs(tmp_path, [asked(), second], [0.1, 0.2])) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(said, error)
    assert not (tmp_path / "tuned").exists()


def jobs(sweep: str) -> list[dict]:
    """The configs of a sweep's runs of one game, as they write them."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        params = compose("config", [f"sweep={sweep}"], return_hydra_config=True).hydra.sweeper.params
        grid = [[f"{key}={choice}" for choice in str(choices).split(",")] for key, choices in params.items()]
        grid = [choices[:1] if choices[0].startswith("dataset=") else choices for choices in grid]
    configs = [OmegaConf.structured(composed(f"sweep={sweep}", *job)) for job in itertools.product(*grid)]
    return [OmegaConf.to_container(config, enum_to_str=True) for config in configs]


@pytest.mark.parametrize("suffix", ["", "_reduced"])
def test_the_search_is_fair_and_apart_from_what_is_published(tmp_path, suffix):
    """As many choices for either approach, no seed of Figure 4, rates in the paper's range, and runs that compare."""
    value, sobolev = jobs(f"distillation/search{suffix}_value"), jobs(f"distillation/search{suffix}")
    rates = [{job["optimizer"]["learning_rate"] for job in approach} for approach in (value, sobolev)]
    assert len(value) == len(sobolev)
    assert rates[1] < rates[0]
    assert 1e-5 <= min(rates[0]) < max(rates[0]) <= 1e-3
    published = {job["seed"] for job in jobs(f"distillation/figure_4{suffix}")}
    assert not {job["seed"] for job in value + sobolev} & published
    both = value + sobolev
    assert tune.main(write_runs(tmp_path, both, [0.1] * len(both))) == 0


def test_the_longer_search_is_fair_and_apart_from_what_is_published(tmp_path):
    """No method has more choices than value-only training; the published updates, and none of the published seeds."""
    published = jobs("distillation/longer")
    searches = [jobs(f"distillation/search_longer{suffix}") for suffix in ("_value", "", "_balanced")]
    assert len(searches[0]) == max(map(len, searches))
    tried = [job for search in searches for job in search]
    for job in tried:
        assert job["evaluate_on"] == "validation"
        assert job["seed"] not in {other["seed"] for other in published}
        assert {job["optimizer"]["steps"]} == {other["optimizer"]["steps"] for other in published}
        assert 1e-5 <= job["optimizer"]["learning_rate"] <= 1e-3
    assert tune.main(write_runs(tmp_path, tried, [0.1] * len(tried), tried[0]["name"])) == 0


def test_every_technique_has_the_same_choices_apart_from_what_is_published(tmp_path):
    searched = jobs("synthetic_gradients/search")
    choices = {}
    for job in searched:
        chosen = (job["seed"], job["optimizer"]["predictor_learning_rate"])
        choices.setdefault(job["technique"]["name"], []).append(chosen)
    assert len({frozenset(of_technique) for of_technique in choices.values()}) == 1
    assert not {job["seed"] for job in searched} & {job["seed"] for job in jobs("synthetic_gradients/digits")}
    assert tune.main(write_runs(tmp_path, searched, [0.1] * len(searched), searched[0]["name"])) == 0
    (dataset,) = {job["dataset"]["name"] for job in searched}
    assert {path.stem for path in (tmp_path / "tuned").iterdir()} == {f"{dataset}_{name}" for name in choices}


@pytest.mark.parametrize("path", sorted((CONFIGS / "tuned").glob("**/*.yaml")), ids=lambda path: path.stem)
def test_a_tuned_config_sets_nothing_else_and_says_what_it_is(path):
    searched = tune.SEARCHES["distill_atari_search" if path.parent.name == "atari" else "synthetic_gradients_search"]
    config = OmegaConf.load(path)
    assert {f"{group}.{key}" for group, values in config.items() for key in values} <= {*searched.chosen.values()}
    assert re.search(
        r"^# (Not tuned yet: defaults|Written by scripts.tune: validation)", path.read_text(), re.MULTILINE
    )
