"""From rows to figures, tables and verdicts, on rows that are made here."""

from __future__ import annotations

import csv
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Path3DCollection, Poly3DCollection
from scipy import stats

from experiments.evidence import report
from experiments.evidence.markdown import format_interval
from experiments.evidence.names import SPARE_LOOKS
from experiments.evidence.reading import EvidenceError
from experiments.evidence.rows import (
    Interval,
    Surface,
    as_rows,
    curve,
    final,
    finals,
    groups,
    levels,
    log_ratio,
    median_interval,
    read_rows,
    read_settings,
    read_surfaces,
    select,
    with_settings,
)
from experiments.evidence.verdicts import Evidence, above, at_least, every, negation
from experiments.regression import figures
from experiments.regression.appendix import descent, dominated, gradient_terms, longer_training, tables
from experiments.regression.claims import claims
from experiments.regression.names import TASKS
from experiments.regression.rules import log_ratios, outcome
from experiments.regression.surfaces import figure_3, surface_view
from experiments.regression.tables import convergence
from scripts import figures as draw_figures
from scripts import report as report_program
from scripts import tables as tables_program
from tests.conftest import ROOT

SIZES = (20, 100, 10_000)
STEPS = (1, 10, 50, 100)


def as_in_the_paper(task: str, n_train: int) -> float:
    """log10 of value-only over Sobolev test error, as the paper's claims have it."""
    if task == "ackley":
        return {20: -0.5, 100: -0.2, 10_000: 0.3}[n_train]
    return {20: 2.0, 100: 1.6, 10_000: 1.3}[n_train]


def make_rows(
    log10_ratio: Callable[[str, int], float] = as_in_the_paper,
    experiment: str = "regression",
    tasks: tuple[str, ...] = tuple(TASKS),
    sizes: tuple[int, ...] = SIZES,
    seeds: int = 8,
    scale: str = "paper",
) -> pd.DataFrame:
    """Rows of both methods whose final test errors differ by the ratio asked for, with noise that pairing cancels."""
    rng = np.random.default_rng(1)
    rows = []
    for task, n_train, seed, metric in itertools.product(tasks, sizes, range(seeds), ("value_mse", "gradient_mse")):
        base, wobble = rng.normal(1, 0.5), rng.normal(0, 0.02)
        for method, step, split in itertools.product(("value", "sobolev"), STEPS, ("train", "test")):
            log_error = base - (log10_ratio(task, n_train) + wobble if method == "sobolev" else 0)
            log_error += np.log10(STEPS[-1] / step) - (split == "train")
            rows.append((experiment, task, method, n_train, seed, step, split, metric, 10**log_error, scale))
    return as_rows(rows)


def test_gradient_terms_are_compared_with_value_only_training():
    """Where Sobolev Training is 10 times closer in values and gradients; another loss is as close as value-only."""
    rows = make_rows(lambda *_: 1.0, "regression_steep", ("bukin", "ackley"), (100,))
    other = rows[rows["method"] == "value"].copy()
    other["method"] = "sobolev_norm"
    own = other.copy()
    own["method"] = "half"
    own["scale"] = "reduced"
    hessians = select(joined(rows, other), metric="value_mse").copy()
    hessians["metric"] = "hessian_mse"
    text = gradient_terms(joined(rows, other, own, hessians))
    assert "| values |  | gradients |  | Hessians |  | scale |" in text
    table = text.splitlines()
    assert all(line.endswith("| - | - | reduced |") for line in table if "| half |" in line)
    assert sum("| half |" in line for line in table) == 2
    bukin = next(line for line in table if "Bukin" in line and "| Sobolev |" in line)
    assert re.search(r"\| (9\.\d+|10\.?\d*) \[.*\| won \|.* won \| paper \|", bukin)
    same = next(line for line in table if "Ackley" in line and "not squared" in line)
    assert same.count("1 [1, 1] | tied") == 3
    assert not any("value only |" in line for line in table[3:])
    assert gradient_terms(rows[:0]) == ""


def make_surface(scale: str = "paper", n_train: int = 20, slope: float = 1.0, dtype: type = np.float32) -> Surface:
    """The target x^2 + y over [-1, 1] x [0, 1] and a model that is `slope` times it."""
    x_GG2 = np.stack(np.meshgrid(np.linspace(-1, 1, 41), np.linspace(0, 1, 41), indexing="ij"), axis=-1).astype(dtype)
    value_GG = x_GG2[..., 0] ** 2 + x_GG2[..., 1]
    gradient_GG2 = np.stack((2 * x_GG2[..., 0], np.ones_like(value_GG)), axis=-1)
    x_train_P2 = np.random.default_rng(0).uniform((-1, 0), (1, 1), (n_train, 2))
    return Surface(x_GG2, slope * value_GG, slope * gradient_GG2, value_GG, gradient_GG2, x_train_P2, 3, scale)


def joined(*frames: pd.DataFrame) -> pd.DataFrame:
    return as_rows(pd.concat(frames, ignore_index=True))


def write_rows(path: Path, rows: pd.DataFrame) -> Path:
    """Compressed, if the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(path, index=False, lineterminator="\n", na_rep="nan")
    return path


def write_surface(path: Path, surface: Surface) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("x", "value", "gradient", "target_value", "target_gradient", "x_train", "seed", "scale")
    np.savez(path, **dict(zip(names, vars(surface).values(), strict=True)))
    return path


@pytest.fixture(scope="module")
def small_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results as a first look leaves them, or less: two functions, one size, three seeds, reduced."""
    results = tmp_path_factory.mktemp("results")
    tasks = ("ackley", "styblinski_tang")
    rows = make_rows(experiment="regression_normalised", tasks=tasks, sizes=(20,), seeds=3, scale="reduced")
    write_rows(results / "regression" / "rows.csv.gz", rows)
    for method in ("value", "sobolev"):
        name = f"regression_normalised_styblinski_tang_{method}_20.npz"
        write_surface(results / "regression" / "surfaces" / name, make_surface("reduced"))
    return results


