"""Derivatives of every module and operation that a network may hold, in every mode; what PyTorch has wrong or lacks."""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sobolev import SobolevLoss, check
from sobolev.derivatives import derivatives, projected_derivatives
from sobolev.exact import exact_formulas
from tests.module_zoo import ZOO, Apply
from tests.sobolev.test_derivatives import NumpyCube


def samples(*shape: int, n: int = 4) -> Tensor:
    return torch.randn(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def network_with(name: str) -> nn.Module:
    """One input, two outputs, so that "auto" is forward mode; and a module of the zoo in its midst."""
    torch.manual_seed(0)
    maker, shape = ZOO[name]
    module = maker().double()
    outputs = module(samples(*shape))[0].numel()
    before = nn.Sequential(nn.Linear(1, math.prod(shape)), nn.Tanh(), nn.Unflatten(1, shape))
    flat = Apply(lambda _, y: y.reshape(len(y), -1), nn.Identity())  # of scalars too
    return nn.Sequential(before, module, flat, nn.Linear(outputs, 2), nn.Tanh()).double()


@pytest.mark.parametrize("name", ZOO)
def test_modes_and_differences_agree(name):
    model, x = network_with(name), samples(1)
    check(model, x, order=3)
    found = {}
    for mode in ("auto", "reverse"):
        torch.manual_seed(0)  # of dropout
        results = derivatives(model, x, 3, create_graph=True, mode=mode)
        gradients = torch.autograd.grad(sum(d.square().sum() for d in results), [*model.parameters()])
        found[mode] = [*(d.detach() for d in results), *gradients]
    torch.testing.assert_close(found["auto"], found["reverse"], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ZOO)
def test_first_derivatives_of_a_teacher_are_had_in_mode_auto(name):
    model, found = network_with(name), {}
    for mode in ("auto", "reverse"):
        torch.manual_seed(0)  # of dropout
        found[mode] = derivatives(model, samples(1), mode=mode)[1]
    torch.testing.assert_close(found["auto"], found["reverse"])


def normalised() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)).double()


def gradients(f, parameters, order: int) -> list[Tensor]:
    results = derivatives(f, samples(2), order, create_graph=True)
    return [*results, *torch.autograd.grad(sum(d.square().sum() for d in results), [*parameters])]


def test_a_scripted_module_is_right_or_refused_also_once_it_hides_its_operations():
    model = normalised()
    scripted = torch.jit.script(model)
    for _ in range(3):  # from the second call on its graph is one node
        scripted(samples(2).requires_grad_()).sum().backward()
        torch.testing.assert_close(
            gradients(scripted, scripted.parameters(), 1), gradients(model, model.parameters(), 1)
        )
        with pytest.raises(ValueError, match="PyTorch can differentiate f 2 times, and 3 are needed"):
            derivatives(scripted, samples(2), 2, create_graph=True)


def test_a_checkpoint_of_a_normalisation_is_right_or_refused():
    model = normalised()

    def recomputed(x: Tensor) -> Tensor:
        return checkpoint(model, x, use_reentrant=False)

    parameters = [*model.parameters()]
    torch.testing.assert_close(gradients(recomputed, parameters, 1), gradients(model, parameters, 1))
    with pytest.raises(ValueError, match="not from a scripted module or inside a checkpoint"):
        derivatives(recomputed, samples(2), 2, create_graph=True)


def test_a_teacher_that_is_made_of_second_derivatives_has_right_ones():
    model = normalised()

    def curvature(x: Tensor) -> Tensor:
        first = torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
        return torch.autograd.grad(first[:, 0].sum(), x, create_graph=True)[0]

    x, h = samples(2), 1e-5
    found = derivatives(curvature, x)[1] @ x.new_tensor([1, 2])
    with exact_formulas():
        ahead, behind = (curvature(x.requires_grad_() + s * h * x.new_tensor([1, 2])) for s in (1, -1))
    torch.testing.assert_close(found, ((ahead - behind) / (2 * h)).detach(), rtol=1e-6, atol=1e-6)


def test_points_that_coincide_have_finite_derivatives_of_their_distance():
    scale = torch.ones(1, dtype=torch.float64, requires_grad=True)
    x = torch.stack((samples(2, 2), samples(2, 2)), 1)
    results = derivatives(lambda x: torch.cdist(*(x * scale).unbind(1)).flatten(1), x, 2, create_graph=True)
    gradient = torch.autograd.grad(sum(d.square().sum() for d in results), scale)
    assert all(each.isfinite().all() for each in (*results, *gradient))


@pytest.mark.parametrize(
    "right",
    [
        lambda x: F.group_norm(x**2, 2),  # of two features each: nearly a step
        lambda x: x.norm(1.5, -1),
        lambda x: torch.ones_like(x).scatter_reduce(1, torch.tensor([[0, 2, 1, 1]]).expand(len(x), 4), x**3, "amax"),
    ],
)
def test_what_bends_within_a_step_of_the_differences_is_not_called_wrong(right):
    torch.manual_seed(1)
    check(nn.Sequential(nn.Linear(3, 4), Apply(lambda _, y: right(y), nn.Identity())), torch.randn(6, 3), order=3)


