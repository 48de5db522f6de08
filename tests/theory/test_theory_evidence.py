"""The theory's claims, tables and figures: their rules on made rows, cells of one's own, and from runs to pictures."""

import itertools
import re

import matplotlib
import numpy as np
import pandas as pd
import pytest

from experiments.evidence.rows import as_rows, read_rows, read_settings, select
from experiments.evidence.verdicts import Evidence
from experiments.runner.execute import execute
from experiments.theory import claims
from experiments.theory import figures as theory_figures
from experiments.theory.analysis import by_width, of_experiment, points_needed, rates
from experiments.theory.claims_propositions import proposition_2, proposition_3_gaussian
from experiments.theory.claims_questions import INPUTS, fewer_points, more_with_inputs
from experiments.theory.claims_theorems import MISMATCHES, theorem_1, theorem_2
from scripts import collect
from scripts import figures as draw_figures
from tests.conftest import ROOT
from tests.theory.test_theory_experiment import tiny

# --- Claims ---


def rows_of(experiment, asked, n_train, values, metric):
    """Rows of one cell. `asked` has its settings, in the place of a task."""
    return [(experiment, asked, "m", n_train, seed, 9, "test", metric, v, "paper") for seed, v in enumerate(values)]


def evidence_of(rows) -> Evidence:
    """Such rows as evidence, with settings, and with names of tasks that say nothing of them."""
    labelled, settings, tasks = [], {}, {}
    for experiment, asked, method, n_train, *rest in rows:
        task = f"task{tasks.setdefault(tuple(asked.items()), len(tasks))}"
        labelled.append((experiment, task, method, n_train, *rest))
        settings[experiment, task, method, n_train] = asked
    return Evidence(as_rows(labelled), {}, settings)


def points(n_inputs, matched, activation="relu"):
    return {"n_inputs": n_inputs, "activation": activation, "loss.name": matched}


def test_points_needed_interpolates_in_the_logarithms_and_is_bounded_by_the_sizes():
    table = {4: (1.0, 0.05, 1.0), 16: (0.01, 0.01, 0.5), 64: (0.001, 0.001, 0.2)}  # seeds: crosses, at once, never
    rows = [
        row
        for n, values in table.items()
        for row in rows_of("theory_points", points(3, "value"), n, values, "value_nmse")
    ]
    rows += rows_of("theory_points", points(3, "value", "tanh"), 4, (0.01, 0.01, 0.01), "value_nmse")
    needed = points_needed(of_experiment(evidence_of(rows), "theory_points").rows, 3, "value")
    assert needed == pytest.approx({0: 8.0, 1: 4.0, 2: 64.0})


def test_rates_recover_a_power_law():
    rows = []
    for width in (8, 16, 64):
        values = [3 * width**-1.5 * (1 + 0.1 * seed) for seed in range(6)]
        for matched in ("sobolev", "value"):
            asked = {"n_inputs": 2, "width": width, "activation": "relu", "method": matched}
            rows += rows_of("theory_approximation", asked, 99, values, "gradient_l2")
            values = np.ones(6)
    rows = of_experiment(evidence_of(rows), "theory_approximation").rows
    errors = by_width(rows, "gradient_l2", n_inputs=2, activation="relu", matched="sobolev")
    assert list(errors) == [8, 16, 64]
    assert rates(errors) == pytest.approx((1.5, 1.5, 1.5, 6))


@pytest.mark.parametrize(("factor", "verdict"), [(3, "reproduced"), (0.5, "not reproduced"), (None, "inconclusive")])
def test_the_rule_on_points_wins_loses_and_ties(factor, verdict):
    rows = []
    for n_inputs, n in itertools.product(INPUTS, (2, 8, 32, 128)):
        for method, ratio in (("value", 1), ("sobolev", factor or 1)):
            noise = np.resize([0.5, 2], 10) if (factor, method) == (None, "value") else np.ones(10)
            rows += rows_of("theory_points", points(n_inputs, method), n, noise / n / ratio, "value_nmse")
    assert fewer_points(evidence_of(rows)).verdict == verdict
    without_a_dimension = [row for row in rows if row[1]["n_inputs"] != 8]
    without_a_size = [row for row in rows if row[1]["loss.name"] == "value" or row[3] < 128]
    for part in (without_a_dimension, without_a_size):
        assert fewer_points(evidence_of(part)).verdict == "not run"


