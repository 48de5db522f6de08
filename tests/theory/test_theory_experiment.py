"""The theory's experiments at a tiny budget: what they compute, refuse and resume."""

import csv
import math

import pytest
import torch

from experiments.runner.errors import BadInput
from experiments.runner.execute import execute
from experiments.runner.identity import run_id
from experiments.runner.scale import scale_of
from experiments.theory import exact, training
from experiments.theory.approximation import difference_quotients
from experiments.theory.mismatch import even_disc
from experiments.theory.points import random_teacher
from experiments.theory.settings import PARTS
from experiments.theory.target import ripple
from sobolev.seeding import generator
from tests.conftest import composed

TRAINING = ["networks=2", "n_train=32", "n_test=50", "optimizer.steps=20", "optimizer.batch_size=16"]
TINY = {
    "theory_exact": ["instances=2"],
    "theory_construction": ["n_inputs=2", "width=64", "degree=4", "n_train=200", "n_test=50"],
    "theory_approximation": [*TRAINING, "width=8"],
    "theory_mismatch": [*TRAINING, "model.hidden=[8]"],
    "theory_points": [*TRAINING, "model.hidden=[8,8]"],
}


def tiny(experiment, runs, *overrides):
    base = [f"runs_dir={runs}", "recorder=disabled", "compute.threads=1", "compute.device=cpu"]
    return composed(f"experiment={experiment}", *base, *TINY[experiment], *overrides)