def test_what_was_computed_before_x_does_not_limit_its_derivatives():
    encoder = nn.Linear(2, 2).double()
    z = F.layer_norm(encoder(samples(2)), (2,)) + encoder(samples(2))
    results = derivatives(lambda z: z**4, z, 2, create_graph=True)
    results[2].sum().backward()
    assert encoder.weight.grad.abs().sum() > 0


def test_options_of_a_normalisation_may_be_named():
    x = samples(4)
    with exact_formulas():
        found = torch.layer_norm(x, normalized_shape=(4,), weight=None, bias=None, eps=1e-3, cudnn_enable=False)
    torch.testing.assert_close(found, torch.layer_norm(x, (4,), eps=1e-3))


def test_check_finds_pytorchs_wrong_formula(monkeypatch):
    """The example of a network whose gradients were off by a tenth and more, without a word."""
    model = nn.Sequential(nn.Linear(2, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).double()
    check(model, samples(2), order=2)
    monkeypatch.setattr("sobolev.derivatives.exact_formulas", nullcontext)
    monkeypatch.setattr("sobolev.derivatives.derivatives_known", lambda *_: (math.inf, ""))
    check(model, samples(2), mode="reverse")  # which takes one derivative less
    with pytest.raises(ValueError, match="gradients by parameters of the derivative of order 1 are wrong"):
        check(model, samples(2))
    with pytest.raises(ValueError, match="order 2"):
        check(model, samples(2), order=2, mode="reverse")


def test_check_finds_a_backward_pass_that_leaves_something_out():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return NumpyCube.apply(x * self.scale)

    assert len(derivatives(Scaled().double(), samples(3))) == 2
    with pytest.raises(ValueError, match="gradients by parameters of the derivative of order 1 are wrong"):
        check(Scaled(), samples(3))
    check(nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 1)), samples(3))  # whose kinks are no fault


PAST_PYTHON = {
    "scripted": torch.jit.script(nn.LayerNorm(6).double()),
    "native": lambda x: torch.native_layer_norm(x, (6,), None, None, 1e-5)[0],
}


@pytest.mark.parametrize("hidden", PAST_PYTHON.values(), ids=PAST_PYTHON)
def test_what_passes_python_by_is_refused_by_name(hidden):
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList((nn.Linear(2, 6), nn.Linear(6, 3)))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[1](hidden(self.layers[0](x)).tanh())

    model, x = Hidden().double(), samples(2)
    derivatives(model, x, create_graph=True)  # reverse mode needs two derivatives, which are right
    derivatives(model, x, 2)
    needs = r"can differentiate f 2 times, and 3 are needed"
    with pytest.raises(ValueError, match=rf"{needs}: (NativeLayerNormBackward0|torch::jit::)"):
        derivatives(model, x, 2, create_graph=True)
    with pytest.raises(ValueError, match=rf'{needs} \(mode="reverse" needs one fewer per order\)'):
        derivatives(model, x, create_graph=True, mode="forward")
    with pytest.raises(ValueError, match=needs):
        projected_derivatives(model, x, [torch.ones(1, 4, 3).double(), torch.ones(1, 4, 2).double()], create_graph=True)


def test_a_compiled_teacher_has_first_derivatives_and_no_more():
    model, x = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 3)), torch.rand(4, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, of hooks
        compiled = torch.compile(model, backend="aot_eager")
        torch.testing.assert_close(derivatives(compiled, x), derivatives(model, x))
        with pytest.raises(ValueError, match="pass the module that was compiled"):
            derivatives(compiled, x, 2)
        with pytest.raises(ValueError, match="pass the module that was compiled"):
            SobolevLoss()(compiled, x, model)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["LayerNorm", "LayerNorm in two dimensions", "InstanceNorm1d", "Hardsigmoid"])
def test_formulas_have_the_values_and_types_of_pytorchs(name, dtype, autocast):
    maker, shape = ZOO[name]
    model, x = maker().to(dtype), samples(*shape).to(dtype)
    with torch.autocast("cpu", enabled=autocast and dtype is not torch.float64):
        expected = model(x)
        with exact_formulas():
            found = model(x)
    tolerance = 1e-5 if dtype is not torch.bfloat16 else 2e-2
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_running_statistics_move_as_pytorchs_do():
    layers = [nn.InstanceNorm1d(3, track_running_stats=True) for _ in range(2)]
    x = torch.randn(4, 3, 5)
    layers[0](x)
    with exact_formulas():
        layers[1](x)
    torch.testing.assert_close(layers[0].state_dict(), layers[1].state_dict())


def test_nothing_of_it_stays_on():
    x = samples(4).requires_grad_()
    with pytest.raises(ZeroDivisionError):
        derivatives(lambda x: x / 0 if x.requires_grad and 1 // 0 else x, x, 2)
    assert type(F.layer_norm(x, (4,)).grad_fn).__name__ == "NativeLayerNormBackward0"  # PyTorch's own again
