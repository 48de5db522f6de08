"""From rows of distillation to claims and figures."""

import itertools
import json
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from experiments.distillation import figures as distillation_figures
from experiments.distillation.appendix import longer, shortcut
from experiments.distillation.claims import DISTILLATION, PAPER_GAMES, SIZES, log_ratios, overfitting, uniform_share
from experiments.distillation.figures import cosine, read_saliencies
from experiments.distillation.names import GAMES
from experiments.evidence.collect import as_csv
from experiments.evidence.reading import EvidenceError, read_csv
from experiments.evidence.report import report
from experiments.evidence.rows import as_rows, final, read_rows, select
from experiments.evidence.schemas import RUNS
from experiments.evidence.verdicts import Evidence, Finding
from scripts import figures as draw_figures
from tests.conftest import CONFIGS
from tests.test_scripts import joined, write_rows

STEPS = (0, 10, 100)


def as_in_the_paper(game: str, n_train: int) -> float:
    return 0.02 if game == "pong" else 0.5 if n_train <= 5_000 else 0.2


def make_rows(
    log10_ratio: Callable[[str, int], float] = as_in_the_paper,
    seeds: int = 8,
    games=PAPER_GAMES,
    sizes=SIZES,
    overfitted: Callable[[str, str], float] = lambda method, game: 1.5 if method == "value" else 1.0,
    uniform: float = 0.8,
    scale: str = "paper",
) -> pd.DataFrame:
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
    return as_rows(rows)


def findings(rows: pd.DataFrame) -> dict[str, Finding]:
    return {claim.key: claim.judge(Evidence(rows, {})) for claim in DISTILLATION.claims}


def verdicts(rows: pd.DataFrame) -> dict[str, str]:
    return {key: finding.verdict for key, finding in findings(rows).items()}


def test_verdicts_where_all_is_as_in_the_paper():
    assert set(verdicts(make_rows()).values()) == {"reproduced"}


def test_a_game_or_size_of_ones_own_leaves_every_finding_as_it_was(monkeypatch):
    rows = make_rows()
    game, size = (rows[rows["task"] == "pong"].copy() for _ in range(2))
    game["task"], size["n_train"] = "mine", size["n_train"] + 7
    for mine in (game, size):
        mine["value"], mine["scale"] = 1 / (1 + mine["value"]), "reduced"
    before = findings(rows)
    assert {finding.scale for finding in before.values()} == {"paper"}
    assert findings(joined(rows, size)) == findings(joined(rows, game)) == before
    monkeypatch.setitem(GAMES, "mine", "Mine")  # with a title
    assert findings(rows) == findings(joined(rows, game)) == before


def test_log_ratios_are_paired_and_leave_zeros_out():
    rows = make_rows(lambda game, n: 0.3, seeds=6)
    assert all(abs(ratio.median - 0.3) < 0.02 for ratio in log_ratios(rows, "kl").values())
    zero = (rows["metric"] == "action_error") & (rows["seed"] == 0) & (rows["method"] == "sobolev")
    rows.loc[zero, "value"] = 0
    assert {ratio.n for ratio in log_ratios(rows, "action_error").values()} == {5}


def test_a_cell_whose_errors_are_0_was_run_and_has_no_ratio():
    rows = make_rows(seeds=6)
    cell = (rows["task"] == "breakout") & (rows["n_train"] == 1_000) & (rows["metric"] == "action_error")
    rows.loc[cell & (rows["method"] == "sobolev") & (rows["step"] == STEPS[-1]), "value"] = 0
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
    assert len(files) >= 9
    for path in files:
        assert re.search(r"^# (Not tuned yet: defaults|Written by .*: validation KL)", path.read_text(), re.MULTILINE)


def test_overfitting_is_the_end_over_the_minimum():
    rows = make_rows(seeds=2)
    ratios = overfitting(rows, task="breakout", n_train=1_000, method="value")
    assert ratios == pytest.approx({0: 1.5, 1: 1.5})
    assert uniform_share(rows) == dict.fromkeys(PAPER_GAMES, 0.8)


def test_a_student_that_learned_nothing_is_no_evidence_against_overfitting():
    rows = make_rows(seeds=8)
    dead = (rows["task"] == "breakout") & (rows["n_train"] == 1_000) & (rows["method"] == "sobolev")
    dead &= (rows["metric"] == "kl") & (rows["split"] == "test")
    first = rows["value"][dead & (rows["step"] == STEPS[0])].max()
    rows.loc[dead & (rows["seed"] == 0), "value"] = first
    assert 0 not in overfitting(rows, task="breakout", n_train=1_000, method="sobolev")
    assert 1 in overfitting(rows, task="breakout", n_train=1_000, method="sobolev")
    (claim,) = (claim for claim in DISTILLATION.claims if claim.key == "D2")
    assert "1 of 120 students with method sobolev" in claim.judge(Evidence(rows, {})).ours
    rows.loc[dead, "value"] = first
    assert claim.judge(Evidence(rows, {})).verdict != "not run"


