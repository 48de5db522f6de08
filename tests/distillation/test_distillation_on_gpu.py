"""Steps of distillation and of a teacher's training on a GPU that is not there: they wait for actions alone."""

import pytest
import torch

from experiments.distillation import train, train_teacher
from sobolev.atari import ActorCritic, Objective, environment_seeds
from sobolev.networks.atari_policies import Architecture, AtariPolicy, Convolution
from sobolev.seeding import generator
from tests.fakecuda import FakeGPU, FakeRun


@pytest.mark.parametrize("objective", ["value", "sobolev", "derivative"])
def test_a_step_of_distillation_waits_for_nothing(make_config, tmp_path, objective):
    options = ["optimizer.steps=4", "evaluations=1", "play_episodes=0", "recorded_gib=0", "compute_dtype=bfloat16"]
    config = make_config("experiment=distill_atari", f"objective={objective}", *options)
    with FakeGPU() as gpu:
        train.main(config, run := FakeRun(config, gpu, tmp_path))
    steps = run.between_measurements()
    assert len(steps) >= 2
    # Which states and which projections are taken there beforehand, those of many updates at once.
    assert steps == [{"pageable": 0, "pinned": 0, "waits": 0}] * len(steps)


def new_actor(players: train_teacher.Players) -> ActorCritic:
    small = Architecture((Convolution(4, 8, 4), Convolution(4, 4, 2)), 16)
    policy = AtariPolicy(players.environments.n_actions, small, generator=generator(0, "policy"))
    return ActorCritic(policy, generator=generator(0, "value"))


def test_a_step_of_the_emulators_waits_for_its_actions_alone(make_config):
    config = make_config("experiment=train_teacher")
    players, settings = train_teacher.open_players(config), config.teacher
    players.begin(environment_seeds(0, "environments", settings.environments, 0))
    objective = Objective(settings.clip, settings.value_coef, settings.entropy_coef, settings.normalise_advantages)
    with FakeGPU() as gpu:
        actor = new_actor(players).to(gpu.device)
        optimizer = torch.optim.Adam(actor.parameters(), lr=1e-4, fused=True)
        rollout = players.rollout(gpu.device)
        gpu.begin()
        players.collect(rollout, actor, generator(0, "actions", 0))
        assert gpu.waits == {"copy back": settings.horizon}
        # A state each; random numbers, rewards, ends, terminals and what was alive once.
        assert gpu.pinned == settings.horizon + 1 + 5
        gpu.begin()
        shuffles = [generator(0, "shuffle", 0, epoch) for epoch in range(2)]
        train_teacher.learn(rollout, actor, objective, optimizer, iter(shuffles), settings)
        assert gpu.waits == {"nonzero": 1}
        assert gpu.pinned == 2
    assert not gpu.pageable


def test_a_rollout_is_what_the_environments_did(make_config):
    """Its arrays are copied once, so none may be one that the emulators write into again."""
    config = make_config("experiment=train_teacher", "teacher.horizon=12", "teacher.clip_rewards=false")
    players = train_teacher.open_players(config)
    players.begin(environment_seeds(0, "environments", 2, 0))
    rollout = players.rollout(torch.device("cpu"))
    true_step, seen = players.environments.step, []

    def step(actions):
        seen.append({name: array.copy() for name, array in true_step(actions)._asdict().items()})
        return type("Step", (), seen[-1])

    actor = new_actor(players)
    players.environments.step = step
    players.collect(rollout, actor, generator(0, "actions", 0))
    assert rollout.rewards_TN.tolist() == [each["rewards_N"].tolist() for each in seen]
    ended = [(each["terminated_N"] | each["truncated_N"]).tolist() for each in seen]
    assert rollout.ended_TN.tolist() == ended
    assert rollout.alive_TN[1:].tolist() == [[not end for end in ends] for ends in ended[:-1]]
    assert len(seen) == 12
