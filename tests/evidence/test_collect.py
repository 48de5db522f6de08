"""From run folders to rows: nothing shipped is lost, reduced and paper never mix."""

import hashlib
import json
import os
import re
import sys

import pytest
import yaml

from experiments.evidence.collect import collect, gaps
from experiments.evidence.reading import read_csv
from experiments.registry import results_folder
from experiments.runner.identity import digest_of
from scripts.collect import main
from tests.conftest import CONFIGS, composed
from tests.regression.test_evidence import make_surface, write_surface

MANIFEST = {
    **{"revision": "0a1b2c3d", "dirty": False, "python": "3", "torch": "2", "numpy": "2", "platform": "Linux"},
    **{"device": "x86_64", "threads": 1, "precision": "float32", "wall_seconds": 1.5},
}
HEADER = "experiment,task,method,n_train,seed,step,split,metric,value\n"


def make_run(root, name, value, *, scale="reduced", seeds=(0, 1), method="value", rate=0.1):
    folder = root / "regression" / name
    folder.mkdir(parents=True)
    rows = "".join(f"regression,booth,{method},20,{seed},9,test,value_mse,{value}\n" for seed in seeds)
    (folder / "metrics.csv").write_text(HEADER + rows)
    asked = {
        **{"name": "regression", "evaluate_on": "test", "seed": seeds[0], "networks": 1 + seeds[-1] - seeds[0]},
        **{"dataset": {"name": "booth"}, "loss": {"name": method}, "n_train": 20, "optimizer": {"learning_rate": rate}},
        "labels": {"task": "booth", "method": method, "n_train": 20},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(asked))
    (folder / "summary.json").write_text(json.dumps({"objective": value, "scale": scale}))
    (folder / "manifest.json").write_text(json.dumps({"run_id": name} | MANIFEST))
    return folder


def values(results):
    path = results / "rows.csv.gz"
    rows = read_csv(path) if path.exists() else []
    return {(row["method"], row["seed"]): (row["value"], row["scale"]) for row in rows}


def test_runs_merge_with_what_is_there(tmp_path):
    collect([make_run(tmp_path, "a", 1.0)], tmp_path / "results")
    collect([make_run(tmp_path, "b", 2.0, method="sobolev")], tmp_path / "results")
    assert values(tmp_path / "results") == {
        (method, seed): (value, "reduced") for method, value in (("value", "1.0"), ("sobolev", "2.0")) for seed in "01"
    }
    assert [row["run_id"] for row in read_csv(tmp_path / "results" / "runs.csv")] == ["b", "a"]


def test_the_same_run_made_again_replaces_itself(tmp_path):
    collect([make_run(tmp_path, "a", 1.0)], tmp_path / "results")
    collect([make_run(tmp_path / "again", "a", 2.0)], tmp_path / "results")
    assert set(values(tmp_path / "results").values()) == {("2.0", "reduced")}
    assert [row["run_id"] for row in read_csv(tmp_path / "results" / "runs.csv")] == ["a"]


def test_reduced_rows_never_replace_or_join_those_at_paper_scale(tmp_path, capsys):
    collect([make_run(tmp_path, "paper", 1.0, scale="paper")], tmp_path / "results")
    reduced = [make_run(tmp_path, "same", 2.0), make_run(tmp_path, "more", 3.0, seeds=(7,))]
    collect(reduced, tmp_path / "results")
    said = [line for line in capsys.readouterr().err.splitlines() if "it is reduced" in line]
    assert [line.rpartition("/")[2] for line in said] == ["more", "same"]
    assert values(tmp_path / "results") == {("value", "0"): ("1.0", "paper"), ("value", "1"): ("1.0", "paper")}
    assert [row["run_id"] for row in read_csv(tmp_path / "results" / "runs.csv")] == ["paper"]
    collect([make_run(tmp_path, "other", 4.0, scale="paper", seeds=(8, 9))], tmp_path / "results")
    assert {seed for _, seed in values(tmp_path / "results")} == {"0", "1", "8", "9"}


def test_a_paper_run_drops_the_reduced_rows_of_its_cell(tmp_path):
    collect([make_run(tmp_path, "reduced", 1.0, seeds=(0, 1, 2))], tmp_path / "results")
    collect([make_run(tmp_path, "paper", 2.0, scale="paper", seeds=(0,))], tmp_path / "results")
    assert values(tmp_path / "results") == {("value", "0"): ("2.0", "paper")}
    assert [row["run_id"] for row in read_csv(tmp_path / "results" / "runs.csv")] == ["paper"]


