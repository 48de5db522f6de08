"""A function of one's own: it trains from its formula alone, is shown by its name, and changes nothing that ships."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.evidence.collect import collect
from experiments.evidence.names import LOOKS, SPARE_LOOKS
from experiments.evidence.report import read_evidence
from experiments.evidence.rows import read_rows, select
from experiments.evidence.verdicts import Evidence, Finding
from experiments.regression import figures
from experiments.regression.appendix import longer_training
from experiments.regression.claims import PARTS
from experiments.regression.names import TASKS
from experiments.regression.own_function import check_own
from experiments.regression.rules import PAPER_TASKS
from experiments.regression.surfaces import surface_view
from experiments.regression.tables import tables
from experiments.runner.errors import BadInput
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of
from sobolev.functions import BENCHMARKS, SHIPPED, BenchmarkFunction
from tests.conftest import ROOT

HIMMELBLAU = BenchmarkFunction(
    name="himmelblau",
    domain=((-5.0, 5.0), (-5.0, 5.0)),
    formula=lambda x, y: (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2,
)
LOSSES = {"value": ["loss=value"], "sobolev": ["loss=sobolev"], "mine": ["loss.name=mine", "loss.weights=[1,0.5]"]}


def findings(evidence: Evidence) -> dict[tuple[str, str], Finding]:
    return {(part.title, claim.key): claim.judge(evidence) for part in PARTS for claim in part.claims}


@pytest.fixture
def results(tmp_path, make_config, monkeypatch):
    """A copy of the shipped results of regression, to which tiny runs of Himmelblau's function were collected."""
    monkeypatch.setitem(BENCHMARKS, HIMMELBLAU.name, HIMMELBLAU)
    configs = [make_config("dataset.name=himmelblau", "n_train=20", "networks=6", *LOSSES[loss]) for loss in LOSSES]
    for config in configs:
        execute(config)
    shutil.copytree(ROOT / "results" / "regression", tmp_path / "results" / "regression")
    assert collect([folder_of(config) for config in configs], tmp_path / "results" / "regression")
    return tmp_path / "results"


def test_it_leaves_every_verdict_and_number_of_what_ships(results):
    shipped, with_own = (read_evidence(folder) for folder in (ROOT / "results", results))
    assert set(select(with_own.rows, task="himmelblau")["method"]) == set(LOSSES)
    found = findings(with_own)
    assert found == findings(shipped)
    assert {finding.scale for finding in found.values() if finding.scale} == {"paper"}  # of what was run
    of_paper, of_both = (longer_training(evidence.of("regression").rows) for evidence in (shipped, with_own))
    assert of_both == of_paper, "a short training of one's own makes none of the others longer"
    entries_with_own = [entry for _, _, entries in tables(results) for entry in entries]
    assert len(own := [entry for entry in entries_with_own if entry.task == "himmelblau"]) == 2 * len(LOSSES)
    of_shipped = [entry for _, _, entries in tables(ROOT / "results") for entry in entries]
    assert [entry for entry in entries_with_own if entry not in own] == of_shipped


@pytest.mark.parametrize("title", ["himmelblau", "Himmelblau's function"])
def test_it_is_shown_by_its_name_and_a_loss_of_ones_own_has_a_look(results, monkeypatch, title):
    """The name is that of the rows, unless a title is added to the domain's names."""
    if title != "himmelblau":
        monkeypatch.setitem(TASKS, "himmelblau", title)
    rows = select(read_rows(results / "regression" / "rows.csv.gz"), experiment="regression")
    figure = figures.figure_2(rows)
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == [
        *(TASKS[task] for task in PAPER_TASKS),
        title,
    ]
    legend = figure.axes[-1].get_legend()
    drawn = {
        text.get_text(): (line.get_color(), line.get_marker())
        for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
    }
    assert drawn["Sobolev"] == tuple(LOOKS["sobolev"].values())
    assert drawn["mine"] == tuple(SPARE_LOOKS[0].values())
    assert title in [text.get_text() for text in figures.ratios(rows).axes[0].get_yticklabels()]
    surfaces = {key: s for key, s in read_evidence(results).surfaces.items() if key[1] == "himmelblau"}
    view = surface_view(surfaces, "regression", "himmelblau")
    titles = [axes.get_title().split("\n")[0] for axes in view.axes]
    assert titles == ["target,", "value only", "Sobolev", "mine"]  # of one seed, and from the same points
    assert {surface.seed for surface in surfaces.values()} == {0}
    assert len({surface.x_train_P2.tobytes() for surface in surfaces.values()}) == 1
    assert view._suptitle.get_text().startswith(f"{title}: ")
    ((_, text, _),) = (table for table in tables(results) if table[0] == "regression")
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {title} | 20 |"))
    assert line.endswith("| 6 | reduced |")


