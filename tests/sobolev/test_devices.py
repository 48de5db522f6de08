"""The library and GPUs, on one that is not there: copies that nobody waits for, and no global state."""

import ast

import pytest
import torch
from torch import nn

from sobolev.checking import _same_randomness
from sobolev.devices import to_device
from sobolev.distillation import distillation_loss
from sobolev.exact import _without_cudnn
from sobolev.images import photometric, shift_and_flip
from sobolev.images.image_set import normalise
from sobolev.networks.atari_policies import Architecture, AtariPolicy, Convolution
from sobolev.networks.relu_passes import ReLUPasses
from sobolev.projections import Sphere
from sobolev.seeding import generator
from tests.conftest import ROOT
from tests.fakecuda import FakeGPU

SMALL = Architecture((Convolution(4, 8, 4), Convolution(8, 4, 2)), 16)


def test_the_fake_counts_what_a_gpu_would_be_asked_to_do():
    numbers = torch.ones(3)
    with FakeGPU() as gpu:
        x = numbers.to(gpu.device)
        numbers.pin_memory().to(gpu.device)  # and waits all the same
        torch.tensor([1.0, 2.0], device=gpu.device)
        x[torch.tensor([0, 1])]
        assert (sum(gpu.pageable.values()), gpu.pinned) == (4, 0)
        to_device(numbers, gpu.device)
        assert (sum(gpu.pageable.values()), gpu.pinned) == (4, 1)
        gpu.begin()
        float(x.sum()), bool(x[0] > 0), x.cpu(), x.nonzero(), x[x > 0]
        assert gpu.waits == {"item": 2, "copy back": 1, "nonzero": 1, "mask": 1}
        assert gpu.launches["sum"] == 1
        gpu.begin()
        x[None, 1:].view(-1).add_(x[0])
        assert gpu.launches == {"add_": 1}
        with pytest.raises(RuntimeError, match="same device"):
            x + numbers
        (x.requires_grad_() * 2).sum().backward()
        assert x.grad.device == gpu.device
    assert not gpu.pageable
    assert not gpu.waits


def test_a_copy_to_the_cpu_is_the_tensor_itself():
    tensor = torch.ones(3)
    assert to_device(tensor, "cpu") is tensor


@pytest.mark.parametrize("kind", ["shift_and_flip", "photometric", "normalise"])
def test_images_are_augmented_without_waiting(kind):
    def augment(pixels):
        if kind == "normalise":
            return normalise(pixels, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), torch.float32)
        if kind == "photometric":
            return photometric(pixels, generator(0, "colour"))
        return shift_and_flip(pixels, generator(0, "augment"), 4, True)

    with FakeGPU() as gpu:
        pixels = torch.zeros(6, 3, 16, 16, dtype=torch.uint8).to(gpu.device)
        augment(pixels)  # constants go there once
        gpu.begin()
        assert augment(pixels).device == gpu.device
    assert not gpu.pageable
    assert not gpu.waits
    assert gpu.pinned == {"shift_and_flip": 1, "photometric": 2, "normalise": 0}[kind]


def test_refreshed_weights_stay_where_they_are_in_memory():
    """A CUDA graph reads memory, not names: captured with a refresh, a step would go on with the weights of then."""
    policy = AtariPolicy(4, SMALL, generator=generator(0, "policy"))
    raw = torch.randint(0, 256, (2, 4 * 84 * 84), generator=generator(0, "raw"))
    for dtype in (torch.float32, torch.bfloat16):
        passes = ReLUPasses(policy, dtype)
        captured = [*passes._forward_weights, *passes._w]
        with torch.no_grad():
            for parameter in passes.parameters():
                parameter.mul_(1.5)
        passes.refresh()
        anew = ReLUPasses(passes.store(AtariPolicy(4, SMALL)), dtype)
        assert all(map(torch.equal, captured, [*anew._forward_weights, *anew._w]))
        assert torch.equal(passes.values(raw)[1], anew.values(raw)[1])


def test_a_distillation_loss_asks_once_whether_outputs_are_log_probabilities():
    def policy() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.LogSoftmax(-1))

    with FakeGPU() as gpu:
        student, teacher = policy().to(gpu.device), policy().to(gpu.device).eval()
        loss = distillation_loss(projection=Sphere())
        x = torch.rand(8, 16).to(gpu.device)
        for _ in range(3):  # whether f mixes samples is asked at calls 1, 2, 4, 8, ...
            gpu.begin()
            loss(student, x, teacher).total.backward()
    assert not gpu.waits
    assert not gpu.pageable


GLOBAL = ("torch.backends", "torch.set_", "torch.use_", "torch.manual_seed", "torch.cuda.set_", "torch.cuda.manual_")
PUT_BACK = ("torch.set_grad_enabled", "torch.backends.cudnn.enabled", "torch.manual_seed")  # by a context, see below


@pytest.mark.parametrize("path", sorted((ROOT / "sobolev").rglob("*.py")), ids=lambda path: path.stem)
def test_the_library_changes_nothing_for_the_rest_of_its_process(path):
    """TF32, threads, seeds and defaults are its user's."""
    for node in ast.walk(ast.parse(path.read_text())):
        parts = [node.func] if isinstance(node, ast.Call) else node.targets if isinstance(node, ast.Assign) else []
        names = [ast.unparse(name) for part in parts for name in (part.elts if isinstance(part, ast.Tuple) else [part])]
        assert not [name for name in names if name.startswith(GLOBAL) and name not in PUT_BACK]


def test_what_the_library_changes_for_a_moment_it_puts_back():
    cudnn, before = torch.backends.cudnn, torch.get_rng_state()
    with _without_cudnn():
        assert not cudnn.enabled
    assert cudnn.enabled
    with _same_randomness():
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