# Rows


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = make_rows(seeds=2)
    pd.testing.assert_frame_equal(read_rows(write_rows(tmp_path / "rows.csv.gz", rows)), rows)
    pd.testing.assert_frame_equal(read_rows(write_rows(tmp_path / "rows.csv", rows)), rows)


def test_missing_rows_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="make quickstart"):
        read_rows(tmp_path / "rows.csv.gz")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("value", np.nan, "value is 'nan', not a finite number"),
        ("scale", "huge", "scale is 'huge', not one of paper, reduced"),
        ("scale", "reduced", "mixes rows of paper and of reduced scale"),
        ("seed", 0, "occurs twice"),
    ],
)
def test_damaged_rows_are_refused(tmp_path: Path, column: str, value: object, message: str) -> None:
    rows = make_rows(seeds=2)
    rows = rows.astype({"scale": object})
    rows.loc[len(rows) - 1, column] = value
    with pytest.raises(EvidenceError, match=message):
        read_rows(write_rows(tmp_path / "rows.csv.gz", rows))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    rows = make_rows(seeds=2, tasks=("booth",))
    with pytest.raises(EvidenceError, match="header"):
        read_rows(write_rows(tmp_path / "rows.csv", rows.rename(columns={"scale": "size"})))
    path = write_rows(tmp_path / "rows.csv", rows)
    text = path.read_text()
    path.write_text(text[:-12])
    with pytest.raises(EvidenceError, match=rf"line {len(rows) + 1}: 9 fields, not 10"):
        read_rows(path)
    path.write_text(text.replace(",20,", ",twenty,", 1))
    with pytest.raises(EvidenceError, match="line 2: n_train is 'twenty', not a number"):
        read_rows(path)
    path.write_bytes(b"\xff\xfe" + text.encode())
    with pytest.raises(EvidenceError, match="is not text"):
        read_rows(path)


def test_selecting(tmp_path: Path) -> None:
    rows = make_rows(seeds=3)
    assert levels(rows, "task") == list(TASKS)
    assert levels(rows, "method") == ["value", "sobolev"]
    assert levels(rows, "n_train") == [20, 100, 10_000]
    cell = select(rows, task="beale", method="value", n_train=20, split="test", metric="value_mse")
    assert len(cell) == 3 * len(STEPS)
    assert final(cell) == {row.seed: row.value for row in cell.itertuples() if row.step == STEPS[-1]}
    assert final(cell, task="booth") == {}
    steps, values_TS = curve(cell[::-1])
    assert steps.tolist() == list(STEPS)
    assert values_TS[-1].tolist() == list(final(cell).values())
    # A seed that lacks a step has no curve.
    assert curve(cell[1:])[1].shape == (len(STEPS), 2)
    # Cells at once, in the printed order; each ends where its own training ended.
    rows.loc[rows["n_train"] == 100, "step"] *= 2
    test = select(rows, split="test", metric="value_mse")
    errors = finals(test, "n_train", "task", "method")
    assert list(errors) == [key for key, _ in groups(test, "n_train", "task", "method")]
    assert list(errors) == list(itertools.product(SIZES, TASKS, ("value", "sobolev")))
    for (n_train, task, method), of_seeds in errors.items():
        assert of_seeds == final(test, n_train=n_train, task=task, method=method)


def test_settings_join_by_cell_with_their_types(tmp_path: Path) -> None:
    rows = make_rows(seeds=2, tasks=("booth", "beale"), sizes=(20,))
    entries = {
        f"regression {task} {method} 20": {"width": width, "rate": 0.5}
        for width, (task, method) in enumerate(itertools.product(("beale", "booth"), ("value", "sobolev")))
    }
    (tmp_path / "settings.json").write_text(json.dumps(entries))
    settings = read_settings(tmp_path / "settings.json")
    joined = with_settings(rows, settings, {"units": ("width", int), "rate": ("rate", float)})
    pd.testing.assert_frame_equal(joined[rows.columns], rows)
    assert (joined["units"].dtype, joined["rate"].dtype) == ("int64", "float64")
    assert {key: set(cell["units"]) for key, cell in groups(joined, "task", "method")} == {
        **{("beale", "value"): {0}, ("beale", "sobolev"): {1}},
        **{("booth", "value"): {2}, ("booth", "sobolev"): {3}},
    }
    assert len(with_settings(rows[:0], {}, {"units": ("width", int)})) == 0
    del settings["regression", "booth", "value", 20]["width"]
    with pytest.raises(EvidenceError, match=r"settings\.json has no width of type int for regression booth value 20"):
        with_settings(rows, settings, {"units": ("width", int)})
    with pytest.raises(EvidenceError, match="has no rate of type int"):
        with_settings(rows, settings, {"rate": ("rate", int)})
    for name in ("regression booth value", "regression booth value many"):
        (tmp_path / "settings.json").write_text(json.dumps({name: {}}))
        with pytest.raises(EvidenceError, match=rf"settings\.json: '{name}' is no cell"):
            read_settings(tmp_path / "settings.json")


# Statistics


def test_intervals_are_deterministic_and_contain_the_median() -> None:
    values = np.random.default_rng(0).normal(size=10)
    interval = median_interval(values)
    assert interval == median_interval(values)
    assert interval.low < interval.median < interval.high
    assert interval.median == np.median(values)
    assert interval.n == 10


def test_interval_equals_the_exact_bootstrap_of_three() -> None:
    """Of the 27 resamples of 3 values, 7 have the least as their median: the 2.5% quantile is the least."""
    assert median_interval([5.0, 1.0, 2.0]) == Interval(2.0, 1.0, 5.0, 3)


