"""Balanced weights against loops over samples, what they are measured on, and weights that an optimizer trains."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sobolev import Derivatives, SobolevLoss, projections
from sobolev.derivatives import derivatives
from sobolev.distances import DISTANCES
from sobolev.networks import MLPEnsemble


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()


def teacher(x: Tensor) -> Tensor:
    """Outputs and inputs of different scales, about a large mean."""
    return torch.stack((1e3 + (100 * x[:, 0]).sin() * x[:, 1], 1e-2 * x[:, 2] ** 3), -1)


STUDENT = network()
X = torch.rand(40, 3, dtype=torch.float64, generator=rng()) + 0.1
RECORDED = derivatives(teacher, X, 2)


def numpy_mean_squares(recorded: list[np.ndarray], j: int, by: str) -> np.ndarray:
    """S_j in loops; one per output, or per last input."""
    d = recorded[j] - recorded[0].mean(0) if j == 0 else recorded[j]
    outputs, inputs = 2, 3
    if by == "output":
        return np.array([np.mean([(sample[o] ** 2).sum() for sample in d]) for o in range(outputs)])
    if by == "input" and j:
        return np.array([np.mean([(sample[..., i] ** 2).sum() for sample in d]) for i in range(inputs)])
    return np.array(np.mean([(sample**2).sum() for sample in d]))


@pytest.mark.parametrize("target", [teacher, RECORDED], ids=["teacher", "recorded"])
@pytest.mark.parametrize("by", ["order", "output", "input"])
def test_mean_squares_and_the_loss_equal_loops(by, target):
    loss = SobolevLoss(2, weights="balanced", balance=by).balance(target, X)
    arrays = [d.numpy() for d in RECORDED]
    terms, expected = loss(STUDENT, X, target), {}
    predictions = [d.detach().numpy() for d in derivatives(STUDENT, X, 2)]
    for j in range(3):
        s = numpy_mean_squares(arrays, j, by)
        np.testing.assert_allclose(loss.mean_squares[j].numpy(), s)
        if by == "output":
            s = s.reshape(2, *[1] * j)
        errors = [((p - t) ** 2 / (s * s.size)).sum() for p, t in zip(predictions[j], arrays[j], strict=True)]
        expected[j] = torch.tensor(np.mean(errors))
    torch.testing.assert_close(terms.by_order, expected)
    torch.testing.assert_close(terms.total, sum(expected.values()))


@pytest.mark.parametrize("by", ["order", "output", "input"])
def test_zeros_cost_1_in_each_order_and_a_constant_offset_counts_for_nothing(by):
    mean = RECORDED[0].mean(0)
    loss = SobolevLoss(2, weights="balanced", balance=by)
    terms = loss(lambda x: mean + 0 * x.sum(-1, keepdim=True), X, RECORDED)
    torch.testing.assert_close([*terms.by_order.values()], [torch.tensor(1.0).double()] * 3)


@pytest.mark.parametrize("distance", DISTANCES)
def test_every_distance_has_its_arguments_in_root_mean_squares(distance):
    """l2 and l1 are divided by the root of S_j, and Huber's threshold becomes a root mean square."""
    loss = SobolevLoss(1, weights="balanced", distances=distance)
    found = loss(STUDENT, X, RECORDED).by_order
    for j in (0, 1):
        rms = numpy_mean_squares([d.numpy() for d in RECORDED], j, "order").item() ** 0.5
        p, t = (d[j].detach().flatten(1) / rms for d in (derivatives(STUDENT, X, 1), RECORDED))
        torch.testing.assert_close(found[j], DISTANCES[distance](p, t).mean())
    plain = SobolevLoss(1, distances=distance)(STUDENT, X, RECORDED).by_order
    power = {"squared_l2": 2, "l2": 1, "l1": 1}.get(distance)
    if power:
        torch.testing.assert_close(found[1], plain[1] / rms**power)


@pytest.mark.parametrize("by", ["order", "input"])
@pytest.mark.parametrize("kind", [projections.Sphere, projections.Gaussian, projections.Coordinate])
@pytest.mark.parametrize("target", [teacher, RECORDED], ids=["teacher", "recorded"])
def test_a_projected_loss_is_unbiased_for_the_full_one(kind, target, by):
    full = SobolevLoss(2, weights="balanced", balance=by).balance(RECORDED, X)
    expected = full(STUDENT, X, RECORDED).by_order
    loss = SobolevLoss(2, weights="balanced", balance=by, projection=kind(300), generator=rng())
    found = loss.balance(target, X)(STUDENT, X, target).by_order
    for j in range(3):
        torch.testing.assert_close(found[j], expected[j], rtol=0.1, atol=0)
        torch.testing.assert_close(loss.mean_squares[j], full.mean_squares[j], rtol=0.1, atol=0)


