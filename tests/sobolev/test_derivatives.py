"""Input derivatives against closed forms, a naive loop over samples, and finite differences."""

from __future__ import annotations

import contextlib
import itertools
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import TorchDispatchMode

from sobolev import freeze_batchnorm
from sobolev.derivatives import Derivatives, derivatives, projected_derivatives
from sobolev.networks import MLPEnsemble

MODES = ("auto", "reverse", "forward")


def mlp(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).double()


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 2), nn.Tanh(), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(12, 2)).double()


# name: (function, shape of one sample, highest order compared)
CASES = {
    "scalar output": (lambda x: (x**3).prod(-1).sin(), (3,), 3),
    "one output": (mlp(3, 8, 1), (3,), 3),
    "more inputs": (mlp(4, 8, 2), (4,), 3),
    "more outputs": (mlp(2, 8, 5), (2,), 3),
    "scalar input": (lambda x: torch.stack((x.sin(), x.exp()), -1), (), 3),
    "matrix to matrix": (lambda x: x.mT @ x.sin() @ x, (2, 2), 2),
    "image, MaxPool": (convnet(), (1, 4, 4), 2),
}


def samples(*shape: int, n: int = 3) -> Tensor:
    return torch.randn(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def naive(f, x: Tensor, order: int) -> list[Tensor]:
    """One sample at a time, by torch.func."""

    def g(sample):
        return f(sample[None])[0]

    results = []
    for _ in range(order + 1):
        results.append(torch.stack([g(sample) for sample in x]))
        g = torch.func.jacrev(g)
    return results


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_equal_to_a_naive_loop_over_samples(name, mode):
    f, shape, order = CASES[name]
    x = samples(*shape)
    torch.testing.assert_close(list(derivatives(f, x, order, mode=mode)), naive(f, x, order))


@pytest.mark.parametrize("mode", MODES)
def test_closed_form_of_a_cubic(mode):
    a, x = samples(n=4), samples(4)
    outer = torch.einsum("i,j,k->ijk", a, a, a)
    s = x @ a
    y, dy, d2y, d3y, d4y = derivatives(lambda x: (x @ a) ** 3 / 6, x, 4, mode=mode)
    torch.testing.assert_close(y, s**3 / 6)
    torch.testing.assert_close(dy, s[:, None] ** 2 / 2 * a)
    torch.testing.assert_close(d2y, s[:, None, None] * torch.outer(a, a))
    torch.testing.assert_close(d3y, outer.expand(3, 4, 4, 4))
    assert d4y.shape == (3, 4, 4, 4, 4)
    assert not d4y.any()


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_derivatives_that_vanish_are_zeros(constant, mode):
    def f(x):
        return x.new_ones(len(x), 2) if constant else x @ x.new_ones(3, 2)

    x = samples(3)
    with pytest.warns(UserWarning, match="cannot trace") if constant else contextlib.nullcontext():
        *_, d2y = derivatives(f, x, 2, mode=mode)
    assert torch.equal(d2y, torch.zeros(3, 2, 3, 3, dtype=x.dtype))
    v = torch.ones(1, 3, 2, dtype=x.dtype)
    with pytest.warns(UserWarning, match="cannot trace") if constant else contextlib.nullcontext():
        *_, p2 = projected_derivatives(f, x, (v, x[None]))
    assert torch.equal(p2, torch.zeros(1, 3, 3, dtype=x.dtype))


@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_derivatives_by_parameters_and_inputs(mode):
    w, x = samples(3, n=2).requires_grad_(), samples(2, n=2).requires_grad_()

    def full(w, x):
        return derivatives(lambda x: (x @ w).tanh(), x, 2, create_graph=True, mode=mode)

    assert torch.autograd.gradcheck(full, (w, x))
    assert torch.autograd.gradgradcheck(full, (w, x))


def test_gradients_of_projections_by_parameters_and_inputs():
    w, x = samples(3, n=2).requires_grad_(), samples(2, n=2).requires_grad_()
    vectors = samples(2, 3, n=2), samples(2, 2, n=2)

    def projected(w, x):
        return projected_derivatives(lambda x: (x @ w).tanh(), x, vectors, create_graph=True)

    assert torch.autograd.gradcheck(projected, (w, x))
    assert torch.autograd.gradgradcheck(projected, (w, x))


def test_convnet_with_maxpool_has_exact_parameter_gradients():
    model, x = convnet(), samples(1, 4, 4, n=2)

    def gradient_norm(*parameters):
        named = dict(zip(dict(model.named_parameters()), parameters, strict=True))
        f = lambda x: torch.func.functional_call(model, named, x)  # noqa: E731
        return derivatives(f, x, create_graph=True)[1].square().sum()

    # The last bias moves no derivative and MaxPool has kinks, so the parameters are moved by very little.
    assert torch.autograd.gradcheck(gradient_norm, tuple(model.parameters()), eps=1e-7)


@pytest.mark.parametrize(
    ("inputs", "outputs", "order", "passes"),
    [
        (3, 1, 1, 1),  # reverse: one pass an output
        (3, 3, 1, 3),
        (2, 5, 1, 1 + 2),  # forward: the map that pulls back, and one pass an input
        (3, 1, 2, 1 + 3),  # reverse, then reverse on 3 components
        (3, 2, 2, 2 + 1 + 3),  # reverse, then forward as the 6 components are more than the inputs
    ],
)
def test_auto_takes_the_fewer_passes(monkeypatch, inputs, outputs, order, passes):
    calls, grad = [], torch.autograd.grad
    model = mlp(inputs, 4, outputs)
    for _ in range(2):  # when a function is new, one more pass tells whether it mixes samples
        derivatives(model, samples(inputs))
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **options: calls.append(1) or grad(*args, **options))
    derivatives(model, samples(inputs), order)
    assert len(calls) == passes