def test_interval_is_scipys() -> None:
    for n in (8, 9, 10):
        values = np.random.default_rng(n).normal(size=n)
        options = {"n_resamples": 4999, "method": "percentile", "rng": np.random.default_rng(0)}
        expected = stats.bootstrap((values,), np.median, **options).confidence_interval
        assert median_interval(values)[1:3] == pytest.approx(tuple(expected), rel=1e-12)


def test_interval_covers_the_true_median() -> None:
    rng = np.random.default_rng(0)
    intervals = [median_interval(rng.exponential(size=10)) for _ in range(100)]
    covered = sum(interval.low <= np.log(2) <= interval.high for interval in intervals)
    assert 88 <= covered < 100


def test_interval_of_few() -> None:
    assert np.isnan(median_interval([])).tolist() == [True, True, True, False]
    assert np.isnan(median_interval([2.0])).tolist() == [False, True, True, False]


def test_ratios_are_paired_by_seed() -> None:
    noise = {seed: 10.0**seed for seed in range(8)}
    interval = log_ratio({seed: 100 * x for seed, x in noise.items()}, noise | {99: 1.0})
    assert log_ratio(noise | {99: 1.0}, noise).n == 8
    assert interval == pytest.approx((2.0, 2.0, 2.0, 8))


# Verdicts


def test_three_valued_logic() -> None:
    assert above(Interval(2, 1, 3, 10), 0) is True
    assert above(Interval(2, 1, 3, 10), 4) is False
    assert above(Interval(2, 1, 3, 10), 2.5) is None
    assert above(Interval(2, 1, 3, 5), 0) is None  # too few seeds
    assert above(Interval(2, np.nan, np.nan, 1), 0) is None
    assert [negation(s) for s in (True, False, None)] == [False, True, None]
    assert at_least(2, [True, True, False]) is True
    assert at_least(2, [True, None, False]) is None
    assert at_least(2, [True, False, False]) is False
    assert every([True, None]) is None
    assert every([False, None]) is False
    assert every([True, True]) is True


def test_outcomes() -> None:
    ratio = {"ackley": -0.5, "beale": 0.0, "booth": 0.5}
    rows = make_rows(lambda task, _: ratio[task], tasks=("ackley", "beale", "booth"))
    assert {task: outcome(L) for (task, n), L in log_ratios(rows).items() if n == 20} == {
        "ackley": "lost",
        "beale": "tied",
        "booth": "won",
    }
    few = make_rows(seeds=5, tasks=("booth",))
    assert {outcome(L) for L in log_ratios(few).values()} == {"undecided"}


def verdicts(rows: pd.DataFrame, surfaces: dict | None = None) -> dict[str, str]:
    evidence = Evidence(rows, surfaces or {})
    return {claim.key: claim.judge(evidence).verdict for claim in claims("regression", "make it")}


def changed(cells: dict[tuple[str, int], float]) -> Callable[[str, int], float]:
    return lambda task, n_train: cells.get((task, n_train), as_in_the_paper(task, n_train))


def test_verdicts_where_all_is_as_in_the_paper() -> None:
    found = verdicts(make_rows())
    assert found.pop("R4") == "not run"  # no surfaces
    assert set(found.values()) == {"reproduced"}


def test_a_function_of_ones_own_leaves_every_verdict_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows()
    before = verdicts(rows)
    monkeypatch.setitem(TASKS, "mine", "Mine")
    assert verdicts(rows) == before  # named, and not run
    assert verdicts(joined(rows, make_rows(lambda *_: -0.5, tasks=("mine",)))) == before


def test_verdicts_where_sobolev_loses() -> None:
    found = verdicts(make_rows(lambda task, n: -0.5))
    assert found.pop("R4") == "not run"
    equal = {found.pop(f"R3, little data, {when}") for when in ("during training", "at the end")}
    assert equal == {"inconclusive"}  # it loses as much with little data
    assert set(found.values()) == {"not reproduced"}


def test_verdicts_where_all_is_tied() -> None:
    found = verdicts(make_rows(lambda task, n: 0.0))
    assert found.pop("R1, magnitude") == "not reproduced"
    assert found.pop("R4") == "not run"
    assert set(found.values()) == {"inconclusive"}


def test_verdicts_with_too_few_seeds() -> None:
    found = verdicts(make_rows(seeds=5))
    assert found.pop("R4") == "not run"
    assert set(found.values()) == {"inconclusive"}


@pytest.mark.parametrize(
    ("cells", "claim", "verdict"),
    [
        ({("booth", 100): -0.5}, "R1, at the end", "not reproduced"),  # with Ackley, two are lost
        ({("booth", 100): 0.0}, "R1, at the end", "inconclusive"),
        ({("booth", 10_000): -0.5}, "R1, at the end", "reproduced"),  # Ackley is won there: still six
        ({(task, 100): 0.5 for task in ("beale", "booth", "bukin")}, "R1, magnitude", "not reproduced"),
        ({("ackley", 20): 0.3}, "R2", "not reproduced"),
        ({("ackley", 10_000): 0.0}, "R2", "inconclusive"),
        ({("ackley", 100): 2.0}, "R2", "reproduced"),
        ({(task, 10_000): 3.0 for task in TASKS}, "R3, little data, at the end", "not reproduced"),
        ({(task, 10_000): 3.0 for task in TASKS}, "R3, persists, at the end", "reproduced"),
        ({(task, 10_000): -0.5 for task in list(TASKS)[:4]}, "R3, little data, at the end", "reproduced"),
        ({(task, 10_000): -0.5 for task in list(TASKS)[:4]}, "R3, persists, at the end", "not reproduced"),
        ({(task, 10_000): 0.0 for task in list(TASKS)[:4]}, "R3, persists, at the end", "inconclusive"),
    ],
)
def test_each_rule_turns_on_its_cells(cells: dict[tuple[str, int], float], claim: str, verdict: str) -> None:
    assert verdicts(make_rows(changed(cells), seeds=6))[claim] == verdict