def test_user_weights_multiply_and_some_orders_may_be_left_alone():
    both = SobolevLoss(1, weights={0: 2, 1: 0.1}, balance="order")(STUDENT, X, RECORDED)
    torch.testing.assert_close(both.total, 2 * both.by_order[0] + 0.1 * both.by_order[1])
    one = SobolevLoss(1, balance={1: "order"})(STUDENT, X, RECORDED)
    torch.testing.assert_close(one.by_order[1], both.by_order[1])
    torch.testing.assert_close(one.by_order[0], SobolevLoss(0)(STUDENT, X, RECORDED).total)


def test_it_is_measured_once_and_can_be_saved():
    first, later = (tuple(d[part] for d in RECORDED) for part in (slice(20), slice(20, 40)))
    loss = SobolevLoss(1, weights="balanced")
    loss(STUDENT, X[:20], first)
    measured = dict(loss.mean_squares)
    loss(STUDENT, X[20:], later)
    assert loss.mean_squares == measured
    assert measured[1] == SobolevLoss(1, weights="balanced").balance(first, X[:20]).mean_squares[1]
    assert measured[1] != loss.balance(RECORDED, X).mean_squares[1]
    buffer = io.BytesIO()
    torch.save(loss.mean_squares, buffer)
    buffer.seek(0)
    other = SobolevLoss(1, weights="balanced")
    other.mean_squares = torch.load(buffer, weights_only=True)
    torch.testing.assert_close(other(STUDENT, X[:20], first).total, loss(STUDENT, X[:20], first).total)


def test_an_order_that_comes_later_is_measured_then():
    loss = SobolevLoss(1, weights=(1, 0), balance="order")
    loss(STUDENT, X, RECORDED[:1])
    assert loss.mean_squares.keys() == {0}
    loss.weights[1] = 1.0
    terms = loss(STUDENT, X, RECORDED)
    assert loss.mean_squares.keys() == {0, 1}
    torch.testing.assert_close(terms.total, SobolevLoss(1, weights="balanced")(STUDENT, X, RECORDED).total)


def test_numbers_that_are_not_known_are_left_out():
    y, dy, _ = (d.clone() for d in RECORDED)
    y[0], dy[1:20, 0], dy[3, 1, 2] = float("nan"), float("nan"), float("nan")
    loss = SobolevLoss(1, weights="balanced").balance((y, dy), X)
    assert loss.mean_squares[0] == pytest.approx(((y[1:] - y[1:].mean(0)) ** 2).sum(-1).mean().item())
    known = [[float(dy[b, o, i] ** 2) for b in range(40) if dy[b, o, i].isfinite()] for o in range(2) for i in range(3)]
    assert loss.mean_squares[1] == pytest.approx(sum(np.mean(component) for component in known))
    assert loss(STUDENT, X, (y, dy)).total.isfinite()


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_an_order_without_a_mean_square_is_refused_and_a_column_takes_the_others(value):
    dead = torch.full_like(RECORDED[1], value)
    for loss in (SobolevLoss(1, weights="balanced"), SobolevLoss(1, balance="output")):
        with pytest.raises(ValueError, match=r"derivatives of order 1 are all 0, or not known.*leave order 1 out"):
            loss(STUDENT, X, (RECORDED[0], dead))
    with pytest.raises(ValueError, match="values are all the same"):
        SobolevLoss(0, weights="balanced").balance(RECORDED[0] * 0 + 0.1, X)
    partly = RECORDED[1].clone()
    partly[:, :, 2] = value
    loss = SobolevLoss(1, balance="input").balance((RECORDED[0], partly), X)
    s = loss.mean_squares[1]
    assert s[2] == pytest.approx(((s[0] + s[1]) / 3).item())


def test_networks_of_an_ensemble_share_their_balance():
    ensemble = MLPEnsemble((2, 8, 1), [rng(0), rng(1)]).double()
    x, y, dy = torch.rand(2, 5, 2).double(), torch.rand(2, 5, 1).double(), torch.rand(2, 5, 1, 2).double()
    loss = SobolevLoss(batch_dims=2, weights="balanced", reduction="none")
    assert loss(ensemble, x, (y, dy)).total.shape == (2, 5)
    torch.testing.assert_close(loss.mean_squares[1], dy.square().sum((2, 3)).mean())


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("order, output, input, not 'all'", {"balance": "all"}),
        ("projection mixes the outputs", {"balance": "output", "projection": projections.Sphere()}),
        ("balance names order 2, but the orders are 0 to 1", {"balance": {2: "order"}}),
    ],
)
def test_bad_options_are_refused(match, options):
    with pytest.raises(ValueError, match=match):
        SobolevLoss(**options)


