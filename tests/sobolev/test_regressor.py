"""The regressor: scikit-learn's conventions, that derivatives help it, and what it refuses."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.model_selection import RandomizedSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.estimator_checks import parametrize_with_checks

from sobolev import Derivatives, SobolevRegressor
from sobolev.networks import SmoothSobolevStep
from sobolev.seeding import generator
from tests.conftest import ROOT

QUICK = {"max_iter": 60, "hidden": (16,)}


@parametrize_with_checks([SobolevRegressor(max_iter=300, hidden=(16,))])
def test_it_keeps_scikit_learns_conventions(estimator, check):
    check(estimator)


def sample(n: int, seed: int, outputs: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Waves in units that are far apart: X (n, 2), y (n, O), dy (n, O, 2)."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 1, (n, 2)) * [1000, 0.01]
    u, v = (X / [1000, 0.01]).T
    y = np.stack([1e4 * np.sin(4 * u) * np.cos(3 * v), 1e-3 * (u + 2 * v) ** 2], 1)
    by_u = np.stack([4e4 * np.cos(4 * u) * np.cos(3 * v), 2e-3 * (u + 2 * v)], 1)
    by_v = np.stack([-3e4 * np.sin(4 * u) * np.sin(3 * v), 4e-3 * (u + 2 * v)], 1)
    return X, y[:, :outputs], np.stack([by_u / 1000, by_v / 0.01], 2)[:, :outputs]


@pytest.mark.parametrize("outputs", [1, 2])
def test_derivatives_make_it_better(outputs):
    X, y, dy = sample(40, 0, outputs)
    X_test, y_test, dy_test = sample(500, 1, outputs)
    settings = {"max_iter": 600, "random_state": 0}
    without, with_dy = SobolevRegressor(**settings).fit(X, y), SobolevRegressor(**settings).fit(X, y, dy)

    def error(found, true):
        return (((found - true) / true.std(0)) ** 2).mean()

    assert error(with_dy.predict(X_test).reshape(y_test.shape), y_test) < 1e-2
    assert with_dy.score(X_test, y_test) > 0.99
    ratio = error(without.predict(X_test).reshape(y_test.shape), y_test) / error(
        with_dy.predict(X_test).reshape(y_test.shape), y_test
    )
    assert ratio > 3
    assert error(with_dy.predict_derivative(X_test).reshape(dy_test.shape), dy_test) < 0.05


def test_derivatives_are_those_of_its_predictions():
    X, y, dy = sample(30, 0, outputs=2)
    model = SobolevRegressor(**QUICK).fit(X, y, dy)
    h = np.array([1e-2, 0])
    expected = (model.predict(X + h) - model.predict(X - h)) / 2e-2
    np.testing.assert_allclose(model.predict_derivative(X)[:, :, 0], expected, rtol=1e-5, atol=1e-9)
    assert model.predict_derivative(X, order=2).shape == (30, 2, 2, 2)
    inside = Derivatives(model.model_).eval()(torch.from_numpy(X))
    np.testing.assert_allclose(inside[1].numpy(), model.predict_derivative(X))


def test_shapes_follow_those_of_fit():
    X, y, dy = sample(20, 0)
    flat = SobolevRegressor(**QUICK, random_state=0).fit(X, y[:, 0], dy[:, 0])
    same = SobolevRegressor(**QUICK, random_state=0).fit(X, y[:, 0], dy)
    column = SobolevRegressor(**QUICK, random_state=0).fit(X, y, dy)
    assert flat.predict(X).shape == (20,)
    assert flat.predict_derivative(X).shape == (20, 2)
    assert column.predict(X).shape == (20, 1)
    assert column.predict_derivative(X).shape == (20, 1, 2)
    np.testing.assert_array_equal(flat.predict(X), same.predict(X))
    np.testing.assert_array_equal(flat.predict(X), column.predict(X)[:, 0])


def test_what_is_not_known_is_left_out():
    X, y, dy = sample(40, 0)
    partly = dy.copy()
    partly[10:] = np.nan
    settings = {"max_iter": 600, "random_state": 0}
    test = sample(500, 1)
    scores = [SobolevRegressor(**settings).fit(X, y, known).score(*test[:2]) for known in (None, partly, dy)]
    assert scores == sorted(scores)
    nothing = SobolevRegressor(**QUICK, derivative_weight=0.0, random_state=0).fit(X, y, dy)
    np.testing.assert_array_equal(nothing.predict(X), SobolevRegressor(**QUICK, random_state=0).fit(X, y).predict(X))


@pytest.mark.parametrize("learns", ["value", "sobolev"])
def test_its_defaults_are_the_recipe_that_the_study_chose(learns):
    chosen = yaml.safe_load((ROOT / "configs" / "recipe" / f"{learns}.yaml").read_text())
    X, y, dy = sample(150, 0)
    dy = dy if learns == "sobolev" else None
    quick = {"max_iter": 3, "random_state": 0}
    by_default = SobolevRegressor(**quick).fit(X, y, dy)
    of_recipe = {key: chosen[key] for key in ("activation", "initialisation")} | chosen["optimizer"]
    by_recipe = SobolevRegressor(**quick, **of_recipe).fit(X, y, dy)
    np.testing.assert_array_equal(by_default.predict(X), by_recipe.predict(X))
    for another in ({"learning_rate": 0.02}, {"batch_size": 16}):
        assert (SobolevRegressor(**quick, **of_recipe | another).fit(X, y, dy).predict(X) != by_recipe.predict(X)).any()
    defaults, gradient = SobolevRegressor().get_params(), chosen["gradient"]
    if learns == "sobolev":
        assert (gradient["weight"], gradient["derivative"], defaults["derivative_weight"]) == ("balanced", "exact", 1.0)
        assert {"norm": "l2", "square": "squared_l2"}[gradient["distance"]] == defaults["derivative_distance"]
        assert {"late": "cosine", "flat": "constant"}[gradient["falls"]] == defaults["derivative_schedule"]
    else:
        assert gradient["weight"] == "none"


@pytest.mark.parametrize("distance", ["l2", "squared_l2", None])
@pytest.mark.parametrize("activation", ["gelu", "tanh"])
def test_the_step_without_autograd_ends_in_the_same_network(monkeypatch, activation, distance):
    X, y, dy = sample(120, 0)
    model = SobolevRegressor(
        max_iter=100, hidden=(16, 8), activation=activation, derivative_distance=distance or "l2", random_state=0
    )
    mine = clone(model).fit(X, y, dy if distance else None)
    monkeypatch.setattr(SmoothSobolevStep, "takes", lambda ensemble: False)
    other = clone(model).fit(X, y, dy if distance else None)
    for parameter, expected in zip(mine.model_.parameters(), other.model_.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(mine.loss_curve_, other.loss_curve_, rtol=1e-3)
    np.testing.assert_allclose(mine.validation_scores_, other.validation_scores_, rtol=1e-3)
    assert len(mine.validation_scores_) == 50


def test_what_the_step_does_not_take_is_learned_by_autograd(monkeypatch):
    """Unknown derivatives, other distances and several outputs."""

    def refuse(*_):
        raise AssertionError("the step was made")

    monkeypatch.setattr(SmoothSobolevStep, "__init__", refuse)
    X, y, dy = sample(20, 0, outputs=2)
    partly = dy.copy()
    partly[10:] = np.nan
    SobolevRegressor(max_iter=2).fit(X, y, dy)
    SobolevRegressor(max_iter=2).fit(X, y[:, :1], partly[:, :1])
    SobolevRegressor(max_iter=2, derivative_distance="l1").fit(X, y[:, :1], dy[:, :1])
    for known in (dy[:, :1], None):
        with pytest.raises(AssertionError, match="was made"):
            SobolevRegressor(max_iter=2).fit(X, y[:, :1], known)


@pytest.mark.parametrize("distance", ["l2", "squared_l2", "l1"])
@pytest.mark.parametrize("n_known", [40, 10])
def test_its_loss_is_the_equation_of_its_docstring(distance, n_known):
    X, y, dy = sample(40, 0, outputs=2)
    dy[n_known:] = np.nan
    one_update = {"max_iter": 1, "learning_rate": 1e-12, "batch_size": 40, "early_stopping": False, "hidden": (8,)}
    model = SobolevRegressor(**one_update, derivative_weight=3, derivative_distance=distance, random_state=0)
    model.fit(X, y, dy)
    units = model.model_.normalizer
    scale = units.x_scale.numpy() / units.y_scale.numpy()[:, None]
    of = {
        "l2": lambda d: np.sqrt((d**2).sum((1, 2))),
        "squared_l2": lambda d: (d**2).sum((1, 2)),
        "l1": lambda d: abs(d).sum((1, 2)),
    }[distance]
    error_y = ((model.predict(X) - y) / units.y_scale.numpy()) ** 2
    error_dy = of(((model.predict_derivative(X) - dy) * scale)[:n_known]).sum() / 40
    expected = error_y.sum(1).mean() / 2 + 3 * error_dy / of((dy * scale)[:n_known]).mean()
    assert model.loss_curve_[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("schedule", "left"), [("cosine", 0.0), ("linear", 1 / 200), ("constant", 1.0)])
def test_the_weight_of_derivatives_falls_unless_it_is_constant(schedule, left):
    """Far above that of values, and with steps too small to learn anything, it is all that changes the loss."""
    X, y, dy = sample(20, 0)
    settings = {"max_iter": 200, "learning_rate": 1e-12, "derivative_weight": 1e4, "hidden": (8,), "random_state": 0}
    curve = SobolevRegressor(**settings, derivative_schedule=schedule).fit(X, y, dy).loss_curve_
    assert curve[-1] / curve[0] == pytest.approx(left, abs=3e-4)


def test_it_stops_early_and_keeps_the_best_network():
    X, y, _ = sample(60, 0)
    noisy = y + 1e4 * np.random.default_rng(2).standard_normal(y.shape)
    settings = {"max_iter": 2000, "random_state": 0, "validation_fraction": 0.3}
    model = SobolevRegressor(**settings, early_stopping=True, n_iter_no_change=5).fit(X, noisy)
    whole = SobolevRegressor(**settings, early_stopping=False).fit(X, noisy)
    assert model.n_iter_ == len(model.loss_curve_) < whole.n_iter_ == 2000
    assert len(model.validation_scores_) == model.n_iter_ // 40
    assert whole.validation_scores_ == []
    assert model.score(*sample(500, 1)[:2]) > whole.score(*sample(500, 1)[:2])


def test_large_data_goes_by_batches():
    X, y, dy = sample(700, 0)
    model = SobolevRegressor(max_iter=300, batch_size=64, random_state=0).fit(X, y, dy)
    assert model.score(X, y) > 0.99


def test_it_is_one_of_scikit_learns_parts():
    X, y, _ = sample(40, 0)
    pipeline = make_pipeline(StandardScaler(), SobolevRegressor(max_iter=200, random_state=0))
    assert cross_val_score(pipeline, X, y[:, 0], cv=2).shape == (2,)


def test_a_saved_regressor_is_the_same(tmp_path):
    X, y, dy = sample(20, 0, outputs=2)
    model = SobolevRegressor(**QUICK, activation="silu").fit(X, y, dy)
    model.save(tmp_path / "model.pt")
    again = SobolevRegressor.load(tmp_path / "model.pt")
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_array_equal(again.predict_derivative(X), model.predict_derivative(X))
    assert again.get_params() | {"hidden": (16,)} == model.get_params()
    (tmp_path / "other.pt").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"was not written by SobolevRegressor\.save"):
        SobolevRegressor.load(tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError):
        SobolevRegressor.load(tmp_path / "nowhere.pt")


@pytest.mark.parametrize(("random_state", "kept"), [(7, 7), (np.int64(7), 7), (None, None)])
def test_a_saved_regressor_keeps_its_seed(tmp_path, random_state, kept):
    X, y, dy = sample(20, 0)
    model = SobolevRegressor(max_iter=20, hidden=(8,), random_state=random_state).fit(X, y, dy)
    model.save(tmp_path / "model.pt")
    assert SobolevRegressor.load(tmp_path / "model.pt").random_state == kept


def test_saving_that_is_interrupted_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    X, y, dy = sample(20, 0)
    model = SobolevRegressor(max_iter=20, hidden=(8,), random_state=0).fit(X, y, dy)
    model.save(str(tmp_path / "model.pt"))
    before = (tmp_path / "model.pt").read_bytes()

    def killed(_, path):
        path.write_bytes(b"half of a mod")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        model.save(tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    "given",
    [
        {"learning_rate": np.float64(0.01), "validation_fraction": np.float32(0.25), "activation": np.str_("silu")},
        {"hidden": np.array([16, 8]), "max_iter": np.int32(20), "early_stopping": np.bool_(True)},
        {"hidden": (np.int64(8),), "device": torch.device("cpu"), "check_derivatives": np.bool_(False)},
        {"hidden": range(4, 12, 4), "learning_rate": Fraction(1, 99), "random_state": np.random.RandomState(0)},
        {"hidden": ()},
    ],
)
def test_settings_of_other_types_are_saved_as_numbers_and_text(tmp_path, given):
    X, y, dy = sample(20, 0)
    model = SobolevRegressor(**QUICK | given).fit(X, y, dy)
    model.save(tmp_path / "model.pt")
    again = SobolevRegressor.load(tmp_path / "model.pt")
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    for name in given.keys() - {"random_state", "device", "hidden"}:
        assert getattr(again, name) == pytest.approx(given[name], rel=1e-15)
    assert (again.hidden, again.device) == (list(given.get("hidden", (16,))), "cpu")
    assert clone(again).fit(X, y, dy).score(X, y) <= 1


def test_what_a_random_search_found_is_saved(tmp_path):
    X, y, _ = sample(20, 0)
    search = RandomizedSearchCV(SobolevRegressor(**QUICK), {"learning_rate": loguniform(1e-3, 1e-2)}, n_iter=2, cv=2)
    best = search.fit(X, y).best_estimator_
    best.save(tmp_path / "model.pt")
    assert SobolevRegressor.load(tmp_path / "model.pt").learning_rate == best.learning_rate


def test_a_setting_that_could_not_be_read_is_not_written(tmp_path):
    X, y, dy = sample(20, 0)
    model = SobolevRegressor(**QUICK).fit(X, y, dy).set_params(check_derivatives={})
    with pytest.raises(TypeError, match="check_derivatives is a dict"):
        model.save(tmp_path / "model.pt")
    assert not [*tmp_path.iterdir()]


def test_a_saved_regressor_keeps_the_names_of_its_inputs(tmp_path):
    X, y, _ = sample(20, 0)
    frame = pd.DataFrame(X, columns=["kelvin", "moles"])
    model = SobolevRegressor(**QUICK).fit(frame, y)
    model.save(tmp_path / "model.pt")
    again = SobolevRegressor.load(tmp_path / "model.pt")
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
    with pytest.raises(ValueError, match="feature names"):
        again.predict(frame[["moles", "kelvin"]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("learns", [True, False])
def test_values_that_are_equal_but_for_rounding_are_learned_as_equal_ones(dtype, learns):
    """The squared length of points on the unit circle."""
    P = np.random.default_rng(0).normal(size=(80, 2)).astype(dtype)
    P /= np.linalg.norm(P, axis=1, keepdims=True)
    y, dy = (P**2).sum(1), 2 * P if learns else None
    assert len(np.unique(y)) > 1
    model, same = (
        SobolevRegressor(max_iter=300, random_state=0).fit(P, values, dy) for values in (y, np.ones(80, dtype))
    )
    np.testing.assert_allclose(model.predict(P), same.predict(P), rtol=1e-5)
    np.testing.assert_allclose(model.loss_curve_, same.loss_curve_, rtol=1e-3, atol=1e-6)
    assert model.loss_curve_[0] < 2
    assert abs(model.predict(P) - 1).max() < 0.02
    if learns:
        assert abs(model.predict_derivative(P) - 2 * P).max() < 0.02


def test_values_that_vary_only_where_they_are_held_out_are_constant_to_learn_from():
    X, y, _ = sample(20, 0)
    held = torch.randperm(20, generator=generator(int(check_random_state(0).randint(2**31 - 1)), "hold out"))[0]
    y = 1 + 2e-3 * np.random.default_rng(0).normal(size=20)  # single precision can hardly tell, beside 1e6
    y[held] = 1e6
    model = SobolevRegressor(**QUICK, early_stopping=True, validation_fraction=0.05, random_state=0).fit(X, y)
    assert model.loss_curve_[0] < 2


@pytest.mark.parametrize(
    ("of_x", "of_y"),
    [(1, 1e200), (1, 1e-170), (1, 1e300), (1, 1e-300), (1e200, 1), (1e-200, 1), (1e200, 1e300), (1e-200, 1e-300)],
)
def test_units_do_not_change_what_is_learned(of_x, of_y):
    X, y, dy = sample(40, 0)
    usual = SobolevRegressor(**QUICK, random_state=0).fit(X, y, dy)
    scaled = SobolevRegressor(**QUICK, random_state=0).fit(X * of_x, y * of_y, dy * (of_y / of_x))
    size = abs(y).max()
    np.testing.assert_allclose(scaled.predict(X * of_x) / of_y, usual.predict(X), atol=1e-4 * size)
    np.testing.assert_allclose(scaled.loss_curve_, usual.loss_curve_, rtol=1e-3)
    with pytest.raises(ValueError, match="agree negated"):
        SobolevRegressor(**QUICK).fit(X * of_x, y * of_y, -dy * (of_y / of_x))


X, Y, DY = sample(60, 0)
REFUSED = {
    "sign": (lambda: SobolevRegressor(**QUICK).fit(X, Y, -DY), "contradicts the values .* agree negated"),
    "axes": (
        lambda: SobolevRegressor(**QUICK).fit(X, Y, DY.transpose(0, 2, 1)),
        r"dy has shape \(60, 2, 1\), expected",
    ),
    "rows": (lambda: SobolevRegressor(**QUICK).fit(X, Y, DY[:-1]), r"dy has shape \(59, 1, 2\), expected"),
    "infinite": (lambda: SobolevRegressor(**QUICK).fit(X, Y, np.full_like(DY, np.inf)), "infinity"),
    "unknown": (lambda: SobolevRegressor(**QUICK).fit(X, Y, DY * np.nan), "nothing but NaN"),
    "updates": (lambda: SobolevRegressor(max_iter=0).fit(X, Y), "max_iter must be a positive whole number, not 0"),
    "rate": (lambda: SobolevRegressor(learning_rate="fast").fit(X, Y), "must be positive or auto, not 'fast'"),
    "batch": (
        lambda: SobolevRegressor(batch_size=0).fit(X, Y),
        "batch_size must be a positive whole number or auto, not 0",
    ),
    "weight": (lambda: SobolevRegressor(derivative_weight=-1).fit(X, Y), "derivative_weight must be 0 or more"),
    "held": (lambda: SobolevRegressor(validation_fraction=1).fit(X, Y), "between 0 and 1"),
    "early": (lambda: SobolevRegressor(early_stopping="yes").fit(X, Y), "'auto'"),
    "one width": (lambda: SobolevRegressor(hidden=64).fit(X, Y), r"widths of layers, such as \(64, 64\), not 64"),
    "widths": (lambda: SobolevRegressor(hidden=(16.0,)).fit(X, Y), r"widths of layers, .* not \(16.0,\)"),
    "whole updates": (lambda: SobolevRegressor(max_iter=100.0).fit(X, Y), "a positive whole number, not 100.0"),
    "whole batch": (lambda: SobolevRegressor(batch_size=16.0).fit(X, Y), "a positive whole number or auto, not 16.0"),
    "whole patience": (lambda: SobolevRegressor(n_iter_no_change=5.0).fit(X, Y), "a positive whole number, not 5.0"),
    "no rate": (lambda: SobolevRegressor(learning_rate=None).fit(X, Y), "must be positive or auto, not None"),
    "endless rate": (lambda: SobolevRegressor(learning_rate=np.inf).fit(X, Y), "must be positive or auto, not inf"),
    "no weight": (lambda: SobolevRegressor(derivative_weight="much").fit(X, Y), "0 or more, and finite, not 'much'"),
    "no name": (lambda: SobolevRegressor(activation=["gelu"]).fit(X, Y), r"one of relu, .*, not \['gelu'\]"),
    "an array": (lambda: SobolevRegressor(early_stopping=np.zeros(999)).fit(X, Y), "True, False or 'auto', not array"),
    "all held": (
        lambda: SobolevRegressor(early_stopping=True, validation_fraction=0.9).fit(X[:3], Y[:3]),
        "validation_fraction=0.9 holds out all of the 3 samples",
    ),
    "diverges": (lambda: SobolevRegressor(**QUICK, learning_rate=1e30).fit(X, Y), "diverged with learning_rate=1e"),
    "flat X": (lambda: SobolevRegressor().fit(np.arange(999.0), Y), "got 1D array. Reshape your data"),
    "flat X to predict": (lambda: SobolevRegressor(**QUICK).fit(X, Y).predict(np.arange(999.0)), "Reshape your data"),
    "complex y": (lambda: SobolevRegressor().fit(X, Y * 1j), "Complex data not supported"),
    "complex dy": (lambda: SobolevRegressor().fit(X, Y, DY * 1j), "Complex data not supported"),
    "distance": (lambda: SobolevRegressor(derivative_distance="norm").fit(X, Y), "must be one of squared_l2, l2, l1"),
    "schedule": (lambda: SobolevRegressor(derivative_schedule="switch").fit(X, Y), "cosine, linear, constant, not"),
    "initialisation": (
        lambda: SobolevRegressor(initialisation="zeros").fit(X, Y),
        "must be one of uniform_fan_in, .*, not 'zeros'",
    ),
    "activation": (lambda: SobolevRegressor(activation="step").fit(X, Y), "must be one of relu, .*, not 'step'"),
    "device": (lambda: SobolevRegressor(device="gpu").fit(X, Y), "a device that PyTorch has here, .* not 'gpu'"),
    "absent device": (lambda: SobolevRegressor(device="cuda:99").fit(X, Y), "PyTorch has here, .* not 'cuda:99'"),
    "check": (lambda: SobolevRegressor(check_derivatives="no").fit(X, Y, DY), "must be True or False, not 'no'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_one_line(case):
    do, said = REFUSED[case]
    with pytest.raises(ValueError, match=said) as caught:
        do()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_swapped_axes_of_equal_length_are_found():
    X, y, dy = sample(80, 0, outputs=2)
    with pytest.raises(ValueError, match="contradicts the values"):
        SobolevRegressor(**QUICK).fit(X, y, dy.transpose(0, 2, 1))
    SobolevRegressor(**QUICK, check_derivatives=False).fit(X, y, dy.transpose(0, 2, 1))


def test_views_of_arrays_are_taken_as_they_are_seen():
    X, y, dy = sample(40, 0)
    views = (np.flip(np.flip(array).copy()) for array in (X, y, dy))  # the same numbers, in memory backwards
    seen, alike = (SobolevRegressor(**QUICK, random_state=0).fit(*arrays) for arrays in ((X, y, dy), views))
    np.testing.assert_array_equal(alike.predict(np.flip(np.flip(X).copy())), seen.predict(X))


@pytest.mark.parametrize("changed", [{"activation": "tanh"}, {"hidden": (8, 8)}])
def test_settings_changed_after_fit_do_not_change_what_is_saved(tmp_path, changed):
    X, y, dy = sample(20, 0)
    model = SobolevRegressor(**QUICK).fit(X, y, dy).set_params(**changed)
    model.save(tmp_path / "it.pt")
    again = SobolevRegressor.load(tmp_path / "it.pt")
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert {name: again.get_params()[name] for name in changed} == {
        name: [*v] if name == "hidden" else v for name, v in changed.items()
    }


def test_files_from_before_the_activation_had_its_own_entry_are_read(tmp_path):
    X, y, _ = sample(20, 0)
    model = SobolevRegressor(**QUICK, activation="tanh").fit(X, y)
    model.save(tmp_path / "it.pt")
    state = torch.load(tmp_path / "it.pt")
    del state["activation"]
    torch.save(state, tmp_path / "it.pt")
    np.testing.assert_array_equal(SobolevRegressor.load(tmp_path / "it.pt").predict(X), model.predict(X))


def test_a_fit_that_fails_leaves_the_shapes_of_the_one_before():
    X, y, dy = sample(40, 0, outputs=2)
    model = SobolevRegressor(**QUICK).fit(X, y, dy)
    with pytest.raises(ValueError, match="contradicts"):
        model.fit(X, y[:, 0], -dy[:, 0])
    assert model.predict(X).shape == (40, 2)


def test_masked_derivatives_are_unknown():
    X, y, dy = sample(40, 0)
    mask = np.random.default_rng(0).random(dy.shape) < 0.5
    filled = np.ma.masked_array(np.where(mask, 1e9, dy), mask)
    masked, unknown = (
        SobolevRegressor(**QUICK, random_state=0).fit(X, y, each) for each in (filled, np.where(mask, np.nan, dy))
    )
    np.testing.assert_array_equal(masked.predict(X), unknown.predict(X))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(activation, mode):
    X, y, dy = sample(20, 0)
    model = SobolevRegressor(**QUICK, activation=activation, random_state=0)
    expected = model.fit(X, y, dy).predict_derivative(X)
    with mode():
        within = clone(model).fit(X, y, dy)
        np.testing.assert_array_equal(within.predict_derivative(X), expected)
    np.testing.assert_array_equal(within.predict_derivative(X), expected)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_pytorchs_default_type_may_be_another(activation):
    X, y, dy = sample(40, 0)
    model = SobolevRegressor(max_iter=600, activation=activation, random_state=0)
    torch.set_default_dtype(torch.float64)
    try:
        assert model.fit(X, y, dy).score(X, y) > 0.9
    finally:
        torch.set_default_dtype(torch.float32)
