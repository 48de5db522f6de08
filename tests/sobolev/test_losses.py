"""The loss against a naive double loop, and what it refuses, leaves out and leaves alone."""

from __future__ import annotations

import copy
import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sobolev import Derivatives, SobolevLoss, projections
from sobolev.derivatives import derivatives
from sobolev.distances import DISTANCES, huber, l1, l2, squared_l2
from sobolev.networks import MLPEnsemble


def mlp(*sizes: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).double()


STUDENT, TEACHER = mlp(3, 6, 2, seed=1), mlp(3, 5, 2, seed=2)
X = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
RECORDED = tuple(d.detach() for d in derivatives(TEACHER, X, 2))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients(total: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(total, list(model.parameters()), materialize_grads=True))


def naive_derivatives(f, x: Tensor, order: int) -> list[Tensor]:
    """Of one sample x, by nested Jacobians."""
    results = []
    g = lambda x: f(x[None])[0]  # noqa: E731
    for _ in range(order + 1):
        results.append(g(x))
        g = lambda x, g=g: torch.autograd.functional.jacobian(g, x, create_graph=True)  # noqa: E731
    return results


def naive_loss(student, x, teacher, weights, distance, vectors=()) -> tuple[Tensor, list[Tensor]]:
    """Eq. 1, or Eq. 2 with vectors (v_1, v_2) each (S, batch, ...): means over samples and vectors, in plain loops."""
    orders = range(len(weights))
    by_order = [torch.zeros((), dtype=x.dtype) for _ in orders]
    n_vectors = len(vectors[0]) if vectors else 1
    for b, s in itertools.product(range(len(x)), range(n_vectors)):
        m, f = (naive_derivatives(g, x[b], orders[-1]) for g in (student, teacher))
        for j in orders:
            p, t = m[j], f[j].detach()
            for v in vectors[:j]:
                p, t = (torch.tensordot(v[s, b], d, dims=1) for d in (p, t))
            by_order[j] = by_order[j] + distance(p.flatten(), t.flatten()) / (len(x) * n_vectors)
    return sum(w * term for w, term in zip(weights, by_order, strict=True)), by_order


WEIGHTS = (1.0, 0.5, 0.1)
BY_HAND = {
    "squared_l2": lambda p, t: ((p - t) ** 2).sum(),
    "l2": lambda p, t: ((p - t) ** 2).sum().sqrt(),
    "l1": lambda p, t: (p - t).abs().sum(),
    "huber": lambda p, t: torch.where((p - t).abs() < 1, (p - t) ** 2 / 2, (p - t).abs() - 0.5).sum(),
}


