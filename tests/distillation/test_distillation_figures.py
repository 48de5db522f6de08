"""From rows of distillation to figures."""

import json

import numpy as np
import pandas as pd
import pytest

from experiments.distillation import figures as distillation_figures
from experiments.distillation.ratios import FARTHEST
from experiments.distillation.saliency_figures import cosine, read_saliencies, saliency
from experiments.evidence.collect import as_csv
from experiments.evidence.reading import EvidenceError, read_csv
from experiments.evidence.rows import as_rows, read_rows, select
from experiments.evidence.schemas import RUNS
from scripts import figures as draw_figures
from tests.conftest import CONFIGS
from tests.distillation.test_distillation_evidence import STEPS, joined, make_rows
from tests.regression.test_evidence import write_rows


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
            seed=7,
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
    assert len(printed) == 4
    drawn = tmp_path / "figures" / "distillation_final_values.png"
    content = drawn.read_bytes()
    assert draw_figures.main(["final_values", "--results", str(results), "--out", str(drawn.parent)]) == 0
    assert drawn.read_bytes() == content  # the same rows give the same file


def test_the_gradient_figure_shows_what_was_recorded(results):
    saliencies = read_saliencies(results / "distillation" / "saliency")
    figure = saliency(saliencies, "breakout", 1_000)
    assert [axes.get_title() for axes in figure.axes[:4]] == ["newest frame", "teacher", "value only", "Sobolev"]
    numbers = [[float(number) for number in axes.texts[0].get_text().split(", ")] for axes in figure.axes[2:4]]
    assert abs(numbers[0][0]) < 0.05
    assert numbers[1] == [1.0, 1.0]
    assert len({axes.images[0].get_clim() for axes in figure.axes[1:4]}) == 1  # what is compared has one scale
    assert "seed 7" in figure._suptitle.get_text()
    shown = figure.axes[1].images[0].get_array()
    np.testing.assert_allclose(shown, saliencies["breakout", "value", 1_000].teacher_SCHW[0, -1].astype(float))
    assert cosine(np.zeros(3), np.ones(3)) == 0


def test_arrays_ship_where_a_figure_shows_them():
    folder = CONFIGS.parent / "results" / "distillation" / "saliency"
    assert len(read_saliencies(folder)) == len(list(folder.iterdir())) > 0


def test_curves_are_medians_from_where_students_part(results):
    rows = make_rows(games=("breakout",), sizes=(1_000,), seeds=3)
    figure = distillation_figures.curves(rows)
    assert len(figure.axes) == 2
    cell = rows[(rows["method"] == "value") & (rows["metric"] == "action_error") & (rows["split"] == "test")]
    expected = [np.median(cell[cell["step"] == step]["value"]) for step in STEPS[1:]]
    (line,) = (line for line in figure.axes[0].lines if line.get_marker() == "o")
    np.testing.assert_allclose(line.get_ydata(), expected)
    assert not any("REDUCED" in text.get_text() for text in figure.texts)
    alike = rows["step"] == STEPS[1]
    rows.loc[alike, "value"] = 1.0
    early = rows[alike].assign(step=5)
    figure = distillation_figures.curves(as_rows(pd.concat([rows, early])))
    (line,) = (line for line in figure.axes[0].lines if line.get_marker() == "o")
    assert [*line.get_xdata()] == [*STEPS[1:]]  # what they have in common is left out