def test_students_that_overfit_count_though_all_without_gradients_learned_nothing():
    rows = make_rows(seeds=8)
    cell = (rows["task"] == "breakout") & (rows["n_train"] == 1_000) & (rows["metric"] == "kl")
    cell &= rows["split"] == "test"
    rows.loc[cell & (rows["method"] == "sobolev") & (rows["step"] == STEPS[1]), "value"] /= 3
    rows.loc[cell & (rows["method"] == "value"), "value"] = rows["value"][cell].max()
    (claim,) = (claim for claim in DISTILLATION.claims if claim.key == "D2")
    finding = claim.judge(Evidence(rows, {}))
    assert finding.verdict == "not reproduced"
    assert "Breakout at 1,000: 3 [3, 3] (value only: none learned)" in finding.ours


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
        (make_rows(sizes=(1_000, 50_000)), {"D1": "not run", "D1, little data": "not run", "D2": "not run"}),
        (
            make_rows(sizes=(1_000, 5_000, 25_000)),
            {"D1": "reproduced", "D1, little data": "reproduced", "D2": "reproduced", "D3": "reproduced"},
        ),
        (make_rows(lambda game, n: 0.5 if n < 25_000 else -0.5, sizes=(1_000, 5_000, 25_000)), {"D1": "reproduced"}),
        (make_rows(lambda game, n: 0.5 if n < 5_000 else -0.5, sizes=(1_000, 5_000, 25_000)), {"D1": "not reproduced"}),
        (make_rows()[:0], {"D1": "not run", "D1, little data": "not run", "D2": "not run", "D3": "not run"}),
    ],
)
def test_each_rule_turns_on_its_cells(rows, expected):
    found = verdicts(rows)
    assert {key: found[key] for key in expected} == expected


def test_float32_is_compared_with_bfloat16_seed_by_seed():
    rows = make_rows(games=("breakout", "pong"), sizes=(1_000,), seeds=3)
    again = select(rows, method="sobolev").copy()
    again["experiment"] = "distill_float32"
    again.loc[again["task"] == "pong", "value"] *= 30
    again = again[(again["task"] == "pong") | (again["seed"] < 2)]
    table = [line for line in shortcut(Evidence(joined(rows, again), {})).splitlines() if "1,000" in line]
    breakout, pong = ([entry.strip() for entry in line.split("|")[1:-1]] for line in table)
    assert breakout[:2] == ["Breakout", "1,000"]
    assert breakout[2] == breakout[3]
    assert breakout[2].count(",") == 1  # of two seeds
    assert breakout[4] == "0"
    assert breakout[6] == "yes"
    ends = final(rows, task="pong", method="sobolev", split="test", metric="kl")
    assert float(pong[4]) == pytest.approx(29 * max(ends.values()), rel=0.01)
    assert float(pong[5]) == pytest.approx(max(ends.values()) - min(ends.values()), rel=0.01)
    assert pong[6] == "no"
    assert shortcut(Evidence(rows, {})) == ""


def test_longer_training_stands_beneath_the_same_cell():
    rows = make_rows(games=("breakout", "pong"), sizes=(1_000,), seeds=3)
    again = select(rows, task="breakout").copy()
    again["experiment"] = "distill_longer"
    again["step"] *= 5
    again.loc[(again["method"] == "value") & (again["metric"] == "kl"), "value"] *= 2
    lines = [line for line in longer(Evidence(joined(rows, again), {})).splitlines() if "1,000" in line]
    before, after = ([entry.strip() for entry in line.split("|")[1:-1]] for line in lines)
    last = int(rows["step"].max())
    assert (before[:3], after[:3]) == (["Breakout", "1,000", f"{last:,}"], ["Breakout", "1,000", f"{5 * last:,}"])
    assert float(after[3]) == pytest.approx(2 * float(before[3]), rel=0.01)  # value-only, test
    assert after[4] == before[4]
    ratios = [float(entries[-2].split()[0]) for entries in (before, after)]
    assert ratios[1] == pytest.approx(2 * ratios[0], rel=0.02)
    assert longer(Evidence(rows, {})) == ""


DIFFERENCES = {"distill_float32": ["compute_dtype"], "distill_longer": ["optimizer.steps"]}


def test_shipped_runs_of_a_comparison_differ_by_nothing_else():
    settings = json.loads((CONFIGS.parent / "results" / "distillation" / "settings.json").read_text())
    for name, expected in DIFFERENCES.items():
        for cell in settings:
            if cell.startswith(f"{name} "):
                other = settings[cell.replace(name, "distill_atari")]
                assert {key for key in other if settings[cell].get(key) != other[key]} == {"name", *expected}, cell


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
    write_rows(tmp_path / "distillation" / "rows.csv.gz", rows)
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
    write_rows(tmp_path / "teachers" / "rows.csv.gz", as_rows(rows))
    assert draw_figures.main(["teachers", "--results", str(tmp_path)]) == 0
    (axes,) = distillation_figures.teachers(read_rows(tmp_path / "teachers" / "rows.csv.gz"), {}).axes
    assert axes.lines[0].get_ydata().tolist() == [-20, 3]
    assert axes.lines[1].get_ydata().tolist() == [15]


