"""Differences of values: of a black box against closed forms, and of a student against plain loops over its values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sobolev
from sobolev import Derivatives, Projected, SobolevLoss, differences, projections
from sobolev.derivatives import derivatives
from sobolev.networks import MLPEnsemble


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(activation: nn.Module, *sizes: int, seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(sizes[0], 6), activation, nn.Linear(6, sizes[1])).double()


def teacher(x: Tensor) -> Tensor:
    return torch.stack((x[..., 0].sin() * x[..., 1], x[..., 2] ** 3 + x[..., 0]), -1)


X = torch.rand(4, 3, dtype=torch.float64, generator=rng())


# --- black boxes ---------------------------------------------------------------------------------------------------

CASES = {
    "vector to vector": (teacher, (3,)),
    "scalar output": (lambda x: (x**3).prod(-1).sin(), (2,)),
    "scalar input": (lambda x: torch.stack((x.sin(), x.exp()), -1), ()),
    "matrix to matrix": (lambda x: x.mT @ x.sin() @ x, (2, 2)),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-3), (torch.float32, 0.1)])
@pytest.mark.parametrize("name", CASES)
def test_equal_to_derivatives(name, dtype, tolerance):
    f, shape = CASES[name]
    x = torch.rand(5, *shape, dtype=torch.float64, generator=rng())
    expected = derivatives(f, x, 3)
    for order in (0, 1, 3):
        found = differences(f, x.to(dtype), order)
        assert len(found) == order + 1
        for d, exact in zip(found, expected, strict=False):
            assert d.shape == exact.shape
            assert d.dtype == dtype
            torch.testing.assert_close(d.double(), exact, rtol=0, atol=tolerance * float(exact.abs().max()))
    torch.testing.assert_close(differences(f, x)[1], expected[1], rtol=1e-8, atol=1e-9)


def test_a_black_box_in_numpy_is_called_as_often_as_is_said():
    calls = []

    def simulator(x: Tensor) -> np.ndarray:
        calls.append(len(x))
        return np.array([[np.sin(a) * b, c**3 + a] for a, b, c in x.numpy()])

    found = differences(simulator, X, 2)
    assert calls == [4] * (1 + 2 * 3 + 4 * 6)
    for d, exact in zip(found, derivatives(teacher, X, 2), strict=True):
        torch.testing.assert_close(d, exact, rtol=1e-4, atol=1e-6)
    assert torch.equal(found[2], found[2].mT)


def test_the_step_follows_the_scale_of_each_input_and_the_coarser_precision():
    scales = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)
    f = lambda x: (x / scales).sin()  # noqa: E731
    found = differences(f, X * scales)[1] * scales
    torch.testing.assert_close(found, derivatives(torch.sin, X)[1], rtol=1e-8, atol=1e-9)
    rounded = differences(lambda x: f(x).float(), X * scales)[1] * scales  # a simulator in single precision
    torch.testing.assert_close(rounded.double(), derivatives(torch.sin, X)[1], rtol=1e-3, atol=1e-3)
    offset = differences(lambda x: (x - 1e3).sin(), X + 1e3)[1]
    torch.testing.assert_close(offset, derivatives(torch.sin, X)[1], rtol=1e-3, atol=1e-3)
    x = (X + 1e3).float()  # whose spacing is a fiftieth of the step that the samples' spread alone would give
    torch.testing.assert_close(differences(lambda x: (x - 1e3).sin(), x)[1].double(), offset, rtol=0.01, atol=0.01)
    for alone in (X[:1], torch.zeros(1, 3, dtype=torch.float64)):
        torch.testing.assert_close(
            differences(torch.sin, alone)[1], derivatives(torch.sin, alone)[1], rtol=1e-6, atol=0
        )


def test_a_step_of_ones_own():
    step = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    slopes = [((x + h) ** 3 - (x - h) ** 3) / (2 * h) for x, h in zip(X.unbind(-1), step, strict=True)]
    torch.testing.assert_close(differences(lambda x: (x**3).sum(-1), X, step=step)[1], torch.stack(slopes, -1))
    for wrong in (0, -1.0, float("nan"), torch.ones(2)):
        with pytest.raises(ValueError, match="step must be a positive number, or one for each input"):
            differences(teacher, X, step=wrong)


def test_what_the_black_box_does_not_return_is_not_known():
    y, dy = differences(lambda x: torch.where(x[:, :1] > x[1, 0], x, torch.nan), X)
    assert y[1].isnan().all()
    assert dy[1].isnan().any()
    assert SobolevLoss(1)(network(nn.Tanh(), 3, 3), X, (y, dy)).total.isfinite()


def test_the_name_stays_a_function_once_the_library_is_loaded():
    assert callable(sobolev.differences)


# --- the student's derivatives ----------------------------------------------------------------------------------------

STEP = 0.1


def quotient(f, x: Tensor, directions: list[Tensor], h: float) -> Tensor:
    """D^j y [u_1, ..., u_j] of one sample x, in a loop over signs."""
    total = 0.0
    for signs in itertools.product((1, -1), repeat=len(directions)):
        point = x + h * sum(s * u for s, u in zip(signs, directions, strict=True))
        total = total + np.prod(signs) * f(point[None])[0]
    return total / (2 * h) ** len(directions)


def naive(f, x: Tensor, j: int, h: float, vectors: list[Tensor] = ()) -> Tensor:
    """Of all samples: along vectors (S, batch, in) as (S, batch, out), or in full, in loops."""
    if vectors:
        return torch.stack(
            [
                torch.stack([quotient(f, x[b], [v[s, b] for v in vectors[:j]], h) for b in range(len(x))])
                for s in range(len(vectors[0]))
            ]
        )
    units, rows = torch.eye(x.shape[-1]).to(x), []
    for b in range(len(x)):
        places = itertools.product(range(x.shape[-1]), repeat=j)
        columns = [quotient(f, x[b], [units[i] for i in place], h) for place in places]
        rows.append(torch.stack(columns, -1).reshape(*columns[0].shape, *[x.shape[-1]] * j))
    return torch.stack(rows)


def contracted(derivative: Tensor, vectors: list[Tensor]) -> Tensor:
    """A derivative in full along vectors (S, batch, in), in loops."""
    if not vectors:
        return derivative
    rows = []
    for s, b in itertools.product(range(len(vectors[0])), range(len(derivative))):
        row = derivative[b]
        for v in vectors:
            row = row @ v[s, b]
        rows.append(row)
    return torch.stack(rows).unflatten(0, (len(vectors[0]), len(derivative)))


@pytest.mark.parametrize("samples", [None, 1, 3])
@pytest.mark.parametrize("kind", ["function", "Derivatives", "recorded"])
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU()], ids=["tanh", "relu"])
def test_the_loss_and_its_gradients_equal_loops_over_values(samples, kind, activation):
    student = network(activation, 3, 2)
    projection = samples and projections.Sphere(samples)
    generator, vectors = rng(), []
    if samples:
        vectors = [projection.draw(X, 1, generator) for _ in range(2)]
    exact = [d.detach() for d in derivatives(teacher, X, 2)]
    target = {"function": teacher, "Derivatives": Derivatives(teacher, 2), "recorded": exact}[kind]
    loss = SobolevLoss(2, mode="differences", step=STEP, projection=projection, generator=rng())
    found = loss(student, X, target)
    for j in range(3):
        p = naive(student, X, j, STEP, vectors) if j else student(X)
        if kind == "function":
            t = naive(teacher, X, j, STEP, vectors) if j else teacher(X)
        else:
            t = contracted(exact[j], vectors[:j])
        expected = (p - t).square().flatten(1 + (j > 0 and bool(samples))).sum(-1).mean()
        torch.testing.assert_close(found.by_order[j], expected)
        parameters = list(student.parameters())
        gradients = [
            torch.autograd.grad(each, parameters, retain_graph=True, materialize_grads=True)
            for each in (found.by_order[j], expected)
        ]
        torch.testing.assert_close(*gradients)


def test_small_steps_give_the_exact_loss_and_projections_are_unbiased():
    student = network(nn.Tanh(), 3, 2)
    exact = SobolevLoss(2, weights="balanced").balance(teacher, X)(student, X, teacher).by_order
    found = SobolevLoss(2, weights="balanced", mode="differences")(student, X, teacher).by_order
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=0)
    for by in ("order", "output"):
        full = SobolevLoss(2, balance=by)(student, X, derivatives(teacher, X, 2)).by_order
        options = {"mode": "differences", "projection": projections.Sphere(2_000), "generator": rng()}
        loss = SobolevLoss(2, balance=by, **options).balance(derivatives(teacher, X, 2), X)
        torch.testing.assert_close(loss(student, X, teacher).by_order, full, rtol=0.1, atol=0)


def test_backpropagation_sees_a_kink_move():
    """m(x) = max(0, x - b) and u(x) = x^2 / 2 on [0, 1]: G(b) = (b^3 + (1 - b)^3) / 3, so dG/db = b^2 - (1 - b)^2."""
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None]
    b = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    target = (x.square() / 2, x[:, :, None])
    for mode, slope in (("auto", 0.0), ("differences", 0.3**2 - 0.7**2)):
        loss = SobolevLoss(1, weights=(0, 1), mode=mode, step=0.01 if mode == "differences" else None)
        (found,) = torch.autograd.grad(loss(lambda x: torch.relu(x - b), x, target).total, b, materialize_grads=True)
        assert found.item() == pytest.approx(slope, abs=0.02)


def test_an_ensemble_is_its_networks_one_by_one():
    ensemble = MLPEnsemble((3, 8, 2), [rng(0), rng(1)]).double()
    x = torch.rand(2, 5, 3, generator=rng()).double()
    loss = SobolevLoss(2, mode="differences", step=STEP, batch_dims=2, reduction="none")
    together = loss(ensemble, x, teacher).total
    for e in range(2):
        alone = SobolevLoss(2, mode="differences", step=STEP, reduction="none")(ensemble.network(e), x[e], teacher)
        torch.testing.assert_close(together[e], alone.total)


@pytest.mark.parametrize("samples", [None, 2])
def test_a_student_that_is_a_derivatives_module(samples):
    student = network(nn.Tanh(), 3, 2)
    totals = []
    for f in (student, Derivatives(student, 2)):
        projection = samples and projections.Gaussian(samples)
        loss = SobolevLoss(2, mode="differences", step=STEP, projection=projection, generator=rng())
        totals.append(loss(f, X, teacher).total)
    torch.testing.assert_close(*totals)
    assert totals[1].requires_grad


def test_recorded_projections_of_a_student_by_differences():
    student, v = network(nn.Tanh(), 3, 2), torch.randn(2, 4, 2, generator=rng()).double()
    p = torch.einsum("sbo,boi->sbi", v, derivatives(teacher, X)[1])
    target = (teacher(X), Projected(v, p))
    found = SobolevLoss(1, mode="differences", step=1e-4)(student, X, target).by_order
    torch.testing.assert_close(found, SobolevLoss(1)(student, X, target).by_order, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match=r"vector 1 has shape \(2, 4, 3\), expected \(2, 4, 2\)"):
        SobolevLoss(1, mode="differences")(student, X, (None, Projected(p, p)))


def test_evaluation_needs_no_graph_and_an_empty_batch_adds_nothing():
    student = network(nn.Tanh(), 3, 2)
    loss = SobolevLoss(2, mode="differences", step=STEP, reduction="sum")
    expected = loss(student, X, teacher).total
    with torch.no_grad():
        found = loss(student, X, teacher).total
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    for projection in (None, projections.Sphere(2)):
        loss = SobolevLoss(2, mode="differences", step=STEP, reduction="sum", projection=projection)
        assert loss(student, X[:0], teacher).total == 0
        assert loss(student, X[:0], [d[:0] for d in derivatives(teacher, X, 2)]).total == 0


@pytest.mark.parametrize(
    ("match", "layer"), [("'1' drops out anew at every point", nn.Dropout(0.5)), ("mixes", nn.BatchNorm1d(2))]
)
def test_noise_and_mixed_samples_are_refused(match, layer):
    student = nn.Sequential(nn.Linear(3, 2), layer).double()
    with pytest.raises(ValueError, match=match):
        SobolevLoss(1, mode="differences")(student, X, teacher)
    assert SobolevLoss(1, mode="differences")(student.eval(), X, teacher).total.isfinite()
    with pytest.raises(ValueError, match="f mixes the samples of a batch"):
        SobolevLoss(1, mode="differences")(lambda x: student(x - x.mean(0)), X, teacher)


@pytest.mark.parametrize("projection", [None, projections.Sphere()])
def test_randomness_outside_modules_is_refused(projection):
    student = network(nn.Tanh(), 3, 2)
    loss = SobolevLoss(1, mode="differences", projection=projection)
    with pytest.raises(ValueError, match="f is random"):
        loss(lambda x: nn.functional.dropout(student(x), 0.1), X, teacher)
    assert loss(lambda x: nn.functional.dropout(student(x), 0.1, training=False), X, teacher).total.isfinite()


@pytest.mark.parametrize("projection", [None, projections.Sphere(4)])
def test_under_autocast_the_step_is_that_of_its_type(projection):
    student, x = network(nn.Tanh(), 3, 2).float(), torch.rand(200, 3, generator=rng())
    target = derivatives(student, x)
    with torch.autocast("cpu", torch.bfloat16):
        terms = SobolevLoss(1, mode="differences", projection=projection, generator=rng())(student, x, target)
    size = target[1].square().sum((1, 2)).mean() / (1 if projection is None else 3)
    assert terms.by_order[1] < 0.01 * size  # with the step of single precision the error is most of the derivative


def test_values_in_a_coarser_type_need_a_step_of_ones_own():
    student, x = network(nn.Tanh(), 3, 2).bfloat16(), torch.rand(50, 3, generator=rng())
    for projection in (None, projections.Sphere()):
        with pytest.raises(ValueError, match="choose the loss's `step`"):
            SobolevLoss(1, mode="differences", projection=projection)(lambda x: student(x.bfloat16()), x, student)
    terms = SobolevLoss(1, mode="differences", step=0.5)(
        lambda x: student(x.bfloat16()), x, lambda x: student(x.bfloat16())
    )
    assert terms.total == 0


def test_a_step_that_rounding_would_change_is_refused():
    x = torch.linspace(1e6, 1.1e6, 5)[:, None]
    with pytest.raises(ValueError, match=r"rounded off in torch\.float32, where these samples need at least 0\.5"):
        differences(lambda x: x.double().sum(-1), x, step=0.1)
    torch.testing.assert_close(
        differences(lambda x: x.double().sum(-1), x.double(), step=0.1)[1], torch.ones(5, 1, dtype=torch.float64)
    )
    with pytest.raises(ValueError, match=r"rounded off in torch\.float16"):
        differences(lambda x: x.float().sum(-1), torch.linspace(1, 1.02, 5).half()[:, None])


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match='step is that of mode="differences"'):
        SobolevLoss(1, step=0.1)
    with pytest.raises(ValueError, match="a projection mixes the inputs"):
        SobolevLoss(1, mode="differences", balance="input", projection=projections.Sphere())