def test_figure_4_says_who_leads():
    """Medians through the sizes themselves, and the ratio of both methods, paired by seed."""
    rows = make_rows(games=("breakout",), sizes=(1_000, 5_000), seeds=7)
    of_errors, of_kl, ratios = distillation_figures.figure_4(rows).axes
    for axes, metric in ((of_errors, "action_error"), (of_kl, "kl")):
        cell = select(rows, split="test", metric=metric, method="value", step=STEPS[-1])
        (line,) = (line for line in axes.lines if line.get_marker() == "o")
        assert [*line.get_xdata()] == [1_000, 5_000]
        np.testing.assert_allclose(line.get_ydata(), cell.groupby("n_train")["value"].median())
    wide = select(rows, split="test", metric="kl", step=STEPS[-1]).pivot_table(
        "value", ["n_train", "seed"], "method", observed=True
    )
    (line,) = (line for line in ratios.lines if line.get_marker() == "D")
    np.testing.assert_allclose(line.get_ydata(), (wide["value"] / wide["sobolev"]).groupby("n_train").median())


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
    of_errors, of_kl = distillation_figures.curves(rows).axes
    assert (of_errors.get_yscale(), of_kl.get_yscale()) == ("linear", "log")


def test_the_ratio_to_a_student_without_errors_keeps_the_axis_readable():
    rows = make_rows(games=("breakout",), sizes=(1_000, 5_000, 25_000), seeds=3)
    without_errors = (rows["metric"] == "action_error") & (rows["method"] == "sobolev") & (rows["n_train"] == 5_000)
    assert "or more" not in distillation_figures.figure_4(rows).axes[2].get_title()
    rows.loc[without_errors, "value"] = 0
    of_ratios = distillation_figures.figure_4(rows).axes[2]
    assert of_ratios.get_title().endswith("1,000: or more, 0.001: or less)")
    low, high = of_ratios.get_ylim()
    assert low > 1 / (2 * FARTHEST)
    assert FARTHEST < high < 2 * FARTHEST


def test_the_longer_figure_fits_four_methods_and_draws_no_line_past_a_size_without_runs():
    rows = make_rows(games=("breakout",), sizes=(1_000, 5_000, 25_000), seeds=3)
    falling, balanced = (
        as_rows(select(rows, method="sobolev").astype({"method": str}).assign(method=f"sobolev_{alpha}"))
        for alpha in ("falling", "balanced")
    )
    constant = (rows["method"] == "sobolev") & (rows["n_train"] == 5_000)
    figure = distillation_figures.longer(joined(rows[~constant], falling, balanced))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 4
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    color = distillation_figures.LOOKS["sobolev"]["color"]
    for axes in figure.axes:
        (line,) = [line for line in axes.lines if line.get_color() == color and line.get_marker() == "s"]
        assert np.isnan(line.get_ydata()).tolist() == [False, True, False]


@pytest.mark.parametrize("methods", [2, 3, 4, 8])
def test_intervals_are_beside_their_markers_however_many_methods_there_are(methods):
    rows = make_rows(games=("breakout",), sizes=(1_000, 25_000), seeds=3)
    of_value = select(rows, method="value").astype({"method": str})
    figure = distillation_figures.longer(
        joined(rows, *(as_rows(of_value.assign(method=f"own_{k}")) for k in range(methods - 2)))
    )
    figure.draw_without_rendering()
    for axes in figure.axes:
        to_pixels = axes.transData.transform
        vertical = [line for line in axes.lines if len(line.get_xdata()) == 2 and np.ptp(line.get_xdata()) == 0]
        away = [
            np.abs(to_pixels((line.get_xdata()[0], 1))[0] - [to_pixels((n, 1))[0] for n in (1_000, 25_000)]).min()
            for line in vertical
        ]
        assert len(away) >= methods - 1
        assert max(away) * 72 / figure.dpi < 6  # in points: a marker is 5 wide


def test_a_method_of_ones_own_is_drawn_under_its_name():
    rows = make_rows(games=("breakout",), sizes=(1_000,), seeds=3)
    rows = as_rows(rows.astype({"method": str}).replace({"method": {"sobolev": "mine"}}))
    for draw in (distillation_figures.figure_4, distillation_figures.curves, distillation_figures.final_values):
        figure = draw(rows)
        (legend,) = figure.legends
        methods = dict(zip([text.get_text() for text in legend.get_texts()], legend.get_lines(), strict=True))
        assert {"value only", "mine"} <= methods.keys()
        assert methods["mine"].get_color() != methods["value only"].get_color()