@pytest.mark.parametrize("target", [TEACHER, RECORDED], ids=["teacher", "recorded"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("samples", [None, 1, 3])
def test_value_and_parameter_gradients_equal_a_naive_loop(target, distance, samples):
    projection, vectors = None, ()
    if samples:
        projection, generator = projections.Sphere(samples), rng()
        vectors = [projection.draw(like, 1, generator) for like in (RECORDED[0], X)]
    loss = SobolevLoss(2, weights=WEIGHTS, distances=distance, projection=projection, generator=rng())
    total, by_order = loss(STUDENT, X, target)
    expected, expected_by_order = naive_loss(STUDENT, X, TEACHER, WEIGHTS, BY_HAND[distance], vectors)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close([by_order[j] for j in range(3)], expected_by_order)
    torch.testing.assert_close(gradients(total, STUDENT), gradients(expected, STUDENT))


def test_projected_loss_is_unbiased_up_to_the_second_moment():
    full = SobolevLoss(1, weights={1: 1})(STUDENT, X, RECORDED).total
    for kind in (projections.Sphere, projections.Rademacher, projections.Coordinate, projections.Gaussian):
        loss = SobolevLoss(1, weights={1: 1}, projection=kind(samples=2_000), generator=rng(), reduction="none")
        projected = loss(STUDENT, X, RECORDED).total.mean()
        torch.testing.assert_close(projected / kind().second_moment(2), full, rtol=0.1, atol=0)


def test_each_call_draws_as_many_vectors_as_there_are_orders():
    ours, other = rng(), rng()
    loss = SobolevLoss(2, weights={2: 1}, projection=projections.Sphere(3), generator=ours)
    first, second = (loss(STUDENT, X, TEACHER).total for _ in range(2))
    assert first != second
    for like in (RECORDED[0], X, RECORDED[0], X):
        loss.projection.draw(like, 1, other)
    assert torch.equal(ours.get_state(), other.get_state())


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_are_zero_with_finite_gradients_at_the_target(distance):
    p = torch.zeros(2, 3, requires_grad=True)
    d = DISTANCES[distance](p, torch.zeros(2, 3))
    assert torch.equal(d, torch.zeros(2))
    (gradient,) = torch.autograd.grad(d.sum(), p)
    assert torch.equal(gradient, torch.zeros(2, 3))


@pytest.mark.parametrize("distance", [squared_l2, l2, l1, huber])
def test_distances_reduce_the_components_only(distance):
    assert distance(torch.rand(4, 5, 3), torch.rand(4, 5, 3)).shape == (4, 5)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("projection", [None, projections.Sphere()])
def test_targets_recorded_in_double_precision_serve_a_student_in_single(distance, projection):
    student, loss = copy.deepcopy(STUDENT).float(), SobolevLoss(1, distances=distance, projection=projection)
    loss.generator = torch.Generator()
    totals = []
    for model, x, target in ((student, X.float(), RECORDED), (student, X.float(), [t.float() for t in RECORDED])):
        loss.generator.manual_seed(0)
        terms = loss(model, x, target)
        totals.append(terms.total)
    torch.testing.assert_close(*totals, rtol=1e-4, atol=0, check_dtype=False)
    terms.total.backward()


# --- orders that are absent ------------------------------------------------------------------------------------------


def test_orders_and_distances_given_one_by_one():
    l1_terms = SobolevLoss(2, distances="l1")(STUDENT, X, TEACHER).by_order
    l2_terms = SobolevLoss(2, distances=l2)(STUDENT, X, TEACHER).by_order
    listed = SobolevLoss(2, distances=("l1", "squared_l2", l2), weights=(2, 0, 3))(STUDENT, X, TEACHER)
    mapped = SobolevLoss(2, distances={0: "l1", 2: "l2"}, weights={2: 3, 0: 2})(STUDENT, X, RECORDED)
    for terms in (listed, mapped):
        assert sorted(terms.by_order) == [0, 2]
        torch.testing.assert_close(terms.by_order, {0: l1_terms[0], 2: l2_terms[2]})
        torch.testing.assert_close(terms.total, 2 * l1_terms[0] + 3 * l2_terms[2])


@pytest.mark.parametrize("array", [torch.tensor, np.array])
def test_weights_may_be_an_array(array):
    listed = SobolevLoss(1, weights=(2.0, 3.0))(STUDENT, X, RECORDED).total
    torch.testing.assert_close(SobolevLoss(1, weights=array([2.0, 3.0]))(STUDENT, X, RECORDED).total, listed)
    with pytest.raises(ValueError, match="weights must number 2"):
        SobolevLoss(1, weights=array([2.0]))


def test_value_only_builds_no_derivative():
    class NoBackwardTwice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise AssertionError("a derivative was taken")

    for loss in (SobolevLoss(0), SobolevLoss(1, weights=(1, 0), projection=projections.Sphere())):
        terms = loss(NoBackwardTwice.apply, X, (X,))
        assert list(terms.by_order) == [0]
    batchnorm = nn.Sequential(nn.BatchNorm1d(3)).double()
    assert SobolevLoss(0)(batchnorm, X, X).total.requires_grad


def test_derivative_only_never_evaluates_the_value_distance():
    def refuse(prediction, target):
        raise AssertionError("the value distance was evaluated")

    terms = SobolevLoss(1, weights=(0, 1), distances=(refuse, "squared_l2"))(STUDENT, X, (None, RECORDED[1]))
    assert list(terms.by_order) == [1]
    torch.testing.assert_close(terms.total, SobolevLoss(1)(STUDENT, X, TEACHER).by_order[1])


# --- reductions and batches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", [None, projections.Sphere(2)])
def test_reductions_agree(projection):
    none, mean, total = (
        SobolevLoss(1, projection=projection, generator=rng(), reduction=reduction)(STUDENT, X, TEACHER)
        for reduction in ("none", "mean", "sum")
    )
    assert none.total.shape == none.by_order[1].shape == (4,)
    torch.testing.assert_close(none.total.mean(), mean.total)
    torch.testing.assert_close(none.total.sum(), total.total)


@given(
    batch=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    in_shape=st.lists(st.integers(1, 2), max_size=2),
    out_shape=st.lists(st.integers(1, 2), max_size=2),
    samples=st.sampled_from([None, 1, 2]),
)
@settings(max_examples=40, deadline=None)
def test_any_shapes(batch, in_shape, out_shape, samples):
    x = torch.rand(*batch, *in_shape)
    dims = len(batch)

    def f(x, scale):
        s = scale * x.flatten(dims).sum(-1) if in_shape else scale * x
        return s.sin().reshape(*batch, *[1] * len(out_shape)).expand(*batch, *out_shape)

    teacher, student = (lambda x: f(x, 1.0)), (lambda x: f(x, 2.0))
    loss = lambda: SobolevLoss(  # noqa: E731
        2,
        batch_dims=dims,
        reduction="none",
        projection=samples and projections.Gaussian(samples),
        generator=rng(),
    )
    called = loss()(student, x, teacher)
    assert called.total.shape == tuple(batch)
    recorded = loss()(student, x, derivatives(teacher, x, 2, batch_dims=dims))
    torch.testing.assert_close(called.total, recorded.total)


def test_an_ensemble_has_one_loss_a_network_and_sample():
    ensemble = MLPEnsemble((2, 8, 1), [rng(0), rng(1)]).double()
    x, y, dy = torch.rand(2, 5, 2).double(), torch.rand(2, 5, 1).double(), torch.rand(2, 5, 1, 2).double()
    together = SobolevLoss(batch_dims=2, reduction="none")(ensemble, x, (y, dy)).total
    for e in range(2):
        alone = SobolevLoss(reduction="none")(ensemble.network(e), x[e], (y[e], dy[e])).total
        torch.testing.assert_close(together[e], alone)


def test_accumulated_gradients_equal_those_of_the_full_batch():
    full = gradients(SobolevLoss(2, reduction="sum")(STUDENT, X, TEACHER).total, STUDENT)
    model, loss = copy.deepcopy(STUDENT), SobolevLoss(2, reduction="sum")
    for part in X.split([1, 3]):
        loss(model, part, TEACHER).total.backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], full)


