"""The modules and operations that a network may hold, each of a small size: name -> (maker, shape of one sample)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Zoo = dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]


class Apply(nn.Module):
    """A function of a module and its input, as a module."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], module: nn.Module) -> None:
        super().__init__()
        self.function, self.module = function, module

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.module, x)


def applied(function: Callable[[nn.Module, Tensor], Tensor], maker: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Apply(function, maker())


def frozen(maker: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """In evaluation mode, with running statistics that are not those of a new layer."""

    def make() -> nn.Module:
        module = maker().eval()
        for name, buffer in module.named_buffers():
            if name.startswith("running"):
                nn.init.uniform_(buffer, 0.5, 2)
        return module

    return make


def first(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)[0]


ACTIVATIONS: Zoo = {
    name: (getattr(nn, name), (4,))
    for name in (
        *("CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid"),
        *("Mish", "PReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh"),
        *("Tanhshrink", "GLU"),
    )
} | {
    "GELU of tanh": (partial(nn.GELU, "tanh"), (4,)),
    "LogSoftmax": (partial(nn.LogSoftmax, -1), (4,)),
    "RReLU": (frozen(nn.RReLU), (4,)),
    "Softmax": (partial(nn.Softmax, -1), (4,)),
    "Softmax2d": (nn.Softmax2d, (3, 2, 2)),
    "Softmin": (partial(nn.Softmin, -1), (4,)),
    "Threshold": (partial(nn.Threshold, 0.1, 0.0), (4,)),
}

NORMALISATIONS: Zoo = {
    "BatchNorm1d": (frozen(partial(nn.BatchNorm1d, 4)), (4,)),
    "BatchNorm2d": (frozen(partial(nn.BatchNorm2d, 2)), (2, 2, 2)),
    "BatchNorm3d": (frozen(partial(nn.BatchNorm3d, 2)), (2, 2, 1, 2)),
    "GroupNorm": (partial(nn.GroupNorm, 2, 4), (4, 3)),
    "GroupNorm of one group": (partial(nn.GroupNorm, 1, 4), (4,)),
    "InstanceNorm1d": (partial(nn.InstanceNorm1d, 3, affine=True), (3, 4)),
    "InstanceNorm2d": (partial(nn.InstanceNorm2d, 2), (2, 2, 3)),
    "InstanceNorm3d": (partial(nn.InstanceNorm3d, 2, affine=True), (2, 2, 2, 2)),
    "InstanceNorm, running": (partial(nn.InstanceNorm1d, 3, track_running_stats=True), (3, 4)),
    "InstanceNorm, frozen": (frozen(partial(nn.InstanceNorm1d, 3, track_running_stats=True)), (3, 4)),
    "LayerNorm": (partial(nn.LayerNorm, 4), (4,)),
    "LayerNorm in two dimensions": (partial(nn.LayerNorm, (2, 3)), (2, 3)),
    "LayerNorm without parameters": (partial(nn.LayerNorm, 4, elementwise_affine=False), (4,)),
    "LocalResponseNorm": (partial(nn.LocalResponseNorm, 2), (4, 3)),
    "RMSNorm": (partial(nn.RMSNorm, 4), (4,)),
    "SyncBatchNorm": (frozen(partial(nn.SyncBatchNorm, 4)), (4, 2)),
    "weight_norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), (3,)),
    "spectral_norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)).eval(), (3,)),
    "orthogonal": (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)), (3,)),
}