@pytest.mark.parametrize("first", ["paper", "reduced"])
def test_of_two_scales_collected_at_once_paper_is_taken(tmp_path, first):
    runs = [make_run(tmp_path, scale, value, scale=scale) for scale, value in (("paper", 1.0), ("reduced", 2.0))]
    collect(runs if first == "paper" else runs[::-1], tmp_path / "results")
    assert set(values(tmp_path / "results").values()) == {("1.0", "paper")}


def test_of_two_runs_for_one_question_the_later_is_taken_and_said(tmp_path, capsys):
    runs = [make_run(tmp_path, "a", 1.0), make_run(tmp_path, "b", 2.0)]
    for age, run in enumerate(runs):
        os.utime(run / "summary.json", (100 - age, 100 - age))
    collect(runs, tmp_path / "results")
    assert set(values(tmp_path / "results").values()) == {("1.0", "reduced")}
    assert "regression/b answers the same question" in capsys.readouterr().err


@pytest.mark.parametrize("scale", ["paper", "reduced"])
def test_other_settings_are_left_out_unless_asked_for(tmp_path, capsys, scale):
    """A run of the same size with another learning rate is somebody's experiment, not the evidence."""
    results = tmp_path / "results"
    collect([make_run(tmp_path, "shipped", 1.0, scale=scale)], results)
    said = "optimizer.learning_rate is 0.2, not 0.1 as in the other runs of its cell (--replace takes it)"
    for seeds in ((0, 1, 2), (2,)):  # another seed of the cell is no excuse
        other = make_run(tmp_path, f"other_rate_{len(seeds)}", 9.0, scale=scale, seeds=seeds, rate=0.2)
        collect([other], results)
        assert set(values(results).values()) == {("1.0", scale)}
        assert said in capsys.readouterr().err
    collect([other], results, replace=True)
    assert values(results) == {("value", "2"): ("9.0", scale)}, "means are of one setting"
    assert [row["run_id"] for row in read_csv(results / "runs.csv")] == ["other_rate_1"]
    collect([make_run(tmp_path, "another_seed", 8.0, scale=scale, seeds=(3,), rate=0.2)], results)
    assert set(values(results)) == {("value", "2"), ("value", "3")}


def test_runs_of_two_settings_collected_at_once_are_not_mixed(tmp_path, capsys):
    runs = [make_run(tmp_path, f"rate_{rate}", rate, seeds=(seed,), rate=rate) for seed, rate in ((0, 0.1), (1, 0.2))]
    for age, run in enumerate(runs):
        os.utime(run / "summary.json", (100 + age, 100 + age))
    collect(runs, tmp_path / "results")
    assert values(tmp_path / "results") == {("value", "1"): ("0.2", "reduced")}, "the later says what a cell is"
    assert "optimizer.learning_rate is 0.1, not 0.2" in capsys.readouterr().err


def test_a_cell_from_before_settings_were_noted_takes_its_own_runs_and_other_seeds(tmp_path, capsys):
    results = tmp_path / "results"
    collect([shipped := make_run(tmp_path, "shipped", 1.0)], results)
    for newer in ("settings.json", "SHA256SUMS"):
        (results / newer).unlink()
    collect([make_run(tmp_path, "other_rate", 9.0, rate=0.2)], results)
    assert set(values(results).values()) == {("1.0", "reduced")}
    assert "settings are not those of shipped" in capsys.readouterr().err
    collect([shipped], results)
    assert json.loads((results / "settings.json").read_text())["regression booth value 20"] == {
        **{"name": "regression", "evaluate_on": "test", "dataset.name": "booth", "loss.name": "value", "n_train": 20},
        **{"optimizer.learning_rate": 0.1, "precision": None},
        **{"loss.distances": ["squared_l2"] * 3},  # what there was before it was a setting
    }


