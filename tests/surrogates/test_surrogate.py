"""A surrogate learns, is resumed and loaded, and what cannot be learned from is refused before a run is opened."""

import numpy as np
import pytest
import torch

from experiments.runner.errors import BadInput
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of
from experiments.runner.settings import file_sha256
from experiments.surrogates import data, train
from experiments.surrogates.files import read
from sobolev.surrogate import load
from tests.conftest import composed

LEARNS = ("network.hidden=[24,24]", "optimizer.steps=400", "search.activations=[tanh]", "search.learning_rates=[0.01]")


def rows_of(config, split="test"):
    lines = (folder_of(config) / "metrics.csv").read_text().splitlines()[1:]
    fields = [line.split(",") for line in lines]
    return {(int(row[4]), row[7]): float(row[8]) for row in fields if row[6] == split}


def test_the_model_file_predicts_values_and_derivatives_in_the_units_of_the_data(make_config, samples_file):
    config = make_config("experiment=surrogate", *LEARNS)
    execute(config)
    surrogate, samples = load(folder_of(config) / "surrogate.pt"), read(str(samples_file))
    y, dy = surrogate.predict(samples.x), surrogate.predict_derivative(samples.x)
    assert y.shape == (60, 2)
    assert np.abs(y - samples.y).max() < 0.3 * np.ptp(samples.y)
    relative = np.linalg.norm(dy - samples.dy) / np.linalg.norm(samples.dy)
    assert relative < 0.3
    assert (surrogate.inputs, surrogate.outputs) == (("x1", "x2", "x3"), ("y1", "y2"))
    assert (folder_of(config) / "predictions.png").stat().st_size > 1000


def test_derivatives_help_and_labels_say_what_was_learned(make_config):
    found = {}
    for loss in ("value", "sobolev"):
        config = make_config("experiment=surrogate", *LEARNS, f"loss={loss}")
        execute(config)
        assert (config.labels.task, config.labels.method, config.labels.n_train) == ("mine", loss, 42)
        found[loss] = rows_of(config)
    for seed in (0, 1):
        assert found["sobolev"][seed, "gradient_error"] < 0.7 * found["value"][seed, "gradient_error"]


# Units, offsets and all: float32 has no digit left of either of the two last.
@pytest.mark.parametrize(("of_x", "of_y"), [((1000, 7), (0.01, 0)), ((1, 0), (0.01, -4e4)), ((500, 1.7e9), (1, 0))])
def test_units_do_not_matter(make_config, samples_file, tmp_path, of_x, of_y):
    samples = read(str(samples_file))
    path = tmp_path / "mine.npz"
    x, y = of_x[0] * samples.x + of_x[1], of_y[0] * samples.y + of_y[1]
    np.savez(path, x=x, y=y, dy=of_y[0] / of_x[0] * samples.dy)
    found = []
    for other in ((), (f"dataset.path={path}",)):
        config = make_config("experiment=surrogate", "optimizer.steps=50", *other, runs=f"runs{len(other)}")
        execute(config)
        measured = rows_of(config)
        found.append(measured)
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    predicted = load(folder_of(config) / "surrogate.pt").predict(x)  # what the rows measured, from the file
    errors = ((predicted - y) / y.std(0), (y - y.mean(0)) / y.std(0))
    shown = np.load(folder_of(config) / "predictions.npz")
    at = [np.argmin(np.abs(y - row).sum(1)) for row in shown["y"]]
    np.testing.assert_allclose((predicted[at] - shown["y_predicted"]) / y.std(0), 0, atol=1e-5)
    assert np.sqrt((errors[0] ** 2).sum() / (errors[1] ** 2).sum()) < 2 * max(measured.values())


def test_a_column_that_is_constant_among_the_points_of_a_network_keeps_its_unit(make_config, samples_file, tmp_path):
    samples, path = read(str(samples_file)), tmp_path / "mine.npz"
    x = np.column_stack((samples.x[:, :2], np.where(np.arange(60) == 7, 0.2, 0.1)))
    np.savez(path, x=x, y=samples.y)
    config = make_config("experiment=surrogate", f"dataset.path={path}", "loss=value", "n_train=3")
    execute(config)
    state = torch.load(folder_of(config) / "surrogate.pt")["state"]
    assert state["normalizer.x_scale"][2] == 1


