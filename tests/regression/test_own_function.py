"""A function of one's own: it trains from its formula alone, is shown by its name, and changes nothing that ships."""

from __future__ import annotations

import shutil

import pytest

from experiments.evidence.collect import collect
from experiments.evidence.names import LOOKS, SPARE_LOOKS
from experiments.evidence.report import read_evidence
from experiments.evidence.rows import read_rows, select
from experiments.evidence.verdicts import Evidence, Finding
from experiments.regression import figures
from experiments.regression.appendix import longer_training
from experiments.regression.claims import PARTS
from experiments.regression.names import TASKS
from experiments.regression.rules import PAPER_TASKS
from experiments.regression.surfaces import surface_view
from experiments.regression.tables import tables
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of
from sobolev.functions import BENCHMARKS, BenchmarkFunction
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