@pytest.mark.parametrize("target", [TEACHER, tuple(d[:0] for d in RECORDED)], ids=["teacher", "recorded"])
@pytest.mark.parametrize("projection", [None, projections.Sphere(2)])
def test_an_empty_batch_adds_nothing(target, projection):
    """A process whose share of the last batch is empty still takes part."""
    terms = SobolevLoss(2, projection=projection, reduction="sum")(STUDENT, X[:0], target)
    assert terms.total == 0
    assert not any(gradient.any() for gradient in gradients(terms.total, STUDENT))


# --- what is left alone ----------------------------------------------------------------------------------------------


def test_evaluation_under_no_grad():
    def distance(prediction, target):
        assert prediction.requires_grad == torch.is_grad_enabled()
        return squared_l2(prediction, target)

    loss = SobolevLoss(1, distances=distance)
    expected = loss(STUDENT, X, TEACHER)
    with torch.no_grad():
        terms = loss(STUDENT, X, TEACHER)
    torch.testing.assert_close(terms.total, expected.total)
    assert not terms.total.requires_grad


def test_a_student_in_eval_mode_can_still_be_trained():
    student = copy.deepcopy(STUDENT).eval()
    assert SobolevLoss(1)(student, X, TEACHER).total.requires_grad


def test_teacher_target_and_inputs_get_no_gradients_and_modes_stay():
    teacher, student, x = copy.deepcopy(TEACHER), copy.deepcopy(STUDENT), X.clone().requires_grad_()
    recorded = tuple(d.clone().requires_grad_() for d in RECORDED)
    SobolevLoss(2)(student, x, teacher).total.backward()
    SobolevLoss(2, projection=projections.Sphere())(student, x, recorded).total.backward()
    assert x.grad is None
    assert all(p.grad is None for p in teacher.parameters())
    assert all(d.grad is None for d in recorded)
    assert all(p.grad is not None for p in student.parameters())
    assert teacher.training


def test_wrapped_students_and_teachers_give_the_same_loss():
    expected = SobolevLoss(1)(STUDENT, X, TEACHER).total
    torch.testing.assert_close(SobolevLoss(1)(Derivatives(STUDENT), X, Derivatives(TEACHER)).total, expected)
    options = {"projection": projections.Sphere(2)}
    projected = SobolevLoss(1, generator=rng(), **options)(STUDENT, X, TEACHER).total
    wrapped = SobolevLoss(1, generator=rng(), **options)(Derivatives(STUDENT), X, RECORDED).total
    torch.testing.assert_close(wrapped, projected)


def test_backpropagation_does_not_see_what_moving_a_kink_does_to_the_loss_of_derivatives():
    """m(x) = max(0, x - b) and u(x) = x^2 / 2 on [0, 1]: G(b) = (b^3 + (1 - b)^3) / 3, so dG/db = b^2 - (1 - b)^2."""
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64)[:, None]
    b = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    target = (x.square() / 2, x[:, :, None])
    loss = SobolevLoss(1, weights=(0, 1))

    def seen(ramp) -> tuple[float, float]:
        """dG/db by backpropagation, and from the loss on both sides of b."""
        total = {d: loss(lambda x, d=d: ramp(x - b - d), x, target).total for d in (-1e-3, 0, 1e-3)}
        (by_backpropagation,) = torch.autograd.grad(total[0], b, materialize_grads=True)
        return by_backpropagation.item(), ((total[1e-3] - total[-1e-3]) / 2e-3).item()

    assert seen(torch.relu) == pytest.approx((0, 0.3**2 - 0.7**2), abs=1e-3)
    smooth = seen(lambda z: nn.functional.softplus(z, beta=20))
    assert smooth[0] == pytest.approx(smooth[1], abs=1e-3)
    assert smooth[0] == pytest.approx(0.3**2 - 0.7**2, abs=0.1)


