"""Section 4.2: a teacher, trained to play one Atari game by synchronous advantage actor-critic.

The emulators' state cannot be saved, so training goes in segments. At the start of each segment, all environments are
reset with seeds that depend on the segment, the rows of the previous segment are recorded, and the checkpoint's state
is copied. A killed run repeats its segment and ends with the rows of an uninterrupted one. Rows `train score` are of
games that ended within their segment; games that its end cuts off, mostly long ones, are left out.

Training may start from a teacher's policy (`start`). Its steps are counted from 0.

Shape suffixes: T steps of a rollout, N environments, A actions, B = samples of a minibatch.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from experiments.distillation.settings import AtariDatasetConfig, TeacherConfig, TrainTeacherConfig
from experiments.runner.divergence import check_convergence
from experiments.runner.errors import BadInput, nearest
from experiments.runner.limits import check_memory
from experiments.runner.run import Run
from experiments.runner.settings import located
from sobolev.atari import (
    ActorCritic,
    AtariOptions,
    Environments,
    Objective,
    Rollout,
    environment_seeds,
    load_teacher,
    play,
    sample,
    teacher_bytes,
)
from sobolev.devices import to_device
from sobolev.files import replacing
from sobolev.networks.atari_policies import FRAME, AtariPolicy, teacher
from sobolev.seeding import generator


def main(config: TrainTeacherConfig, run: Run) -> dict:
    """Train one teacher and save it as teacher.safetensors; the objective is its negated score."""
    settings, seed = config.teacher, config.seed

    # Environments
    players = open_players(config)
    options = players.options
    per_update = settings.steps_per_update
    updates, per_segment = settings.steps // per_update, settings.segment // per_update

    # Model
    compute_dtype = getattr(torch, settings.compute_dtype.name)
    actor = ActorCritic(initial_policy(config, options), compute_dtype, generator(seed, "value init"))
    actor.to(run.device, run.dtype)
    objective = Objective(settings.clip, settings.value_coef, settings.entropy_coef, settings.normalise_advantages)
    optimizer = torch.optim.Adam(actor.parameters(), lr=settings.learning_rate, eps=1e-5, fused=True)
    rollout = players.rollout(run.device)

    # Loop
    first, segment = 0, Segment()
    if state := run.resume():
        first = state["update"]
        actor.load_state_dict(state["actor"])
        optimizer.load_state_dict(state["optimizer"])
    progress = run.progress(first, updates + 1)
    for update in progress:
        if update == updates or update % per_segment == 0:
            run.record(update * per_update, segment.rows(seed))
            largest = [parameter.detach().abs().max().item() for parameter in actor.parameters()]
            check_convergence(update * per_update, update == updates, {}, largest, "teacher.learning_rate")
            if segment.scores:
                progress.set_postfix(score=f"{np.mean(segment.scores):.1f}")
            segment = Segment()
            state = checkpoint(update, actor, optimizer)
            if update < updates:
                players.begin(environment_seeds(seed, "environments", settings.environments, update))
        run.checkpoint(lambda state=state: state)
        if update < updates:
            segment.scores += players.collect(rollout, actor, generator(seed, "actions", update))
            optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - update / updates)
            actor.policy.requires_grad_(update * per_update >= config.value_steps)
            shuffles = (generator(seed, "shuffle", update, epoch) for epoch in range(settings.epochs))
            segment.losses += learn(rollout, actor, objective, optimizer, shuffles, settings)

    # Evaluate
    with replacing(run.directory / "teacher.safetensors") as path:
        path.write_bytes(teacher_bytes(actor.policy, options))
    scores = whole_games(config, actor, options, run.device)
    run.save_arrays("scores", **scores)
    statistics = means_and_deviations(scores)
    run.record(updates * per_update, [(seed, "test", name, value) for name, value in statistics.items()])
    return {
        "objective": -statistics["score"],
        "steps": updates * per_update,
        "episodes": config.evaluation_episodes,
        "options": asdict(options),
        "start_sha256": config.start_sha256,
        **statistics,
    }


def check(config: TrainTeacherConfig) -> None:
    """Refuse an unknown algorithm, and what exceeds the memory; the settings refuse the rest."""
    settings = config.teacher
    if settings.algorithm not in ("ppo", "a2c"):
        raise BadInput(
            f"teacher.algorithm={settings.algorithm} is unknown{nearest(settings.algorithm, ['ppo', 'a2c'])}"
        )
    state = 4 * FRAME**2  # in bytes
    check_memory(
        {
            "teacher.environments and teacher.horizon": state * settings.environments * (settings.horizon + 1),
            "evaluation_episodes": state * config.evaluation_episodes,  # side by side
        }
    )


def initial_policy(config: TrainTeacherConfig, options: AtariOptions) -> AtariPolicy:
    """New weights, or those of the teacher to start from, if its options are the config's. `options` name actions."""
    if not config.start:
        return teacher(len(options.actions), generator(config.seed, "init"))
    try:
        started = load_teacher(located(config.start))
    except ValueError as error:
        raise BadInput(f"start: {error}") from None
    if started.sha256 != config.start_sha256:  # it came or changed after the config was composed
        raise BadInput(f"{config.start} is not the teacher that start_sha256={config.start_sha256} asks for")
    for key, value in asdict(started.options).items():
        if (asked := getattr(options, key)) != value:
            raise BadInput(f"dataset.{key}={asked}, but the teacher at {config.start} was trained with {value}")
    return started.policy.requires_grad_(True)


