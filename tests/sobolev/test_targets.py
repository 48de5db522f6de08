"""Targets of real data: known in part, recorded projected, given further inputs, one of several outputs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from sobolev import Derivatives, Projected, SobolevLoss, check, differences, projections
from sobolev.derivatives import derivatives, projected_derivatives

NAN = float("nan")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(*sizes: int, seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(sizes[0], 6), nn.Tanh(), nn.Linear(6, sizes[1])).double()


def teacher(x: Tensor) -> Tensor:
    return torch.stack((x[..., 0].sin() * x[..., 1], x[..., 2] ** 3 + x[..., 0]), -1)


X = torch.rand(5, 3, dtype=torch.float64, generator=rng())
STUDENT = network(3, 2)
RECORDED = derivatives(teacher, X, 2)


# --- known in part ---------------------------------------------------------------------------------------------------

UNKNOWN = {
    "samples": lambda d, j: d[1:3].fill_(NAN),
    "an output": lambda d, j: d[:, 1].fill_(NAN),
    "an input": lambda d, j: d[..., 2].fill_(NAN) if j else d,
    "one number": lambda d, j: d[4].flatten()[0].fill_(NAN),
}


@pytest.mark.parametrize("balance", [None, "order", "input"])
@pytest.mark.parametrize("options", [{}, {"mode": "differences", "step": 1e-5}], ids=["exact", "differences"])
@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("unknown", UNKNOWN)
def test_what_is_not_known_adds_nothing_at_any_order(unknown, samples, options, balance):
    if balance == "input" and samples and options:
        return  # refused: such a projection mixes the inputs
    recorded = [d.clone() for d in RECORDED]
    for j, d in enumerate(recorded):
        UNKNOWN[unknown](d, j)
    student = network(3, 2)

    def loss(target) -> tuple:
        drawn = samples and projections.Sphere(samples)
        made = SobolevLoss(2, balance=balance, projection=drawn, generator=rng(), **options)
        if balance:
            made.balance(recorded, X)
        return made(student, X, target)

    found = loss(recorded)
    gradients = torch.autograd.grad(found.total, list(student.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    # The same numbers, where the unknown ones are what the student predicts, in place of NaN: in full these are all
    # components alone; projected, all on which a vector has an unknown component.
    predicted = [d.detach() for d in derivatives(student, X, 2)]
    if not samples:
        filled = [torch.where(d.isnan(), p, d) for d, p in zip(recorded, predicted, strict=True)]
        torch.testing.assert_close(found.by_order, loss(filled).by_order, rtol=1e-4, atol=1e-9)
    else:
        whole = loss(RECORDED)
        assert all(found.by_order[j] <= whole.by_order[j] for j in range(3))
        if unknown == "samples":
            filled = [d.clone() for d in RECORDED]
            for d, p in zip(filled, predicted, strict=True):
                d[1:3] = p[1:3]
            torch.testing.assert_close(found.by_order, loss(filled).by_order, rtol=1e-4, atol=1e-9)


def test_nothing_known_is_no_loss_and_no_gradient():
    dead = tuple(torch.full_like(d, NAN) for d in RECORDED)
    student = network(3, 2)
    terms = SobolevLoss(2)(student, X, dead)
    terms.total.backward()
    assert terms.total == 0
    assert not any(p.grad.any() for p in student.parameters())


# --- recorded projections ---------------------------------------------------------------------------------------------

V = [torch.randn(2, 5, size, dtype=torch.float64, generator=rng(size)) for size in (2, 3)]
PROJECTIONS = projected_derivatives(teacher, X, V)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("orders", [(1,), (1, 2), (2,)])
def test_the_loss_on_recorded_projections_equals_a_loop(orders, wrapped):
    target = [RECORDED[0], *(Projected(V[:j], PROJECTIONS[j]) if j in orders else None for j in (1, 2))]
    loss = SobolevLoss(2, weights=dict.fromkeys((0, *orders), 1.0))
    terms = loss(Derivatives(STUDENT, max(orders)) if wrapped else STUDENT, X, target)
    predicted = derivatives(STUDENT, X, 2)
    for j in orders:
        total = 0.0
        for s, b in itertools.product(range(2), range(5)):
            p = predicted[j][b]
            for v in V[:j]:
                p = torch.tensordot(v[s, b], p, dims=1)
            total += (p - PROJECTIONS[j][s, b]).square().sum() / 10
        torch.testing.assert_close(terms.by_order[j], total)
    terms.total.backward()


def test_one_projection_a_sample_needs_no_dimension_for_it():
    one = SobolevLoss(1)(STUDENT, X, (RECORDED[0], Projected(V[0][0], PROJECTIONS[1][0]))).total
    same = SobolevLoss(1)(STUDENT, X, (RECORDED[0], Projected(V[0][:1], PROJECTIONS[1][:1]))).total
    torch.testing.assert_close(one, same)
    student = network(3, 2).float()
    single = SobolevLoss(1)(student, X.float(), (RECORDED[0], Projected(V[0][0], PROJECTIONS[1][0]))).total
    single.backward()
    torch.testing.assert_close(single.double(), one, rtol=1e-4, atol=0)


@pytest.mark.parametrize("place", ["derivatives", "vectors"])
def test_recorded_projections_known_in_part(place):
    v, p = V[0].clone(), PROJECTIONS[1].clone()
    (p if place == "derivatives" else v)[1, 3] = NAN
    student = network(3, 2)
    loss = SobolevLoss(1, weights=(0, 1), balance={1: "order"}, reduction="none")
    terms = loss(student, X, (None, Projected(v, p)))
    terms.total.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in list(student.parameters())[:-1])  # but the last bias
    known = torch.ones(2, 5, dtype=torch.bool)
    known[1, 3] = False
    squares = PROJECTIONS[1].square()
    expected = sum(squares[:, :, i].sum(0)[known.all(0)].sum() + squares[0, 3, i] for i in range(3)) / 9
    torch.testing.assert_close(loss.mean_squares[1], expected)
    errors = torch.einsum("sbo,boi->sbi", V[0], derivatives(STUDENT, X)[1]) - PROJECTIONS[1]
    torch.testing.assert_close(terms.by_order[1], (errors.square().sum(-1) * known).mean(0) / expected)


@pytest.mark.parametrize(
    ("match", "target"),
    [
        ("order 2 of the target is Projected, so order 1 must be so", (*RECORDED[:2], Projected(V, PROJECTIONS[2]))),
        (
            "order 2 of the target is Projected on 1 vectors, not on 2",
            (RECORDED[0], *[Projected(V[:1], PROJECTIONS[1])] * 2),
        ),
        (
            "orders 1 and 2 of the target are Projected on different vectors",
            (RECORDED[0], Projected(2 * V[0], PROJECTIONS[1]), Projected(V, PROJECTIONS[2])),
        ),
        (
            r"the derivatives of Projected must be \(2, 5, 3\), not \(2, 5, 2\)",
            (RECORDED[0], Projected(V[:1], V[0]), None),
        ),
        ("has 1 vectors a sample, but 2 derivatives", (RECORDED[0], Projected(V[0][:1], PROJECTIONS[1]), None)),
    ],
)
def test_recorded_projections_that_do_not_fit_are_refused(match, target):
    with pytest.raises(ValueError, match=match) as caught:
        SobolevLoss(2)(STUDENT, X, target)
    assert "\n" not in str(caught.value)


def test_projected_takes_tensors():
    with pytest.raises(TypeError, match="Projected takes a tensor v_1"):
        Projected(V[0].numpy(), PROJECTIONS[1])


# --- further inputs, further outputs ----------------------------------------------------------------------------------


class Conditioned(nn.Module):
    """A network of x whose weights depend on c and on a number."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.f, self.g = network(3, 2, seed=seed), network(1, 2, seed=seed + 1)

    def forward(self, x: Tensor, c: Tensor, scale: float = 1.0) -> Tensor:
        return scale * self.f(x) * self.g(c)