def test_nothing_to_balance_is_refused():
    with pytest.raises(ValueError, match="construct the loss with balance='order'"):
        SobolevLoss(1).balance(RECORDED, X)


def test_single_precision_and_tiny_derivatives():
    tiny = tuple((1e-30 * d).float() for d in RECORDED)
    loss = SobolevLoss(1, weights="balanced").balance(tiny, X.float())
    mean = tiny[0].mean(0)
    terms = loss(lambda x: mean + 0 * x.sum(-1, keepdim=True), X.float(), tiny)
    torch.testing.assert_close(terms.by_order[1], torch.tensor(1.0))


@pytest.mark.parametrize("by", ["order", "output"])
def test_what_it_measured_may_be_numbers_from_a_file(by):
    loss, again = (SobolevLoss(1, balance=by) for _ in range(2))
    expected = loss(STUDENT, X, RECORDED).total
    again.mean_squares = {j: s.tolist() for j, s in loss.mean_squares.items()}
    torch.testing.assert_close(again(STUDENT, X, RECORDED).total, expected)


def test_changed_weights_and_factors_are_checked_when_they_are_used():
    loss = SobolevLoss(1)
    loss.weights = (1.0, 0.5)
    with pytest.raises(TypeError, match=r"`weights` is \{order: weight\}, such as .* not \(1\.0, 0\.5\)"):
        loss(STUDENT, X, RECORDED)
    for factor in (-0.1, float("nan"), float("inf")):
        loss = SobolevLoss(1, schedule=lambda t, factor=factor: factor)
        loss.progress = 0.5
        with pytest.raises(ValueError, match="the schedule of order 1 must give 0 or more, and a finite number, not"):
            loss(STUDENT, X, RECORDED)


def test_whole_numbers_are_balanced_like_others():
    whole = tuple((5 * d).round() for d in RECORDED)
    found = SobolevLoss(1, weights="balanced").balance(tuple(d.long() for d in whole), X).mean_squares
    torch.testing.assert_close(found, SobolevLoss(1, weights="balanced").balance(whole, X).mean_squares)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_half_types_do_not_round_the_balance(scale):
    y, dy = (scale * d.float() for d in RECORDED[:2])
    student = lambda x: (1e-2 * x.sum(-1, keepdim=True)).expand(len(x), y.shape[1])  # noqa: E731
    expected = SobolevLoss(1, weights="balanced")(student, X.float(), (y, dy)).total
    for dtype in (torch.float16, torch.bfloat16):
        found = SobolevLoss(1, weights="balanced")(lambda x: student(x).to(dtype), X.float(), (y, dy)).total  # noqa: B023
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=0.0)


def test_one_value_per_sample_is_balanced_as_an_output():
    one = tuple(d[:, 0] for d in RECORDED)
    scalar = SobolevLoss(1, balance="output")(lambda x: x.sin().prod(-1), X, one)
    column = SobolevLoss(1, balance="output")(
        lambda x: x.sin().prod(-1, keepdim=True), X, tuple(d[:, None] for d in one)
    )
    torch.testing.assert_close(scalar.total, column.total)


# --- weights that learn ----------------------------------------------------------------------------------------------


def number(weight: float | Tensor) -> float:
    return torch.as_tensor(weight).detach().item()


@pytest.mark.parametrize("form", ["vector", "list", "mapping"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_optimizer_trains_weights_that_begin_at_0(form, wrapped):
    vector, alone = nn.Parameter(torch.tensor([1.0, 0.0]).double()), nn.Parameter(torch.zeros(()).double())
    given = {"vector": vector, "list": [1.0, alone], "mapping": {0: 1.0, 1: alone}}[form]
    student = network()
    loss = SobolevLoss(1, weights=given)
    f = Derivatives(student) if wrapped else student
    learned = vector if form == "vector" else alone
    optimizer = torch.optim.SGD([learned], lr=1e-6, maximize=True)
    expected = 0.0
    for _ in range(3):
        terms = loss(f, X, RECORDED)
        assert terms.by_order.keys() == {0, 1}
        assert terms.total.item() == pytest.approx(
            number(loss.weights[0]) * terms.by_order[0].item() + expected * terms.by_order[1].item()
        )
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        expected += 1e-6 * terms.by_order[1].item()
        assert number(loss.weights[1]) == pytest.approx(expected)
    with torch.no_grad():
        learned.fill_(-1.0)  # what keeps it positive is the user's
        terms = loss(f, X, RECORDED)
        torch.testing.assert_close(terms.total, number(loss.weights[0]) * terms.by_order[0] - terms.by_order[1])
