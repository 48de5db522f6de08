"""The passes and the fused step against autograd, finite differences and the loss that anyone would write."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from sobolev import projections
from sobolev.distillation import (
    DIVERGENCES,
    ComputedGradients,
    DistillationStep,
    RecordedGradients,
    distillation_loss,
    kl_student_teacher,
    kl_teacher_student,
)
from sobolev.networks.atari_policies import ARCHITECTURES, Architecture, AtariPolicy, Convolution, teacher
from sobolev.networks.relu_passes import ReLUPasses, depth_to_space, space_to_depth
from sobolev.seeding import generator

ACTIONS = 4


def make_teacher(seed: int = 0) -> AtariPolicy:
    """A teacher whose policy is far from uniform."""
    policy = teacher(ACTIONS, generator(seed, "teacher"))
    torch.nn.init.normal_(policy.actions.weight, std=0.5, generator=generator(seed, "actions"))
    return policy


def make_student(seed: int = 1) -> AtariPolicy:
    return AtariPolicy(ACTIONS, ARCHITECTURES["student"], generator=generator(seed, "init"))


def make_states(n: int = 4) -> Tensor:
    """Frames with edges, as a game has: boxes on a dark ground, moving over the stack."""
    rng = generator(0, "states")
    states = torch.zeros(n, 4, 84, 84, dtype=torch.uint8)
    for state, k in itertools.product(states, range(6)):
        row, column, level = (int(torch.randint(60, (), generator=rng)) for _ in range(3))
        for frame in range(4):
            state[frame, row : row + 10, column + 3 * frame : column + 3 * frame + 5] = 60 + 30 * k + level // 2
    return states


# Policies


def test_the_papers_networks():
    """Sizes by hand, from Section 4.2: weights and biases of each layer."""
    counts = {
        "teacher": (4 * 64 * 32 + 32)
        + (32 * 16 * 64 + 64)
        + (64 * 9 * 64 + 64)
        + (64 * 49 * 512 + 512)
        + 513 * ACTIONS,
        "student": (4 * 64 * 16 + 16) + (16 * 16 * 32 + 32) + (32 * 81 * 256 + 256) + 257 * ACTIONS,
    }
    for name, architecture in ARCHITECTURES.items():
        assert sum(p.numel() for p in AtariPolicy(ACTIONS, architecture).parameters()) == counts[name]
    layers = [(conv.out_channels, conv.kernel_size[0], conv.stride[0]) for conv in make_teacher().convolutions]
    assert layers == [(32, 8, 4), (64, 4, 2), (64, 3, 1)]


def test_raw_and_scaled_states_are_the_same_states():
    policy, raw = make_teacher(), make_states()
    log_p = policy(raw)
    torch.testing.assert_close(log_p, policy(raw.float() / 255))
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(len(raw)))
    torch.testing.assert_close(policy.actions(policy.features(raw)).log_softmax(-1), log_p)


def test_policies_are_drawn_from_their_generator_and_begin_uniform():
    assert torch.equal(teacher(3, generator(5, "init")).hidden.weight, teacher(3, generator(5, "init")).hidden.weight)
    assert not torch.equal(make_student(5).hidden.weight, make_student(6).hidden.weight)
    assert (teacher(3, generator(0, "init"))(make_states()).exp() - 1 / 3).abs().max() < 0.01


@pytest.mark.parametrize(
    ("states", "words"),
    [
        (torch.zeros(2, 4, 80, 84, dtype=torch.uint8), r"\(B, 4, 84, 84\)"),
        (torch.zeros(2, 3, 84, 84), r"\(B, 4, 84, 84\)"),
        (torch.zeros(2, 4, 84, 84, dtype=torch.int64), "uint8"),
    ],
)
def test_other_states_are_refused(states, words):
    with pytest.raises(ValueError, match=words):
        make_student()(states)


def test_other_policies_are_refused():
    with pytest.raises(ValueError, match="uniform_fan_in, orthogonal"):
        AtariPolicy(3, ARCHITECTURES["student"], initialisation="zeros")
    with pytest.raises(ValueError, match="an action or more"):
        AtariPolicy(0, ARCHITECTURES["student"])
    odd = AtariPolicy(3, Architecture((Convolution(4, 7, 4),), 8))
    with pytest.raises(ValueError, match="the stride must divide both"):
        ReLUPasses(odd)


# Passes


def test_depth_is_blocks_of_pixels():
    x = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8)
    blocks = space_to_depth(x, 4)
    for b, c, row, column in itertools.product(range(2), range(3), range(8), range(8)):
        channel = ((row % 4) * 4 + column % 4) * 3 + c
        assert blocks[b, channel, row // 4, column // 4] == x[b, c, row, column]
    assert torch.equal(depth_to_space(blocks, 4), x)


@pytest.mark.parametrize("make", [make_teacher, make_student])
def test_passes_are_the_policys_values_and_derivatives(make):
    policy = make().double()
    passes, raw = ReLUPasses(policy), make_states()
    rng = generator(0, "vectors")
    w, direction = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((4, ACTIONS), raw.shape))

    inputs, logits = passes.values(passes.flat_patches(raw))
    signals, gradient = passes.backward(w, inputs, to_input=True)
    _, change = passes.tangent(passes.flat_patches(direction), inputs)
    for parameter in passes.parameters():
        parameter.grad = torch.zeros_like(parameter)
    passes.accumulate(inputs, signals, of_values=True)

    x = (raw.double() / 255).requires_grad_()
    expected = policy.logits(x)
    torch.testing.assert_close(logits, expected.detach())
    (by_state,) = torch.autograd.grad(expected, x, w, retain_graph=True)
    torch.testing.assert_close(passes.from_flat_patches(gradient), by_state)
    along = torch.autograd.functional.jvp(policy.logits, x.detach(), direction)[1]
    torch.testing.assert_close(change, along)
    by_parameter = torch.autograd.grad(expected, list(policy.parameters()), w)
    for mine, wanted in zip(gradients(passes, make), by_parameter, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-12)


def test_passes_follow_what_is_loaded_into_them_or_moves_them():
    passes, raw = ReLUPasses(make_teacher(0)), make_states()
    passes.load_state_dict(ReLUPasses(make_teacher(1)).state_dict())
    values = passes.values(passes.flat_patches(raw))[1]
    assert torch.equal(values, ReLUPasses(make_teacher(1)).values(passes.flat_patches(raw))[1])
    inputs, in_double = passes.double().values(passes.flat_patches(raw))
    torch.testing.assert_close(in_double, values.double(), rtol=1e-4, atol=1e-5)
    assert passes.backward(torch.ones_like(in_double), inputs, to_input=True)[1].dtype == torch.float64


def test_passes_give_the_policy_back():
    passes, raw = ReLUPasses(make_teacher(0)), make_states()
    other = passes.store(make_teacher(1))
    for parameter, wanted in zip(other.parameters(), make_teacher(0).parameters(), strict=True):
        assert torch.equal(parameter, wanted)
    passes.load(make_teacher(1))
    torch.testing.assert_close(passes.values(passes.flat_patches(raw))[1].log_softmax(-1), make_teacher(1)(raw))


def gradients(passes: ReLUPasses, make) -> list[Tensor]:
    """The gradients of the passes' parameters, in the layout and order of the policy's."""
    carrier = ReLUPasses(make().to(passes.weights[-1].dtype))
    for mine, parameter in zip(carrier.parameters(), passes.parameters(), strict=True):
        mine.data = parameter.grad
    return list(carrier.store(make().to(passes.weights[-1].dtype)).parameters())


# The objective


def test_divergences_are_those_of_torch():
    rng = generator(0, "policies")
    log_p, log_q = (torch.randn(6, 5, generator=rng).log_softmax(-1) for _ in range(2))
    student_first = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=log_p), torch.distributions.Categorical(logits=log_q)
    )
    torch.testing.assert_close(kl_student_teacher(log_p, log_q), student_first)
    torch.testing.assert_close(kl_teacher_student(log_q, log_p), student_first)


@pytest.mark.parametrize("divergence", [kl_student_teacher, kl_teacher_student])
def test_an_action_that_is_ruled_out_adds_nothing(divergence):
    rng = generator(0, "policies")
    logits, log_q = torch.randn(6, 5, generator=rng), torch.randn(6, 4, generator=rng).log_softmax(-1)
    ruled_out = torch.full((6, 1), -math.inf)
    found = []
    for masked in (True, False):
        x = logits.clone().requires_grad_()
        if masked:  # by the one whose probabilities weigh the logarithms; by both where that is the student
            log_p = (torch.cat((x[:, :4], ruled_out), -1) if divergence is kl_student_teacher else x).log_softmax(-1)
            divergence(log_p, torch.cat((log_q, ruled_out), -1)).sum().backward()
        else:  # the same written out over the actions that remain
            log_p = (x[:, :4] if divergence is kl_student_teacher else x).log_softmax(-1)[:, :4]
            divergence(log_p, log_q).sum().backward()
        found.append((divergence(log_p.detach()[:, :4], log_q), x.grad))
    assert all(each.isfinite().all() for each in found[0])
    torch.testing.assert_close(found[0], found[1])


def test_the_objective_is_the_papers_written_out():
    """A loop over states, in float64: one KL divergence, one norm of a difference of two gradients each."""
    pupil, master, raw = make_student().double(), make_teacher().double(), make_states()
    x = raw.double() / 255
    loss = distillation_loss(1.0, 0.3, projection=projections.Sphere(1), generator=generator(0, "projection"))
    total = loss(pupil, x, master).total
    v = projections.Sphere(1).draw(torch.empty(4, ACTIONS, dtype=torch.float64), 1, generator(0, "projection"))[0]
    expected = 0.0
    for state, vector in zip(x, v, strict=True):
        state = state[None].requires_grad_()
        log_p, log_q = pupil(state)[0], master(state)[0]
        gap = torch.autograd.grad(log_q @ vector, state)[0] - torch.autograd.grad(log_p @ vector, state)[0]
        expected += sum(p.exp() * (p - q) for p, q in zip(log_p, log_q, strict=True)) + 0.3 * gap.norm()
    torch.testing.assert_close(total, expected / len(x))


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("norm", ["l2", "squared_l2"])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (1.0, 0.3), (0.0, 1.0)])
@pytest.mark.parametrize("samples", [1, 2])
def test_fused_step_equals_autograd(divergence, norm, weights, samples):
    pupil, master, raw = make_student().double(), make_teacher().double(), make_states()
    drawn = projections.Sphere(samples)
    loss = distillation_loss(*weights, divergence, norm, drawn, generator(0, "projection"))
    log_q = master(raw).detach()
    loss(pupil, raw.double() / 255, master).total.backward()

    passes, targets = ReLUPasses(pupil), ReLUPasses(master)
    flat, index = passes.flat_patches(raw), torch.arange(len(raw))
    v = drawn.draw(log_q, 1, generator(0, "projection"))
    for teacher_gradients in (ComputedGradients(targets), RecordedGradients(targets, flat, torch.float64)):
        step = DistillationStep(passes, *weights, divergence, norm, teacher_gradients)
        step(index, flat, log_q, v)
        for mine, parameter in zip(gradients(passes, make_student), pupil.parameters(), strict=True):
            expected = torch.zeros_like(mine) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-12)
        before = gradients(passes, make_student)
        torch.optim.Adam(passes.parameters()).zero_grad()  # as a loop of one's own does
        step(index, flat, log_q, v)
        assert all(map(torch.equal, gradients(passes, make_student), before))


@pytest.mark.parametrize("weights", [(1.0, 0.3), (0.0, 1.0)])
def test_fused_step_equals_finite_differences(weights):
    """The loss from forward passes alone: its gradient term is a difference quotient of log-probabilities.

    The norm of a gradient is its slope along its own direction, and to first order in the parameters that direction may
    be held. Parameters are probed along the step's own gradient and a random direction at once.
    """
    pupil, master, raw = make_student().double(), make_teacher().double(), make_states(2)
    passes = ReLUPasses(pupil)
    flat, log_q = passes.flat_patches(raw), master(raw).detach()
    v = projections.Sphere(1).draw(log_q, 1, generator(0, "projection"))
    step = DistillationStep(passes, *weights, teacher_gradients=ComputedGradients(ReLUPasses(master)))
    step(torch.arange(2), flat, log_q, v)
    slopes = gradients(passes, make_student)

    x = raw.double() / 255
    leaf = x.clone().requires_grad_()
    (gap,) = torch.autograd.grad(((pupil(leaf) - master(leaf)) * v[0]).sum(), leaf)
    unit = gap / gap.flatten(1).norm(dim=1).view(-1, 1, 1, 1)

    def loss() -> Tensor:
        t = 1e-6  # small: a ReLU's kink in between would not be a derivative
        with torch.no_grad():
            ends = [((pupil(x + s * unit) - master(x + s * unit)) * v[0]).sum(-1) for s in (t, -t)]
            along = (ends[0] - ends[1]) / (2 * t)
            return (weights[0] * kl_student_teacher(pupil(x), log_q) + weights[1] * along).mean()

    rng = generator(0, "directions")
    for parameter, slope in zip(pupil.parameters(), slopes, strict=True):
        noise = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        direction, h = slope / (slope.norm() + 1e-30) + noise / noise.norm(), 1e-6
        with torch.no_grad():
            parameter += h * direction
            above = loss()
            parameter -= 2 * h * direction
            below = loss()
            parameter += h * direction
        expected = (above - below) / (2 * h)
        torch.testing.assert_close((slope * direction).sum(), expected, rtol=5e-3, atol=2e-3)


def test_no_gradient_where_student_and_teacher_agree():
    """The norm has no derivative at 0: its subgradient 0 is taken, and nothing is NaN."""
    master = make_student()
    passes, raw = ReLUPasses(master), make_states()
    flat = passes.flat_patches(raw)
    v = projections.Sphere(1).draw(torch.empty(4, ACTIONS), 1, generator(0, "projection"))
    logits = passes.values(flat)[1]
    step = DistillationStep(passes, 1.0, 1.0, teacher_gradients=ComputedGradients(ReLUPasses(master)))
    step(torch.arange(4), flat, logits.log_softmax(-1), v)
    for parameter in passes.parameters():
        assert parameter.grad.abs().max() < 1e-6


# Shortcuts


def relative(mine: Tensor, exact: Tensor) -> float:
    return ((mine.double() - exact.double()).norm() / exact.double().norm()).item()


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-9)])
def test_recorded_gradients_agree_with_computed_ones(dtype, rounding, monkeypatch):
    monkeypatch.setattr("sobolev.distillation.CHUNK", 4)
    targets, raw = ReLUPasses(make_teacher()), make_states(6)
    flat = targets.flat_patches(raw)
    w = projections.Sphere(1).draw(torch.empty(3, ACTIONS), 1, generator(0, "projection"))[0]
    w = w - w.mean(-1, keepdim=True)
    index = torch.tensor([5, 0, 3])
    recorded = RecordedGradients(targets, flat, dtype)
    exact = ComputedGradients(targets)(index, flat[index], w)
    assert relative(recorded(index, flat[index], w), exact) < 3 * rounding  # of field, coefficient and sum
    assert recorded.rows.numel() * recorded.rows.itemsize == RecordedGradients.bytes(6, ACTIONS, dtype)


BFLOAT16_TOLERANCE = 0.03  # of the norm of a derivative: products in bfloat16 against float32


@pytest.mark.parametrize("weights", [(1.0, 0.0), (1.0, 0.3), (0.0, 1.0)])
def test_bfloat16_agrees_with_float32(weights):
    pupil, master, raw = make_student(), make_teacher(), make_states(8)
    log_q = master(raw).detach()
    v = projections.Sphere(1).draw(log_q, 1, generator(0, "projection"))
    found = {}
    for products in (None, torch.bfloat16):
        passes, targets = ReLUPasses(pupil, products), ReLUPasses(master)
        flat = passes.flat_patches(raw)
        recorded = RecordedGradients(targets, flat, products or torch.float32)
        step = DistillationStep(passes, *weights, teacher_gradients=recorded)
        step(torch.arange(8), flat, log_q, v)
        inputs, _ = passes.values(flat)
        found[products] = [*gradients(passes, make_student), passes.backward(v[0], inputs, to_input=True)[1]]
    for mine, exact in zip(found[torch.bfloat16], found[None], strict=True):
        if exact.norm() > 0:
            assert relative(mine, exact) < BFLOAT16_TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_logits_are_refused(dtype):
    x = torch.rand(16, 5, generator=generator(0, "data")).to(dtype)
    logits = torch.nn.Linear(5, 1_000).to(dtype)
    policy = torch.nn.Sequential(logits, torch.nn.LogSoftmax(-1))
    loss = distillation_loss(projection=projections.Sphere())
    with pytest.raises(ValueError, match=r"student.s outputs are not log-probabilities .*1000 .*in LogSoftmax"):
        loss(logits, x, policy)
    with pytest.raises(ValueError, match="the teacher's outputs are not log-probabilities"):
        loss(policy, x, logits)
    sequences = torch.nn.Sequential(logits, torch.nn.Unflatten(1, (10, 100)), torch.nn.LogSoftmax(-1))
    with pytest.raises(ValueError, match=r"1000 components.*outputs of shape \(samples, classes\)"):
        loss(sequences, x, sequences)
    assert loss(policy, x, policy).total == 0


@pytest.mark.parametrize(
    ("of", "change", "words"),
    [
        (0, lambda raw: raw.view(-1, 4, 84, 84), r"raw_BI has shape \(3, 4, 84, 84\), expected \(3, 28224\)"),
        (1, lambda log_q: log_q[:1], r"teacher_BA has shape \(1, 4\), expected \(3, 4\)"),
        (1, lambda log_q: log_q[:, :1], r"teacher_BA has shape \(3, 1\)"),
        (1, lambda log_q: 5 * log_q, "the teacher's outputs are not log-probabilities"),
        (2, lambda v: v[0], r"v_SBA has shape \(3, 4\), expected \(3, 3, 4\)"),
        (2, lambda v: v[:, :1], r"v_SBA has shape \(1, 1, 4\), expected \(1, 3, 4\)"),
        (2, lambda v: v[:0], r"v_SBA has shape \(0, 3, 4\)"),
    ],
)
def test_a_step_refuses_what_would_broadcast_or_is_no_log_probability(of, change, words):
    passes, raw = ReLUPasses(make_student()), make_states(3)
    log_q = make_teacher()(raw).detach()
    batch = [passes.flat_patches(raw), log_q, projections.Sphere(1).draw(log_q, 1, generator(0, "projection"))]
    step = DistillationStep(passes, teacher_gradients=ComputedGradients(ReLUPasses(make_teacher())))
    step(torch.arange(3), *batch)
    batch[of] = change(batch[of])
    with pytest.raises(ValueError, match=words):
        step(torch.arange(3), *batch)


def test_refusals_say_what_would_be_right():
    passes = ReLUPasses(make_student())
    with pytest.raises(ValueError, match="student_teacher, teacher_student"):
        distillation_loss(divergence="reverse")
    with pytest.raises(ValueError, match="l2, squared_l2"):
        DistillationStep(passes, norm="l1")
    with pytest.raises(ValueError, match="needs teacher_gradients"):
        DistillationStep(passes)
    states = torch.zeros(2, 4, 84, 84, dtype=torch.uint8)
    batch = torch.arange(2), passes.flat_patches(states), make_student()(states).detach()
    with pytest.raises(ValueError, match="needs teacher_gradients and projections"):
        DistillationStep(passes, teacher_gradients=ComputedGradients(passes))(*batch)
    with pytest.raises(ValueError, match="nothing to learn"):
        DistillationStep(passes, 0.0, 0.0)
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="0 or more, and finite"):
            DistillationStep(passes, gradient_weight=weight, teacher_gradients=ComputedGradients(passes))
    steep = make_teacher()
    steep.actions.weight.data *= 1e6
    targets = ReLUPasses(steep)
    with pytest.raises(ValueError, match="exceed the range"):
        RecordedGradients(targets, targets.flat_patches(make_states()), torch.float16)