def whole_games(
    config: TrainTeacherConfig, actor: ActorCritic, options: AtariOptions, device: torch.device
) -> dict[str, np.ndarray]:
    """The scores of whole games, with sampled actions (`score`) and with the most probable ones (`score_greedy`)."""
    weights = actor.cast()
    return {
        name: play(
            lambda states: actor(states, weights)[0],
            options,
            config.evaluation_episodes,
            config.seed,
            greedy=name == "score_greedy",
            threads=torch.get_num_threads(),
            device=device,
        )
        for name in ("score", "score_greedy")
    }


def means_and_deviations(scores: dict[str, np.ndarray]) -> dict[str, float]:
    statistics = {}
    for name, values in scores.items():
        statistics |= {name: float(values.mean()), f"{name}_std": float(values.std())}
    return statistics


def checkpoint(update: int, actor: ActorCritic, optimizer: torch.optim.Optimizer) -> dict:
    """A copy of the state at a segment's start, which is saved however far the segment has gone by then."""
    state = {"update": update, "actor": actor.state_dict(), "optimizer": optimizer.state_dict()}
    return copy.deepcopy(state)


def atari_options(dataset: AtariDatasetConfig) -> AtariOptions:
    return AtariOptions(**{**asdict(dataset), "actions": tuple(dataset.actions)})


def open_players(config: TrainTeacherConfig) -> Players:
    try:
        options, n = atari_options(config.dataset), config.teacher.environments
        return Players(Environments(options, n, torch.get_num_threads()), config.teacher)
    except ValueError as error:
        raise BadInput(f"dataset: {error}") from None


class Segment:
    """Scores and losses between two resets of all environments."""

    def __init__(self) -> None:
        self.scores: list[float] = []  # of episodes that ended
        self.losses: list[dict[str, Tensor]] = []  # one per minibatch

    def rows(self, seed: int) -> Iterator[tuple[int, str, str, float]]:
        if self.scores:
            yield seed, "train", "score", float(np.mean(self.scores))
            yield seed, "train", "score_std", float(np.std(self.scores))
            yield seed, "train", "episodes", len(self.scores)
        for name in self.losses[0] if self.losses else ():
            yield seed, "train", name, torch.stack([losses[name] for losses in self.losses]).double().mean().item()


