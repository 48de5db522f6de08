"""What a GPU computes is what a CPU computes, to the rounding of the precision that was asked for."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from experiments.distillation.updates import Update
from experiments.runner.process import prepare_gpu
from sobolev.cuda_graphs import CapturedStep
from sobolev.devices import to_device
from sobolev.distillation import ComputedGradients, DistillationStep, RecordedGradients
from sobolev.images import photometric, shift_and_flip
from sobolev.losses import SobolevLoss
from sobolev.networks import MLPEnsemble, ReLUSobolevStep
from sobolev.networks.atari_policies import ARCHITECTURES, AtariPolicy
from sobolev.networks.convnets import conv_blocks, split
from sobolev.networks.gradient_predictors import DirectPredictor, LabelPredictor
from sobolev.networks.relu_passes import ReLUPasses
from sobolev.projections import Coordinate, Gaussian, Rademacher, Sphere
from sobolev.seeding import generator
from sobolev.synthetic_gradients import TECHNIQUES, DecoupledNetwork
from tests.gpu.conftest import DEVICE

Gradients = Callable[[str, torch.dtype], list[Tensor]]  # of a device and a type of parameters


def network_in_parts(technique: str, device: str, dtype: torch.dtype) -> DecoupledNetwork:
    """Of Table 1's kind."""
    draw = generator(0, "network")
    parts = split(conv_blocks([16, 32, 32], [1, 2, 1], 10, generator=draw), [1, 2])
    kind = {"derivative": LabelPredictor, "output": DirectPredictor}.get(TECHNIQUES[technique].crosses)
    shapes = ((16, 32, 32), (32, 16, 16))
    predictors = [kind(shape, 10, generator=generator(0, "predictor", k)) for k, shape in enumerate(shapes) if kind]
    network = DecoupledNetwork(parts, predictors, TECHNIQUES[technique]).to(device, dtype)
    return network.to(memory_format=torch.channels_last)


