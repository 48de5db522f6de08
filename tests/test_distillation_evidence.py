"""From rows of distillation to claims and figures, and from the search's runs to the tuned configs."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.config import register
from scripts import distillation_figures, tune_distillation
from scripts.claims import Evidence
from scripts.claims.distillation import DISTILLATION, GAMES, SIZES, log_ratios, overfitting, uniform_share
from scripts.distillation_figures import cosine, read_saliencies
from scripts.report import report
from scripts.rows import DTYPE, read_rows
from tests.conftest import CONFIGS
from tests.test_scripts import write_rows

STEPS = (0, 10, 100)


def as_in_the_paper(game: str, n_train: int) -> float:
    return 0.02 if game == "pong" else 0.5 if n_train <= 5_000 else 0.2


def make_rows(
    log10_ratio: Callable[[str, int], float] = as_in_the_paper,
    seeds: int = 8,
    games=tuple(GAMES),
    sizes=SIZES,
    overfitted: Callable[[str, str], float] = lambda method, game: 1.5 if method == "value" else 1.0,
    uniform: float = 0.8,
    scale: str = "paper",
) -> np.ndarray:
    """Rows of both methods whose final test errors differ by the ratio asked for, and were `overfitted` times less."""
    rng = np.random.default_rng(1)
    rows = []
    for game, n_train, seed in itertools.product(games, sizes, range(seeds)):
        base, wobble = rng.normal(-1, 0.3), rng.normal(0, 0.01)
        for method in ("value", "sobolev"):
            cell = ("distill_atari", game, method, n_train, seed)
            end = 10 ** (base - (log10_ratio(game, n_train) + wobble if method == "sobolev" else 0))
            values = (10 * end, end / overfitted(method, game), end)
            for (step, value), metric in itertools.product(
                zip(STEPS, values, strict=True), ("kl", "action_error", "gradient_error")
            ):
                rows.append((*cell, step, "test", metric, value, scale))
                rows.append((*cell, step, "train", metric, value / 2, scale))
            for metric, value in {"entropy": 1.0, "nearly_uniform": uniform, "gradient_norm": 50.0}.items():
                rows.append((*cell, 0, "teacher", metric, value, scale))
            rows.append((*cell, STEPS[-1], "play", "score", 100.0, scale))
            rows.append((*cell, STEPS[-1], "play", "kl", end, scale))
    return np.array(rows, dtype=DTYPE)


def verdicts(rows: np.ndarray) -> dict[str, str]:
    return {claim.key: claim.judge(Evidence(rows, {})).verdict for claim in DISTILLATION.claims}


def test_verdicts_where_all_is_as_in_the_paper():
    assert set(verdicts(make_rows()).values()) == {"reproduced"}


def test_log_ratios_are_paired_and_leave_zeros_out():
    rows = make_rows(lambda game, n: 0.3, seeds=6)
    assert all(abs(ratio.median - 0.3) < 0.02 for ratio in log_ratios(rows, "kl").values())
    zero = (rows["metric"] == "action_error") & (rows["seed"] == 0) & (rows["method"] == "sobolev")
    rows["value"][zero] = 0
    assert {ratio.n for ratio in log_ratios(rows, "action_error").values()} == {5}


def test_a_cell_whose_errors_are_0_was_run_and_has_no_ratio():
    rows = make_rows(seeds=6)
    cell = (rows["task"] == "breakout") & (rows["n_train"] == 1_000) & (rows["metric"] == "action_error")
    rows["value"][cell & (rows["method"] == "sobolev") & (rows["step"] == STEPS[-1])] = 0
    assert log_ratios(rows, "action_error")["breakout", 1_000].n == 0
    finding = next(claim for claim in DISTILLATION.claims if claim.key == "D1").judge(Evidence(rows, {}))
    assert finding.verdict == "reproduced"  # the other 4 of 5 sizes are won
    assert "action-prediction error: Breakout at 1,000 no ratio (in every seed a method's error is 0)" in finding.ours
    assert "Missing" not in finding.ours
    assert "nan" not in finding.ours
    half = rows[~(cell & (rows["method"] == "sobolev"))]
    assert ("breakout", 1_000) not in log_ratios(half, "action_error")


def test_the_introduction_is_true_of_the_tuned_configs():
    """It says that each file tells whether it was chosen on validation episodes."""
    assert "`configs/tuned/`, where each file says whether" in DISTILLATION.introduction
    files = sorted((CONFIGS / "tuned" / "atari").glob("*.yaml"))
    assert len(files) == 9
    for path in files:
        assert re.search(r"^# (Not tuned yet: defaults|Written by .*: validation KL)", path.read_text(), re.MULTILINE)


def test_overfitting_is_the_end_over_the_minimum():
    rows = make_rows(seeds=2)
    ratios = overfitting(rows, task="breakout", n_train=1_000, method="value")
    assert ratios == pytest.approx({0: 1.5, 1: 1.5})
    assert uniform_share(rows) == {game: 0.8 for game in GAMES}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (make_rows(lambda game, n: -0.3), {"D1": "not reproduced", "D1, little data": "inconclusive"}),
        (
            make_rows(lambda game, n: 0.0 if n < 5_000 else 0.5),
            {"D1": "reproduced", "D1, little data": "not reproduced"},
        ),
        (
            make_rows(lambda game, n: 0.5 if n < 5_000 else -0.5),
            {"D1": "not reproduced", "D1, little data": "reproduced"},
        ),
        (make_rows(seeds=5), {"D1": "inconclusive", "D2": "inconclusive", "D3": "inconclusive"}),
        (make_rows(overfitted=lambda method, game: 1.3), {"D1": "reproduced", "D2": "not reproduced"}),
        (make_rows(overfitted=lambda method, game: 1.0), {"D2": "inconclusive"}),
        (make_rows(uniform=0.2), {"D3": "not reproduced"}),
        (make_rows(lambda game, n: 0.5 if game == "pong" else 0.1), {"D1": "reproduced", "D3": "not reproduced"}),
        (make_rows(games=("breakout",)), {"D1": "not run", "D2": "not run", "D3": "not run"}),
        (make_rows(sizes=(1_000, 50_000)), {"D1": "not run", "D1, little data": "reproduced"}),
        (make_rows()[:0], {"D1": "not run", "D1, little data": "not run", "D2": "not run", "D3": "not run"}),
    ],
)
def test_each_rule_turns_on_its_cells(rows, expected):
    found = verdicts(rows)
    assert {key: found[key] for key in expected} == expected


def test_the_report_names_what_is_missing():
    text = report(Evidence(make_rows(games=("breakout",)), {}), [DISTILLATION])
    assert "Missing: Space Invaders at 1,000, 5,000, 10,000, 25,000, 50,000" in text
    assert re.search(r"Breakout at 1,000 3\.[12]", text)  # 10^0.5
    assert "| Breakout | 1,000 | value |" in text
    assert "nearly uniform on 80% of the states" in text


# Figures


@pytest.fixture
def results(tmp_path):
    """What collecting leaves: one game, two sizes, three seeds, and one state's gradients."""
    rows = make_rows(games=("breakout",), sizes=(1_000, 5_000), seeds=3, scale="reduced")
    write_rows(tmp_path / "distillation" / "rows.csv", rows)
    rng = np.random.default_rng(0)
    state = rng.integers(0, 256, (2, 4, 84, 84), dtype=np.uint8)
    teacher = rng.normal(size=(2, 4, 84, 84)).astype(np.float16)
    (tmp_path / "distillation" / "saliency").mkdir()
    for method, share in (("value", 0.0), ("sobolev", 1.0)):
        student = share * teacher + (1 - share) * rng.normal(size=teacher.shape)
        np.savez(
            tmp_path / "distillation" / "saliency" / f"distill_atari_breakout_{method}_1000.npz",
            state=state,
            teacher_gradient=teacher,
            student_gradient=student.astype(np.float16),
            scale="reduced",
        )
    return tmp_path