class Players:
    """Environments that continue from one rollout to the next."""

    def __init__(self, environments: Environments, settings: TeacherConfig):
        self.environments, self.settings = environments, settings
        self.options = AtariOptions(**asdict(environments.options) | {"actions": environments.actions})

    def begin(self, seeds_N: np.ndarray) -> None:
        self.states_NCHW = self.environments.reset(seeds_N)
        self.ended_N = np.zeros(len(seeds_N), bool)
        self.lives_N = np.zeros(len(seeds_N), np.int32)
        self.scores_N = np.zeros(len(seeds_N))

    def rollout(self, device: torch.device) -> Rollout:
        return Rollout.empty(self.settings.horizon, self.environments.n, self.options.stack, device)

    @torch.no_grad()
    def collect(self, rollout: Rollout, actor: ActorCritic, randomness: torch.Generator) -> list[float]:
        """Fill `rollout` and return the scores of the episodes that ended in it."""
        settings, weights, finished = self.settings, actor.cast(), []
        horizon, n = rollout.actions_TN.shape
        device = rollout.actions_TN.device
        uniform_TNA = torch.rand(horizon, n, self.environments.n_actions, generator=randomness)
        uniform_TNA = to_device(uniform_TNA, device)
        lived: dict[str, list[np.ndarray]] = defaultdict(list)  # copied at the end: a step waits only for its actions
        for t in range(horizon + 1):
            rollout.states_TNHWC[t] = to_device(torch.from_numpy(self.states_NCHW), device).permute(0, 2, 3, 1)
            log_probs_NA, rollout.values_TN[t] = actor(rollout.states_TNHWC[t].permute(0, 3, 1, 2), weights)
            if t == horizon:
                break
            actions_N = sample(log_probs_NA, uniform_TNA[t])
            rollout.actions_TN[t] = actions_N
            rollout.log_probs_TN[t] = log_probs_NA.gather(1, actions_N[:, None]).squeeze(1)
            step = self.environments.step(actions_N.cpu().numpy())
            alive_N, ended_N = ~self.ended_N, step.terminated_N | step.truncated_N
            terminal_N = step.terminated_N
            if settings.episodic_life:
                terminal_N = terminal_N | (step.lives_N < self.lives_N)
            rewards_N = np.clip(step.rewards_N, -1, 1) if settings.clip_rewards else step.rewards_N
            for name, array in (
                ("rewards_TN", rewards_N),
                ("terminal_TN", terminal_N),
                ("ended_TN", ended_N),
                ("alive_TN", alive_N),
            ):
                lived[name].append(array)
            self.scores_N += step.rewards_N
            finished += self.scores_N[ended_N].tolist()
            self.scores_N[ended_N] = 0
            self.states_NCHW, self.ended_N, self.lives_N = step.states_NCHW, ended_N, step.lives_N
        for name, arrays in lived.items():
            getattr(rollout, name).copy_(to_device(torch.from_numpy(np.stack(arrays)), device))
        return finished


def learn(
    rollout: Rollout,
    actor: ActorCritic,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    shuffles: Iterator[torch.Generator],
    settings: TeacherConfig,
) -> list[dict[str, Tensor]]:
    """Train one epoch per generator on the rollout's steps, and return the losses of each minibatch."""
    advantages_TN = rollout.advantages(settings.gamma, settings.gae_lambda)
    returns_TN = advantages_TN + rollout.values_TN[:-1]
    states = rollout.states_TNHWC[:-1].flatten(0, 1)
    data = (rollout.actions_TN, rollout.log_probs_TN, advantages_TN, returns_TN)
    flat = [tensor.flatten() for tensor in data]
    alive = rollout.alive_TN.flatten().nonzero().squeeze(1)
    said = []
    for randomness in shuffles:
        order = to_device(torch.randperm(len(alive), generator=randomness), alive.device)
        for batch in alive[order].tensor_split(settings.minibatches):
            log_probs_BA, values_B = actor(states[batch].permute(0, 3, 1, 2))
            loss, losses = objective(log_probs_BA, values_B, *(tensor[batch] for tensor in flat))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(actor.parameters(), settings.max_grad_norm)
            optimizer.step()
            said.append(losses)
    return said