def test_a_readers_own_rows_stand_in_the_tables_and_are_no_part_of_a_verdict(tmp_path: Path) -> None:
    """A loss, a function and a size of one's own: `make figures report` shows them and judges what it judged."""
    rows = make_rows(seeds=6)
    own = make_rows(lambda task, n: -3.0, tasks=("booth", "mine"), sizes=(50, 10_000), seeds=6, scale="reduced")
    own = own[(own["task"] == "mine") | (own["n_train"] == 50)]
    halves = select(make_rows(seeds=6, scale="reduced"), method="sobolev").copy()
    halves["method"] = "half"
    write_rows(tmp_path / "regression" / "rows.csv.gz", joined(rows, own, halves))
    for method in ("value", "half"):
        name = f"regression_booth_{method}_20.npz"
        write_surface(tmp_path / "regression" / "surfaces" / name, make_surface("reduced"))
    assert report_program.main(["--results", str(tmp_path)]) == 0
    judged, tables_ = (tmp_path / "report" / "regression.md").read_text().split("#### Test MSE")[:2]
    alone = pages(Evidence(rows, {}))["report/regression.md"].split("#### Test MSE")[0]
    assert judged == alone
    assert "- Ours (paper): " in judged
    assert "| values: half |" in tables_
    assert "| mine | 10,000 |" in tables_
    assert draw_figures.main(["--results", str(tmp_path), "figure_2", "learning_curves", "surfaces"]) == 0
    figure = figures.figure_2(read_rows(tmp_path / "regression" / "rows.csv.gz"))
    assert "half" in [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]


def test_verdicts_on_missing_rows() -> None:
    rows = make_rows(seeds=6)
    without_large = verdicts(select(rows, n_train=20))
    assert set(without_large.values()) == {"not run"}
    without_booth = rows[rows["task"] != "booth"]
    assert verdicts(without_booth)["R1, at the end"] == "not run"
    assert verdicts(without_booth)["R2"] == "reproduced"  # Ackley alone
    assert set(verdicts(rows[:0]).values()) == {"not run"}
    assert set(verdicts(make_rows(experiment="regression_normalised", seeds=2)).values()) == {"not run"}


@pytest.mark.parametrize(
    ("sobolev_share", "value_share", "verdict"),
    [
        (0.97, 0.5, "reproduced"),
        (0.97, 0.95, "not reproduced"),
        (0.8, 0.5, "not reproduced"),
        (0.97, 0.9, "inconclusive"),
    ],
)
def test_shape_is_captured_by_the_variance_explained(sobolev_share: float, value_share: float, verdict: str) -> None:
    rows = make_rows(tasks=("styblinski_tang",), sizes=(20, 100))
    surface = make_surface()
    jitter = np.linspace(0.9, 1.1, 8)[rows["seed"]]
    shares = np.where(rows["method"] == "sobolev", sobolev_share, value_share)
    rows["value"] = jitter * (1 - shares) * surface.target_variance
    surfaces = {("regression", "styblinski_tang", "sobolev", 100): surface}
    assert verdicts(rows, surfaces)["R4"] == verdict


def test_few_seeds_have_their_whole_range_which_is_exact() -> None:
    """Five of six on one side decide nothing: a range of n misses the median with probability 2^(1-n)."""
    assert median_interval([1, 1, 1, 1, 1, -0.01]) == (1, -0.01, 1, 6)
    assert above(median_interval([1, 1, 1, 1, 1, -0.01]), 0) is None
    assert above(median_interval([1, 1, 1, 1, 1, 0.01]), 0) is True
    rng = np.random.default_rng(0)
    for n in (2, 5, 6):
        intervals = [median_interval(rng.exponential(size=n)) for _ in range(4_000)]
        covered = np.mean([interval.low <= np.log(2) <= interval.high for interval in intervals])
        assert covered == pytest.approx(1 - 2.0 ** (1 - n), abs=0.02)
    assert median_interval(range(7)).low == 0
    assert median_interval(range(8)).low > 0  # so many are resampled


def test_intervals_contain_the_median_about_as_often_as_the_report_says() -> None:
    rng = np.random.default_rng(0)
    for n in (8, 9, 10):
        intervals = [median_interval(rng.standard_t(2, n)) for _ in range(200)]
        covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
        assert 0.87 < covered < 0.99  # 92 to 96% of many trials; 200 have a standard error of 2%


def test_target_variance_is_that_of_the_uniform_distribution() -> None:
    # Var(x^2) over [-1, 1] is 1/5 - 1/9, and Var(y) over [0, 1] is 1/12.
    assert make_surface().target_variance == pytest.approx(1 / 5 - 1 / 9 + 1 / 12, rel=1e-4)


def pages(evidence: Evidence) -> dict[str, str]:
    return report.reports(evidence, report_program.all_domains())


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "regression" / "rows.csv.gz", make_rows(seeds=6))
    assert report_program.main(["--results", str(tmp_path)]) == 0
    front = tmp_path / "REPORT.md"
    assert capsys.readouterr().out.split() == [str(front)]
    path = tmp_path / "report" / "regression.md"
    text = path.read_text()
    paper, normalised = text.split("## The same claims")
    for claim in claims("regression", ""):
        for statement in (claim.sentence, claim.paper, claim.rule):
            assert statement in paper
    assert "### R1, during training: reproduced" in paper
    assert "### R1, at the end: reproduced" in paper
    assert "### R4: not run" in paper
    assert "`make regression regression-longer report`" in paper
    assert "100 points: 6 won, 1 lost; Ackley 0.6" in paper
    assert "### R1, at the end: not run" in normalised
    assert "`make regression-normalised report` runs it" in normalised
    path.unlink()
    assert report_program.main(["--results", str(tmp_path)]) == 0
    assert path.read_text() == text


