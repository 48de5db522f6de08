"""Recipes: what each choice means, how rows choose one, and what the chosen one is judged by."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
import torch
import yaml

from experiments.evidence.rows import as_rows, read_rows, select
from experiments.evidence.verdicts import Evidence
from experiments.regression import choosing, figures, recipe_claims, recipes
from experiments.regression.choosing import CELLS, Choice, complete, errors_of, gain, ranked, two_activations
from experiments.regression.names import REDUCED
from experiments.regression.projection_figures import projections
from experiments.regression.recipe_figures import limits
from experiments.regression.recipe_figures import recipes as search_figure
from experiments.regression.recipes import FALLS, STEP, Objective, weights, with_noise
from experiments.regression.rules import PAPER_TASKS
from experiments.regression.settings import GradientTermConfig
from experiments.runner.errors import BadInput
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of, read_summary
from scripts import recipes as program
from sobolev.networks import MLPEnsemble
from sobolev.networks.smooth_step import ORDERS
from tests.conftest import CONFIGS, ROOT
from tests.runner.test_run import interrupted, metrics

SEARCH = "experiment=regression_recipes"


def term(**changed) -> GradientTermConfig:
    settings = {"weight": "balanced", "falls": "flat", "distance": "square", "derivative": "exact"}
    return GradientTermConfig(**{**settings, "factor": 1.0, "noise": 0.0, **changed})


def networks(activation: str, inputs: int = 3) -> MLPEnsemble:
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    return MLPEnsemble((inputs, 8, 16, 8, 1), generators, activation).double()


def batch(inputs: int = 3, n: int = 7) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(9)
    sizes = (inputs, 1, inputs)
    return tuple(torch.randn(2, n, size, generator=rng, dtype=torch.float64) for size in sizes)


# What a choice means


@pytest.mark.parametrize("activation", ["relu", *(kind.__name__.lower() for kind in ORDERS)])
@pytest.mark.parametrize("distance", ["square", "norm"])
def test_steps_by_hand_equal_autograd(activation, distance):
    ensemble, data = networks(activation), batch()
    objective = Objective(ensemble, 7, term(distance=distance, falls="late"), data[2])
    for share in (0.0, 0.3, 1.0):
        objective.per_sample(FALLS["late"](share), *data).mean(1).sum().backward()
        by_autograd = [parameter.grad.clone() for parameter in ensemble.parameters()]
        ensemble.zero_grad()
        objective(share, *data)
        for parameter, expected in zip(ensemble.parameters(), by_autograd, strict=True):
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-12)
        ensemble.zero_grad()


def test_the_norm_of_nothing_has_a_gradient_of_zeros():
    ensemble, (x, f, _) = networks("tanh"), batch()
    x.requires_grad_()
    (exact,) = torch.autograd.grad(ensemble(x).sum(), x)
    Objective(ensemble, 7, term(distance="norm", weight="unit"), exact)(0.0, x.detach(), f, exact)
    assert all(parameter.grad.isfinite().all() for parameter in ensemble.parameters())


def test_weights_balance_the_terms_of_a_network_of_zeros():
    _, _, gradients = batch()
    gradients[1] *= 100
    for distance, power in (("square", 2), ("norm", 1)):
        sizes = (weights(term(distance=distance), gradients) * gradients.norm(dim=-1, keepdim=True) ** power).mean(1)
        torch.testing.assert_close(sizes, torch.ones_like(sizes))
    assert (weights(term(weight="unit"), gradients) == 1).all()
    assert weights(term(), torch.zeros(2, 7, 3)).isfinite().all()


def test_weights_fall_with_the_learning_rate_or_earlier():
    assert [FALLS["flat"](s) for s in (0, 0.5, 1)] == [1, 1, 1]
    assert [FALLS["late"](s) for s in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert [FALLS["early"](s) for s in (0, 0.25, 0.5, 0.9)] == pytest.approx([1, 0.5, 0, 0])


def test_differences_see_a_kink_that_gradients_hide():
    data = batch()
    exact, finite = (
        Objective(networks("tanh"), 7, term(derivative=word), data[2]).per_sample(1.0, *data)
        for word in ("exact", "finite")
    )
    assert not torch.equal(exact, finite)
    torch.testing.assert_close(finite, exact, rtol=0, atol=STEP**2)
    kink = MLPEnsemble((1, 1, 1), [torch.Generator().manual_seed(0)], "relu")
    for parameter, number in zip(kink.parameters(), (1.0, 1.0, 0.0, 0.0), strict=True):  # weights, then biases
        torch.nn.init.constant_(parameter, number)
    at_its_foot, flat = torch.full((1, 1, 1), STEP / 2), torch.zeros(1, 1, 1)
    Objective(kink, 1, term(weight="unit", derivative="finite"), flat)(0.0, at_its_foot, at_its_foot, flat)
    # The loss is the square of a difference of 3/4, which grows by 1 / 2h with the bias; the exact gradient would not.
    assert kink.biases[0].grad.item() == pytest.approx(2 * 0.75 / (2 * STEP))


def test_noise_is_relative_and_of_the_seed_alone():
    gradients = 7 * torch.ones(2, 5000, 3)
    noisy = with_noise(gradients, 0.5, range(4, 6))
    assert (noisy - gradients).std() == pytest.approx(3.5, rel=0.05)
    assert torch.equal(noisy[1:], with_noise(gradients[1:], 0.5, range(5, 6)))
    assert with_noise(gradients, 0.0, range(4, 6)) is gradients


# Runs


@pytest.mark.parametrize("overrides", [["dataset=friedman"], ["activation=gelu", "gradient.falls=late"]])
def test_a_stopped_run_ends_in_the_rows_of_one_that_was_not(make_config, monkeypatch, overrides):
    asked = [SEARCH, *overrides, "evaluations=3", "compute.checkpoint_seconds=0"]
    interrupted(config := make_config(*asked), monkeypatch, 20, recipes)
    execute(config)
    execute(whole := make_config(*asked, runs="whole"))
    assert metrics(config) == metrics(whole)
    assert read_summary(folder_of(config))["validation_value_mse"] > 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("gradient.weight=heavy", "gradient.weight=heavy: expected none, unit, balanced"),
        ("gradient.noise=-1", "gradient.noise=-1.0: expected 0 or more"),
        ("gradient.factor=0", "gradient.factor must be positive"),
        ("split=train", "split=train: expected validation or test"),
        ("model.initialisation=he", "model.initialisation=he differs from the label initialisation=uniform_fan_in"),
        ("model.activation=tanh", "so set activation alone"),
        ("dataset.name=branim", "did you mean branin"),
    ],
)
def test_mistakes_are_one_line(make_config, override, said):
    with pytest.raises(BadInput, match=said):
        execute(make_config(SEARCH, override))


# The rule

VALUE = {"relu-he-0.001-32-none-flat-square-exact": 4.0, "tanh-he-0.001-32-none-flat-square-exact": 2.0}
RELIABLE, STRIKING = "tanh-he-0.001-32-balanced-late-square-exact", "gelu-he-0.001-32-unit-flat-square-exact"


def made_rows(errors, cells=CELLS, split: str = "validation") -> pd.DataFrame:
    """Rows of 3 seeds, of which one is far off, from {method: function of (task, n_train) or number}."""
    rows = []
    for (method, error), (task, n_train), seed in itertools.product(errors.items(), sorted(cells), range(3)):
        value = (error(task, n_train) if callable(error) else error) * (1, 1.1, 1000)[seed]
        for metric in ("value_mse", "gradient_mse"):
            rows.append((choosing.SEARCH, task, method, n_train, 1000 + seed, 2500, split, metric, value, "paper"))
    return as_rows(rows)


def test_a_recipe_must_help_everywhere_before_it_helps_much():
    def striking(task, _):
        return 20.0 if task == "eggholder" else 0.002

    errors = errors_of(made_rows({**VALUE, RELIABLE: 0.25, STRIKING: striking}))
    value, chosen = ranked(errors)
    assert value == [Choice.of(method) for method in reversed(VALUE)]
    assert chosen == [Choice.of(RELIABLE), Choice.of(STRIKING)]
    reference = errors[value[0]]
    assert gain(reference, errors[chosen[0]]) == pytest.approx(8)
    assert gain(reference, errors[chosen[1]]) == pytest.approx(10 ** (5 / 6 - 1 / 6))
    assert gain(reference, reference) == 1
    assert two_activations(chosen) == chosen
    assert two_activations([chosen[0], chosen[0]]) == chosen[:1]


def test_a_choice_that_diverged_somewhere_is_out_and_test_points_choose_nothing():
    whole = made_rows({**VALUE, RELIABLE: 0.25})
    part = made_rows({STRIKING: 0.002}, sorted(CELLS)[1:])
    tested = made_rows({STRIKING: 0.002}, split="test")
    errors = errors_of(as_rows(pd.concat((whole, part, tested), ignore_index=True)))
    assert Choice.of(STRIKING) in errors
    assert Choice.of(STRIKING) not in complete(errors, CELLS)
    assert ranked(errors)[1] == [Choice.of(RELIABLE)]
    assert ranked(errors_of(whole[:0])) == ([], [])


def test_a_small_learning_rate_has_a_dash_of_its_own():
    choice = Choice.of(f"relu-he_spread-{0.00001}-32-unit-flat-square-exact")
    assert choice == Choice("relu", "he_spread", "1e-05", "32", "unit", "flat", "square", "exact")


def test_functions_of_the_paper_choose_nothing():
    assert not {task for task, _ in CELLS} & set(PAPER_TASKS)


def test_the_program_writes_what_the_rule_chooses(tmp_path, capsys):
    relu = "relu-he-0.003-32-unit-flat-square-exact"
    rows = made_rows({**VALUE, RELIABLE: 0.25, STRIKING: 1.0, relu: 3.0})
    (tmp_path / "regression").mkdir()
    rows.to_csv(tmp_path / "regression" / "rows.csv.gz", index=False, lineterminator="\n")
    assert program.main(["--results", str(tmp_path), "--configs", str(tmp_path / "configs")]) == 0
    written = {path.stem: yaml.safe_load(path.read_text()) for path in (tmp_path / "configs" / "recipe").iterdir()}
    assert written.keys() == {"value", "sobolev", "value_1", "value_2", "sobolev_1", "sobolev_2", "sobolev_relu"}
    assert written["sobolev"] == {
        **{"approach": "sobolev", "activation": "tanh", "initialisation": "he"},
        "optimizer": {"learning_rate": 0.001, "batch_size": 32},
        "gradient": {"weight": "balanced", "falls": "late", "distance": "square", "derivative": "exact"},
    }
    assert (written["sobolev_1"]["activation"], written["sobolev_2"]["activation"]) == ("gelu", "relu")  # of stage 1
    assert (written["value"]["approach"], written["value"]["activation"]) == ("value", "tanh")
    assert written["sobolev_relu"]["optimizer"]["learning_rate"] == 0.003
    assert "8  tanh-he-0.001-32-balanced-late-square-exact" in capsys.readouterr().out
    assert "reduced" not in (tmp_path / "configs" / "recipe" / "sobolev.yaml").read_text()


def choose(folder, rows: pd.DataFrame) -> int:
    (folder / "regression").mkdir(parents=True)
    rows.to_csv(folder / "regression" / "rows.csv.gz", index=False, lineterminator="\n")
    return program.main(["--results", str(folder), "--configs", str(folder)])


def test_what_reduced_rows_choose_says_so(tmp_path, capsys):
    rows = made_rows({**VALUE, RELIABLE: 0.25, STRIKING: 1.0}).assign(scale="reduced", step=100)
    assert choose(tmp_path, as_rows(rows)) == 0
    assert "stage 2 in reduced runs: 2 value-only" in capsys.readouterr().out
    for path in (tmp_path / "recipe").iterdir():
        assert "chose these settings in reduced runs." in path.read_text()


def test_choices_with_different_budgets_are_not_compared(tmp_path, capsys):
    shorter = made_rows({STRIKING: 1.0}).assign(scale="reduced", step=100)
    rows = pd.concat((made_rows({**VALUE, RELIABLE: 0.25}), shorter), ignore_index=True)
    assert choose(tmp_path, as_rows(rows)) == 1
    said = capsys.readouterr().err
    assert said == (
        "error: experiment=regression_recipes has runs of 100 and 2,500 updates, which cannot be compared; collect one "
        "of these budgets\n"
    )
    assert not (tmp_path / "recipe").exists()


# What is shown


def test_the_search_has_a_figure_and_no_table_of_errors():
    rows = made_rows({**VALUE, RELIABLE: 0.25, STRIKING: 0.5})
    figure = search_figure(rows)
    shown = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert shown == ["tanh 0.001, balanced, falling", "gelu 0.001, 1:1"]
    assert [name for name, _, _ in figures.draw(figures.NAMES, rows, {})] == ["recipes"]
    assert search_figure(rows[:0]) is None


@pytest.mark.parametrize(("ratio", "verdict"), [(20.0, "reproduced"), (2.0, "not reproduced"), (0.5, "not reproduced")])
def test_the_claims_of_the_recipe(ratio, verdict):
    rows = []
    for task, n_train, seed, metric in itertools.product(
        PAPER_TASKS, (20, 100, 10_000), range(8), ("value_mse", "gradient_mse")
    ):
        of_method = {"value": 1.0, "sobolev": (1.0 if task == "bukin" else 1 / ratio) * (1 + 0.01 * seed)}
        for method, value in of_method.items():
            rows.append(("regression_recipe", task, method, n_train, seed, 2500, "test", metric, value, "paper"))
    evidence = Evidence(as_rows(rows), {})
    found = {claim.key: claim.judge(evidence).verdict for claim in recipe_claims.CLAIMS}
    assert found["Recipe, magnitude"] == verdict
    assert found["Recipe"] == found["Recipe, gradients"] == ("reproduced" if ratio > 1 else "not reproduced")
    text = recipe_claims.RECIPE.appendix(evidence)
    assert "Ratios (value only / Sobolev" in text


def test_the_shipped_recipe_follows_from_the_shipped_rows(tmp_path):
    rows = read_rows(ROOT / "results" / "regression" / "rows.csv.gz")
    assert len(errors_of(rows))
    assert program.main(["--results", str(ROOT / "results"), "--configs", str(tmp_path)]) == 0
    for path in (tmp_path / "recipe").iterdir():
        assert (CONFIGS / "recipe" / path.name).read_text() == path.read_text()


@pytest.mark.parametrize(("draw", "experiment"), [(limits, choosing.LIMITS), (projections, choosing.PROJECTIONS)])
def test_a_figure_at_one_training_size_shows_no_cell_of_another(draw, experiment):
    shipped = select(read_rows(ROOT / "results" / "regression" / "rows.csv.gz"), experiment=experiment)
    hundredfold = shipped["value"].where(shipped["method"].str.startswith("value"), 100 * shipped["value"])
    larger = shipped.assign(n_train=1_000, value=hundredfold, scale="reduced")

    def lines(rows):
        return [[*map(float, line.get_ydata())] for axes in draw(rows).axes for line in axes.get_lines()]

    both = as_rows(pd.concat((shipped, larger), ignore_index=True))
    assert lines(both) == lines(shipped)
    assert lines(as_rows(larger)) != lines(shipped)
    assert REDUCED not in [text.get_text() for text in draw(both).texts]
    assert "1,000 points" in draw(as_rows(larger))._suptitle.get_text()