LAYERS: Zoo = {
    "AlphaDropout": (frozen(nn.AlphaDropout), (4,)),
    "Bilinear": (applied(lambda m, x: m(x[:, :2], x[:, 2:]), partial(nn.Bilinear, 2, 2, 3)), (4,)),
    "ChannelShuffle": (partial(nn.ChannelShuffle, 2), (4, 2)),
    "CosineSimilarity": (applied(lambda m, x: m(x[:, :2], x[:, 2:]), nn.CosineSimilarity), (4,)),
    "Dropout": (nn.Dropout, (4,)),
    "Flatten": (nn.Flatten, (2, 2)),
    "Fold": (partial(nn.Fold, (3, 3), 2), (8, 4)),
    "FractionalMaxPool2d": (
        lambda: nn.FractionalMaxPool2d(2, 2, _random_samples=torch.full((4, 2, 2), 0.3, dtype=torch.float64)),
        (2, 4, 4),
    ),
    "Identity": (nn.Identity, (4,)),
    "Linear": (partial(nn.Linear, 4, 3), (4,)),
    "MaxUnpool1d": (
        applied(lambda m, x: m(*F.max_pool1d(x, 2, return_indices=True)), partial(nn.MaxUnpool1d, 2)),
        (2, 4),
    ),
    "PairwiseDistance": (applied(lambda m, x: m(x[:, :2], x[:, 2:]), nn.PairwiseDistance), (4,)),
    "PixelShuffle": (partial(nn.PixelShuffle, 2), (4, 2, 2)),
    "PixelUnshuffle": (partial(nn.PixelUnshuffle, 2), (1, 2, 2)),
    "Unflatten": (partial(nn.Unflatten, 1, (2, 2)), (4,)),
    "Unfold": (partial(nn.Unfold, 2), (2, 3, 3)),
    **{
        f"Upsample, {kind}": (partial(nn.Upsample, scale_factor=2, mode=kind), shape)
        for kind, shape in {
            "nearest": (1, 2, 2),
            "nearest-exact": (1, 2, 2),
            "linear": (1, 3),
            "bilinear": (1, 2, 2),
            "bicubic": (1, 2, 2),
            "trilinear": (1, 2, 2, 2),
        }.items()
    },
}

SPATIAL: Zoo = {
    f"{kind}{d}d": (partial(getattr(nn, f"{kind}{d}d"), *arguments, **options), (channels, *shape))
    for d, shape in {1: (5,), 2: (4, 3), 3: (3, 2, 3)}.items()
    for kind, channels, arguments, options in (
        ("AdaptiveAvgPool", 2, (2,), {}),
        ("AdaptiveMaxPool", 2, (2,), {}),
        ("AvgPool", 2, (2, 1), {}),
        ("CircularPad", 1, (1,), {}),
        ("ConstantPad", 1, (1, 0.5), {}),
        ("Conv", 2, (2, 3, 2), {"padding": 1, "padding_mode": "circular"}),
        ("ConvTranspose", 2, (2, 1, 2), {"stride": 2}),
        ("LPPool", 2, (2, 2), {}),
        ("MaxPool", 2, (2, 1), {}),
        ("ReflectionPad", 1, (1,), {}),
        ("ReplicationPad", 1, (1,), {}),
        ("ZeroPad", 1, (1,), {}),
    )
}