def test_the_figure_of_teachers_shows_their_rows(tmp_path):
    rows = [
        ("train_teacher", "pong", "ppo", 9, 0, step, split, metric, value, "reduced")
        for step, split, mean in ((4, "train", -20.0), (9, "train", 3.0), (9, "test", 15.0))
        for metric, value in (("score", mean), ("score_std", 2.0))
    ]
    write_rows(tmp_path / "teachers" / "rows.csv", np.array(rows, dtype=DTYPE))
    assert distillation_figures.main(["teachers", "--results", str(tmp_path)]) == 0
    (axes,) = distillation_figures.teachers(read_rows(tmp_path / "teachers" / "rows.csv")).axes
    assert axes.lines[0].get_ydata().tolist() == [-20, 3]
    assert axes.lines[1].get_ydata().tolist() == [15]


def test_every_figure_renders(results, tmp_path, capsys):
    assert distillation_figures.main(["--results", str(results), "--out", str(tmp_path / "figures")]) == 0
    printed = capsys.readouterr().out.split()
    assert len(printed) == 6
    drawn = tmp_path / "figures" / "distillation_final_values.png"
    content = drawn.read_bytes()
    assert distillation_figures.main(["final_values", "--results", str(results), "--out", str(drawn.parent)]) == 0
    assert drawn.read_bytes() == content  # the same rows give the same file