@pytest.mark.parametrize(("power", "verdict"), [(1, "reproduced"), (-1, "not reproduced"), (0, "inconclusive")])
def test_the_points_saved_grow_with_the_inputs_or_fall_or_neither(power, verdict):
    """A ratio of d^power, and one that rises in half of the seeds and falls in the others."""
    rows = []
    for n_inputs, n in itertools.product(INPUTS, (2, 8, 32, 128, 512)):
        powers = np.full(8, float(power)) if power else np.resize([0.5, -0.5], 8)
        for method, ratio in (("value", np.ones(8)), ("sobolev", float(n_inputs) ** powers)):
            rows += rows_of("theory_points", points(n_inputs, method), n, 1 / n / ratio, "value_nmse")
    assert more_with_inputs(evidence_of(rows)).verdict == verdict
    assert more_with_inputs(evidence_of(rows[:100])).verdict == "not run"


def test_fewer_points_are_judged_in_each_number_of_inputs():
    rows = []
    for n_inputs, n in itertools.product(INPUTS, (2, 8, 32, 128)):
        ratios = {1: np.full(8, 0.5), 2: np.resize([0.5, 2], 8)}.get(n_inputs, np.full(8, 2.0))
        for method, ratio in (("value", np.ones(8)), ("sobolev", ratios)):
            rows += rows_of("theory_points", points(n_inputs, method), n, 1 / n / ratio, "value_nmse")
    finding = fewer_points(evidence_of(rows))
    assert finding.verdict == "not reproduced"
    assert finding.because == (
        "reproduced with 3, 5, 8, 12, 20 inputs; not reproduced with 1 input; inconclusive with 2 inputs"
    )


def mismatch_rows(lowest: float, mismatches=MISMATCHES, n_train: int = 256) -> list[tuple]:
    rows = []
    for domain, delta, metric in itertools.product(("interval", "disc"), mismatches, ("joint_mse", "joint_sup")):
        asked = {"domain": domain, "delta": delta}
        for seed in (0, 6):  # two runs of other seeds, each with the floor
            rows.append(("theory_mismatch", asked, "m", n_train, seed, 0, "exact", metric, 1.0, "paper"))
        rows += rows_of("theory_mismatch", asked, n_train, (1.02, lowest), metric)
    return rows


def test_a_network_below_the_floor_refutes_theorem_2():
    for lowest, verdict in ((1.05, "reproduced"), (0.9, "not reproduced")):
        rows = mismatch_rows(lowest)
        assert theorem_2(evidence_of(rows)).verdict == verdict
        rows += mismatch_rows(1.05, n_train=1024)  # a reader's own training size is no part of it
        assert theorem_2(evidence_of(rows)).verdict == verdict
    half = theorem_2(evidence_of(mismatch_rows(1.05, (0.125, 2.0))))
    assert (half.verdict, half.ours) == ("not run", "Missing: a mismatch of 0.25 on the interval")


def test_a_construction_is_as_wide_as_it_is():
    rows = []
    for width in (64, 65):  # which make the same network
        asked = {"n_inputs": 2, "width": width}
        rows += rows_of("theory_construction", asked, 3000, [0.1], "value_l2")
        rows.append(("theory_construction", asked, "m", 3000, 0, 0, "exact", "hidden_units", 36.0, "paper"))
    rows = of_experiment(evidence_of(rows), "theory_construction").rows
    assert by_width(rows, "value_l2", n_inputs=2) == {36: {0: 0.1}}


def test_a_twin_that_is_the_density_itself_is_none(tmp_path):
    rows = exact_rows(tmp_path, "gaussian")
    assert proposition_3_gaussian(Evidence(rows, {})).verdict == "reproduced"
    rows.loc[rows["metric"] == "twin_distance", "value"] = 0
    assert proposition_3_gaussian(Evidence(rows, {})).verdict == "not reproduced"


def test_one_part_of_the_exact_theory_alone(tmp_path, capsys):
    """README's command makes the part `hypotheses`; what needs others is not run, and is no traceback."""
    rows = exact_rows(tmp_path, "hypotheses")
    finding = proposition_2(Evidence(rows, {}))
    assert finding.verdict == "not run"
    assert "Gaussian densities" in finding.ours
    assert "determine a function (reduced)" in claims.tables(Evidence(rows, {}))
    assert draw_figures.main(["--results", str(tmp_path / "results")]) == 0
    assert "gaussian_pair, " in capsys.readouterr().err


