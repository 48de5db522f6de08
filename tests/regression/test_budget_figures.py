"""Functions won against updates, on rows that are made here."""

from __future__ import annotations

import numpy as np

from experiments.evidence.rows import select
from experiments.regression.budget_figures import functions_won, on_the_way
from experiments.regression.figures import draw
from tests.regression.test_evidence import joined, make_rows


def won_early_and_lost_late():
    """Ackley is tied throughout and Booth is lost after the last update, as a longer training would show."""
    rows = make_rows(lambda task, _: 0.0 if task == "ackley" else 1.0, sizes=(20,))
    late = select(make_rows(lambda task, _: -1.0, tasks=("booth",), sizes=(20,)), step=100)
    late["step"] = 1_000
    return joined(rows, late)


def test_functions_won_are_counted_after_every_update_that_was_measured():
    rows = won_early_and_lost_late()
    counted, summary = functions_won(rows).axes[1], functions_won(rows).axes[0]
    line = counted.lines[0]
    assert dict(zip(*line.get_data(), strict=True)) == {1: 6, 10: 6, 50: 6, 100: 6, 1_000: 5}
    assert any(set(line.get_ydata()) == {6} for line in counted.lines[1:])  # what R1 asks for
    band = counted.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == 7  # Ackley is tied, and neither won nor lost
    mean = next(line for line in summary.lines if line.get_label() == "20 points")
    np.testing.assert_allclose(mean.get_ydata(), [10 ** (6 / 7)] * 4 + [10 ** (4 / 7)], rtol=0.05)
    assert list(on_the_way(select(rows, split="test", metric="value_mse"), 20)) == [1, 10, 50, 100, 1_000]


def test_the_count_needs_every_function_enough_seeds_and_the_papers_protocol():
    assert functions_won(make_rows(tasks=("booth",))) is None
    assert functions_won(make_rows(seeds=3)) is None
    of_another = make_rows(experiment="regression_normalised", sizes=(20,))
    assert not list(draw(["functions_won"], of_another, {}))
    assert [file for _, file, _ in draw(["functions_won"], make_rows(sizes=(20,)), {})] == ["functions_won"]
