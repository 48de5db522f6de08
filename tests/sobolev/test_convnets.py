"""The image networks, layer by layer against what the papers list, and how lists of blocks are split."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional

from sobolev.networks.convnets import CIFAR_CHANNELS, CIFAR_STRIDES, conv_blocks, split
from sobolev.networks.resnet import Bottleneck, resnet50_blocks
from tests.conftest import CONFIGS


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cifar_blocks(width: float = 1.0, generator: torch.Generator | None = None) -> list[nn.Module]:
    """The paper's network for CIFAR-10; `width` is a factor on its channels."""
    return conv_blocks([int(width * c) for c in CIFAR_CHANNELS], CIFAR_STRIDES, 10, generator=generator)


def randomise(network: nn.Module) -> nn.Module:
    """BatchNorms that are not the identity, so that leaving one out shows."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor, 1, 0.3, generator=rng(len(tensor)))
            nn.init.uniform_(module.running_var, 0.5, 2, generator=rng(1))
    return network.eval()


def traced(network: nn.Module, x: torch.Tensor) -> list[tuple[int, int, int, int]]:
    """(kernel, stride, channels, side) of each convolution's output, in the order of execution."""
    seen = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            module.register_forward_hook(
                lambda m, _, y: seen.append((m.kernel_size[0], m.stride[0], y.shape[1], y.shape[2]))
            )
    network(x)
    return seen


def test_the_cifar_network_is_the_papers_layer_by_layer():
    network = nn.Sequential(*cifar_blocks())
    listed = [(3, 1, 64, 32)] * 2
    listed += [(3, 2, 128, 16), (3, 1, 128, 16), (3, 1, 128, 16)]
    listed += [(3, 2, 256, 8), (3, 1, 256, 8), (3, 1, 256, 8)]
    listed += [(3, 2, 512, 4), (3, 1, 512, 4), (3, 1, 512, 4)]
    assert traced(network, torch.zeros(2, 3, 32, 32)) == listed
    channels = [3, 64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512]
    counted = sum(9 * a * b + 2 * b for a, b in pairwise(channels)) + 512 * 10 + 10
    assert sum(p.numel() for p in network.parameters()) == counted


@pytest.mark.parametrize(("head", "size"), [("average", None), ("flatten", 9)])
def test_blocks_compute_convolution_batchnorm_relu_and_a_linear_head(head, size):
    network = randomise(
        nn.Sequential(*conv_blocks([8, 16], [1, 2], 5, in_channels=1, head=head, size=size, generator=rng()))
    ).double()
    x = torch.randn(3, 1, 9, 9, generator=rng(), dtype=torch.float64)
    weights = iter(network.state_dict().values())
    h = x
    for stride in (1, 2):
        kernel, gain, bias, mean, variance, _ = (next(weights) for _ in range(6))
        h = functional.conv2d(h, kernel, stride=stride, padding=1)
        h = (h - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt() * gain[:, None, None]
        h = (h + bias[:, None, None]).clamp(min=0)
    features = h.mean((2, 3)) if head == "average" else h.flatten(1)
    torch.testing.assert_close(network(x), features @ next(weights).T + next(weights))


def test_weights_come_from_the_generator_alone_and_are_he_sized():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    blocks = [cifar_blocks(generator=rng(seed)) for seed in (1, 1, 2)]
    assert torch.equal(before, torch.random.get_rng_state())
    first, same, other = (nn.Sequential(*b).state_dict() for b in blocks)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["0.0.weight"], other["0.0.weight"])
    kernel = first["7.0.weight"]  # 256 to 256 channels
    assert kernel.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": [1]}, "as many strides as channels"),
        ({"channels": [], "strides": []}, "at least one"),
        ({"channels": [8, 0]}, "must all be positive"),
        ({"head": "max"}, "choose from average, flatten"),
        ({"head": "flatten"}, "needs size"),
    ],
)
def test_builders_refuse(change, message):
    with pytest.raises(ValueError, match=message):
        conv_blocks(**{"channels": [8, 8], "strides": [1, 1], "n_classes": 2} | change)


def test_a_resnet_without_classes_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        resnet50_blocks(n_classes=0)


