"""What would be silently wrong is refused, whether it is in a module, a function or a closure."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from sobolev import Derivatives, SobolevLoss, check
from sobolev.derivatives import derivatives, projected_derivatives

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def network(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), *layers, nn.Tanh(), nn.Linear(4, 2))


class Holder:
    """An object that PyTorch does not know to hold a module."""

    def __init__(self, module: nn.Module) -> None:
        self.inside = {"module": module}

    def __call__(self, x: Tensor) -> Tensor:
        return self.inside["module"](x)


HIDDEN = {
    "module": lambda module: module,
    "closure": lambda module: lambda x: module(x),
    "method": lambda module: module.forward,
    "partial": lambda module: partial(lambda x, m: m(x), m=module),
    "object": Holder,
    "another module": lambda module: Derivatives(lambda x: module(x)),
}


@pytest.mark.parametrize("hidden", HIDDEN)
def test_batchnorm_in_training_mode_is_refused_wherever_it_is(hidden):
    model = network(nn.BatchNorm1d(4))
    f = HIDDEN[hidden](model)
    before = model[1].running_mean.clone()
    with pytest.raises(ValueError, match=r"BatchNorm layer .* mixes the samples of a batch"):
        f(X) if isinstance(f, Derivatives) else derivatives(f, X)
    assert torch.equal(model[1].running_mean, before)
    with pytest.raises(ValueError, match="mixes"):
        SobolevLoss()(f, X, network())
    model.eval()
    f(X) if isinstance(f, Derivatives) else derivatives(f, X)


MIXING = {
    "the mean of a batch": lambda x: x - x.mean(0),
    "batch normalisation as a function": lambda x: nn.functional.batch_norm(x, None, None, training=True),
    "the sample before": lambda x: x * x.roll(1, 0),
    "a softmax over samples": lambda x: x.softmax(0),
    "a scripted batch normalisation": torch.jit.script(nn.BatchNorm1d(3)),
}


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("seen_before", [False, True])
def test_functions_that_mix_samples_are_refused(name, seen_before):
    f = MIXING[name]
    for _ in range(1 + seen_before):  # what was refused is not remembered as right
        with pytest.raises(ValueError, match="f mixes the samples of a batch"):
            derivatives(f, X)
    with pytest.raises(ValueError, match="f mixes the samples of a batch"):
        projected_derivatives(f, X, lambda y: [y[None]])
    with pytest.raises(ValueError, match="f mixes the samples of a batch"):
        SobolevLoss()(network(), X, f)
    assert len(derivatives(f, X, order=0)) == 1  # values of a batch are what f says


@pytest.mark.parametrize("make", [partial(nn.TransformerEncoderLayer, 4, 2, 5, 0.0), partial(nn.GRU, 4, 4)])
def test_sequences_whose_first_dimension_is_time_are_refused(make):
    x = torch.randn(3, 5, 4)
    for batch_first in (False, True):
        module = make(batch_first=batch_first)
        f = module if isinstance(module, nn.TransformerEncoderLayer) else lambda x, m=module: m(x)[0]
        if batch_first:
            derivatives(f, x)
        else:
            with pytest.raises(ValueError, match="batch_first=False"):
                derivatives(f, x)


def test_samples_of_two_batch_dimensions_may_not_mix_either():
    x = torch.randn(3, 4, 2)
    derivatives(lambda x: x.sin(), x, batch_dims=2)
    with pytest.raises(ValueError, match="the first 2 dimension"):
        derivatives(lambda x: x - x.mean(1, keepdim=True), x, batch_dims=2)
    derivatives(lambda x: x - x.mean(1, keepdim=True), x)  # of one


def test_a_function_is_checked_ever_more_rarely_and_a_module_in_each_mode(monkeypatch):
    calls, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **options: calls.append(1) or grad(*args, **options))
    model = network()
    counts = []
    for training in (True, True, False, True, True, True):
        calls.clear()
        derivatives(model.train(training), X)
        counts.append(len(calls))
    assert counts == [3, 3, 3, 2, 3, 2]


def test_a_layer_that_begins_to_mix_in_training_mode_is_found():
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0) if self.training else x * 2

    layer = Centred().eval()
    derivatives(layer, X)
    with pytest.raises(ValueError, match="mixes"):
        derivatives(layer.train(), X)


def test_a_layer_that_mixes_once_it_has_learned_to_is_found():
    gate = torch.zeros(1, requires_grad=True)

    def f(x: Tensor) -> Tensor:
        return x + gate * x.mean(0)

    derivatives(f, X, create_graph=True)
    with torch.no_grad():
        gate.add_(1)
    with pytest.raises(ValueError, match="mixes"):
        derivatives(f, X, create_graph=True)


@pytest.mark.parametrize("f", [lambda x: x[:, :0], lambda x: torch.cat((x, x.sum(-1, keepdim=True)), -1)])
def test_samples_without_a_component_have_derivatives_without_one(f):
    x = X[:, : 3 if f(X).numel() == 0 else 0]
    assert [d.shape for d in derivatives(f, x)] == [f(x).shape, (*f(x).shape, x.shape[1])]


def test_nothing_is_refused_that_keeps_samples_apart():
    for f in (network(nn.Dropout()), network(nn.GroupNorm(2, 4)), lambda x: x / x.norm(dim=-1, keepdim=True)):
        derivatives(f, X)
        derivatives(f, X[:1])
    derivatives(lambda x: 0 / (x - x), X)  # NaN tells nothing


def test_samples_mixed_where_autograd_does_not_see_it_are_found_by_values():
    with pytest.raises(ValueError, match=r"f\(x\[:1\]\) is not f\(x\)\[:1\]"):
        check(lambda x: x - x.mean(0).detach(), X)


# --- outputs, weights and targets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "hint"), [(lambda x: torch.fft.fft(x), "view_as_real"), (lambda x: x.argmax(-1), "class number")]
)
def test_outputs_that_have_no_real_derivative_are_refused(f, hint):
    with pytest.raises(TypeError, match=rf"real floating-point numbers.*{hint}"):
        derivatives(f, X)
    with pytest.raises(TypeError, match=rf"real floating-point numbers.*{hint}"):
        projected_derivatives(f, X, lambda y: [y[None]])


def test_a_teacher_of_class_numbers_is_refused_where_a_batch_shows_one_class():
    def teacher(x: Tensor) -> Tensor:
        return torch.stack((x.sum(-1) * 0, x.sum(-1) * 0 + 1), -1).argmax(-1)

    student = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    with pytest.raises(TypeError, match="class number"):
        SobolevLoss()(student, X, teacher)
    with pytest.warns(UserWarning, match="taken for zero"):
        SobolevLoss()(student, X, lambda x: teacher(x).float())


def test_the_loss_of_a_frozen_student_has_no_backward_pass():
    student = network().requires_grad_(False)
    terms = SobolevLoss()(student, X, network())
    with pytest.raises(RuntimeError, match="does not require grad"):
        terms.total.backward()
    student[-1].requires_grad_(True)  # a part that learns is enough
    SobolevLoss()(student, X, network()).total.backward()


@pytest.mark.parametrize("weights", [(1, float("nan")), (1, -0.1), {1: float("inf")}, (1, torch.tensor(-1.0))])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="the weight of order 1 must be 0 or more, and finite"):
        SobolevLoss(weights=weights)


def test_options_of_another_type_are_refused():
    with pytest.raises(TypeError, match="the weight of order 0 must be a number, not '1'"):
        SobolevLoss(weights="1")
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, not 0"):
        SobolevLoss(generator=0)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_weight_may_begin_at_0_and_be_raised_later(wrapped):
    loss, teacher = SobolevLoss(weights=(1, 0)), network(nn.Tanh())
    student = network()
    f = Derivatives(student) if wrapped else student
    assert loss.order == 0
    assert loss(f, X, teacher).by_order.keys() == {0}
    loss.weights[1] = 0.5
    assert loss.order == 1
    expected = SobolevLoss(weights=(1, 0.5))(student, X, teacher)
    torch.testing.assert_close(loss(f, X, teacher).total, expected.total)
    for negative in (-1.0, torch.tensor(-1.0)):
        loss.weights[1] = negative
        with pytest.raises(ValueError, match="order 1 must be 0 or more"):
            loss(f, X, teacher)


@pytest.mark.parametrize("projection", [None, "sphere"])
def test_recorded_numbers_that_are_not_known_add_nothing(projection):
    from sobolev import projections

    def loss() -> SobolevLoss:
        drawn = projections.Sphere(2) if projection else None
        return SobolevLoss(projection=drawn, generator=torch.Generator().manual_seed(0), reduction="none")

    student, teacher = network(), network(nn.Tanh())
    y, dy = Derivatives(teacher).eval()(X)
    whole = loss()(student, X, (y, dy))
    y, dy = y.clone(), dy.clone()
    y[0], dy[1], dy[2, 0, 0] = float("nan"), float("nan"), float("nan")
    partly = loss()(student, X, (y, dy))
    partly.total.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())
    assert partly.by_order[0][0] == 0
    assert partly.by_order[1][1] == 0
    assert 0 < partly.by_order[1][2] < whole.by_order[1][2]
    for j, known in ((0, [1, 2, 3, 4, 5]), (1, [0, 3, 4, 5])):
        torch.testing.assert_close(partly.by_order[j][known], whole.by_order[j][known])


def test_a_compiled_derivatives_module_is_the_module():
    student = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, of global hooks
        compiled = torch.compile(Derivatives(student), backend="eager")
        found = SobolevLoss()(compiled, X, network(nn.Tanh()))
    torch.testing.assert_close(found.total, SobolevLoss()(student, X, network(nn.Tanh())).total)


@pytest.mark.parametrize("mode", ["auto", "differences"])
def test_a_compiled_training_step_is_the_step(mode):
    student, loss, y = network(), SobolevLoss(weights="balanced", mode=mode), derivatives(network(nn.Tanh()), X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, of global hooks
        found = torch.compile(lambda x, *target: loss(student, x, target).total, backend="eager")(X, *y)
    expected = loss(student, X, y).total
    gradients, others = (torch.autograd.grad(total, list(student.parameters())) for total in (found, expected))
    torch.testing.assert_close((found, *gradients), (expected, *others))