def test_values_alone_record_no_graph():
    def f(x):
        assert not torch.is_grad_enabled()
        return x

    derivatives(f, samples(3), order=0)


def test_values_alone_ask_for_no_gradient_by_the_input():
    def f(x):
        assert not x.requires_grad
        return x * 2

    assert torch.equal(derivatives(f, torch.ones(3, 2), order=0, create_graph=True)[0], torch.full((3, 2), 2.0))


def test_values_alone_train_what_computed_their_input():
    x = samples(3).requires_grad_()
    derivatives(torch.sin, x, order=0, create_graph=True)[0].sum().backward()
    torch.testing.assert_close(x.grad, x.detach().cos())


def test_the_derivative_of_the_derivative_is_the_second():
    f, x = mlp(2, 8, 2), samples(2)
    nested = derivatives(lambda x: derivatives(f, x, create_graph=True)[1], x)[1]
    torch.testing.assert_close(nested, derivatives(f, x, 2)[2])


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.LayerNorm(3), nn.InstanceNorm1d(4), nn.BatchNorm1d(4).eval()])
def test_samples_do_not_leak_into_each_other(norm):
    model = nn.Sequential(mlp(2, 12), nn.Unflatten(1, (4, 3)), norm.double(), nn.Tanh(), nn.Flatten(), mlp(12, 2))
    x = samples(2)
    moved = torch.cat((10 * x[:1], x[1:]))
    for before, after in zip(derivatives(model, x, 2), derivatives(model, moved, 2), strict=True):
        torch.testing.assert_close(before[1:], after[1:])
        assert not torch.allclose(before[0], after[0])


def test_an_ensemble_is_its_networks_one_by_one():
    generators = [torch.Generator().manual_seed(e) for e in range(3)]
    ensemble, x = MLPEnsemble((2, 8, 2), generators, "tanh").double(), samples(5, 2)
    together = derivatives(ensemble, x, 2, batch_dims=2)
    for e in range(3):
        alone = derivatives(ensemble.network(e), x[e], 2)
        torch.testing.assert_close(tuple(result[e] for result in together), alone)
    vectors = samples(3, 5, 2, n=1), samples(3, 5, 2, n=1)
    together = projected_derivatives(ensemble, x, vectors, batch_dims=2)
    alone = projected_derivatives(ensemble.network(1), x[1], [v[:, 1] for v in vectors])
    torch.testing.assert_close((together[0][1], *(p[:, 1] for p in together[1:])), alone)


# --- projections of the derivative -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_projections_are_contractions_of_the_full_derivatives(name):
    f, shape, order = CASES[name]
    x = samples(*shape)
    y, *full = derivatives(f, x, order)
    vectors = [samples(*(x if j else y).shape, n=2) for j in range(order)]
    value, *projected = projected_derivatives(f, x, vectors)
    torch.testing.assert_close(value, y)
    for j in range(order):
        for s in range(2):
            for b in range(len(x)):
                expected = full[j][b]
                for v in vectors[: j + 1]:
                    expected = torch.tensordot(v[s, b], expected, dims=v[s, b].dim())
                torch.testing.assert_close(projected[j][s, b], expected)


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, Tensor)]
        self.numel = max([self.numel, *(t.numel() for t in tensors)])
        return out