def test_the_gradient_figure_shows_what_was_recorded(results):
    saliencies = read_saliencies(results / "distillation" / "saliency")
    figure = distillation_figures.saliency(saliencies, "breakout", 1_000)
    assert [axes.get_title() for axes in figure.axes[:4]] == ["newest frame", "teacher", "value only", "Sobolev"]
    numbers = [float(axes.texts[0].get_text()) for axes in figure.axes[2:4]]
    assert abs(numbers[0]) < 0.05
    assert numbers[1] == 1.0
    shown = figure.axes[1].images[0].get_array()
    np.testing.assert_allclose(shown, saliencies["breakout", "value", 1_000].teacher_SCHW[0, -1].astype(float))
    assert cosine(np.zeros(3), np.ones(3)) == 0


def test_figure_4_draws_the_medians(results):
    rows = make_rows(games=("breakout",), sizes=(1_000,), seeds=3)
    figure = distillation_figures.figure_4(rows)
    assert len(figure.axes) == 2
    cell = rows[(rows["method"] == "value") & (rows["metric"] == "action_error") & (rows["split"] == "test")]
    expected = [np.median(cell[cell["step"] == step]["value"]) for step in STEPS[1:]]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), expected)
    assert not any("REDUCED" in text.get_text() for text in figure.texts)


def test_missing_rows_and_names_are_said(tmp_path, results, capsys):
    assert distillation_figures.main(["--results", str(tmp_path / "nothing")]) == 0  # `make figures` goes on
    assert distillation_figures.main(["figure_4", "--results", str(tmp_path / "nothing")]) == 1
    assert "make teachers distillation" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        distillation_figures.main(["figure_5"])
    broken = results / "distillation" / "saliency" / "distill_atari_breakout_value_1000.npz"
    broken.write_bytes(broken.read_bytes()[:100])
    assert distillation_figures.main(["--results", str(results)]) == 1
    assert "cannot be read" in capsys.readouterr().err


# Tuning


def asked(approach: str = "sobolev", alpha: float = 0.1, rate: float = 3e-4, game: str = "pong", **other) -> dict:
    """A search run's config, as far as choosing reads it; a dotted key of `other` has __ for its dot."""
    config = {
        **{"seed": 1000, "runs_dir": "runs", "evaluate_on": "validation", "n_train": 5000},
        "dataset": {"game": game, "folder": "data/atari"},
        "student": {"hidden": 256},
        "objective": {"name": approach, "kl_weight": float(approach != "derivative"), "gradient_weight": alpha},
        "optimizer": {"learning_rate": rate, "steps": 5000},
        "labels": {"method": f"{approach}_lr{rate}_alpha{alpha}"},
        **{"recorder": {"group": "figure_4_search"}, "compute": {"threads": 1, "precision": "float32"}},
    }
    for key, value in other.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    return config


def write_runs(folder: Path, configs: list[dict], kl: list[float]) -> list[str]:
    """Complete runs, and the arguments that choose among them."""
    for number, (config, value) in enumerate(zip(configs, kl, strict=True)):
        run = folder / "runs" / "distill_atari_search" / str(number)
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        (run / "summary.json").write_text(json.dumps({"objective": value}))
    return ["--runs", str(folder / "runs"), "--configs", str(folder)]