C = torch.rand(5, 1, dtype=torch.float64, generator=rng(5)).requires_grad_()


def losses(**options):
    for mode, samples in itertools.product(("auto", "differences"), (None, 2)):
        projection = samples and projections.Sphere(samples)
        yield lambda m=mode, p=projection: SobolevLoss(2, mode=m, projection=p, generator=rng(), **options)


@pytest.mark.parametrize("condition", [C, (C, 2.0), {"c": C, "scale": 2.0}], ids=["tensor", "tuple", "mapping"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_condition_is_given_and_not_differentiated_by(condition, wrapped):
    student, master = Conditioned(), Conditioned(7)
    arguments = {"c": C} if condition is C else {"c": C, "scale": 2.0}
    for loss in losses():
        found = loss()(Derivatives(student, 2) if wrapped else student, X, master, condition=condition)

        def bound(model):  # the condition, bound beforehand, for the points of differences as well
            def f(x: Tensor) -> Tensor:
                c = C.expand(len(x), 1) if len(x) == 5 else C.repeat(len(x) // 5, 1)
                return model(x, **{**arguments, "c": c})

            return f

        expected = loss()(bound(student), X, bound(master))
        torch.testing.assert_close(found.by_order, expected.by_order)
        balanced = loss()
        balanced.balanced = {1: "order"}
        balanced.balance(master, X, condition=condition)(student, X, master, condition=condition)
    y, *_ = derivatives(student, X, 2, condition=condition)
    torch.testing.assert_close(y, student(X, **arguments))
    torch.testing.assert_close(
        differences(student, X, condition=condition)[1], derivatives(student, X, condition=condition)[1]
    )
    check(student, X, order=2, condition=condition)


def test_an_ensemble_with_a_condition_by_differences():
    c, x = torch.rand(2, 5, 3, dtype=torch.float64), torch.rand(2, 5, 3, dtype=torch.float64)
    f = lambda x, c: (x * c).sin()  # noqa: E731
    target = derivatives(f, x, batch_dims=2, condition=c)
    loss = SobolevLoss(1, mode="differences", batch_dims=2)
    torch.testing.assert_close(loss(f, x, target, condition=c).total, torch.zeros((), dtype=torch.float64))


def test_guards_see_a_conditioned_student():
    class Mixing(Conditioned):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return super().forward(x - x.mean(0), c)

    class Normalised(Conditioned):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3).double()

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return super().forward(self.norm(x), c)

    for loss in losses():
        with pytest.raises(ValueError, match="f mixes the samples of a batch"):
            loss()(Mixing(), X, RECORDED, condition=C)
        with pytest.raises(ValueError, match="BatchNorm layer 'norm' mixes"):
            loss()(Normalised(), X, RECORDED, condition=C)
    with pytest.raises(ValueError, match="f mixes the samples"):
        check(Mixing(), X, condition=C)


def test_the_check_of_samples_is_not_repeated_at_every_call_with_a_condition(monkeypatch):
    student, calls, grad = Conditioned(), [], torch.autograd.grad
    loss = SobolevLoss(1, weights=(1, 1))
    for _ in range(4):
        loss(student, X, RECORDED, condition=C)
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **options: calls.append(1) or grad(*args, **options))
    loss(student, X, RECORDED, condition=C)
    assert len(calls) == 2  # one an output


@dataclass
class ModelOutput:
    energy: Tensor
    hidden: Tensor


OUTPUTS = {
    "index": (lambda y: (y, y.detach()), 0),
    "key": (lambda y: {"energy": y, "hidden": None}, "energy"),
    "attribute": (lambda y: ModelOutput(y, y), "energy"),
    "function": (lambda y: {"parts": [y, y]}, lambda out: out["parts"][0]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_one_of_several_outputs(kind):
    pack, select = OUTPUTS[kind]
    student, expected = (lambda x: pack(STUDENT(x))), SobolevLoss(2)(STUDENT, X, teacher).by_order
    packed = lambda x: pack(teacher(x))  # noqa: E731
    for f, options in ((student, {"select": select}), (Derivatives(student, 2, select=select), {})):
        for target in (RECORDED, Derivatives(teacher), Derivatives(packed, select=select)):
            torch.testing.assert_close(SobolevLoss(2, **options)(f, X, target).by_order, expected)
    for loss in losses(select=select):
        assert loss()(student, X, packed).total.requires_grad
    if kind != "function":  # a key leaves a tensor as it is
        torch.testing.assert_close(SobolevLoss(2, select=select)(student, X, teacher).by_order, expected)
    torch.testing.assert_close(differences(student, X, select=select), derivatives(STUDENT, X), rtol=1e-7, atol=1e-9)
    check(student, X, select=select)


def test_outputs_that_are_not_selected_are_refused():
    several = lambda x: (STUDENT(x), x)  # noqa: E731
    with pytest.raises(TypeError, match=r"f must return a tensor, not tuple: select=0, or a key"):
        SobolevLoss(1)(several, X, RECORDED)
    with pytest.raises(TypeError, match="select='energy' names no output of f, which returned a dict with the keys y"):
        SobolevLoss(1, select="energy")(lambda x: {"y": STUDENT(x)}, X, RECORDED)
    with pytest.raises(TypeError, match="select=5 names no output of f, which returned a tuple"):
        SobolevLoss(1, select=5)(several, X, RECORDED)
    with pytest.raises(ValueError, match=r"`select` must be its own: Derivatives\(model, select=\.\.\.\)"):
        SobolevLoss(1, select=0)(Derivatives(several), X, RECORDED)


@pytest.mark.parametrize("mode", ["auto", "differences"])
def test_recorded_projections_of_outputs_without_a_dimension(mode):
    scalar, student = lambda x: x.prod(-1).sin(), lambda x: x.square().sum(-1)
    y, dy = derivatives(scalar, X, 1)
    for v in (torch.randn(2, len(X), dtype=X.dtype, generator=rng()), torch.randn(len(X), dtype=X.dtype)):
        known = v.clone()
        known[..., 3] = NAN  # whatever the derivative says there
        found = SobolevLoss(1, mode=mode)(student, X, (y, Projected(known, v[..., None] * dy))).by_order[1]
        error = (v[..., None] * (2 * X - dy)).square().sum(-1)
        error[..., 3] = 0
        torch.testing.assert_close(found, error.mean(), rtol=1e-6, atol=0)


def test_what_is_balanced_along_directions_is_measured_along_them():
    sphere, target = projections.Sphere(samples=300), Derivatives(teacher)
    loss = SobolevLoss(1, weights="balanced", mode="differences", projection=sphere, generator=rng())
    loss(STUDENT, X, target)  # the first batch is measured
    in_full = SobolevLoss(1, weights="balanced").balance(target, X)
    torch.testing.assert_close(loss.mean_squares, in_full.mean_squares, rtol=0.1, atol=0)
    with pytest.raises(ValueError, match="step must be one number where the loss projects"):
        SobolevLoss(1, mode="differences", projection=projections.Sphere(), step=torch.full((3,), 0.1))