def exact_rows(folder, part: str) -> pd.DataFrame:
    """The rows of one part, collected into `folder`/results."""
    execute(tiny("theory_exact", folder / "runs", f"part={part}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["collect", "--runs", str(folder / "runs"), "--results", str(folder / "results")])
        collect.main()
    return read_rows(folder / "results" / "theory" / "rows.csv.gz")


def test_another_seed_of_the_exact_theory_replaces_nothing_unasked(tmp_path, capsys):
    first = exact_rows(tmp_path, "gaussian")
    execute(tiny("theory_exact", tmp_path / "others", "part=gaussian", "seed=1"))
    with pytest.MonkeyPatch.context() as patch:
        results = ["--results", str(tmp_path / "results")]
        patch.setattr("sys.argv", ["collect", "--runs", str(tmp_path / "others"), *results])
        collect.main()
    assert "seed is 1, not 0 as in the other runs of its cell" in capsys.readouterr().err
    pd.testing.assert_frame_equal(read_rows(tmp_path / "results" / "theory" / "rows.csv.gz"), first)


@pytest.mark.parametrize(("rate", "verdict"), [(1, "reproduced"), (0.3, "not reproduced")])
def test_theorem_1_is_judged_by_its_rate(rate, verdict):
    rows = []
    for n_inputs in (1, 2, 3):
        for width in (64, 512, 4096):
            for metric in ("gradient_sup", "value_sup"):
                asked, error = {"n_inputs": n_inputs, "width": width}, max(width, 512) ** -rate  # flat below 512
                rows += rows_of("theory_construction", asked, 99, [error, error], metric)
    assert theorem_1(evidence_of(rows)).verdict == verdict
    widest_alone = [row for row in rows if row[1]["width"] == 4096]
    assert theorem_1(evidence_of(widest_alone)).verdict == "not run"


def test_claims_without_rows_are_not_run():
    nothing = Evidence(as_rows([]), {})
    assert {claim.judge(nothing).verdict for claim in claims.CLAIMS} == {"not run"}
    assert claims.tables(nothing) == ""


# --- Cells of one's own, beside those that ship ---

OWN = {  # {(experiment, task, method, n_train) that ships: the settings of cells of one's own that are made of it}
    ("theory_construction", "d2_w4096", "construction", 3_000): [{"width": 100}, {"width": 32_768}, {"n_inputs": 4}],
    ("theory_approximation", "d1_w64", "sobolev_relu", 4_096): [
        *({"width": 12}, {"width": 512}, {"n_inputs": 3}, {"activation": "softplus"}),
    ],
    ("theory_mismatch", "disc_delta1.0", "sobolev", 256): [{"delta": 4.0}],
    ("theory_points", "d5", "value_relu", 64): [{"n_inputs": 30}, {"activation": "softplus"}],
    ("theory_points", "d5", "sobolev_relu", 64): [{"n_inputs": 30}, {"activation": "softplus"}],
    ("theory_points", "d5", "value_relu", 4_096): [{"n_train": 8_192}],
    ("theory_exact", "gaussian", "exact", 0): [{"part": "gaussian"}],
}


@pytest.fixture(scope="module")
def shipped() -> Evidence:
    folder = ROOT / "results" / "theory"
    return Evidence(read_rows(folder / "rows.csv.gz"), {}, read_settings(folder / "settings.json"))


@pytest.fixture(scope="module")
def with_own(shipped) -> Evidence:
    """What ships and, with errors that are a hundred times larger and at a reduced scale, cells of one's own."""
    frames, settings = [shipped.rows], dict(shipped.settings)
    for cell, cells_of_own in OWN.items():
        rows = select(shipped.rows, **dict(zip(("experiment", "task", "method", "n_train"), cell, strict=True)))
        assert len(rows), cell
        for number, own in enumerate(cells_of_own):
            experiment, _, method, n_train = cell
            task, n_train, asked = f"own{number}", own.get("n_train", n_train), shipped.settings[cell] | own
            value = rows["value"].where(rows["split"] != "test", 100 * rows["value"])
            value = value.where(rows["metric"] != "hidden_units", asked.get("width"))
            frames.append(rows.assign(task=task, n_train=n_train, value=value, scale="reduced"))
            settings[experiment, task, method, n_train] = asked
    return Evidence(as_rows(pd.concat(frames, ignore_index=True)), {}, settings)


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: claim.key)
def test_cells_of_ones_own_change_no_verdict_and_none_of_our_numbers(claim, shipped, with_own):
    finding = claim.judge(shipped)
    assert finding.scale == "paper"
    assert claim.judge(with_own) == finding


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("theorem_1", {"d = 4"}),
        ("error_against_width", {"3 inputs", "softplus"}),
        ("points_against_dimension", {"30", "Sobolev, softplus"}),
    ],
)
def test_cells_of_ones_own_show_up_in_figures(name, seen, shipped, with_own):
    _, draw = theory_figures.FIGURES[name]
    assert not seen & words_of(draw(shipped))
    assert {*seen, "REDUCED"} <= words_of(draw(with_own))