def test_projections_build_nothing_of_size_outputs_times_inputs():
    size = 100_000  # the Jacobian would have 10^10 entries
    x = torch.rand(1, size)
    scale = torch.rand(size, requires_grad=True)
    vectors = torch.rand(2, 1, size), torch.rand(2, 1, size)
    with Largest() as largest:
        terms = projected_derivatives(lambda x: (scale * x).sin(), x, vectors, create_graph=True)
        sum(term.square().sum() for term in terms).backward()
    assert largest.numel == 2 * size
    torch.testing.assert_close(terms[1], vectors[0] * scale * (scale * x).cos())


def test_one_evaluation_is_shared_by_all_projections_and_orders():
    calls = []
    x = samples(3)

    def f(x):
        calls.append(1)
        return x.sin()

    def vectors(y):
        assert not y.requires_grad
        return samples(*y.shape, n=4), samples(*x.shape, n=4)

    assert len(projected_derivatives(f, x, vectors)) == 3
    assert len(calls) == 1


# --- graphs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("projected", [False, True])
def test_graphs_are_built_in_training_only_and_the_input_is_left_alone(projected):
    model, x = Derivatives(mlp(3, 8, 2), order=2), samples(3)
    vectors = (samples(3, 2, n=1), samples(3, 3, n=1)) if projected else None
    training = model(x, vectors)
    assert all(result.requires_grad for result in training)
    sum(result.sum() for result in training).backward()
    with torch.no_grad():
        unrecorded = model(x, vectors)
    evaluation = model.eval()(x, vectors)
    for result in (*unrecorded, *evaluation):
        assert not result.requires_grad
    torch.testing.assert_close(unrecorded, training)
    torch.testing.assert_close(evaluation, training)
    assert not x.requires_grad
    assert x.grad is None


def test_an_input_that_requires_gradients_gets_none_unless_asked():
    x = samples(3).requires_grad_()
    assert not any(result.requires_grad for result in derivatives(mlp(3, 8, 2), x))
    derivatives(mlp(3, 8, 2), x, create_graph=True)[1].sum().backward()
    assert x.grad is not None


def test_inference_mode_is_refused():
    model, x = mlp(3, 8, 2), samples(3)
    with torch.inference_mode():
        made_inside = samples(3)
        with pytest.raises(RuntimeError, match="no_grad"):
            derivatives(model, x)
    with pytest.raises(RuntimeError, match="no_grad"):
        derivatives(model, made_inside)


# --- functions and models that are refused or warned about ---------------------------------------------------------


@torch.no_grad()
def without_gradients(x: Tensor) -> Tensor:
    return mlp(3, 8, 2)(x)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "f",
    [
        without_gradients,
        lambda x: mlp(3, 8, 2)(x).detach(),
        lambda x: mlp(3, 8, 2)(x.detach()),  # which the parameters' graph would hide
        lambda x: torch.from_numpy(x.detach().numpy() ** 2),
    ],
)
def test_values_that_autograd_cannot_trace_are_refused(f, mode):
    with pytest.raises(ValueError, match="cannot trace them to x"):
        derivatives(f, samples(3), mode=mode)
    with pytest.raises(ValueError, match="cannot trace them to x"):
        projected_derivatives(f, samples(3), lambda y: [y[None]])
    assert derivatives(f, samples(3), order=0)[0].shape[0] == 3
    with pytest.warns(UserWarning, match="cannot trace f's output to x"):  # of one sample nobody can tell
        derivatives(f, samples(3, n=1), mode=mode)