def test_report_names_the_reduced_scale(small_results: Path) -> None:
    rows = read_rows(small_results / "regression" / "rows.csv.gz")
    surfaces = read_surfaces(small_results / "regression" / "surfaces", rows)
    normalised = pages(Evidence(rows, surfaces))["report/regression.md"].split("## The same claims")[1]
    assert "### R4: not run" in normalised
    assert "Missing: Sobolev at 100 points, value only at 100 points" in normalised
    assert "- Ours (reduced): share of variance explained" in normalised
    assert "Missing: Beale, Booth, Bukin N. 6, McCormick, Rosenbrock at 20 points" in normalised


def test_report_without_rows_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_program.main(["--results", str(tmp_path)]) == 1
    assert "make quickstart" in capsys.readouterr().err
    assert not (tmp_path / "REPORT.md").exists()


# Tables


def test_tables(small_results: Path, tmp_path: Path) -> None:
    assert tables_program.main(["--results", str(small_results), "--out", str(tmp_path)]) == 0
    rows = read_rows(small_results / "regression" / "rows.csv.gz")
    cell = final(rows, task="ackley", method="sobolev", n_train=20, split="test", metric="gradient_mse")
    with (tmp_path / "regression_normalised.csv").open() as file:
        entries = [e for e in csv.DictReader(file) if (e["task"], e["n_train"]) == ("ackley", "20")]
    (entry,) = (e for e in entries if (e["method"], e["metric"]) == ("sobolev", "gradient_mse"))
    assert float(entry["median"]) == pytest.approx(np.median(list(cell.values())), rel=1e-5)
    assert float(entry["low"]) == pytest.approx(min(cell.values()), rel=1e-5)
    assert (entry["seeds"], entry["step"], entry["scale"]) == ("3", "100", "reduced")
    markdown = (tmp_path / "regression_normalised.md").read_text()
    assert f"| {format_interval(median_interval(cell.values()))} | 3 | reduced |" in markdown


def test_convergence_compares_the_half_with_the_end() -> None:
    rows = make_rows(tasks=("booth",), sizes=(20,))
    cell = select(rows, method="value", split="test", metric="value_mse")
    assert convergence(cell) == pytest.approx((50, 100, -0.5))  # the made error falls as 1 / step
    assert np.isnan(convergence(select(cell, step=100)).change)


# Figures


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in [*figure.texts, figure._suptitle])


def test_every_figure_renders(small_results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw_figures.main(["--results", str(small_results), "--out", str(tmp_path)]) == 0
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(printed) == sorted(tmp_path.iterdir())
    assert {path.stem.replace("_normalised", "") for path in printed} == {
        "test_errors",  # Figure 2 has the paper's protocol
        "figure_3",
        "ratios",
        "surfaces_styblinski_tang",
        "learning_curves_20",
    }
    for path in printed:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"%PDF")