def images(number: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = torch.randn(32, 3, 32, 32, generator=generator(0, "x", number)).to(device, dtype)
    return x, torch.randint(10, (32,), generator=generator(0, "labels", number)).to(device)


def gradients_of(network: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


def decoupled(technique: str, device: str, dtype: torch.dtype, reduced: bool = False) -> list[Tensor]:
    """One step; `reduced` computes products in bfloat16."""
    network = network_in_parts(technique, device, dtype)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=reduced):
        network.step(*images(0, device, dtype))
    return gradients_of(network)


def policies(dtype: torch.dtype) -> list[AtariPolicy]:
    return [
        AtariPolicy(4, ARCHITECTURES[name], generator=generator(0, name)).to(dtype) for name in ("student", "teacher")
    ]


def distilled(recorded: bool, device: str, dtype: torch.dtype, reduced: bool = False) -> list[Tensor]:
    student, teacher = (
        ReLUPasses(policy, torch.bfloat16 if reduced else None).to(device) for policy in policies(dtype)
    )
    raw = torch.randint(0, 256, (50, 4 * 84 * 84), dtype=torch.uint8, generator=generator(0, "raw")).to(device)
    gradients = RecordedGradients(teacher, raw, torch.float16) if recorded else ComputedGradients(teacher)
    step = DistillationStep(student, 1.0, 1.0, teacher_gradients=gradients)
    v = Sphere().draw(torch.empty(50, 4), 1, generator(0, "v")).to(device, dtype)  # float64 would draw other numbers
    step(torch.arange(50, device=device), raw, teacher.values(raw)[1].log_softmax(-1), v)
    return [parameter.grad for parameter in student.parameters()]


def regressed(device: str, dtype: torch.dtype) -> list[Tensor]:
    ensemble = MLPEnsemble((2, 64, 64, 1), [generator(seed, "init") for seed in range(3)]).to(device, dtype)
    data = (torch.randn(3, 40, n, generator=generator(0, "data", n)).to(device, dtype) for n in (2, 1, 3))
    x, f, df = data
    ReLUSobolevStep(ensemble, 40, 1.0, 1.0)(x, f, df[..., :2])
    return [parameter.grad for parameter in ensemble.parameters()]


def by_autograd(device: str, dtype: torch.dtype) -> list[Tensor]:
    """A loss of Hessians too, through convolutions and a smooth activation."""

    def network(name: str) -> nn.Module:
        layers = (nn.Conv2d(3, 8, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(8 * 6 * 6, 2))
        module = nn.Sequential(*layers)
        for number, parameter in enumerate(module.parameters()):
            nn.init.normal_(parameter, std=0.1, generator=generator(0, name, number))
        return module.to(device, dtype)

    student, teacher = network("student"), network("teacher")
    x = torch.randn(8, 3, 6, 6, generator=generator(0, "x")).to(device, dtype)
    SobolevLoss(2)(student, x, teacher).total.backward()
    return [parameter.grad for parameter in student.parameters()]


GRADIENTS: dict[str, Gradients] = {
    **{name: partial(decoupled, name) for name in TECHNIQUES},
    "distillation, computed": partial(distilled, False),
    "distillation, recorded": partial(distilled, True),
    "regression": regressed,
    "autograd": by_autograd,
}
CONVOLUTIONAL = ("backprop", "distillation, computed")
# Errors of float32: on a CPU they are a tenth to a third of these, and TF32's are larger. Where signs of differences
# count (L1), rounding flips some.
BOUNDS = dict.fromkeys(GRADIENTS, 2e-4) | dict.fromkeys(("direct", "vfbn", "sobolev", "sobolev_label"), 8e-3)
BOUNDS["autograd"] = 2e-5


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    one, other = (torch.cat([each.double().cpu().flatten() for each in tensors]) for tensors in (found, expected))
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_in_float32_are_those_of_the_cpu(name):
    gradients = GRADIENTS[name]
    assert relative_error(gradients(DEVICE, torch.float32), gradients("cpu", torch.float64)) < BOUNDS[name]


@pytest.mark.parametrize("name", ["sobolev", "distillation, computed", "regression", "autograd"])
def test_gradients_in_float64_are_those_of_the_cpu(name):
    gradients = GRADIENTS[name]
    assert relative_error(gradients(DEVICE, torch.float64), gradients("cpu", torch.float64)) < 1e-9


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_tf32_rounds_where_it_is_asked_for_and_only_there(name):
    exact = GRADIENTS[name]("cpu", torch.float64)
    error = relative_error(GRADIENTS[name](DEVICE, torch.float32), exact)
    prepare_gpu(tf32=True)
    rounded = relative_error(GRADIENTS[name](DEVICE, torch.float32), exact)
    assert 5 * error < rounded < 0.2
    prepare_gpu()
    assert relative_error(GRADIENTS[name](DEVICE, torch.float32), exact) < BOUNDS[name]


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, "sobolev"])
def test_gradients_in_bfloat16_are_close(name):
    gradients = GRADIENTS[name]
    assert 1e-4 < relative_error(gradients(DEVICE, torch.float32, True), gradients("cpu", torch.float64)) < 0.3


def test_a_graph_of_a_step_goes_on_with_the_weights_that_it_has_changed():
    """A captured step and its update after `refresh`, replayed, against the same without a graph."""

    def updates(captured: bool) -> Tensor:
        student, teacher = (ReLUPasses(policy, torch.bfloat16).to(DEVICE) for policy in policies(torch.float32))
        raw = torch.randint(0, 256, (50, 4 * 84 * 84), dtype=torch.uint8, generator=generator(0, "raw")).to(DEVICE)
        step = DistillationStep(student, 1.0, 1.0, teacher_gradients=ComputedGradients(teacher))
        index, log_q = torch.arange(50, device=DEVICE), teacher.values(raw)[1].log_softmax(-1)
        v = Sphere().draw(torch.empty(50, 4), 1, generator(0, "v")).to(DEVICE)

        @torch.no_grad()
        def update() -> None:
            student.refresh()
            step(index, raw, log_q, v)
            for parameter in student.parameters():
                parameter.sub_(parameter.grad, alpha=0.05)

        replayed = CapturedStep(update, student.parameters()) if captured else update
        for _ in range(5):
            replayed()
        student.refresh()
        return student.values(raw)[1].log_softmax(-1)

    torch.testing.assert_close(updates(captured=True), updates(captured=False), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("norm", "divergence"), [("l2", "student_teacher"), ("squared_l2", "teacher_student")])