def test_parts_in_a_row_are_the_network():
    blocks = cifar_blocks(width=0.125, generator=rng())
    parts = split(blocks, [2, 5, 8])
    assert [len(part) for part in parts] == [2, 3, 3, 4]
    x = torch.randn(2, 3, 32, 32, generator=rng())
    h, shapes = x, []
    for part in parts.eval():
        h = part(h)
        shapes.append(tuple(h.shape[1:]))
    assert shapes == [(8, 32, 32), (16, 16, 16), (32, 8, 8), (10,)]
    assert torch.equal(h, nn.Sequential(*blocks).eval()(x))
    assert [len(part) for part in split(blocks, [])] == [12]


@pytest.mark.parametrize("after", [[0], [12], [3, 3], [5, 2], [-1]])
def test_a_part_without_blocks_is_refused(after):
    with pytest.raises(ValueError, match="increasing numbers from 1 to 11"):
        split(cifar_blocks(width=0.125), after)


def resnet50_as_listed() -> list[tuple[int, int, int, int]]:
    """Table 1 of He et al. (2016), for 64 x 64 images; a stage's first bottleneck ends with its shortcut."""
    listed, side = [(7, 2, 64, 32)], 16  # after max pooling
    for stage, (bottlenecks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for index in range(bottlenecks):
            stride = 2 if stage and not index else 1
            reduced = side // stride
            listed += [(1, stride, width, reduced), (3, 1, width, reduced), (1, 1, 4 * width, reduced)]
            listed += [(1, stride, 4 * width, reduced)] if not index else []
            side = reduced
    return listed


def test_resnet50_is_the_published_network_layer_by_layer():
    blocks = resnet50_blocks()
    assert len(blocks) == 18
    network = nn.Sequential(*blocks).eval()
    assert sum(p.numel() for p in network.parameters()) == 25_557_032
    with torch.no_grad():
        assert traced(network, torch.zeros(1, 3, 64, 64)) == resnet50_as_listed()


def test_the_default_modules_of_resnet50_are_between_its_stages():
    blocks = [block.eval() for block in resnet50_blocks(n_classes=7)]
    h, shapes = torch.zeros(1, 3, 64, 64), {}
    with torch.no_grad():
        for number, block in enumerate(blocks, start=1):
            h = block(h)
            shapes[number] = tuple(h.shape[1:])
    one, three = (OmegaConf.load(CONFIGS / "model" / f"resnet50_{n}.yaml").splits for n in (1, 3))
    assert [shapes[number] for number in three] == [(256, 16, 16), (512, 8, 8), (1024, 4, 4)]
    assert one == three[1:2]
    assert shapes[18] == (7,)


@pytest.mark.parametrize(("channels", "stride"), [(12, 2), (16, 1)])
def test_a_bottleneck_computes_its_equation(channels, stride):
    block = randomise(Bottleneck(channels, 4, stride, False, rng())).double()
    h = torch.randn(2, channels, 6, 6, generator=rng(), dtype=torch.float64)

    def conv_bn(x, conv, bn):
        x = functional.conv2d(x, conv.weight, stride=conv.stride, padding=conv.kernel_size[0] // 2)
        return functional.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)

    inner = block.residual
    expected = conv_bn(conv_bn(conv_bn(h, *inner[0:2]).relu(), *inner[3:5]).relu(), *inner[6:8])
    expected = expected + (conv_bn(h, *block.shortcut) if stride == 2 else h)
    torch.testing.assert_close(block(h), expected.relu())


def test_zero_last_begins_as_the_identity():
    h = torch.randn(2, 16, 5, 5, generator=rng())
    assert torch.equal(Bottleneck(16, 4, 1, True, rng())(h), h.relu())
    assert not torch.equal(Bottleneck(16, 4, 1, False, rng())(h), h.relu())


@pytest.mark.parametrize(
    "blocks",
    [cifar_blocks(width=0.125, generator=rng())[:4], resnet50_blocks(10, generator=rng())[:3]],
    ids=["cifar", "resnet"],
)
def test_channels_last_and_bfloat16_agree_with_float32(blocks):
    network = nn.Sequential(*blocks).to(memory_format=torch.channels_last)  # few: rounding adds up with depth
    x = torch.randn(16, 3, 32, 32, generator=rng()).contiguous(memory_format=torch.channels_last)

    def gradient(enabled: bool) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = network(x)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert y.dtype == (torch.bfloat16 if enabled else torch.float32)
        (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
        return torch.cat([p.grad.flatten() for p in network.parameters()])

    exact = gradient(False)
    network.zero_grad()
    assert functional.cosine_similarity(exact, gradient(True), dim=0) > 0.98
