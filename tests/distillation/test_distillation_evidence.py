"""From rows of distillation to claims."""

import itertools
import json
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from experiments.distillation.appendix import shortcut
from experiments.distillation.claims import DISTILLATION, PAPER_GAMES, SIZES, log_ratios, overfitting, uniform_share
from experiments.distillation.longer import FALLING_ALPHA, JUDGED_GAMES, JUDGED_SIZES, nearer_for_longer
from experiments.distillation.longer import table as longer
from experiments.distillation.names import GAMES
from experiments.evidence.report import details, judge
from experiments.evidence.rows import as_rows, final, select
from experiments.evidence.verdicts import Evidence, Finding
from tests.conftest import CONFIGS
from tests.regression.test_evidence import joined

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


@pytest.mark.parametrize(("column", "own"), [("task", "mine"), ("method", "mine"), ("n_train", 7)])
def test_what_the_paper_does_not_have_leaves_every_finding_as_it_was(monkeypatch, column, own):
    """A game, a method or a training size of one's own."""
    rows = make_rows()
    mine = rows[(rows["task"] == "pong") & (rows["method"] == "sobolev") & (rows["n_train"] == 1_000)].copy()
    mine[column], mine["value"], mine["scale"] = own, 1 / (1 + mine["value"]), "reduced"
    before = findings(rows)
    assert {finding.scale for finding in before.values()} == {"paper"}
    assert findings(joined(rows, mine)) == before
    monkeypatch.setitem(GAMES, "mine", "Mine")  # with a title
    assert findings(joined(rows, mine)) == before


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
        (make_rows(overfitted=lambda method, game: 1.0), {"D2": "not testable"}),  # nobody overfits
        (make_rows(overfitted=lambda method, game: 1.3 if method == "sobolev" else 1.0), {"D2": "not reproduced"}),
        (make_rows(uniform=0.2), {"D3": "not testable"}),
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


def test_whether_anybody_overfits_is_open_where_half_of_the_seeds_do():
    rows = make_rows(overfitted=lambda method, game: 1.0)
    early = (rows["step"] == STEPS[1]) & (rows["method"] == "value") & (rows["seed"] % 2 == 0)
    rows.loc[early & (rows["task"] == "breakout") & (rows["n_train"] == 1_000), "value"] /= 1.5
    finding = findings(rows)["D2"]
    assert (finding.verdict, finding.because[:20]) == ("inconclusive", "in these few updates")


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
    of_lines = [[entry.strip() for entry in line.split("|")[1:-1]] for line in lines]
    last = int(rows["step"].max())
    assert [line[:4] for line in of_lines] == [
        ["Breakout", "1,000", f"{updates:,}", method]
        for updates in (last, 5 * last)
        for method in ("value only", "Sobolev")
    ]
    (value, sobolev), (value_later, sobolev_later) = of_lines[:2], of_lines[2:]
    assert float(value_later[4]) == pytest.approx(2 * float(value[4]), rel=0.01)  # test KL
    assert sobolev_later[4] == sobolev[4]
    assert value[-2] == "-"
    assert float(sobolev_later[-2].split()[0]) == pytest.approx(2 * float(sobolev[-2].split()[0]), rel=0.02)
    assert longer(Evidence(rows, {})) == ""
    said = nearer_for_longer(Evidence(joined(rows, again), {}))
    assert re.fullmatch(
        rf"KL divergence after {5 * last:,} updates, value-only over each method\. Sobolev: Breakout [\d.]+ "
        r"\(3 seeds\) from 1,000 states\.",
        said,
    )
    assert float(re.search(r"Breakout ([\d.]+)", said)[1]) == pytest.approx(
        float(sobolev_later[-2].split()[0]), rel=0.05
    )
    assert nearer_for_longer(Evidence(rows, {})) == ""


def with_alpha(method: str, log10_ratio: Callable[[str, int], float], seeds: int = 3) -> Evidence:
    """Rows of the longer runs in which this method ends with so much smaller a KL divergence."""
    rows = make_rows(log10_ratio, seeds=seeds, games=JUDGED_GAMES, sizes=JUDGED_SIZES, scale="reduced")
    rows = rows.assign(experiment="distill_longer", method=rows["method"].astype(str).replace("sobolev", method))
    return Evidence(as_rows(rows), {})


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("of_cell", "seeds", "verdict", "because"),
    [
        (lambda game, n: 0.3, 3, "reproduced", "reproduced with 1,000, 5,000, 25,000 states"),
        (lambda game, n: 0.3, 2, "inconclusive", "inconclusive with 1,000, 5,000, 25,000 states"),
        (
            lambda game, n: -0.3 if (game, n) == ("pong", 25_000) else 0.3,
            3,
            "not reproduced",
            "reproduced with 1,000, 5,000 states; not reproduced with 25,000 states",
        ),
        (
            lambda game, n: 0.0 if (game, n) == ("breakout", 1_000) else 0.3,
            3,
            "inconclusive",
            "reproduced with 5,000, 25,000 states; inconclusive with 1,000 states",
        ),
    ],
)
def test_each_alpha_is_judged_in_every_game_and_size(of_cell, seeds, verdict, because, place):
    method = ("sobolev_falling", "sobolev_balanced")[place]
    [[_, judged]] = judge(with_alpha(method, of_cell, seeds), [FALLING_ALPHA])
    (_, finding), (_, other) = judged[place], judged[1 - place]
    assert (finding.verdict, finding.because, finding.scale) == (verdict, because, "reduced")
    assert other.verdict == "not run"


def test_a_falling_alpha_is_not_judged_where_a_cell_lacks():
    evidence = with_alpha("sobolev_falling", lambda game, n: 0.3)
    rows = evidence.rows
    rows = rows[~((rows["task"] == "pong") & (rows["n_train"] == 5_000) & (rows["method"] == "sobolev_falling"))]
    [[_, [(_, finding), _]]] = judge(Evidence(rows, {}), [FALLING_ALPHA])
    assert finding.verdict == "not run"
    assert finding.ours.endswith("Missing: Pong at 5,000")


DIFFERENCES = {"distill_float32": ["compute_dtype"], "distill_longer": ["optimizer.steps"]}


def test_shipped_runs_of_a_comparison_differ_by_nothing_else():
    settings = json.loads((CONFIGS.parent / "results" / "distillation" / "settings.json").read_text())
    for name, expected in DIFFERENCES.items():
        cells = {cell: cell.replace(name, "distill_atari") for cell in settings if cell.startswith(f"{name} ")}
        assert settings.keys() & cells.values()
        for cell, of_the_grid in cells.items():
            if other := settings.get(of_the_grid):  # a falling alpha has no shorter runs
                both = other.keys() & settings[cell].keys()  # a key that one lacks came or went with the code
                assert {key for key in both if settings[cell][key] != other[key]} == {"name", *expected}, cell


def test_the_report_names_what_is_missing():
    evidence = Evidence(make_rows(games=("breakout",)), {})
    text = details(evidence, judge(evidence, [DISTILLATION]))
    assert "Missing: Space Invaders at 1,000, 5,000, 10,000, 25,000, 50,000" in text
    assert re.search(r"Breakout at 1,000 3\.[12]", text)  # 10^0.5
    assert "| Breakout | 1,000 | value |" in text
    assert "nearly uniform on 80% of the states" in text