def test_unknown_derivatives_are_left_out(make_config, samples_file, tmp_path):
    samples = read(str(samples_file))
    path = tmp_path / "mine.npz"
    np.savez(path, x=samples.x, y=samples.y, dy=np.where(np.arange(60)[:, None, None] % 4 > 0, np.nan, samples.dy))
    config = make_config("experiment=surrogate", *LEARNS, f"dataset.path={path}")
    execute(config)
    assert rows_of(config)[0, "gradient_error"] < 0.6


@pytest.mark.parametrize("keeps", ["last", "best"])
def test_derivatives_that_one_part_alone_knows_are_learned(make_config, samples_file, tmp_path, keeps):
    samples, path = read(str(samples_file)), tmp_path / "mine.npz"
    order = np.random.default_rng(0).permutation(60)
    dy = samples.dy.copy()
    dy[order[42:]] = np.nan  # the validation and test parts
    np.savez(path, x=samples.x, y=samples.y, dy=dy)
    config = make_config("experiment=surrogate", f"dataset.path={path}", f"search.keeps={keeps}")
    execute(config)
    assert {metric for _, metric in rows_of(config)} == {"value_error"}


def test_a_part_whose_values_are_all_the_same_measures_nothing(make_config, samples_file, tmp_path):
    samples, path = read(str(samples_file)), tmp_path / "mine.npz"
    y = samples.y[:, 0].copy()
    y[np.random.default_rng(0).permutation(60)[51:]] = 0
    np.savez(path, x=samples.x, y=y)
    with pytest.raises(BadInput, match="all known values of the test part"):
        execute(make_config("experiment=surrogate", f"dataset.path={path}", "loss=value"))


@pytest.mark.parametrize(("loss", "keeps"), [("sobolev", "last"), ("sobolev_norm", "best")])
def test_a_killed_run_ends_in_the_rows_of_one_that_never_was(make_config, monkeypatch, loss, keeps):
    asked = ("experiment=surrogate", f"loss={loss}", f"search.keeps={keeps}")
    whole = make_config(*asked)
    killed = make_config(*asked, "compute.checkpoint_seconds=0", runs="killed")
    execute(whole)
    update, calls = train.Training.update, []

    def dies(self, *arguments):
        calls.append(1)
        if len(calls) == 8:  # in the second choice of the search
            raise KeyboardInterrupt
        update(self, *arguments)

    monkeypatch.setattr(train.Training, "update", dies)
    with pytest.raises(KeyboardInterrupt):
        execute(killed)
    execute(killed)
    assert len(calls) == 31
    first, second = (folder_of(config) / "metrics.csv" for config in (whole, killed))
    assert first.read_bytes() == second.read_bytes()


def test_a_network_is_kept_as_it_was_when_it_was_best(make_config):
    asked, found = ("experiment=surrogate", *LEARNS, "fraction=0.2", "loss=value"), {}
    for keeps in ("last", "best"):
        execute(config := make_config(*asked, f"search.keeps={keeps}"))
        found[keeps] = rows_of(config, "validation")
    for seed in (0, 1):
        assert found["best"][seed, "value_error"] < found["last"][seed, "value_error"]


def test_networks_are_kept_one_by_one(make_config):
    config = make_config("experiment=surrogate")
    data = tuple(torch.rand(2, 5, *sizes) for sizes in ((3,), (2,), (2, 3)))
    training = train.Training(config, data, (train.Activation.tanh, 1.0), 1)
    weight = training.ensemble.weights[0].data
    for mark, errors in ((1.0, [3.0, 2.0]), (2.0, [1.0, 9.0]), (3.0, [torch.nan, torch.nan])):
        weight.fill_(mark)
        training.keep(torch.tensor(errors))
    assert [kept.unique().item() for kept in training.kept["weights.0"]] == [2.0, 1.0]
    assert training.least_E.tolist() == [1.0, 2.0]


def test_each_seed_draws_points_of_its_own_and_smaller_sets_are_part_of_larger_ones(make_config):
    samples = read(make_config("experiment=surrogate").dataset.path)
    run = type("Run", (), {"device": "cpu"})
    few, more = (
        train.training_points(make_config("experiment=surrogate", f"n_train={n}"), samples, run)[0] for n in (5, 9)
    )
    assert torch.equal(more[:, :5], few)
    assert not torch.equal(few[0], few[1])