def test_same_rows_same_file(small_results: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        assert draw_figures.main(["ratios", "--results", str(small_results), "--out", str(tmp_path / folder)]) == 0
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_figure_2_shows_medians_and_seeds() -> None:
    rows = make_rows(tasks=("booth", "beale"), sizes=(20, 100))
    figure = figures.figure_2(rows)
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert [title for title in panels if title] == ["Beale", "Booth"]
    drawn = np.concatenate([line.get_ydata() for line in panels["Booth"].lines])
    for method, n_train in itertools.product(("value", "sobolev"), (20, 100)):
        seeds = final(rows, task="booth", method=method, n_train=n_train, split="test", metric="value_mse")
        for value in (*seeds.values(), *median_interval(seeds.values())[:3]):
            assert np.isclose(drawn, value, rtol=1e-12).any()
    lines = [line for line in panels["Booth"].lines if line.get_marker() in "os"]
    assert [[*line.get_xdata()] for line in lines] == [[0, 1], [0, 1]]  # where they cross, the errors do
    assert panels["Booth"].get_yscale() == "log"
    assert "Figure 2" in texts(figure)
    assert "Figure 2" not in texts(figures.figure_2(make_rows(experiment="regression_normalised", sizes=(20,))))


def test_ratio_figure_shows_the_ratio() -> None:
    figure = figures.ratios(make_rows(lambda task, n: 1.0, tasks=("booth",), sizes=(20,)))
    for axes in figure.axes:
        marker = next(line for line in axes.lines if line.get_marker() == "o")
        assert marker.get_xdata()[0] == pytest.approx(10, rel=0.1)
        assert any(list(line.get_xdata()) == [1, 1] for line in axes.lines)  # the line at 1


def test_other_losses_are_compared_with_value_only_training() -> None:
    rows = make_rows(lambda *_: 1.0, "regression_steep", ("bukin", "ackley"), (100,))
    other = select(rows, method="value").astype({"method": str})
    other["method"] = "sobolev_norm"
    (drawn,) = figures.draw(["losses", "ratios", "figure_2"], joined(rows, other), {})
    assert drawn[:2] == ("losses", "losses_steep")
    axes = drawn[2].axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["Ackley, 100", "Bukin N. 6, 100"]
    as_close = [line for line in axes.lines if line.get_marker() == SPARE_LOOKS[0]["marker"]]
    assert [float(line.get_xdata()[0]) for line in as_close] == [1, 1]
    ten_times = [line for line in axes.lines if line.get_marker() == "s"]
    assert [float(line.get_xdata()[0]) for line in ten_times] == pytest.approx([10, 10], rel=0.1)
    assert not list(figures.draw(["losses"], make_rows(tasks=("booth",)), {}))


def test_the_ratio_figure_names_every_size_that_it_shows() -> None:
    """Also where the first function lacks some of them."""
    rows = make_rows(tasks=("ackley", "booth"), sizes=(20, 100))
    rows = rows[(rows["task"] == "booth") | (rows["n_train"] == 20)]
    (legend,) = figures.ratios(rows).legends
    assert [text.get_text() for text in legend.get_texts()] == ["20 points", "100 points"]


def test_seeds_are_counted_by_cell_and_bars_of_few_are_called_a_range() -> None:
    rows = make_rows(tasks=("booth",), sizes=(20, 100))
    assert f"8 seeds, {STEPS[-1]:,} updates: median, 95% interval" in texts(figures.figure_2(rows))
    rows = rows[(rows["n_train"] == 20) | (rows["seed"] < 3)]
    assert f"3 to 8 seeds, {STEPS[-1]:,} updates: median, 95% interval (range of fewer than 6)" in texts(
        figures.figure_2(rows)
    )


def test_cells_that_were_trained_longer_are_said_to_be() -> None:
    rows = make_rows(tasks=("booth",), sizes=(20, 100))
    rows.loc[rows["n_train"] == 100, "step"] *= 10
    first, last = f"{STEPS[-1]:,}", f"{10 * STEPS[-1]:,}"
    figure = figures.figure_2(rows)
    assert f"{first} to {last} updates" in texts(figure)
    ticks = figure.axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == [f"20\n{STEPS[-1] / 1000:g}k", f"100\n{STEPS[-1] / 100:g}k"]
    assert f"8 seeds, {last} updates" in texts(figures.learning_curves(rows, 100))
    table = tables(rows)
    assert f"| Booth | 20 | {first} |" in table
    assert f"| Booth | 100 | {last} |" in table
    rows.loc[(rows["n_train"] == 20) & (rows["method"] == "sobolev"), "step"] *= 10
    assert f"| Booth | 20 | {first} / {last} |" in tables(rows)


def test_cells_that_were_trained_longer_are_shown_on_the_way() -> None:
    """Booth is trained for 10,000 updates and the rest for 100; it is won after 100, and from 1,000 on it is tied."""
    rows, later = make_rows(), make_rows(lambda *_: 0.0, tasks=("booth",), sizes=(100,))
    later = select(later, step=100)
    thousand, last = later.copy(), later.copy()
    thousand["step"], last["step"] = 1_000, 10_000
    assert longer_training(rows) == "" == longer_training(rows[:0])
    heading, *table = longer_training(joined(rows, thousand, last)).splitlines()
    assert "more than 100 updates" in heading
    lines = [line.split(" | ") for line in table if "Booth" in line]
    assert [line[1:3] + line[-1:] for line in lines] == [
        ["100", "100", "won |"],
        ["100", "1,000", "tied |"],
        ["100", "10,000", "tied |"],
    ]
    assert sum(line.startswith("| ") for line in table) == 2 + len(lines)
    # Where one method alone goes on, what both were measured at is compared.
    alone = select(joined(rows, last), method="value")
    table = longer_training(joined(alone, select(rows, method="sobolev"))).splitlines()
    assert [("| 100 | 100 |" in line, "won" in line) for line in table if "Booth" in line] == [(True, True)]


def test_cells_that_value_only_training_fits_more_closely_are_named() -> None:
    """Beale alone in both errors; Booth in values alone; from three seeds nothing is said."""
    rows = make_rows(lambda task, _: {"beale": -0.3, "booth": -0.3}.get(task, 0.3), sizes=(100,))
    booth = (rows["task"] == "booth") & (rows["metric"] == "gradient_mse") & (rows["method"] == "sobolev")
    rows.loc[booth, "value"] /= 100
    exact = (rows["task"] == "ackley") & (rows["metric"] == "value_mse") & (rows["split"] == "train")
    rows.loc[exact, "value"] = 0.0
    few = make_rows(lambda *_: -0.3, "regression_normalised", sizes=(20,), seeds=3)
    lines = dominated(Evidence(joined(rows, few), {})).splitlines()
    assert re.fullmatch(r"\| the paper's, ReLU \| 1 of 7 \| Beale, 100 \(0\.\d+ \[.*\]\) \| whole \|", lines[-2])
    assert lines[-1].startswith("| normalised, ReLU | 0 of 7 | - |")
    alone = select(rows, method="value")
    assert dominated(Evidence(alone, {})) == "" == dominated(Evidence(rows[:0], {}))


def descent_rows() -> pd.DataFrame:
    """A loss of 1 + 1 that ends at 2 + 8 with ReLU and at 1/4 + 1/4 with softplus, give or take 1%."""
    ends = {"relu": (2.0, 8.0), "softplus": (0.25, 0.25)}
    return as_rows(
        [
            ("regression_descent", "bukin", activation, 100, seed, step, "train", term, value, "reduced")
            for (activation, end), seed in itertools.product(ends.items(), range(8))
            for term, last in zip(("value_loss", "gradient_loss"), end, strict=True)
            for step, value in ((0, 1.0), (10, last * (1 + 0.01 * (seed % 3 - 1))))
        ]
    )


def test_the_report_says_where_descent_raised_the_loss() -> None:
    rows = descent_rows()
    *_, line = descent(rows).splitlines()
    function, points, of_relu, rose, highest, of_softplus, fell, begin, scale = line.strip("| ").split(" | ")
    assert (function, points, rose, fell, scale) == ("Bukin N. 6", "100", "rose", "fell", "reduced")
    assert of_relu.startswith("5 [4.95, 5.0")
    assert highest.startswith("5 [4.95, 5.0")
    assert of_softplus.startswith("0.25 [0.24")
    assert begin == "1 [1, 1]"
    *_, line = descent(rows[rows["seed"] < 3]).splitlines()
    assert line.count("undecided") == 2
    *_, line = descent(select(rows, method="relu")).splitlines()
    assert re.search(r"rose \| 5 \[[^|]*\] \| reduced \|$", line)
    assert descent(rows[:0]) == ""


def test_the_figure_of_descent_shows_the_loss_over_where_it_began() -> None:
    ((name, file_name, figure),) = figures.draw(figures.NAMES, descent_rows(), {})
    assert (name, file_name) == ("descent", "descent")
    (axes,) = figure.axes
    ends = sorted(float(line.get_ydata()[-1]) for line in axes.lines)
    assert ends == pytest.approx([0.25, 1, 5], rel=0.01)


def test_learning_curves_show_train_and_test() -> None:
    rows = make_rows(tasks=("booth",), sizes=(20, 100))
    figure = figures.learning_curves(rows, 100)
    assert [axes.get_title() for axes in figure.axes] == ["MSE of values", "MSE of gradients"]
    lines = [line.get_ydata() for line in figure.axes[0].lines]
    assert len(lines) == 4
    cell = select(rows, n_train=100, method="sobolev", split="train", metric="value_mse")
    medians = np.median(curve(cell)[1], axis=1)
    assert any(np.allclose(line, medians) for line in lines)


def test_surface_view_places_models_in_their_columns() -> None:
    surfaces = {
        ("regression", "styblinski_tang", method, n_train): make_surface(n_train=n_train, slope=slope)
        for method, n_train, slope in (("value", 20, 0.5), ("sobolev", 20, 0.9), ("sobolev", 100, 1.0))
    }
    figure = figure_3(surfaces)
    titles = [axes.get_title() for axes in figure.axes]
    missed = make_surface().target_variance + make_surface()._mean(make_surface().value_GG) ** 2
    assert titles == [
        *("target,\n20 points", f"value only\nMSE {missed / 4:.2g}", f"Sobolev\nMSE {missed / 100:.2g}"),
        *("target,\n100 points", "Sobolev\nMSE 0"),
    ]
    assert "seed 3;" in texts(figure)
    columns = [axes.get_subplotspec().colspan.start for axes in figure.axes]
    assert columns == [0, 1, 2, 0, 2]


def test_each_model_stands_above_its_own_points_and_says_its_seed() -> None:
    surfaces = {
        ("regression", "booth", "value", 20): make_surface(n_train=20),
        ("regression", "booth", "sobolev", 20): replace(
            make_surface(), seed=5, x_train_P2=np.full((7, 2), 0.5, dtype=np.float32)
        ),
    }
    figure = surface_view(surfaces, "regression", "booth")
    dots = [len(c._offsets3d[0]) for axes in figure.axes for c in axes.collections if isinstance(c, Path3DCollection)]
    assert dots == [0, 20, 7]  # the target has those that its models share
    assert [axes.get_title().split("\n")[0] for axes in figure.axes[1:]] == ["value only, seed 3", "Sobolev, seed 5"]
    same = surface_view({key: make_surface(n_train=20) for key in surfaces}, "regression", "booth")
    dots = [len(c._offsets3d[0]) for axes in same.axes for c in axes.collections if isinstance(c, Path3DCollection)]
    assert dots == [20, 20, 20]


def test_models_trained_to_be_shown_take_the_place_of_others() -> None:
    shown = replace(make_surface(), seed=0)
    surfaces = {("regression", "booth", m, 20): make_surface() for m in ("value", "sobolev")}
    surfaces |= {("regression_surfaces", "booth", m, 20): shown for m in ("value", "sobolev")}
    ((_, name, figure),) = figures.draw(["surfaces"], make_rows()[:0], surfaces)
    assert name == "surfaces_booth"
    assert "paper's protocol; seed 0;" in texts(figure)


def test_a_flat_model_has_arrows_of_length_zero() -> None:
    figure = surface_view({("regression", "booth", "value", 20): make_surface(slope=0)}, "regression", "booth")
    for axes in figure.axes:
        (arrows,) = (c for c in axes.collections if isinstance(c, Poly3DCollection) and len(c._faces[0]) == 3)
        lengths = np.ptp(arrows._faces, axis=1).max(axis=1)
        assert np.isfinite(lengths).all()
        assert (lengths.max() > 0) == (not axes.get_title().startswith("value only"))


@pytest.mark.parametrize("scale", ["paper", "reduced"])
def test_reduced_rows_say_so(scale: str) -> None:
    rows = make_rows(tasks=("booth",), sizes=(20,), seeds=2, scale=scale)
    surfaces = {("regression", "booth", "value", 20): make_surface(scale)}
    drawn = [figure for _, _, figure in figures.draw(figures.NAMES, rows, surfaces)]
    assert len(drawn) == 4
    assert [("REDUCED" in texts(figure)) for figure in drawn] == [scale == "reduced"] * 4


def test_one_reduced_surface_makes_the_view_reduced() -> None:
    surfaces = {
        ("regression", "booth", "value", 20): make_surface("paper"),
        ("regression", "booth", "sobolev", 20): replace(make_surface(), scale="reduced"),
    }
    assert "REDUCED" in texts(surface_view(surfaces, "regression", "booth"))


def test_missing_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw_figures.main(["--results", str(tmp_path)]) == 1
    assert tables_program.main(["--results", str(tmp_path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") and "`make quickstart`" in line for line in lines)
    assert not any(tmp_path.iterdir())

    write_rows(tmp_path / "regression" / "rows.csv.gz", make_rows(tasks=("booth",), sizes=(20,), seeds=2))
    assert draw_figures.main(["figure_3", "--results", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("figure_3: ")


def test_unknown_figure_lists_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        draw_figures.main(["figure_9"])
    assert exit_status.value.code == 2
    assert "there is no figure 'figure_9'; choose from figure_2, figure_3" in capsys.readouterr().err


def test_surfaces_survive_the_file(tmp_path: Path) -> None:
    names = {
        ("regression", "booth", "value", 20),
        ("regression", "booth", "a_loss_of_mine", 20),
        ("regression", "a_function_of_mine", "sobolev", 20),
        ("regression_normalised", "styblinski_tang", "sobolev_2", 100),
        ("regression_second_order", "bukin", "sobolev", 10_000),
        ("regression", "booth", "half", 20),
        ("regression", "noisy_ackley", "value", 20),  # functions whose names hold another's
        ("regression", "ackley_shifted", "value", 20),
        ("regression", "ackley", "value", 20),
    }
    for name in names:
        write_surface(tmp_path / f"{'_'.join(map(str, name))}.npz", make_surface())
    rows = as_rows([(*name, 0, 9, "test", "value_mse", 1.0, "paper") for name in names])
    with pytest.raises(EvidenceError, match=r"a_function_of_mine_sobolev_20\.npz: there are no rows of"):
        read_surfaces(tmp_path, rows[rows["task"] != "a_function_of_mine"])
    surfaces = read_surfaces(tmp_path, rows)
    assert surfaces.keys() == names
    for surface in surfaces.values():
        for field, expected in vars(make_surface()).items():
            assert np.array_equal(getattr(surface, field), expected)


def test_damaged_surfaces_are_refused(tmp_path: Path) -> None:
    path = write_surface(tmp_path / "regression_booth_value_20.npz", make_surface())
    rows = make_rows(tasks=("booth",), sizes=(20,))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(EvidenceError, match=r"regression_booth_value_20\.npz: cannot be read"):
        read_surfaces(tmp_path, rows)
    np.savez(path, **{name: np.array({}, dtype=object) for name in ("x", "seed")})  # loading this would run a pickle
    with pytest.raises(EvidenceError, match="cannot be read"):
        read_surfaces(tmp_path, rows)
    path.rename(tmp_path / "regression_tower_value_20.npz")
    with pytest.raises(EvidenceError, match="there are no rows of"):
        read_surfaces(tmp_path, rows)


def test_surfaces_of_derivatives_alone_are_not_drawn() -> None:
    """They fix the values up to a constant; a size or a function that has nothing else has no picture."""
    surface = make_surface()
    keys = [("booth", "value", 20), ("booth", "sobolev", 20), ("booth", "derivative", 50), ("ackley", "derivative", 20)]
    surfaces = {("regression", *key): surface for key in keys}
    drawn = [name for _, name, _ in figures.draw(["surfaces"], make_rows(tasks=("booth",)), surfaces)]
    assert drawn == ["surfaces_booth"]


def test_drawing_imports_nothing_that_trains() -> None:
    heavy = "{'torch', 'sobolev.networks', 'experiments.runner.run'}"
    program = (
        f"import sys, experiments.regression.figures, experiments.evidence.report; print({heavy} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_experiments_and_collecting_run_without_pandas() -> None:
    program = """
import importlib, sys
import run, scripts.collect, scripts.export_teachers, scripts.tune
from experiments.runner.former_names import ENTRIES
for entry in ENTRIES:
    importlib.import_module(entry.rpartition(".")[0])
print("pandas" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_shipped_report_is_what_the_shipped_rows_give(tmp_path):
    results = ROOT / "results"
    assert report_program.main(["--results", str(results), "--out", str(tmp_path)]) == 0
    found = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.md")}
    shipped = {path.relative_to(results): path.read_text() for path in [*results.glob("report/*.md")]}
    shipped[Path("REPORT.md")] = (results / "REPORT.md").read_text()
    assert found == shipped, "rows were collected: make figures report"
    assert len(shipped[Path("REPORT.md")].splitlines()) <= 120


def test_the_front_page_counts_what_was_run_and_names_what_was_not():
    front = pages(Evidence(make_rows(seeds=6), {}))["REPORT.md"]
    assert (
        "| R1, at the end | Sobolev Training has the lower test error on 6 of the 7 functions (all but Ackley). | **re"
        in front
    )
    assert "R4; " in front.partition("Not run: ")[2]
    assert "| R4 |" not in front
    counted = front.partition("## Claim by claim\n\n")[2].partition(".")[0]
    assert sum(int(words.split()[0]) for words in counted.split(", ")) == sum(
        len(part.claims) for domain in report_program.all_domains() for part in domain.parts if part.of_paper
    )
    assert "![" not in front
    shown = report.reports(Evidence(make_rows(seeds=6), {}), report_program.all_domains(), {"ratios.png"})["REPORT.md"]
    assert shown.count("](figures/") == 1
    assert all((ROOT / "results" / "figures" / name).is_file() for name in report.FIGURES)


def test_the_front_page_lists_what_changed_in_every_domain_that_has_something_to_say():
    listed = pages(Evidence(make_rows(seeds=6), {}))["REPORT.md"].partition("## Changed after results were seen\n")[2]
    for subject in ("Regression", "Regression, the recipe", "Theory", "Distillation", "Surrogates"):
        assert f"\n- {subject}: " in listed


def test_functions_won_are_counted_on_the_way():
    """Sobolev Training wins all but Ackley from the beginning, and at the end."""
    front = pages(Evidence(make_rows(seeds=6), {}))["REPORT.md"]
    (line,) = [line for line in front.splitlines() if line.startswith("| 20 points |")]
    assert {cell.strip() for cell in line.split("|")[2:-1]} == {"6"}


def test_errors_of_zero_are_equal_to_each_other_and_smaller_than_any_other():
    assert log_ratio(dict.fromkeys(range(6), 0.0), dict.fromkeys(range(6), 0.0))[:3] == (0, 0, 0)
    assert outcome(log_ratio(dict.fromkeys(range(6), 1e-9), dict.fromkeys(range(6), 0.0))) == "won"
    assert outcome(log_ratio(dict.fromkeys(range(6), 0.0), dict.fromkeys(range(6), 1e-9))) == "lost"
    assert log_ratio({0: 3e-9}, {0: 2e-9}).median == np.log10(1.5)