class Cube(torch.autograd.Function):
    """x^3, with a backward pass that PyTorch cannot differentiate."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0] ** 2 * grad


class NumpyCube(Cube):
    """The same in NumPy, which PyTorch takes for a constant."""

    @staticmethod
    def backward(ctx, grad):
        return torch.from_numpy(3 * ctx.saved_tensors[0].detach().numpy() ** 2 * grad.detach().numpy())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cube", [Cube, NumpyCube])
def test_a_backward_pass_that_cannot_be_differentiated_gives_first_derivatives(cube, mode):
    model, x = mlp(2, 5), samples(2)
    expected = derivatives(lambda x: model(x**3), x)[1]
    torch.testing.assert_close(derivatives(lambda x: model(cube.apply(x)), x, mode=mode)[1], expected)


@pytest.mark.parametrize("mode", MODES)
def test_what_lies_beyond_such_a_backward_pass_is_refused(mode):
    x, wide, linear = samples(2), mlp(4, 5), mlp(2, 2)

    def beside(cube):  # a part of f alone is such
        return lambda x: wide(torch.cat((x, cube(x)), dim=-1))

    exact = derivatives(beside(lambda x: x**3), x)[1]
    torch.testing.assert_close(derivatives(beside(Cube.apply), x, mode=mode)[1], exact)
    with pytest.raises(ValueError, match="its higher derivatives are not known"):
        derivatives(lambda x: linear(Cube.apply(x)), x, order=2, mode=mode)
    with pytest.raises(ValueError, match="its higher derivatives are not known"):
        projected_derivatives(lambda x: linear(Cube.apply(x)), x, [torch.ones(1, 3, 2, dtype=x.dtype)] * 2)


def test_a_function_may_change_its_input_in_place():
    def f(x):
        return x.mul_(2).sin()

    encoder, x = mlp(3, 3), samples(3)
    before, h = x.clone(), encoder(x)
    _, dh = derivatives(f, h, create_graph=True)
    torch.testing.assert_close(dh, torch.diag_embed(2 * (2 * h).cos()))
    for order in (0, 1, 2):
        torch.testing.assert_close(derivatives(f, x, order)[0], (2 * before).sin())
        assert torch.equal(x, before)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False).eval()])
def test_batch_statistics_are_refused_by_name(norm):
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(norm), nn.Linear(4, 1))
    with pytest.raises(ValueError, match=r"'1\.0' mixes.*freeze_batchnorm.*GroupNorm"):
        derivatives(model, torch.rand(5, 3))
    with pytest.raises(ValueError, match=r"'1\.0' mixes"):
        Derivatives(model)(torch.rand(5, 3), (torch.rand(1, 5, 1),))
    assert derivatives(model, torch.rand(5, 3), order=0)[0].shape == (5, 1)


def test_frozen_batchnorm_trains():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    derivatives(freeze_batchnorm(model.train()), torch.rand(5, 3), create_graph=True)[1].sum().backward()
    assert model[1].weight.grad is not None
    assert model[2].training
    with pytest.raises(ValueError, match="'0' keeps no running statistics"):
        freeze_batchnorm(nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)))


def test_second_derivatives_of_relu_networks_warn():
    with pytest.warns(UserWarning, match=r"piecewise linear \(LeakyReLU, ReLU\).*zero almost everywhere"):
        Derivatives(nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.LeakyReLU()), order=2)
    with pytest.warns(UserWarning, match="MLPEnsemble"):
        Derivatives(MLPEnsemble((2, 4, 1), [torch.Generator()]), order=2)


class Sine(nn.Module):
    def forward(self, x):
        return x.sin()


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Tanh()),
        nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.LayerNorm(1)),
        nn.Sequential(nn.Linear(1, 1), nn.ReLU(), Sine()),
        nn.Linear(1, 1),
        torch.relu,
    ],
)
def test_networks_that_may_be_smooth_do_not_warn(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Derivatives(model, order=2)
        Derivatives(nn.Sequential(nn.ReLU()), order=1)


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (TypeError, "floating-point tensor, not torch.int64", lambda x: derivatives(torch.sin, x.long())),
        (TypeError, "floating-point tensor, not list", lambda x: derivatives(torch.sin, [1.0])),
        (TypeError, "must return a tensor, not tuple", lambda x: derivatives(lambda x: (x, x), x)),
        (ValueError, "auto, reverse, forward, not 'jvp'", lambda x: derivatives(torch.sin, x, mode="jvp")),
        (ValueError, "order must be 0 or more, not -1", lambda x: derivatives(torch.sin, x, -1)),
        (ValueError, "batch_dims must be from 1 to 2", lambda x: derivatives(torch.sin, x, batch_dims=3)),
        (ValueError, r"an output per sample, of shape \(4, '...'\), not \(\)", lambda x: derivatives(torch.sum, x)),
        (TypeError, "sequence", lambda x: projected_derivatives(torch.sin, x, x[None])),
        (
            ValueError,
            r"vector 1 has shape \(4, 3\), expected \(4, 4, 3\)",
            lambda x: projected_derivatives(torch.sin, x, [x]),
        ),
        (
            ValueError,
            r"vector 2 has shape \(2, 4, 3\), expected \(1, 4, 3\)",
            lambda x: projected_derivatives(torch.sin, x, [x[None], torch.stack((x, x))]),
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(error, match, call):
    with pytest.raises(error, match=match) as caught:
        call(torch.rand(4, 3))
    assert "\n" not in str(caught.value)
