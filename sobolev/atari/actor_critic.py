"""Synchronous advantage actor-critic on many environments, which trains the teachers of Section 4.2.

The paper trains with A3C. Its synchronous form (A2C) is the policy gradient with advantages from a learned value. With
the clipped ratio of PPO (Schulman et al. 2017) the same data can be used for several epochs.

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

    The layers up to the hidden one are computed in `compute_dtype` and in the memory format channels_last, which is
    fastest if states are stored in it too. Frames stay bytes until the first convolution: whole numbers up to 255 are
    exact in bfloat16, and that convolution's weights are divided by 255 instead.

    Args:
        policy: the policy that is trained.
        compute_dtype: torch.float32 or torch.bfloat16, the dtype of computation. Parameters keep their own dtype.
        generator: the source of the value estimate's initial weights; torch's global one by default.
    """

    def __init__(
        self, policy: AtariPolicy, compute_dtype: torch.dtype = torch.float32, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.policy, self.compute_dtype = policy, compute_dtype
        self.value = nn.utils.skip_init(nn.Linear, policy.architecture.hidden, 1)
        nn.init.orthogonal_(self.value.weight, generator=generator)
        nn.init.zeros_(self.value.bias)

    def forward(self, frames_BCHW: Tensor, weights: Weights | None = None) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, A) and values (B,) of states in bytes. `weights` are what `cast` returns, if given."""
        *convolutions, hidden = weights or self.cast()
        h = frames_BCHW.to(self.compute_dtype)
        for (weight, bias), convolution in zip(convolutions, self.policy.architecture.convolutions, strict=True):
            h = F.conv2d(h, weight, bias, convolution.stride).relu_()
        features_BF = F.linear(h.permute(0, 2, 3, 1).flatten(1), *hidden).relu_().to(self.value.weight.dtype)
        return self.policy.actions(features_BF).log_softmax(-1), self.value(features_BF).squeeze(-1)

    def cast(self) -> Weights:
        """(weight, bias) of each layer up to the hidden one, in `compute_dtype`, for many calls without training."""
        *convolutions, hidden = layers = [*self.policy.convolutions, self.policy.hidden]
        scaled = [convolutions[0].weight / 255, *(convolution.weight for convolution in convolutions[1:])]
        weights = [weight.to(self.compute_dtype).contiguous(memory_format=torch.channels_last) for weight in scaled]
        channels = convolutions[-1].out_channels
        side = math.isqrt(hidden.in_features // channels)
        weight = hidden.weight.to(self.compute_dtype).view(-1, channels, side, side)
        weights.append(weight.permute(0, 2, 3, 1).flatten(1))
        biases = [layer.bias.to(self.compute_dtype) for layer in layers]
        return list(zip(weights, biases, strict=True))


@dataclass
class Rollout:
    """T steps of N environments under one policy.

    Attributes:
        states_TNHWC: uint8, of T + 1 steps: the last one is for the value after the last action.
        actions_TN: the actions that were taken.
        log_probs_TN: the log-probabilities of these actions.
        values_TN: the estimated values, of T + 1 steps as the states.
        rewards_TN: the rewards of the actions.
        terminal_TN: bool, whether the state after this step has no value, because the game (or the life) is over.
        ended_TN: bool, whether an episode ended with this step. The environment's next step starts a new one.
        alive_TN: bool, whether the action had an effect. It has none in a step that starts an episode; such steps are
            not used for learning.
    """

    states_TNHWC: Tensor
    actions_TN: Tensor
    log_probs_TN: Tensor
    values_TN: Tensor
    rewards_TN: Tensor
    terminal_TN: Tensor
    ended_TN: Tensor
    alive_TN: Tensor

    @classmethod
    def empty(cls, steps: int, n: int, n_frames: int, device: torch.device) -> Rollout:
        """An empty rollout for `steps` steps of n environments whose states have n_frames frames."""

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

    def advantages(self, gamma: float, gae_lambda: float) -> Tensor:
        """Generalised advantage estimates (T, N) (Schulman et al. 2016).

            d_t = r_t + gamma (1 - terminal_t) V(s_{t+1}) - V(s_t)
            A_t = d_t + gamma gae_lambda (1 - terminal_t) (1 - ended_t) A_{t+1}

        The value of the last state is used if an episode is truncated but not terminal.
        """
        values = self.values_TN
        errors = self.rewards_TN + gamma * values[1:] * ~self.terminal_TN - values[:-1]
        carried = gamma * gae_lambda * (~(self.terminal_TN | self.ended_TN)).to(errors.dtype)
        advantages = torch.empty_like(errors)
        following = torch.zeros_like(errors[0])
        for t in reversed(range(len(errors))):
            following = advantages[t] = errors[t] + carried[t] * following
        return advantages


@dataclass(frozen=True)
class Objective:
    """The loss of a minibatch: mean over samples of -(surrogate) + value_coef (V - R)^2 / 2 - entropy_coef H(pi).

    With the ratio r = pi(a|s) / pi_old(a|s) and the advantage A, the surrogate is min(r A, clamp(r, 1 - clip, 1 + clip)
    A), or r A if `clip` is 0. At r = 1 its gradient is the policy gradient A grad log pi(a|s).

    Attributes:
        clip: PPO's clip range; 0 does not clip.
        value_coef: weight of the value's squared error.
        entropy_coef: weight of the entropy.
        normalise_advantages: whether advantages are standardised within the minibatch.
    """

    clip: float
    value_coef: float
    entropy_coef: float
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
        """The loss, and for logging the minibatch's entropy, estimate of KL(old || new) and value error."""
        if self.normalise_advantages:
            advantages_B = (advantages_B - advantages_B.mean()) / (advantages_B.std() + 1e-8)
        change_B = log_probs_BA.gather(1, actions_B[:, None]).squeeze(1) - old_log_probs_B
        ratio_B = change_B.exp()
        surrogate_B = ratio_B * advantages_B
        if self.clip:
            surrogate_B = torch.minimum(surrogate_B, ratio_B.clamp(1 - self.clip, 1 + self.clip) * advantages_B)
        entropy = -(log_probs_BA.exp() * log_probs_BA).sum(1).mean()
        value_error = (values_B - returns_B).square().mean() / 2
        loss = -surrogate_B.mean() + self.value_coef * value_error - self.entropy_coef * entropy
        with torch.no_grad():
            divergence = (ratio_B - 1 - change_B).mean()  # non-negative, and unbiased as -change is
        return loss, {"entropy": entropy.detach(), "policy_kl": divergence, "value_error": value_error.detach()}


def sample(log_probs_NA: Tensor, uniform_NA: Tensor) -> Tensor:
    """Actions (N,) drawn from log-probabilities by the Gumbel-max trick, from uniform numbers in [0, 1)."""
    return (log_probs_NA - torch.log(-torch.log(uniform_NA.clamp(min=2.0**-25)))).argmax(1)