def test_the_least_validation_kl_is_chosen(tmp_path, capsys):
    kl = {1e-4: [0.3, 0.1, 0.2], 3e-4: [0.15, 0.16, 0.9], 1e-3: [0.4, 0.4, 0.4]}
    configs = [asked(rate=rate, seed=seed) for rate in kl for seed in range(3)]
    arguments = write_runs(tmp_path, configs, [value for by_seed in kl.values() for value in by_seed])
    assert tune_distillation.main(arguments) == 0
    written = tmp_path / "tuned" / "atari" / "pong_sobolev.yaml"
    assert yaml.safe_load(written.read_text()) == {
        "optimizer": {"learning_rate": 0.0003},
        "objective": {"gradient_weight": 0.1},
    }
    assert written.read_text().startswith("# @package _global_\n")
    said = capsys.readouterr()
    assert "learning rate 0.0003, alpha 0.1" in said.out
    assert "end of its grid" not in said.err
    assert tune_distillation.main(["--runs", str(tmp_path / "none")]) == 1


def test_approaches_games_and_machines_may_differ(tmp_path):
    configs = [
        *(asked("value", 0.0), asked("sobolev", 0.1), asked("sobolev", 0.3), asked("derivative", 1.0)),
        asked("value", 0.0, compute__threads=16, dataset__folder="elsewhere", seed=1001),
        asked("value", 0.0, game="breakout", optimizer__steps=9),
    ]
    assert tune_distillation.main(write_runs(tmp_path, configs, [0.1] * len(configs))) == 0
    names = {"pong_value", "pong_sobolev", "pong_derivative", "breakout_value"}
    assert {path.stem for path in (tmp_path / "tuned" / "atari").iterdir()} == names


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (asked(rate=1e-3, evaluate_on="test"), "1 was measured with evaluate_on=test: choose on validation alone"),
        (asked(rate=1e-3, optimizer__steps=50), r"1 and .*0 differ in optimizer.steps \(50 and 5000\)"),
        (asked(rate=1e-3, n_train=10), r"differ in n_train \(10 and 5000\)"),
        (asked(rate=1e-3, student__hidden=64), r"differ in student.hidden \(64 and 256\)"),
        (asked(rate=1e-3, compute__precision="float64"), r"differ in precision \(float64 and float32\)"),
        (asked(rate=1e-3, products="float32"), r"differ in products \(float32 and None\)"),
        (asked(rate=1e-3, objective__kl_weight=2.0), r"differ in objective.kl_weight \(2.0 and 1.0\)"),
        (asked("value", 0.0, optimizer__steps=50), r"differ in optimizer.steps \(50 and 5000\)"),
    ],
)
def test_runs_of_several_searches_and_test_episodes_are_refused(tmp_path, capsys, second, said):
    assert tune_distillation.main(write_runs(tmp_path, [asked(), second], [0.1, 0.2])) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(said, error)
    assert not (tmp_path / "tuned").exists()


def jobs(sweep: str) -> list[dict]:
    """The configs of a sweep's runs of one game, as they write them."""
    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        params = compose("config", [f"sweep={sweep}"], return_hydra_config=True).hydra.sweeper.params
        grid = [[f"{key}={choice}" for choice in str(choices).split(",")] for key, choices in params.items()]
        grid = [choices[:1] if choices[0].startswith("dataset=") else choices for choices in grid]
        configs = [compose("config", [f"sweep={sweep}", *job]) for job in itertools.product(*grid)]
    return [OmegaConf.to_container(config, resolve=True, enum_to_str=True) for config in configs]


def test_the_search_is_fair_and_apart_from_what_is_published(tmp_path):
    """As many choices for either approach, no seed of Figure 4, rates in the paper's range, and runs that compare."""
    value, sobolev = jobs("figure_4_search_value"), jobs("figure_4_search")
    rates = [{job["optimizer"]["learning_rate"] for job in approach} for approach in (value, sobolev)]
    assert len(value) == len(sobolev) == len(rates[0])
    assert rates[1] < rates[0]
    assert (min(rates[0]), max(rates[0])) == (1e-5, 1e-3)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        params = compose("config", ["sweep=figure_4"], return_hydra_config=True).hydra.sweeper.params
    assert not {str(job["seed"]) for job in value + sobolev} & set(params.seed.split(","))
    both = value + sobolev
    assert tune_distillation.main(write_runs(tmp_path, both, [0.1] * len(both))) == 0