SQUARE = ((-1.0, 1.0), (0.0, 1.0))
WRONG = {
    "partials in another order": (
        BenchmarkFunction("mine", SQUARE, lambda x, y: x * y**2, lambda x, y: (2 * x * y, y**2)),
        "its gradient differs from differences of the order below by",
    ),
    "partials of another sign": (
        BenchmarkFunction("mine", SQUARE, lambda x, y: x * y**2, lambda x, y: (-(y**2), -2 * x * y)),
        "its gradient differs from differences of the order below by 200%",
    ),
    "half of the gradient": (
        BenchmarkFunction("mine", SQUARE, lambda x, y: x * y.detach() ** 2),
        "its gradient differs",
    ),
    "second partials of another function": (
        BenchmarkFunction("mine", SQUARE, lambda x, y: x * y**2, None, lambda x, y: (0 * x, 2 * x, 2 * y)),
        "its Hessian differs",
    ),
    "mixed points": (BenchmarkFunction("mine", SQUARE, lambda x, y: x * y + x.mean()), "its formula mixes points"),
    "one number": (BenchmarkFunction("mine", SQUARE, lambda x, y: 1.0), "its formula is float, not (32,)"),
    "a column": (BenchmarkFunction("mine", SQUARE, lambda x, y: (x * y)[:, None]), "its formula is (32, 1)"),
    "too many variables": (BenchmarkFunction("mine", SQUARE, lambda x, y, z: x), "its formula fails at 32 points"),
    "not defined": (BenchmarkFunction("mine", SQUARE, lambda x, y: x.log()), "its formula is not finite at [-"),
    "a domain without width": (BenchmarkFunction("mine", ((1.0, 1.0),), lambda x: x), "with low < high"),
    "no function of a domain": (lambda x, y: x, "expected a BenchmarkFunction, not function"),
    "nothing": (BenchmarkFunction("mine", SQUARE, lambda x, y: 0 * x), "it is 0 everywhere"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_function_is_refused_in_one_line_before_its_folder_is_made(make_config, monkeypatch, wrong):
    function, said = WRONG[wrong]
    monkeypatch.setitem(BENCHMARKS, "mine", function)
    config = make_config("dataset.name=mine", "model.activation=tanh")
    with pytest.raises(BadInput, match=re.escape(said)) as caught:
        execute(config)
    assert "\n" not in str(caught.value)
    assert not folder_of(config).exists()


@pytest.mark.parametrize("function", SHIPPED.values(), ids=lambda function: function.name)
def test_a_right_function_is_not_refused(function):
    check_own("mine", function, order=2)


def test_a_function_that_computes_in_float32_is_not_refused():
    check_own("mine", BenchmarkFunction("mine", SQUARE, lambda x, y: (x.float().sin() * y.float()).double()), order=1)


def test_a_simulation_needs_its_gradient_only_where_no_hessian_is_measured(make_config, monkeypatch):
    def simulated(x: Tensor, y: Tensor) -> Tensor:
        return torch.from_numpy(np.sin(x.numpy()) * y.numpy())

    function = BenchmarkFunction("mine", SQUARE, simulated, lambda x, y: (x.cos() * y, x.sin()))
    monkeypatch.setitem(BENCHMARKS, "mine", function)
    execute(make_config("dataset.name=mine", "model.activation=relu"))


def test_a_singular_function_has_no_surface_and_its_rows_are_collected(make_config, tmp_path, monkeypatch, capsys):
    """A root, whose derivative is infinite at 0: no point that is drawn, but one of the surface's grid."""
    function = BenchmarkFunction("mine", ((0.0, 1.0), (0.0, 1.0)), lambda x, y: x.sqrt() + y)
    monkeypatch.setitem(BENCHMARKS, "mine", function)
    config = make_config("dataset.name=mine")
    execute(config)
    assert "no surface is saved" in capsys.readouterr().err
    assert collect([folder_of(config)], tmp_path / "results" / "regression")
    assert len(read_rows(tmp_path / "results" / "regression" / "rows.csv.gz"))