def test_each_run_of_a_teacher_is_a_line_of_its_own():
    """A longer run and another algorithm of the same game and seed are not joined into one."""
    runs = {("a2c", 9): -7.0, ("ppo", 4): -20.0, ("ppo", 9): 3.0}
    rows = [
        ("train_teacher", "pong", method, n_train, 0, step, split, metric, value, "reduced")
        for step in (2, 4)
        for (method, n_train), mean in runs.items()
        for split in ("train", "test")[: 1 + (step == 4)]
        for metric, value in (("score", mean + step), ("score_std", 2.0))
    ]
    (axes,) = distillation_figures.teachers(as_rows(rows), {}).axes
    curves = [line for line in axes.lines if line.get_linestyle() != "None"]
    assert [line.get_ydata().tolist() for line in curves] == [[mean + 2, mean + 4] for mean in runs.values()]
    assert [line.get_xdata().tolist() for line in curves] == [[2e-6, 4e-6]] * 3
    assert len({line.get_color() for line in curves}) == len(axes.get_legend().get_texts()) == 3


def test_a_training_that_goes_on_is_drawn_where_the_one_before_ended(tmp_path):

    def card(run_id: str, steps: int, before: dict | None = None) -> dict:
        training = {"algorithm": "ppo", "steps": steps}
        played = {"sha256": "0", "options": {}, "training": training, "score": {"mean": 0.0}}
        return {"run_id": run_id, **played, "before": before}

    first = card("pong-ppo-n4-seed0-0a", 4)
    second = card("pong-ppo_continued-n2-seed0-0b", 6, first)
    third = card("pong-ppo_continued-n9-seed0-0c", 15, second)
    other = third | {"run_id": "pong-ppo_continued-n9-seed0-0d", "before": third}  # whose rows were not collected
    (tmp_path / "pong.json").write_text(json.dumps(other))
    foreign = card("breakout-ppo_continued-n9-seed0-0e", 9, {"sha256": "0f"})
    (tmp_path / "breakout.json").write_text(json.dumps(foreign))
    shipped = read_csv(CONFIGS.parent / "results" / "teachers" / "runs.csv", RUNS)[0]
    collected = [shipped | {"run_id": run["run_id"]} for run in (first, second, third)]
    (tmp_path / "runs.csv").write_bytes(as_csv(RUNS, collected))
    steps_before = distillation_figures.read_steps_before(tmp_path)
    assert steps_before == {third["run_id"]: 6, second["run_id"]: 4, first["run_id"]: 0}
    rows = [
        ("train_teacher", "pong", *run, 0, run[1], split, metric, 1.0, "reduced")
        for run in (("ppo", 4), ("ppo_continued", 2), ("ppo_continued", 9))
        for split in ("train", "test")
        for metric in ("score", "score_std")
    ]
    (axes,) = distillation_figures.teachers(as_rows(rows), steps_before).axes
    assert [line.get_xdata().tolist() for line in axes.lines[::2]] == [[4e-6], [6e-6], [15e-6]]
    assert [line.get_xdata().tolist() for line in axes.lines[1::2]] == [[4e-6], [6e-6], [15e-6]]
    (tmp_path / "pong.json").write_text("{}]")
    with pytest.raises(EvidenceError, match=r"pong\.json: Invalid JSON"):
        distillation_figures.read_steps_before(tmp_path)


def test_every_figure_renders(results, tmp_path, capsys):
    assert draw_figures.main(["--results", str(results), "--out", str(tmp_path / "figures")]) == 0
    printed = capsys.readouterr().out.split()
    assert len(printed) == 3
    drawn = tmp_path / "figures" / "distillation_final_values.png"
    content = drawn.read_bytes()
    assert draw_figures.main(["final_values", "--results", str(results), "--out", str(drawn.parent)]) == 0
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
    assert draw_figures.main(["--results", str(tmp_path / "nothing")]) == 1
    assert draw_figures.main(["figure_4", "--results", str(tmp_path / "nothing")]) == 1
    assert "make teachers distillation" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        draw_figures.main(["figure_5"])
    broken = results / "distillation" / "saliency" / "distill_atari_breakout_value_1000.npz"
    broken.write_bytes(broken.read_bytes()[:100])
    assert draw_figures.main(["--results", str(results)]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_errors_that_are_all_0_are_drawn_too():
    rows = make_rows(games=("breakout",), sizes=(1_000,), seeds=3)
    rows.loc[rows["metric"] == "action_error", "value"] = 0
    of_errors, of_kl = distillation_figures.figure_4(rows).axes
    assert (of_errors.get_yscale(), of_kl.get_yscale()) == ("linear", "log")
