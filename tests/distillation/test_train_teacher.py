"""The experiment that trains a teacher: resuming, what it learns from, what it refuses; and teachers that ship."""

from __future__ import annotations

import json
import os
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import experiments.distillation.train_teacher
from experiments.distillation import export_teachers
from experiments.distillation.train_teacher import Players, learn
from experiments.runner.errors import BadInput
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of
from experiments.runner.scale import scale_of
from sobolev.atari import ActorCritic, AtariOptions, Objective, Rollout, Transition, load_teacher
from sobolev.networks.atari_policies import teacher
from sobolev.seeding import generator
from tests.conftest import composed

TEACHER = "experiment=train_teacher"


def interrupted(config, monkeypatch, update: int) -> None:
    """Run until the update of that number has been learned from."""
    calls = 0

    def failing(*arguments):
        nonlocal calls
        calls += 1
        if calls > update:
            raise RuntimeError("pulled the plug")
        return learn(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(experiments.distillation.train_teacher, "learn", failing)
        with pytest.raises(RuntimeError, match="pulled the plug"):
            execute(config)


def test_resumed_equals_uninterrupted_bit_for_bit(make_config, monkeypatch, capsys):
    """Six updates in segments of two; stopped in the middle of one and at the end of another."""
    whole, parts = make_config(TEACHER), make_config(TEACHER, "compute.checkpoint_seconds=0", runs="parts")
    execute(whole)
    interrupted(parts, monkeypatch, 3)
    interrupted(parts, monkeypatch, 2)
    execute(parts)
    assert "starts again" not in capsys.readouterr().err
    for name in ("metrics.csv", "teacher.safetensors"):
        assert (folder_of(whole) / name).read_bytes() == (folder_of(parts) / name).read_bytes()
    rows = (folder_of(whole) / "metrics.csv").read_text()
    for metric in ("train,entropy", "test,score", "test,score_greedy"):
        assert metric in rows


class Scripted:
    """Three environments that play by the tables below, six steps; a state's pixels are its step's number.

    The first loses a life, is over at the third step, is dead at the fourth and loses a life at the fifth. The second,
    of a game without lives, is cut at the second step and over at the sixth. The third only loses lives.
    """

    rewards_TN = np.array([[7, 0, 2], [0, -5, 0], [1, 0, -3], [0, 0, 4], [2, 3, 0], [0, 6, 1]], np.int32)
    lives_TN = np.array([[3, 0, 5], [2, 0, 4], [0, 0, 4], [3, 0, 4], [2, 0, 3], [2, 0, 3]], np.int32)
    terminated = frozenset({(2, 0), (5, 1)})
    truncated = frozenset({(1, 1)})

    n, actions, n_actions, options = 3, ("noop", "fire", "right", "left"), 4, AtariOptions("breakout")

    def reset(self, seeds_N: np.ndarray) -> np.ndarray:
        self.t = 0
        return self.states()

    def states(self) -> np.ndarray:
        return np.full((self.n, 4, 84, 84), self.t, np.uint8)

    def step(self, actions_N: np.ndarray) -> Transition:
        t = self.t
        self.t += 1
        ends = (np.array([(t, i) in at for i in range(self.n)]) for at in (self.terminated, self.truncated))
        return Transition(self.states(), self.rewards_TN[t], *ends, self.lives_TN[t])


@pytest.mark.parametrize("clip_rewards", [True, False])
@pytest.mark.parametrize("episodic_life", [True, False])
def test_two_rollouts_hold_what_the_environments_did(episodic_life, clip_rewards):
    """An end at the last step of the first rollout makes the first step of the second dead."""
    settings = SimpleNamespace(horizon=3, episodic_life=episodic_life, clip_rewards=clip_rewards)
    actor = ActorCritic(teacher(4, generator(0, "policy")), generator=generator(0, "value"))
    players = Players(Scripted(), settings)
    rollout = players.rollout(torch.device("cpu"))
    for _ in range(2):  # a second segment begins as the first
        players.begin(np.arange(3))
        found = {name: [] for name in ("alive_TN", "terminal_TN", "ended_TN", "rewards_TN", "states_TNHWC")}
        scores = []
        for _ in range(2):
            scores.append(players.collect(rollout, actor, generator(0, "actions")))
            for name, tensors in found.items():
                tensors.append(getattr(rollout, name).clone())
        found = {name: torch.cat(tensors) for name, tensors in found.items()}

        def at(*places: tuple[int, int]) -> list[list[bool]]:
            return [[(t, i) in places for i in range(3)] for t in range(6)]

        lost = {(1, 0), (4, 0), (1, 2), (4, 2)} if episodic_life else set()
        assert found["ended_TN"].tolist() == at((2, 0), (1, 1), (5, 1))
        assert (~found["alive_TN"]).tolist() == at((3, 0), (2, 1))
        assert found["terminal_TN"].tolist() == at((2, 0), (5, 1), *lost)
        rewards = Scripted.rewards_TN
        assert found["rewards_TN"].tolist() == (np.sign(rewards) if clip_rewards else rewards).tolist()
        assert scores == [[-5, 8], [9]]  # whole and not clipped, in the order of their ends
        assert found["states_TNHWC"][:, 0, 0, 0, 0].tolist() == [0, 1, 2, 3, 3, 4, 5, 6]


def test_dead_transitions_are_not_learned_from():
    settings = SimpleNamespace(gamma=0.99, gae_lambda=0.95, minibatches=2, max_grad_norm=0.5)
    learned = []
    for action in (0, 3):
        actor = ActorCritic(teacher(4, generator(0, "policy")), generator=generator(0, "value"))
        rollout = Rollout.empty(6, 2, 4, torch.device("cpu"))
        rollout.states_TNHWC.random_(0, 256, generator=generator(0, "states"))
        rollout.rewards_TN.normal_(generator=generator(0, "rewards"))
        rollout.log_probs_TN.fill_(-1.4)
        rollout.alive_TN.fill_(True)
        rollout.ended_TN[2, 0] = rollout.terminal_TN[2, 0] = True
        rollout.alive_TN[3, 0] = False
        rollout.actions_TN[3, 0] = action
        rollout.values_TN[3, 0] = rollout.rewards_TN[3, 0] = action
        rollout.states_TNHWC[3, 0] = action
        optimizer = torch.optim.SGD(actor.parameters(), lr=0.1)
        learn(rollout, actor, Objective(0.1, 0.5, 0.01, True), optimizer, [generator(0, "shuffle")], settings)
        learned.append(torch.cat([parameter.detach().flatten() for parameter in actor.parameters()]))
    start = ActorCritic(teacher(4, generator(0, "policy")), generator=generator(0, "value"))
    assert not torch.equal(learned[0], torch.cat([p.detach().flatten() for p in start.parameters()]))
    assert torch.equal(learned[0], learned[1])


def test_learns_which_action_pays():
    """States of one brightness pay for one action, those of another for another."""
    settings = SimpleNamespace(gamma=0.0, gae_lambda=0.0, minibatches=2, max_grad_norm=0.5)
    actor = ActorCritic(teacher(3, generator(0, "policy")), generator=generator(0, "value"))
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
    rollout = Rollout.empty(8, 8, 4, torch.device("cpu"))
    rollout.states_TNHWC[:, ::2] = 200
    best = torch.tensor([1, 2] * 4)
    rollout.alive_TN.fill_(True)
    rollout.terminal_TN.fill_(True)
    for step in range(12):
        with torch.no_grad():
            log_probs, values = actor(rollout.states_TNHWC.flatten(0, 1).permute(0, 3, 1, 2))
        probabilities = log_probs.exp().view(9, 8, 3)[:8]
        rollout.actions_TN = probabilities.flatten(0, 1).multinomial(1, generator=generator(0, "act", step)).view(8, 8)
        rollout.log_probs_TN = log_probs.view(9, 8, 3)[:8].gather(2, rollout.actions_TN[..., None]).squeeze(2)
        rollout.values_TN = values.view(9, 8)
        rollout.rewards_TN = (rollout.actions_TN == best).float()
        shuffles = [generator(0, "shuffle", step, epoch) for epoch in range(2)]
        learn(rollout, actor, Objective(0.2, 0.5, 0.0, True), optimizer, shuffles, settings)
    assert rollout.rewards_TN.mean() > 0.8


def test_a2c_is_the_same_code(make_config):
    config = make_config(TEACHER, "teacher=a2c", "teacher.horizon=8", "teacher.minibatches=1")
    assert (config.teacher.clip, config.teacher.epochs, config.labels.method) == (0, 1, "a2c")
    execute(config)
    assert (folder_of(config) / "teacher.safetensors").exists()


REFUSALS = {
    "dataset.game=brekout": "'brekout' is not an ALE game; the nearest: breakout",
    "dataset.actions=[jump]": "'jump' is not an action of breakout",
    "dataset.stack=3": "read 4 frames",
    "teacher.algorithm=a2c": "use teacher=a2c",
    "teacher.algorithm=pp0": "did you mean ppo",
    "teacher.clip=0": "use teacher=a2c",
    "teacher.steps=3": "less than one update's 16 steps",
    "teacher.segment=3": "less than one update's 16 steps",
    "teacher.minibatches=9": "too many for an update of 16 steps",
    "teacher.gamma=2": "between 0 and 1",
    "teacher.entropy_coef=-1": "0 or more",
    "evaluation_episodes=0": "must be positive",
    "teacher.learning_rate=nan": "must be positive and finite",
    "teacher.gae_lambda=-0.1": "between 0 and 1",
    "teacher.max_grad_norm=0": "must be positive",
    "value_steps=-1": "0 or more and less than teacher.steps",
    "teacher.value_coef=inf": "0 or more",
    "compute.precision=bfloat16": "train_teacher computes in float32 or float64",
    "seed=-1": "seed must be 0 or more",
}


@pytest.mark.parametrize("override", REFUSALS)
def test_refusals_are_one_line_and_leave_no_folder(make_config, tmp_path, override):
    with pytest.raises(BadInput, match=REFUSALS[override]) as caught:
        execute(make_config(TEACHER, override))
    assert "\n" not in str(caught.value)
    assert not any((tmp_path / "runs").glob("*/*"))


def test_games_ship_with_their_actions(make_config):
    numbers = {"pong": 3, "breakout": 0, "space_invaders": 0}
    for game, number in numbers.items():
        dataset = make_config(TEACHER, f"dataset=atari/{game}").dataset
        assert (dataset.game, len(dataset.actions)) == (game, number)


def test_a_game_played_otherwise_is_reduced():
    for game in ("pong", "breakout", "space_invaders"):
        for override in ("seed=3", "teacher.steps=20000000", "evaluation_episodes=64", "teacher.learning_rate=1e-4"):
            assert scale_of(composed(TEACHER, f"dataset=atari/{game}", override)) == "paper", override
        for override in (
            *("teacher.steps=9999999", "evaluation_episodes=31", "teacher.clip_rewards=false", "teacher.gamma=0.9"),
            *("dataset.actions=[noop,fire]", "dataset.action_repeat=1", "dataset.sticky_actions=0.25"),
            *("dataset.max_pool=false", "dataset.noop_max=0", "dataset.fire_reset=false"),
            "dataset.max_episode_frames=100",
        ):
            assert scale_of(composed(TEACHER, f"dataset=atari/{game}", override)) == "reduced", override
    assert scale_of(composed(TEACHER, "dataset=atari/pong", "dataset.actions=[]")) == "reduced"
    assert scale_of(composed(TEACHER, "dataset.game=seaquest")) == "paper"  # one of one's own is one more


def export(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["export_teachers", *map(str, arguments)])
    export_teachers.main()


def test_export_takes_the_teacher_with_most_steps_and_writes_its_card(make_config, tmp_path, monkeypatch):
    execute(make_config(TEACHER, "teacher.steps=16", "evaluation_episodes=1"))
    config = make_config(TEACHER)
    execute(config)
    export(monkeypatch, "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    card = json.loads((tmp_path / "out" / "breakout.json").read_text())
    read = load_teacher(tmp_path / "out" / "breakout.safetensors")
    assert card["sha256"] == read.sha256
    assert card["training"]["steps"] == 96
    assert card["frames"] == 4 * 96
    assert card["options"]["max_episode_frames"] == 100
    scores = np.load(folder_of(config) / "scores.npz")["score"]
    assert card["score"]["episodes"] == len(scores) == 2
    assert card["score"]["mean"] == pytest.approx(scores.mean(), abs=0.01)


def test_export_keeps_a_teacher_of_more_steps_or_other_options(make_config, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    file = out / "breakout.safetensors"

    def trained(*overrides: str) -> None:
        runs = f"runs_{overrides[0].partition('=')[2]}"
        execute(make_config(TEACHER, "evaluation_episodes=1", "teacher.segment=16", *overrides, runs=runs))
        capsys.readouterr()
        export(monkeypatch, "--runs", tmp_path / runs, "--out", out)

    trained("teacher.steps=32")
    first = file.read_bytes()
    for override, said in {
        "teacher.steps=16": "it has 16 steps, the one in .*breakout.safetensors 32",
        "dataset.noop_max=5": "it has other noop_max than .*breakout.json",
        "teacher=a2c": "it was trained by a2c, the one in .* by ppo",
    }.items():
        a2c = ["teacher.horizon=8", "teacher.minibatches=1"] if override == "teacher=a2c" else []
        with pytest.raises(SystemExit) as stopped:
            trained(override, *a2c)
        assert stopped.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert re.fullmatch(f"left out .*: {said} \\(--replace takes it\\)", line)
        assert file.read_bytes() == first

    # Of several runs, the best that may: one of other options is said, and stands in no other's way.
    assert export(monkeypatch, "--runs", *tmp_path.glob("runs_*"), "--out", out) is None
    assert "left out" in capsys.readouterr().err
    assert file.read_bytes() == first
    trained("teacher.steps=48")  # more steps
    assert json.loads((out / "breakout.json").read_text())["training"]["steps"] == 48
    (out / "breakout.json").write_text("{}")
    with pytest.raises(SystemExit):
        export(monkeypatch, "--runs", *tmp_path.glob("runs_*16"), "--out", out)
    assert "does not say how it was trained" in capsys.readouterr().err
    export(monkeypatch, "--runs", *tmp_path.glob("runs_*16"), "--out", out, "--replace")
    assert json.loads((out / "breakout.json").read_text())["training"]["steps"] == 16


def test_export_of_half_a_run_replaces_nothing(make_config, tmp_path, monkeypatch, capsys):
    config = make_config(TEACHER, "teacher.steps=16", "evaluation_episodes=1")
    execute(config)
    (folder_of(config) / "scores.npz").unlink()
    with pytest.raises(SystemExit, match="1"):
        export(monkeypatch, "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert re.fullmatch("left out, there is no file .*scores.npz: .*", capsys.readouterr().err.splitlines()[-1])
    assert not (tmp_path / "out").exists()


def test_export_says_what_is_missing(make_config, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=r"^error: no complete run of train_teacher .* makes one$"):
        export(monkeypatch, "--runs", tmp_path)
    config = make_config(TEACHER, "teacher.steps=16", "dataset.max_episode_frames=40")
    execute(config)
    (folder_of(config) / "teacher.safetensors").write_bytes(b"short")
    with pytest.raises(SystemExit, match="1"):
        export(monkeypatch, "--runs", tmp_path / "runs", "--out", tmp_path / "out")
    assert "not a whole safetensors file" in capsys.readouterr().err
    assert not (tmp_path / "out" / "breakout.json").exists()


def test_training_goes_on_from_a_teacher(make_config, atari_folder, tmp_path, monkeypatch, capsys):
    """From its policy; the value alone learns at first; what is exported says both trainings."""
    first = make_config(
        TEACHER, "teacher.steps=16", "evaluation_episodes=1", "dataset.max_episode_frames=400", runs="first"
    )
    execute(first)
    out = tmp_path / "out"
    export(monkeypatch, "--runs", tmp_path / "first", "--out", out)
    file, there = out / "breakout.safetensors", out / "breakout.json"
    go_on = ["experiment=continue_teacher", f"start={file}", "teacher.steps=32", "evaluation_episodes=1"]

    frozen = make_config(*go_on, "value_steps=31", "teacher.segment=16")
    execute(frozen)
    began, ended = load_teacher(file), load_teacher(folder_of(frozen) / "teacher.safetensors")
    assert (ended.sha256, ended.options) == (began.sha256, began.options)  # 2 updates, neither of the policy

    moved = make_config(*go_on, "value_steps=16", runs="moved")
    execute(moved)
    assert load_teacher(folder_of(moved) / "teacher.safetensors").sha256 != began.sha256
    whole, parts = (folder_of(moved) / "teacher.safetensors").read_bytes(), make_config(*go_on, "value_steps=16")
    interrupted(parts, monkeypatch, 1)
    execute(parts)
    assert (folder_of(parts) / "teacher.safetensors").read_bytes() == whole

    # It replaces what it began with if it scores more.
    known = json.loads(there.read_text())
    (out / "SHA256SUMS").unlink()  # of the card as it was
    score = json.loads((folder_of(moved) / "summary.json").read_text())["score"]
    there.write_text(json.dumps(known | {"score": {"mean": score + 1}}))
    with pytest.raises(SystemExit):
        export(monkeypatch, "--runs", tmp_path / "moved", "--out", out)
    assert "it scores" in capsys.readouterr().err
    there.write_text(json.dumps(known | {"score": {"mean": score - 1}}))
    # Of its runs and the one before, in whatever order they are found, the one with most steps in all.
    os.utime(folder_of(first) / "summary.json")
    export(monkeypatch, "--runs", tmp_path / "moved", tmp_path / "first", "--out", out)
    card = json.loads(there.read_text())
    assert card["training"]["steps"] == 48
    assert card["frames"] == 4 * 48
    assert card["before"]["run_id"] == known["run_id"]
    with pytest.raises(SystemExit):
        export(monkeypatch, "--runs", tmp_path / "moved", "--out", out)
    assert f"it is the one in {file}" in capsys.readouterr().err
    assert json.loads(there.read_text()) == card


def test_what_a_training_may_not_go_on_from(make_config, atari_folder, tmp_path):
    """Another game's teacher, none, one that changed meanwhile."""
    of_breakout = atari_folder / "teacher.safetensors"
    for overrides, said in {
        (f"start={of_breakout}", "dataset=atari/pong"): "trained with breakout",
        (f"start={tmp_path}/none",): "start: there is no teacher at",
        (f"start={of_breakout}", "start_sha256=0"): "is not the teacher that start_sha256=0 asks for",
        ("value_steps=96",): "less than teacher.steps",
    }.items():
        with pytest.raises(BadInput, match=said):
            execute(make_config(TEACHER, *overrides))
