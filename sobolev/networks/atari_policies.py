r"""Policies over stacks of Atari frames: the teacher and the student of Section 4.2 (SM 3).

    pi(.|s) = softmax(W relu(V conv_L(... relu(conv_1(s)) ...) + c) + b)

A state is a stack of 84x84 grey frames with values in [0, 1], and derivatives by the state are in those units. Raw
frames (uint8) are scaled by the policy. Floating-point states must be scaled already; derivatives are taken by these.

Shape suffixes: B samples, C frames of a stack or channels, H rows, W columns, A actions, F features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

FRAME = 84  # pixels on each side
STACK = 4  # frames of a state


class Convolution(NamedTuple):
    """A convolution without padding, followed by a ReLU."""

    channels: int
    kernel: int
    stride: int


class Architecture(NamedTuple):
    """Convolutions, and the number of units of the linear layer between them and the actions."""

    convolutions: tuple[Convolution, ...]
    hidden: int


ARCHITECTURES = {
    "teacher": Architecture((Convolution(32, 8, 4), Convolution(64, 4, 2), Convolution(64, 3, 1)), 512),
    "student": Architecture((Convolution(16, 8, 4), Convolution(32, 4, 2)), 256),
}


def _uniform_fan_in(layer: nn.Module, gain: float, generator: torch.Generator | None) -> None:
    """PyTorch's default: weights and biases uniform in +-1/sqrt(fan_in), without a gain."""
    weight, bias = layer.parameters()
    bound = weight[0].numel() ** -0.5
    nn.init.uniform_(weight, -bound, bound, generator=generator)
    nn.init.uniform_(bias, -bound, bound, generator=generator)


def _orthogonal(layer: nn.Module, gain: float, generator: torch.Generator | None) -> None:
    """Orthogonal weights and zero biases, as is common in policy-gradient training."""
    weight, bias = layer.parameters()
    nn.init.orthogonal_(weight, gain, generator=generator)
    nn.init.zeros_(bias)


INITIALISATIONS = {"uniform_fan_in": _uniform_fan_in, "orthogonal": _orthogonal}


class AtariPolicy(nn.Module):
    """Log-probabilities of actions (B, A) from states (B, C, 84, 84).

    Args:
        n_actions: A.
        architecture: convolutions and hidden units; `ARCHITECTURES` has the paper's two.
        initialisation: a key of `INITIALISATIONS`. Orthogonal weights have gain sqrt(2), and 0.01 before the softmax,
            so that the first policy is nearly uniform.
        generator: the source of initial weights; torch's global one by default.

    Raises:
        ValueError: an unknown initialisation or no actions; in use, states of the wrong shape or dtype.
    """

    def __init__(
        self,
        n_actions: int,
        architecture: Architecture,
        initialisation: str = "uniform_fan_in",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if n_actions < 1:
            raise ValueError(f"a policy needs an action or more, not {n_actions}")
        if initialisation not in INITIALISATIONS:
            raise ValueError(f"{initialisation!r} is not one of {', '.join(INITIALISATIONS)}")
        self.architecture, self.n_actions = architecture, n_actions
        self.convolutions = nn.ModuleList()
        channels, side = STACK, FRAME
        for convolution in architecture.convolutions:
            self.convolutions.append(
                nn.utils.skip_init(nn.Conv2d, channels, convolution.channels, convolution.kernel, convolution.stride)
            )
            channels, side = convolution.channels, (side - convolution.kernel) // convolution.stride + 1
        self.hidden = nn.utils.skip_init(nn.Linear, channels * side**2, architecture.hidden)
        self.actions = nn.utils.skip_init(nn.Linear, architecture.hidden, n_actions)
        for layer in (*self.convolutions, self.hidden, self.actions):
            INITIALISATIONS[initialisation](layer, 0.01 if layer is self.actions else 2**0.5, generator)

    def to_unit_range(self, state_BCHW: Tensor) -> Tensor:
        """States in [0, 1], in the parameters' dtype: raw frames (uint8) divided by 255, others unchanged.

        Raises:
            ValueError: states of the wrong shape, or of an integer type other than uint8.
        """
        if state_BCHW.shape[1:] != (STACK, FRAME, FRAME):
            raise ValueError(f"expected states of shape (B, {STACK}, {FRAME}, {FRAME}), got {tuple(state_BCHW.shape)}")
        if state_BCHW.dtype == torch.uint8:
            return state_BCHW.to(self.actions.weight.dtype) / 255
        if not state_BCHW.is_floating_point():
            raise ValueError(f"states are uint8 frames or floating-point in [0, 1], not {state_BCHW.dtype}")
        return state_BCHW

    def features(self, state_BCHW: Tensor) -> Tensor:
        """The hidden layer after its ReLU (B, F)."""
        h = self.to_unit_range(state_BCHW)
        for convolution in self.convolutions:
            h = convolution(h).relu()
        return self.hidden(h.flatten(1)).relu()

    def logits(self, state_BCHW: Tensor) -> Tensor:
        """Unnormalised log-probabilities (B, A)."""
        return self.actions(self.features(state_BCHW))

    def forward(self, state_BCHW: Tensor) -> Tensor:
        """Log-probabilities (B, A)."""
        return self.logits(state_BCHW).log_softmax(-1)


def teacher(n_actions: int, generator: torch.Generator | None = None) -> AtariPolicy:
    """The paper's teacher before training: 1.7 million parameters, initialised for policy gradients."""
    return AtariPolicy(n_actions, ARCHITECTURES["teacher"], initialisation="orthogonal", generator=generator)
