"""Advantage actor-critic on many environments in step: how the teachers of Section 4.2 are trained here.

The paper trains with A3C. Its synchronous form is the policy gradient with advantages from a learned value; with
PPO's clipped ratio (Schulman et al. 2017) the same data serve several epochs.

Shape suffixes: T steps of a rollout, N environments, B samples of a minibatch, (C, H, W) a state, A actions,
F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sobolev.networks.atari_policies import FRAME, AtariPolicy

Weights = list[tuple[Tensor, Tensor]]


class ActorCritic(nn.Module):
    """A policy and, on its hidden layer, a linear estimate of the value.

    The layers up to the hidden one are computed in `products`, with channels last, which is fastest where states are
    stored so too. Frames stay bytes until the first convolution: whole numbers up to 255 are exact in bfloat16, so
    the division by 255 goes to that convolution's weights.

    Args:
        policy: what is trained, and all that is kept.
        products: torch.float32 or torch.bfloat16, the type of the products; parameters keep their own.
        generator: what the value's initial weights are drawn from.
    """

    def __init__(
        self, policy: AtariPolicy, products: torch.dtype = torch.float32, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.policy, self.products = policy, products
        self.value = nn.utils.skip_init(nn.Linear, policy.architecture.hidden, 1)
        nn.init.orthogonal_(self.value.weight, generator=generator)
        nn.init.zeros_(self.value.bias)

    def forward(self, frames_BCHW: Tensor, weights: Weights | None = None) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, A) and values (B,) of states in bytes; `weights` as `cast` returns them."""
        *convolutions, hidden = weights or self.cast()
        h = frames_BCHW.to(self.products)
        for (weight, bias), convolution in zip(convolutions, self.policy.architecture.convolutions, strict=True):
            h = F.conv2d(h, weight, bias, convolution.stride).relu_()
        features_BF = F.linear(h.permute(0, 2, 3, 1).flatten(1), *hidden).relu_().to(self.value.weight.dtype)
        return self.policy.actions(features_BF).log_softmax(-1), self.value(features_BF).squeeze(-1)

    def cast(self) -> Weights:
        """(weight, bias) up to the hidden layer in the type of the products: once for many calls that do not train."""
        *convolutions, hidden = layers = [*self.policy.convolutions, self.policy.hidden]
        scaled = [convolutions[0].weight / 255, *(convolution.weight for convolution in convolutions[1:])]
        weights = [weight.to(self.products).contiguous(memory_format=torch.channels_last) for weight in scaled]
        channels = convolutions[-1].out_channels
        side = math.isqrt(hidden.in_features // channels)
        of_hidden = hidden.weight.to(self.products).view(-1, channels, side, side).permute(0, 2, 3, 1).flatten(1)
        biases = [layer.bias.to(self.products) for layer in layers]
        return list(zip([*weights, of_hidden], biases, strict=True))


@dataclass
class Rollout:
    """T steps of N environments under one policy. `states` has one more, for the value after the last step."""

    states_TNHWC: Tensor  # uint8, T + 1
    actions_TN: Tensor
    log_probs_TN: Tensor  # of the actions taken
    values_TN: Tensor  # T + 1
    rewards_TN: Tensor
    terminal_TN: Tensor  # bool: no value after this step
    ended_TN: Tensor  # bool: the next step of this environment begins an episode
    alive_TN: Tensor  # bool: not such a step; only these are learned from

    @classmethod
    def empty(cls, steps: int, n: int, n_frames: int, device: torch.device) -> Rollout:
        def zeros(steps: int, dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros(steps, n, *shape, dtype=dtype, device=device)

        return cls(
            states_TNHWC=zeros(steps + 1, torch.uint8, FRAME, FRAME, n_frames),
            actions_TN=zeros(steps, torch.int64),
            log_probs_TN=zeros(steps, torch.float32),
            values_TN=zeros(steps + 1, torch.float32),
            rewards_TN=zeros(steps, torch.float32),
            terminal_TN=zeros(steps, torch.bool),
            ended_TN=zeros(steps, torch.bool),
            alive_TN=zeros(steps, torch.bool),
        )

    def advantages(self, discount: float, trace: float) -> Tensor:
        """Generalised advantages (T, N) (Schulman et al. 2016), `trace` being their lambda.

            d_t = r_t + discount (1 - terminal_t) V(s_{t+1}) - V(s_t)
            A_t = d_t + discount trace (1 - terminal_t) (1 - ended_t) A_{t+1}

        An episode that is cut, not over, counts the value of its last state.
        """
        values = self.values_TN
        errors = self.rewards_TN + discount * values[1:] * ~self.terminal_TN - values[:-1]
        carried = discount * trace * (~(self.terminal_TN | self.ended_TN)).to(errors.dtype)
        advantages = torch.empty_like(errors)
        following = torch.zeros_like(errors[0])
        for t in reversed(range(len(errors))):
            following = advantages[t] = errors[t] + carried[t] * following
        return advantages


@dataclass(frozen=True)
class Objective:
    """What a minibatch minimises: -(policy's gain) + value_weight (V - R)^2 / 2 - entropy_weight H(pi).

    With ratio r = pi(a|s) / pi_old(a|s), the policy's gain is min(r A, clamp(r, 1 - clip, 1 + clip) A), or r A where
    `clip` is 0: at r = 1 its gradient is the policy gradient A grad log pi(a|s).
    """

    clip: float
    value_weight: float
    entropy_weight: float
    normalise_advantages: bool

    def __call__(
        self,
        log_probs_BA: Tensor,
        values_B: Tensor,
        actions_B: Tensor,
        old_log_probs_B: Tensor,
        advantages_B: Tensor,
        returns_B: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and what is worth recording: entropy and KL(old || new), both estimated on the minibatch."""
        if self.normalise_advantages:
            advantages_B = (advantages_B - advantages_B.mean()) / (advantages_B.std() + 1e-8)
        change_B = log_probs_BA.gather(1, actions_B[:, None]).squeeze(1) - old_log_probs_B
        ratio_B = change_B.exp()
        gain_B = ratio_B * advantages_B
        if self.clip:
            gain_B = torch.minimum(gain_B, ratio_B.clamp(1 - self.clip, 1 + self.clip) * advantages_B)
        entropy = -(log_probs_BA.exp() * log_probs_BA).sum(1).mean()
        value_error = (values_B - returns_B).square().mean() / 2
        loss = -gain_B.mean() + self.value_weight * value_error - self.entropy_weight * entropy
        with torch.no_grad():
            divergence = (ratio_B - 1 - change_B).mean()  # non-negative and unbiased, unlike -change
        return loss, {"entropy": entropy.detach(), "policy_kl": divergence, "value_error": value_error.detach()}


def sample(log_probs_NA: Tensor, uniform_NA: Tensor) -> Tensor:
    """Actions (N,) drawn from log-probabilities by uniform numbers in [0, 1): Gumbel's maximum."""
    return (log_probs_NA - torch.log(-torch.log(uniform_NA.clamp(min=2.0**-25)))).argmax(1)