# --- refusals and warnings -------------------------------------------------------------------------------------------


def test_relu_second_order_warns_once_a_loss():
    student, loss = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).double(), SobolevLoss(2)
    with pytest.warns(UserWarning, match="piecewise linear"):
        loss(student, X, RECORDED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(student, X, RECORDED)


def test_a_teacher_that_drops_out_is_warned_of_once_a_loss():
    dropping, loss = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).double(), SobolevLoss(1)
    with pytest.warns(UserWarning, match=r"the target, Sequential, drops out anew at every call.*eval\(\)"):
        loss(STUDENT, X, dropping)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(STUDENT, X, dropping)
        SobolevLoss(1)(dropping, X, dropping.eval())  # of a student nothing is said
        SobolevLoss(1)(dropping.train(), X, RECORDED)


def test_batchnorm_in_student_or_teacher_is_refused():
    mixing = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    for student, teacher in ((mixing, TEACHER), (STUDENT, mixing)):
        with pytest.raises(ValueError, match="BatchNorm layer '1' mixes"):
            SobolevLoss(1)(student, X, teacher)


@pytest.mark.parametrize(
    ("match", "target"),
    [
        (r"order 1 is missing, expected \(4, 2, 3\)", RECORDED[:1]),
        (r"order 1 is missing, expected \(4, 2, 3\)", (RECORDED[0], None)),
        (r"order 0 is of shape \(4,\), expected \(4, 2\)", (RECORDED[0][:, 0], RECORDED[1])),
        (r"order 1 is of shape \(4, 3, 2\), expected \(4, 2, 3\)", (RECORDED[0], RECORDED[1].mT)),
        (r"order 0 is of shape \(4, 5\), expected \(4, 2\)", mlp(3, 5)),
    ],
)
@pytest.mark.parametrize("projection", [None, projections.Sphere()])
def test_targets_of_another_shape_are_refused(match, target, projection):
    if callable(target) and projection:
        match = r"vector 1 has shape \(1, 4, 2\), expected \(1, 4, 5\)"
    with pytest.raises(ValueError, match=match):
        SobolevLoss(1, projection=projection)(STUDENT, X, target)


def test_values_of_shape_b_and_b_1_are_not_broadcast():
    with pytest.raises(ValueError, match=r"is of shape \(4,\), expected \(4, 1\)"):
        SobolevLoss(0)(mlp(3, 1), X, lambda x: x.sum(-1))


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("order must be 0 or more", {"order": -1}),
        ("mean, sum, none, not 'max'", {"reduction": "max"}),
        ("auto, reverse, forward, differences, not 'both'", {"mode": "both"}),
        ("squared_l2, l2, l1, huber, not 'mse'", {"distances": "mse"}),
        ("every weight is 0", {"weights": (0, 0)}),
        ("weights must number 2, for orders 0 to 1, not 3", {"weights": (1, 1, 1)}),
        ("distances names order 2, but the orders are 0 to 1", {"distances": {2: "l1"}}),
    ],
)
def test_bad_options_are_refused(match, options):
    with pytest.raises(ValueError, match=match):
        SobolevLoss(**options)


@pytest.mark.parametrize("projection", ["sphere", projections.Sphere])
def test_what_is_no_projection_is_refused(projection):
    with pytest.raises(TypeError, match=r"such as projections\.Sphere\(samples=1\), not"):
        SobolevLoss(projection=projection)


@pytest.mark.parametrize(
    ("match", "x", "target"),
    [
        ("x must be a floating-point tensor, not ndarray", X.numpy(), TEACHER),
        ("target must be a function, or recorded tensors.*not ndarray", X, RECORDED[0].numpy()),
        ("target must be a function, or recorded tensors.*not NoneType", X, None),
        ("derivative of order 1 must be a tensor, not ndarray", X, (RECORDED[0], RECORDED[1].numpy())),
    ],
)
def test_arrays_are_refused_by_name(match, x, target):
    with pytest.raises(TypeError, match=match) as caught:
        SobolevLoss(1)(STUDENT, x, target)
    assert "\n" not in str(caught.value)


def test_a_distance_that_reduces_the_batch_is_refused():
    with pytest.raises(ValueError, match=r"order 0 must reduce the last dimension only.*\(4,\), not \(\)"):
        SobolevLoss(0, distances=nn.functional.mse_loss)(STUDENT, X, TEACHER)


def test_derivatives_of_another_order_are_refused():
    with pytest.raises(ValueError, match="has order 2 and batch_dims 1, but the loss has order 1"):
        SobolevLoss(1)(Derivatives(STUDENT, order=2), X, TEACHER)
