"""Playing whole episodes, to measure how well a policy plays.

Shape suffixes: N environments, C frames of a state, H rows, W columns, A actions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sobolev.atari.actor_critic import sample
from sobolev.atari.environments import AtariOptions, Environments, Transition
from sobolev.devices import to_device
from sobolev.seeding import generator


def environment_seeds(seed: int, stream: str, n: int, *indices: int) -> np.ndarray:
    """Seeds (n,), one per environment, in the range that the emulator accepts."""
    return torch.randint(2**31 - 1, (n,), generator=generator(seed, stream, *indices)).numpy()


@torch.no_grad()
def play(
    log_probs: Callable[[Tensor], Tensor],
    options: AtariOptions,
    episodes: int,
    seed: int,
    greedy: bool = False,
    threads: int = 0,
    device: str | torch.device = "cpu",
    watch: Callable[[Transition], None] = lambda step: None,
) -> np.ndarray:
    """The scores (episodes,) of whole games with all their lives, as the game counts them.

    Each episode has its own environment. If environments were reused, short episodes would count more often.

    Args:
        log_probs: a function from states (N, C, H, W) in bytes to log-probabilities (N, A).
        options: the options of the game.
        episodes: the number of episodes, which are played in parallel.
        seed: of the environments and of the actions.
        greedy: whether to take the most probable action instead of drawing one.
        threads: of the emulators; 0 means one per core.
        device: where `log_probs` expects states.
        watch: called with each step of all episodes. After an episode has ended, its environment plays on uncounted.
    """
    environments = Environments(options, episodes, threads)
    states = environments.reset(environment_seeds(seed, "play", episodes))
    scores, playing = np.zeros(episodes), np.ones(episodes, bool)
    actions = np.zeros(episodes, int)
    uniform = generator(seed, "play actions")
    while playing.any():
        log_probs_NA = log_probs(to_device(torch.from_numpy(states[playing]), device)).float().cpu()
        noise_NA = torch.rand(episodes, environments.n_actions, generator=uniform)[torch.from_numpy(playing)]
        chosen = log_probs_NA.argmax(1) if greedy else sample(log_probs_NA, noise_NA)
        actions[playing] = chosen.numpy()
        step = environments.step(actions)
        watch(step)
        scores += step.rewards_N * playing
        playing &= ~(step.terminated_N | step.truncated_N)
        states = step.states_NCHW
    return scores