@pytest.mark.parametrize("edited", [{"n_train": 100}, {"dataset": 5}, {"loss": 5}])
def test_a_run_whose_config_was_edited_is_left_out(tmp_path, capsys, edited):
    asked = yaml.safe_load((make_run(tmp_path / "any", "a", 1.0) / "config.yaml").read_text())
    run = make_run(tmp_path, f"booth-value-n20-seed0-{digest_of(asked)}", 1.0)
    other = make_run(tmp_path, "b", 2.0, method="sobolev")
    (run / "config.yaml").write_text(yaml.safe_dump(asked | edited))
    assert not collect([run, other], tmp_path / "results")
    assert capsys.readouterr().err == (
        f"left out, config.yaml was edited: the run's name follows from other settings: {run}\n"
    )
    assert {method for method, _ in values(tmp_path / "results")} == {"sobolev"}
    (run / "config.yaml").write_text(yaml.safe_dump(asked))
    assert collect([run], tmp_path / "results")
    assert {method for method, _ in values(tmp_path / "results")} == {"value", "sobolev"}


def test_settings_name_a_file_by_its_digest_and_not_by_its_place(tmp_path, capsys):
    """Which would be someone's home, and the same teacher at two places would be two settings."""
    for name, home in (("a", "/home/one"), ("b", "/home/two")):
        run = make_run(tmp_path, name, 1.0, seeds=(0,) if name == "a" else (1,))
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["dataset"] |= {"teacher": f"{home}/teacher.safetensors", "teacher_sha256": "0a1b"}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        assert collect([run], tmp_path / "results")
    (settings,) = json.loads((tmp_path / "results" / "settings.json").read_text()).values()
    assert settings["dataset.teacher_sha256"] == "0a1b"
    assert "dataset.teacher" not in settings
    assert len(values(tmp_path / "results")) == 2, capsys.readouterr().err


def test_a_run_that_diverged_is_left_out(tmp_path, capsys):
    """Whether or not it notes what it ended with."""
    noted, unnoted = (make_run(tmp_path, name, float("nan")) for name in ("noted", "unnoted"))
    (unnoted / "summary.json").write_text('{"objective": 1.0, "scale": "reduced"}')
    collect([noted, unnoted], tmp_path / "results")
    assert not values(tmp_path / "results")
    said = capsys.readouterr().err
    assert "left out, summary.json: objective: Input should be a finite number" in said
    assert "left out, not every value is finite" in said


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("metrics.csv", None, "there is no file"),
        ("manifest.json", None, "there is no file"),
        ("summary.json", '{"objective": 1.0', "EOF while parsing an object"),
        ("summary.json", '{"objective": 1.0}', "its summary gives no scale (paper or reduced)"),
        ("metrics.csv", HEADER, "it recorded no rows"),
        ("metrics.csv", HEADER + "regression,booth,value\n", "line 2: 3 fields, not 9"),
    ],
)
def test_a_damaged_run_is_left_out_and_the_others_are_taken(tmp_path, capsys, file, content, said):
    """A folder that was copied in part, or an experiment of one's own that gives no scale."""
    damaged, whole = make_run(tmp_path, "a", 1.0, seeds=(7,)), make_run(tmp_path, "b", 2.0)
    (damaged / file).unlink() if content is None else (damaged / file).write_text(content)
    collect([damaged, whole], tmp_path / "results")
    assert {seed for _, seed in values(tmp_path / "results")} == {"0", "1"}
    assert said in capsys.readouterr().err


def test_what_was_measured_on_validation_data_is_no_evidence(tmp_path, capsys):
    run = make_run(tmp_path, "a", 1.0)
    with (run / "config.yaml").open("a") as file:
        file.write("evaluate_on: validation\n")
    collect([run], tmp_path / "results")
    assert not values(tmp_path / "results")
    assert "validation" in capsys.readouterr().err


def test_rows_that_are_not_what_the_run_wrote_are_left_out(tmp_path, capsys):
    run = make_run(tmp_path, "a", 1.0)
    manifest = json.loads((run / "manifest.json").read_text())
    written = hashlib.sha256((run / "metrics.csv").read_bytes()).hexdigest()
    (run / "manifest.json").write_text(json.dumps(manifest | {"metrics_sha256": written}))
    collect([run], tmp_path / "results")
    assert len(values(tmp_path / "results")) == 2
    (run / "metrics.csv").write_text((run / "metrics.csv").read_text().replace("1.0", "7.0"))
    collect([run], tmp_path / "elsewhere")
    assert not values(tmp_path / "elsewhere")
    assert "not what the run wrote" in capsys.readouterr().err


