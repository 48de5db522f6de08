"""Figures and tables of surrogates are of the rows that they are given."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from experiments.evidence.collect import collect
from experiments.evidence.rows import as_rows
from experiments.evidence.verdicts import Evidence
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of
from experiments.surrogates.analysis import errors_of, tables, worth
from experiments.surrogates.figures import NAMES, costs, drawn, errors, predicted


def rows(by_method, cost=None):
    found = []
    for method, by_size in by_method.items():
        for n, error in by_size.items():
            cell = ("surrogate_reactor", "reactor", method, n)
            for seed in range(5):
                for metric in ("value_error", "gradient_error"):
                    found.append((*cell, seed, 9, "test", metric, error * (1 + 0.01 * seed), "paper"))
                if cost:
                    found.append((*cell, seed, 9, "labels", "differences", cost, "paper"))
    return as_rows(found)


def lines(by_method):
    table = rows(by_method)
    return [errors_of(table, "surrogate_reactor", "reactor", method, "value_error") for method in ("sobolev", "value")]


def test_what_a_sample_is_worth_interpolates_in_the_logarithms():
    sobolev, value = lines({"value": {16: 0.4, 64: 0.1}, "sobolev": {16: 0.2, 64: 0.01}})
    assert worth(sobolev, value) == {16: pytest.approx((2.0, False)), 64: (1.0, True)}


def test_the_table_says_how_much_smaller_errors_are_and_what_labels_cost():
    text = tables(Evidence(rows({"value": {16: 0.4, 64: 0.1}, "sobolev": {16: 0.2, 64: 0.01}}, cost=6.0), {}))
    assert "| 16 | 2 [2, 2] | 2 |" in text
    assert "| 64 | 10 [10, 10] | at least 1 |" in text
    assert "differences 6" in text


def test_a_cell_without_neighbours_shows_its_interval_and_one_that_is_missing_is_marked():
    table = rows({"value": {14: 0.4, 28: 0.3, 112: 0.1}, "sobolev": {28: 0.2, 112: 0.05}}, cost=6.0)
    figure = errors(table, "surrogate_reactor", "reactor")
    figure.canvas.draw()
    for axes in figure.axes:
        value, sobolev, hollow = axes.get_lines()
        assert list(axes.get_xticks()) == [14, 28, 112]
        np.testing.assert_allclose(value.get_ydata(), [0.408, 0.306, 0.102])
        assert np.isnan(sobolev.get_ydata()).tolist() == [True, False, False]
        assert (list(hollow.get_xdata()), hollow.get_markerfacecolor()) == ([14], "none")
        assert axes.get_ylim()[0] > 0.02  # the mark is at the foot, and moves no axis
    assert "hollow: no run" in figure.get_suptitle()
    lone = rows({"value": {14: 0.4, 28: 0.3, 56: 0.2}, "sobolev": {28: 0.1}}, cost=6.0)
    for draw in (errors, costs):
        for axes in draw(lone, "surrogate_reactor", "reactor").axes:
            (bar,) = (segment for lines in axes.collections for segment in _bars(lines))
            np.testing.assert_allclose(bar[:, 1], [0.1, 0.104])
    whole = errors(rows({"value": {14: 0.4, 28: 0.3}}), "surrogate_reactor", "reactor")
    assert "hollow" not in whole.get_suptitle()


def _bars(lines):
    return lines.get_segments() if isinstance(lines, LineCollection) else []


def test_runs_become_figures(make_config, tmp_path):
    for loss in ("value", "sobolev"):
        config = make_config("experiment=surrogate_reactor", f"loss={loss}")
        execute(config)
        assert collect([folder_of(config)], tmp_path / "results" / "surrogates")
    found = {name: figure for name, _, figure in drawn(NAMES, tmp_path / "results")}
    assert set(found) == set(NAMES)
    errors, costs = (found[name].axes[0].get_lines() for name in ("surrogate_errors", "surrogate_costs"))
    assert [line.get_xdata()[0] for line in errors] == [20, 20]
    assert costs[0].get_label() == "value only"
    assert {round(line.get_xdata()[0]) for line in costs} >= {20, 120}  # as they are, and by six solves each
    assert len(found["surrogate_predictions"].axes) == 8


@pytest.mark.parametrize(("outputs", "panels"), [(1, 2), (3, 6), (9, 12)])
def test_predictions_show_each_output_as_far_as_they_fit(outputs, panels):
    arrays = {"y": np.random.default_rng(0).normal(size=(5, outputs)), "dy": np.ones((5, outputs, 2))}
    arrays |= {f"{name}_predicted": array for name, array in arrays.items()}
    figure = predicted("mine", {"sobolev": arrays}, tuple("abcdefghi"[:outputs]), "paper")
    assert len(figure.axes) == panels