def test_other_data_are_another_question(make_config, samples_file, tmp_path):
    path = tmp_path / "mine.npz"
    samples = read(str(samples_file))
    names = set()
    for factor in (1, 2):
        np.savez(path, x=samples.x, y=factor * samples.y)
        config = make_config("experiment=surrogate", f"dataset.path={path}", "loss=value")
        assert config.dataset.sha256 == file_sha256(str(path))
        names.add(folder_of(config).name)
    assert len(names) == 2


@pytest.mark.parametrize(
    ("arrays", "overrides", "said"),
    [
        ({}, ["n_train=43"], "n_train=43: expected 2 to 42"),
        ({}, ["fraction=0.01"], "n_train=0: expected 2 to 42"),
        ({"dy": None}, [], "has no derivatives to learn from: loss=value"),
        ({"dy": lambda dy: -dy}, [], "they would agree negated"),
        ({"x": lambda x: x[:8], "y": lambda y: y[:8], "dy": None}, ["loss=value"], "8 samples, of which 1"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_before_a_folder_is_made(
    make_config, samples_file, tmp_path, arrays, overrides, said
):
    samples, path = read(str(samples_file)), tmp_path / "mine.npz"
    kept = {"x": samples.x, "y": samples.y, "dy": samples.dy}
    changed = {name: change and change(kept[name]) for name, change in arrays.items()}
    np.savez(path, **{name: array for name, array in (kept | changed).items() if array is not None})
    config = make_config("experiment=surrogate", f"dataset.path={path}", *overrides)
    with pytest.raises(BadInput) as refused:
        execute(config)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "runs").exists()


def test_axes_that_are_swapped_are_found_where_no_shape_shows_it(make_config, tmp_path):
    x = np.random.default_rng(0).uniform(-1, 1, (60, 2))
    y = np.stack((x[:, 0] ** 2 + x[:, 1], x[:, 0] * x[:, 1]), 1)
    dy = np.stack((np.stack((2 * x[:, 0], np.ones(60)), 1), x[:, ::-1]), 1)
    path = tmp_path / "square.npz"
    np.savez(path, x=x, y=y, dy=dy)
    train.check(make_config("experiment=surrogate", f"dataset.path={path}"))
    np.savez(path, x=x, y=y, dy=dy.swapaxes(1, 2))
    with pytest.raises(BadInput, match="they would agree transposed"):
        train.check(make_config("experiment=surrogate", f"dataset.path={path}"))


def test_a_file_that_is_not_there_is_one_line_before_a_folder_is_made(make_config, tmp_path):
    config = make_config("experiment=surrogate", "dataset.path=gone.npz")
    with pytest.raises(BadInput, match=r"gone\.npz cannot be read: No such file"):
        execute(config)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dataset.source=web", "choose from basket, file, reactor"),
        ("dataset.split=[0.5,0.5]", "parts for train, validation and test"),
        ("fraction=1.5", "above 0 and at most 1"),
        ("loss.weights=[0,1]", "those of values, above 0"),
        ("search.activations=[]", "search.activations is empty"),
        ("search.keeps=first", "search.keeps=first: expected last or best"),
        ("loss.distances=[l2,l2]", "expected squared errors of values"),
        ("loss.distances=[squared_l2,huber]", "expected squared errors of values"),
        ("search.learning_rates=[]", "search.learning_rates must be positive"),
    ],
)
def test_settings_out_of_range_are_one_line(samples_file, override, said):
    with pytest.raises(BadInput, match=said):
        composed("experiment=surrogate", f"dataset.path={samples_file}", override)


def damaged(content: bytes) -> list[bytes]:
    """A file that was cut, emptied, had a bit flipped, or holds something else."""
    at = len(content) // 2
    return [content[:at], b"", content[:at] + bytes([content[at] ^ 8]) + content[at + 1 :], b"not an archive"]


@pytest.mark.parametrize("way", range(4))
def test_samples_that_were_kept_and_are_damaged_are_solved_again(make_config, tmp_path, way):
    config = make_config("experiment=surrogate_reactor")
    before, _ = data.load(config.dataset)
    (path,) = tmp_path.glob("reactor-*.npz")
    path.write_bytes(damaged(whole := path.read_bytes())[way])
    for _ in range(2):  # and kept again
        after, _ = data.load(config.dataset)
        for split, samples in before.items():
            np.testing.assert_array_equal(samples.dy, after[split].dy)
    assert path.stat().st_size == pytest.approx(len(whole), rel=0.05)