SEQUENCES: Zoo = {
    "GRU": (applied(first, partial(nn.GRU, 3, 3, 2, batch_first=True)), (2, 3)),
    "GRUCell": (partial(nn.GRUCell, 3, 3), (3,)),
    "LSTM": (applied(first, partial(nn.LSTM, 3, 3, 2, batch_first=True)), (2, 3)),
    "LSTMCell": (applied(first, partial(nn.LSTMCell, 3, 3)), (3,)),
    "MultiheadAttention": (
        applied(lambda m, x: m(x, x, x)[0], partial(nn.MultiheadAttention, 4, 2, batch_first=True)),
        (2, 4),
    ),
    "MultiheadAttention, fused": (
        applied(lambda m, x: m(x, x, x, need_weights=False)[0], partial(nn.MultiheadAttention, 4, 2, batch_first=True)),
        (2, 4),
    ),
    "RNN": (applied(first, partial(nn.RNN, 3, 2, bidirectional=True, batch_first=True)), (2, 3)),
    "RNNCell": (partial(nn.RNNCell, 3, 3), (3,)),
    "Transformer": (
        applied(lambda m, x: m(x, x), partial(nn.Transformer, 4, 2, 1, 1, 5, 0.0, F.gelu, batch_first=True)),
        (2, 4),
    ),
    "TransformerDecoderLayer": (
        applied(lambda m, x: m(x, x), partial(nn.TransformerDecoderLayer, 4, 2, 5, 0.0, F.gelu, batch_first=True)),
        (2, 4),
    ),
    "TransformerEncoderLayer": (partial(nn.TransformerEncoderLayer, 4, 2, 5, 0.0, F.gelu, batch_first=True), (2, 4)),
    "TransformerEncoderLayer, evaluated": (
        frozen(partial(nn.TransformerEncoderLayer, 4, 2, 5, batch_first=True, activation=F.gelu)),
        (2, 4),
    ),
}

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "affine_grid": (lambda x: F.affine_grid(x, [len(x), 1, 2, 2], align_corners=True), (2, 3)),
    "amax": (lambda x: x.amax(-1) ** 3, (4,)),
    "atan2": (lambda x: torch.atan2(x[:, :2], x[:, 2:] + 2), (4,)),
    "cdist": (lambda x: torch.cdist(x, x.sin() + 1), (2, 2)),
    "checkpoint": (lambda x: checkpoint(torch.sin, x, use_reentrant=False), (4,)),
    "cholesky": (lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(2).to(x)), (2, 2)),
    "complex": (lambda x: torch.complex(x[:, :2], x[:, 2:]).abs(), (4,)),
    "cross_entropy": (lambda x: F.cross_entropy(x, torch.zeros(len(x)).long(), reduction="none"), (4,)),
    "cummax": (lambda x: x.cummax(-1)[0] ** 2, (4,)),
    "cumprod": (lambda x: x.cumprod(-1), (4,)),
    "logcumsumexp": (lambda x: torch.logcumsumexp(x, 1), (4, 2)),
    "logcumsumexp of a tensor": (lambda x: x.logcumsumexp(dim=-1), (4,)),
    "det": (torch.linalg.det, (2, 2)),
    "digamma": (lambda x: torch.digamma(x.abs() + 1), (4,)),
    "einsum": (lambda x: torch.einsum("bij,bjk->bik", x, x.sin()), (2, 2)),
    "eigvalsh": (lambda x: torch.linalg.eigvalsh(x @ x.mT), (2, 2)),
    "erf": (torch.erf, (4,)),
    "fft": (lambda x: torch.fft.fft(x + x.new_tensor([3, 1, 0, 0])).abs(), (4,)),
    "gather": (lambda x: x.gather(1, torch.tensor([[0, 2]]).expand(len(x), 2)) ** 3, (4,)),
    "grid_sample": (
        lambda x: F.grid_sample(
            torch.arange(9.0).sin().view(1, 1, 3, 3).to(x).expand(len(x), -1, -1, -1),
            x.tanh().view(len(x), 1, 2, 2) / 2,
            align_corners=True,
        ),
        (4,),
    ),
    "huber_loss": (lambda x: F.huber_loss(x, x.sin() + 2, reduction="none"), (4,)),
    "index": (lambda x: x[:, [0, 0, 1]] ** 3, (4,)),
    "inv": (lambda x: torch.linalg.inv(x + 3 * torch.eye(2).to(x)), (2, 2)),
    "kl_div": (lambda x: F.kl_div(x.log_softmax(-1), x.sin().softmax(-1), reduction="none"), (4,)),
    "layer_norm of torch": (lambda x: torch.layer_norm(x, (4,)), (4,)),
    "lgamma": (lambda x: torch.lgamma(x.abs() + 1), (4,)),
    "logsumexp": (lambda x: x.logsumexp(-1), (4,)),
    "matrix_exp": (torch.matrix_exp, (2, 2)),
    "matrix_norm": (torch.linalg.matrix_norm, (2, 2)),
    "normalize": (lambda x: F.normalize(x, dim=-1), (3,)),
    "pow": (lambda x: (x.abs() + 0.1) ** 1.5, (4,)),
    "prod": (lambda x: x.prod(-1), (4,)),
    "scaled_dot_product_attention": (lambda x: F.scaled_dot_product_attention(x, x, x), (2, 3)),
    "scatter_add": (
        lambda x: x.new_zeros(len(x), 2).scatter_add(1, torch.tensor([[0, 1, 0, 1]]).expand(len(x), 4), x**3),
        (4,),
    ),
    "sinc": (torch.sinc, (4,)),
    "solve": (lambda x: torch.linalg.solve(x + 3 * torch.eye(2).to(x), x.new_ones(len(x), 2)), (2, 2)),
    "sort": (lambda x: x.sort(-1)[0] ** 3, (4,)),
    "std": (lambda x: x.std(-1), (4,)),
    "svdvals": (torch.linalg.svdvals, (2, 2)),
    "topk": (lambda x: x.topk(2)[0] ** 3, (4,)),
    "vector_norm": (lambda x: torch.linalg.vector_norm(x, dim=-1), (4,)),
    "where": (lambda x: torch.where(x > 0, x**2, x**3), (4,)),
}

ZOO: Zoo = {
    **ACTIVATIONS,
    **NORMALISATIONS,
    **LAYERS,
    **SPATIAL,
    **SEQUENCES,
    **{
        name: (applied(lambda _, x, f=function: f(x), nn.Identity), shape)
        for name, (function, shape) in FUNCTIONS.items()
    },
}