def test_widths_and_mismatches_of_ones_own_show_up_in_figures(shipped, with_own):
    for name, own in {"theorem_1": 100, "error_against_width": 512, "wrong_derivative": 4.0}.items():
        _, draw = theory_figures.FIGURES[name]
        assert [own in places_of(draw(evidence)) for evidence in (shipped, with_own)] == [False, True], name


def words_of(figure) -> set[str]:
    """All that is written in a figure."""
    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(matplotlib.text.Text)}


def places_of(figure) -> set[float]:
    """Where on the horizontal axes lines have points."""
    return {float(x) for axes in figure.axes for line in axes.lines for x in line.get_xdata()}


def test_tables_show_cells_of_ones_own(with_own):
    tables = claims.tables(with_own)
    assert "| 3 | relu | sobolev |" in tables
    assert "| softplus | 5 |" in tables


# --- From runs to figures ---


def test_runs_become_rows_figures_and_verdicts(tmp_path, monkeypatch, capsys):
    runs, results = tmp_path / "runs", tmp_path / "results"
    for part in ("proposition_1", "polynomials", "gaussian", "hypotheses"):
        execute(tiny("theory_exact", runs, f"part={part}"))
    for n_inputs in (1, 2):
        execute(tiny("theory_construction", runs, f"n_inputs={n_inputs}"))
    for width in (4, 8):
        execute(tiny("theory_approximation", runs, f"width={width}"))
    for domain in ("interval", "disc"):
        execute(tiny("theory_mismatch", runs, f"domain={domain}"))
    for loss in ("value", "sobolev"):
        for n_train in (4, 16):
            execute(tiny("theory_points", runs, f"loss={loss}", f"n_train={n_train}"))
    monkeypatch.setitem(matplotlib.rcParams, "savefig.dpi", 30)
    monkeypatch.setattr("sys.argv", ["collect", "--runs", str(runs), "--results", str(results)])
    collect.main()
    rows = read_rows(results / "theory" / "rows.csv.gz")
    assert set(rows["scale"]) == {"reduced"}

    assert draw_figures.main(["--results", str(results), "gaussian_pair"]) == 0
    assert [path.name for path in (results / "figures").iterdir()] == ["theory_gaussian_pair.png"]
    evidence = Evidence(rows, {}, read_settings(results / "theory" / "settings.json"))
    for _, draw in theory_figures.FIGURES.values():
        draw(evidence).draw_without_rendering()

    verdicts = {claim.key: claim.judge(evidence) for claim in claims.CLAIMS}
    assert verdicts["Theorem 1"].verdict == "not run"  # nothing in three dimensions
    assert verdicts["Proposition 1"].verdict == "reproduced"
    assert verdicts["Polynomials, as printed"].verdict == "not reproduced"
    assert verdicts["Proposition 3, Gaussian"].verdict == "reproduced"
    assert verdicts["Proposition 3, piecewise linear"].verdict == "not run"
    assert verdicts["RQ1, in practice"].verdict == "not run"  # nothing but five dimensions
    assert "polynomials of degree 9 in 1 variable" in claims.tables(evidence)

    (results / "theory" / "settings.json").write_text("{}")
    (results / "theory" / "SHA256SUMS").unlink()
    capsys.readouterr()
    assert draw_figures.main(["--results", str(results), "theorem_1"]) == 1
    said = "settings.json has no n_inputs of type int for theory_construction"
    assert re.fullmatch(rf"error: {re.escape(said)} \S+ construction \d+\n", capsys.readouterr().err)

    capsys.readouterr()
    assert draw_figures.main(["theorem_1", "--results", str(tmp_path / "nowhere")]) == 1
    assert "make theory" in capsys.readouterr().err
    assert len(select(rows, experiment="theory_points", task="d5")) == 2 * 2 * 2