def run(experiment, runs, *overrides):
    config = tiny(experiment, runs, *overrides)
    execute(config)
    with (runs / experiment / run_id(config) / "metrics.csv").open(newline="") as file:
        return {(row["seed"], row["split"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}


# --- Experiments ---


@pytest.mark.parametrize("experiment", ["theory_approximation", "theory_mismatch", "theory_points"])
def test_same_seed_same_rows_and_another_seed_other_rows(experiment, tmp_path):
    first, again, other = (
        run(experiment, tmp_path / name, f"seed={seed}", "compute.precision=float64")  # rounding grows in training
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again
    shared = [key for key in first if key[0] == "1" and key[1] == "test"]  # network 1 is in both ensembles
    assert [first[key] for key in shared] == pytest.approx([other[key] for key in shared], rel=1e-8)
    assert first["0", "test", shared[0][2]] != other["1", "test", shared[0][2]]


@pytest.mark.parametrize("experiment", ["theory_approximation", "theory_mismatch", "theory_points"])
def test_resumed_equals_uninterrupted(experiment, tmp_path, monkeypatch):
    whole, true_rate, updates = run(experiment, tmp_path / "whole"), training.learning_rate, 0

    def failing_rate(optimizer, step):
        nonlocal updates
        updates += 1
        if updates == 12:
            raise RuntimeError("pulled the plug")
        return true_rate(optimizer, step)

    monkeypatch.setattr(training, "learning_rate", failing_rate)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        run(experiment, tmp_path / "parts", "compute.checkpoint_seconds=0")
    assert any(tmp_path.glob("parts/*/*/checkpoint.pt"))
    assert run(experiment, tmp_path / "parts", "compute.checkpoint_seconds=0") == whole
    assert updates == 12 + 20 - 11, "it went on from the 12th update"


def test_every_part_that_needs_no_training(tmp_path):
    assert tuple(exact.PARTS) == PARTS
    rows = {part: run("theory_exact", tmp_path, f"part={part}") for part in ("proposition_1", "gaussian", "hypotheses")}
    assert max(rows["proposition_1"].values()) < 1e-9
    assert len(rows["proposition_1"]) == 2 * 10 * 2
    assert rows["gaussian"]["0", "exact", "twin_mean"] == pytest.approx(2.8474556, rel=1e-6)
    of_figure = rows["hypotheses"]
    assert (of_figure["0", "exact", "value_dimension"], of_figure["0", "exact", "sobolev_dimension"]) == (3, 0)
    for k in range(6):  # with slopes there is one hypothesis, the target; without, there are others
        assert of_figure["1", "hypothesis", f"sobolev_vertex_{k}"] == pytest.approx(
            of_figure["0", "target", f"vertex_{k}"]
        )
    assert of_figure["0", "hypothesis", "value_vertex_1"] != of_figure["1", "hypothesis", "value_vertex_1"]


def test_mismatch_reaches_the_floor_and_not_less(tmp_path):
    rows = run(
        "theory_mismatch",
        tmp_path,
        "model.hidden=[32]",
        "n_train=64",
        "optimizer.batch_size=64",
        "optimizer.steps=1500",
    )
    floor = rows["0", "exact", "joint_mse"]
    assert floor == pytest.approx(1 - math.tanh(1), rel=1e-6)  # delta = 1 on an interval of length 2
    assert 0.99 * floor < rows["0", "test", "joint_mse"] < 1.1 * floor


@pytest.mark.parametrize(
    ("experiment", "override", "message"),
    [
        ("theory_exact", "part=gausian", "did you mean gaussian"),
        ("theory_mismatch", "domain=disk", "did you mean disc"),
        ("theory_mismatch", "delta=-1", "0 or more"),
        ("theory_points", "n_inputs=0", "must be positive"),
        ("theory_points", "loss=sobolev_2", "weights of value and gradient"),
        ("theory_approximation", "method=sobolov", "did you mean sobolev"),
        ("theory_approximation", "optimizer.learning_rate=-1", "must be positive, not -1"),
        ("theory_mismatch", "delta=inf", "0 or more"),
        ("theory_mismatch", "compute.precision=bfloat16", "computes in float32 or float64"),
        ("theory_construction", "width=1", "take a larger one"),
        ("theory_construction", "degree=0", "degree must be positive"),
        ("theory_construction", "seed=-1", "seed must be 0 or more"),
        ("theory_construction", "n_inputs=8", "use fewer inputs or a lower degree"),
        ("theory_exact", "compute.precision=float32", "theory_exact computes in float64"),
        ("theory_construction", "compute.precision=bfloat16", "theory_construction computes in float64"),
        ("theory_exact", "seed=-1", "seed must be 0 or more"),
        ("theory_points", "loss.weights=[nan,1]", "none negative"),
        # Rows would be at the paper's scale under the label of another network.
        ("theory_points", "model.activation=tanh", "model.activation=tanh with activation=relu: .* set activation"),
        ("theory_approximation", "model.activation=silu", "model.activation=silu with activation=relu"),
        ("theory_approximation", "model.hidden=[512]", r"model.hidden=\[512\] with width=8: .* set width alone"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(experiment, override, message, tmp_path):
    with pytest.raises(BadInput, match=message) as error:
        run(experiment, tmp_path, override)
    assert "\n" not in str(error.value)
    assert not any(tmp_path.glob("*/*")), "a refused run leaves no folder"


SMALLER = {
    "theory_exact": ["instances=99"],
    "theory_construction": ["n_test=2000", "degree=3"],
    "theory_approximation": ["networks=5", "n_train=32", "name=mine"],
    "theory_mismatch": ["model.hidden=[32]", "n_test=2000"],
    "theory_points": ["model.hidden=[64]", "model.hidden=[64,8]", "optimizer.steps=1999"],
}


@pytest.mark.parametrize("experiment", SMALLER)
def test_only_what_is_as_large_as_shipped_is_at_paper_scale(experiment):
    shipped, *smaller = (
        composed(f"experiment={experiment}", *overrides)
        for overrides in ([], *([override] for override in SMALLER[experiment]))
    )
    assert scale_of(shipped) == "paper"
    assert {scale_of(config) for config in smaller} == {"reduced"}


def test_one_weight_is_that_of_the_values(tmp_path):
    one, two = (run("theory_points", tmp_path, f"loss.weights=[{weights}]") for weights in ("1", "1,0"))
    assert one == two


@pytest.mark.parametrize("n_inputs", [1, 3])
def test_targets_know_their_gradients(n_inputs):
    x = torch.randn(20, n_inputs, dtype=torch.float64, requires_grad=True)
    for target in (ripple, random_teacher(n_inputs, 4, generator(0, "teacher"))):
        value, gradient = target(x)
        assert value.shape == (20, 1)
        torch.testing.assert_close(torch.autograd.grad(value.sum(), x)[0], gradient)


def test_teachers_have_unit_variance_and_sunflowers_equal_areas():
    x = torch.randn(20_000, 5, generator=generator(1, "test"), dtype=torch.float64)
    assert random_teacher(5, 8, generator(0, "teacher"))(x)[0].var().item() == pytest.approx(1, rel=0.05)
    disc = even_disc(1000)
    assert disc.square().sum(1).mean().item() == pytest.approx(1 / 2)  # the mean of |x|^2 over the unit disc
    assert disc.mean(0).abs().max().item() < 1e-3


def test_difference_quotients_converge_to_derivatives():
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    errors = [
        (difference_quotients(lambda x: ripple(x)[0], x, step) - ripple(x)[1]).abs().max().item()
        for step in (1e-2, 1e-3)
    ]
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.01)