@pytest.mark.parametrize("method", ["value", "recorded", "computed"])
def test_a_recorded_update_of_a_student_does_what_it_does_without(method, norm, divergence):
    """With a rate and a weight of gradients that fall, to 0 in the end."""
    weights = []
    for record in (True, False):
        student, teacher = (ReLUPasses(policy).to(DEVICE) for policy in policies(torch.float32))
        raw = torch.randint(0, 256, (60, 4 * 84 * 84), dtype=torch.uint8, generator=generator(0, "raw")).to(DEVICE)
        made = {"recorded": lambda: RecordedGradients(teacher, raw, torch.float16)}  # noqa: B023
        made |= {"computed": lambda: ComputedGradients(teacher)}  # noqa: B023
        gradients = made[method]() if method in made else None
        step = DistillationStep(student, 1.0, 1.0 if gradients else 0.0, divergence, norm, gradients)
        update = Update(student, step, raw, teacher.values(raw)[1].log_softmax(-1), record)
        for number in range(6):
            index = torch.randperm(60, generator=generator(0, "batch", number))[:20].to(DEVICE)
            v = Sphere().draw(torch.empty(20, 4), 1, generator(0, "v", number)).to(DEVICE)
            learns = (0.1 * max(0, 4 - number), v) if gradients else (0.0, None)
            update(1e-3 / (1 + number), learns[0], index, learns[1])
        weights.append([parameter.detach().clone() for parameter in student.parameters()])
    assert relative_error(*weights) < 1e-3


@pytest.mark.parametrize("technique", ["backprop", "noprop", "sobolev", "direct"])
def test_a_graph_of_a_step_computes_the_gradients_of_each_batch(technique):
    """And BatchNorm's statistics, which warming up leaves alone."""
    results = []
    for captured in (True, False):
        network = network_in_parts(technique, DEVICE, torch.float32)

        def learn(x: Tensor, labels: Tensor, network: DecoupledNetwork = network) -> Tensor:
            return network.step(x, labels).loss_B

        step = CapturedStep(learn, network.buffers()) if captured else learn
        for number in range(3):
            losses = step(*images(number, DEVICE, torch.float32)).clone()
            results += [losses, *(gradient.clone() for gradient in gradients_of(network))]
        results += [buffer.double() for buffer in network.buffers()]
    half = len(results) // 2
    assert relative_error(results[:half], results[half:]) < BOUNDS[technique]


@pytest.mark.parametrize("kind", [shift_and_flip, photometric])
def test_augmentation_drawn_on_the_cpu_is_the_same_wherever_pixels_are(kind):
    pixels = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=generator(0, "pixels"))
    options = (4, True) if kind is shift_and_flip else (0.5,)
    here = kind(pixels, generator(0, "augment"), *options)
    there = kind(to_device(pixels, DEVICE), generator(0, "augment"), *options)
    assert (here.int() - there.cpu().int()).abs().max() <= (0 if kind is shift_and_flip else 1)
    assert kind(to_device(pixels, DEVICE), generator(0, "augment", device=DEVICE), *options).shape == pixels.shape


@pytest.mark.parametrize("projection", [Sphere(2), Gaussian(2), Rademacher(2), Coordinate(2)], ids=repr)
def test_projections_are_drawn_by_a_generator_of_the_gpu(projection):
    like = torch.empty(6, 5, device=DEVICE)
    drawn = [projection.draw(like, 1, generator(seed, "projection", device=DEVICE)) for seed in (0, 0, 1)]
    assert drawn[0].device.type == torch.device(DEVICE).type
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    if DEVICE != "cpu":
        with pytest.raises(ValueError, match="the generator is on cpu, but must be on cuda"):
            projection.draw(like, 1, generator(0, "projection"))