def test_a_cells_arrays_are_those_of_the_run_that_has_its_first_seed(tmp_path):
    """Of two runs with that seed, the one whose rows are taken."""
    runs = [make_run(tmp_path, name, 1.0, seeds=seeds) for name, seeds in (("b", (0, 1)), ("a", (0, 2)), ("c", (3,)))]
    for age, run in enumerate(runs):
        write_surface(run / "surface.npz", make_surface(slope=age))
        os.utime(run / "summary.json", (100 + age, 100 + age))
    collect(runs, tmp_path / "results")
    assert {row["run_id"] for row in read_csv(tmp_path / "results" / "runs.csv")} == {"a", "b", "c"}
    (surface,) = (tmp_path / "results" / "surfaces").iterdir()
    assert surface.read_bytes() == (runs[1] / "surface.npz").read_bytes()


def test_arrays_that_no_figure_shows_are_not_kept(tmp_path, monkeypatch):
    run = make_run(tmp_path, "a", 1.0)
    write_surface(run / "surface.npz", make_surface())
    monkeypatch.setattr("experiments.evidence.collect.NOT_DRAWN", {run.parent.name})
    collect([run], tmp_path / "results")
    assert len(read_csv(tmp_path / "results" / "runs.csv")) == 1
    assert not (tmp_path / "results" / "surfaces").exists()


def test_gaps_and_mixed_revisions_are_said():
    runs = [
        {"experiment": "regression", "task": task, "method": method, "n_train": "20", "revision": rev, "dirty": dirty}
        for task, method, rev, dirty in (
            ("booth", "value", "1111111", "False"),
            ("booth", "sobolev", "1111111", "False"),
            ("beale", "value", "2222222", "True"),
        )
    ]
    assert gaps(runs) == [
        "regression lacks 1 cells of its grid: beale sobolev 20",
        "regression is from 2 revisions: 1111111, 2222222-dirty",
    ]
    assert not gaps(runs[:2])


def test_data_sets_of_their_own_sizes_span_no_sizes():
    sizes = {"digits": "1437", "mnist": "60000"}
    runs = [
        {"experiment": "e", "task": task, "method": method, "n_train": n, "revision": "1", "dirty": "False"}
        for task, n in sizes.items()
        for method in ("critic", "sobolev")
    ]
    assert not gaps(runs)
    assert gaps(runs[:3]) == ["e lacks 1 cells of its grid: mnist sobolev 60000"]


@pytest.mark.parametrize(
    ("experiment", "folder"),
    [
        ("regression", "regression"),
        ("regression_normalised", "regression"),
        ("theory_exact", "theory"),
        ("distill_atari", "distillation"),
        ("train_teacher", "teachers"),
        ("synthetic_gradients", "synthetic_gradients"),
        ("synthetic_gradients_imagenet", "synthetic_gradients"),
        ("surrogate_reactor", "surrogates"),
        ("mine_too", "mine"),
    ],
)
def test_an_experiment_has_one_folder(experiment, folder):
    assert results_folder(experiment) == folder


def test_every_shipped_experiment_goes_to_the_folder_of_its_domain():
    names = [path.stem for path in (CONFIGS / "experiment").glob("*.yaml")]
    shipped = {results_folder(composed(f"experiment={name}").name) for name in names}
    assert shipped <= {"regression", "theory", "distillation", "teachers", "synthetic_gradients", "surrogates"}


def test_collecting_sorts_runs_by_domain(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path, "a", 1.0)
    run.parent.rename(tmp_path / "synthetic_gradients_mine")
    run = tmp_path / "synthetic_gradients_mine" / "a"
    for file in (run / "config.yaml", run / "metrics.csv"):
        file.write_text(re.sub(r"\bregression\b", "synthetic_gradients_mine", file.read_text()))
    arguments = ["--runs", str(tmp_path), "--results", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", ["collect", *arguments])
    main()
    assert len(values(tmp_path / "results" / "synthetic_gradients")) == 2
    assert capsys.readouterr().out == f"{tmp_path / 'results' / 'synthetic_gradients'}: 1 runs\n"


def test_a_folder_of_runs_that_is_not_there_is_said(tmp_path, monkeypatch):
    make_run(tmp_path, "a", 1.0)
    monkeypatch.setattr(sys, "argv", ["collect", "--runs", str(tmp_path), "regression"])
    with pytest.raises(SystemExit, match="there is no regression: --runs takes folders and bundles; experiments come"):
        main()
