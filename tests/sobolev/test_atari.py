"""Environments, actor-critic, teachers' files, whole games and recorded states, each beside a plain second version."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from sobolev.atari import (
    ActorCritic,
    AtariOptions,
    Environments,
    Objective,
    RecordedStates,
    Recording,
    Rollout,
    environment_seeds,
    games,
    load_teacher,
    play,
    record,
    sample,
    shards,
    teacher_bytes,
)
from sobolev.atari.recorded_states import Episodes
from sobolev.networks.atari_policies import teacher
from sobolev.seeding import generator

SHORT = AtariOptions("breakout", ("noop", "fire", "right", "left"), max_episode_frames=100)
PLAYS = {"sobolev atari teacher 1": json.dumps({"game": "breakout", "actions": SHORT.actions})}


def frames(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (n, 4, 84, 84), generator=generator(seed, "frames"), dtype=torch.uint8)


def run_through(options: AtariOptions, actions_TN: np.ndarray, threads: int = 1, seeds=(5, 9)) -> list:
    environments = Environments(options, len(seeds), threads)
    first = environments.reset(np.array(seeds))
    return [first, *(environments.step(actions_N) for actions_N in actions_TN)]


class TestEnvironments:
    def test_seeds_decide_whatever_the_threads(self):
        options = replace(SHORT, sticky_actions=0.25)
        actions = np.random.default_rng(0).integers(4, size=(60, 2))
        (first, *one), (again, *two) = (run_through(options, actions, threads) for threads in (1, 2))
        other, *third = run_through(options, actions, seeds=(6, 9))
        np.testing.assert_array_equal(first, again)
        for a, b in zip(one, two, strict=True):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(first[1], other[1])
        np.testing.assert_array_equal(one[9].states_NCHW[1], third[9].states_NCHW[1])
        assert (one[9].states_NCHW[0] != third[9].states_NCHW[0]).any()

    def test_named_actions_are_the_emulators(self):
        pong = AtariOptions("pong", max_episode_frames=200)
        three = replace(pong, actions=("noop", "right", "left"))
        assert Environments(pong, 1).actions == ("noop", "fire", "right", "left", "rightfire", "leftfire")
        chosen = np.random.default_rng(0).integers(3, size=(30, 2))
        few = run_through(three, chosen)
        all_six = run_through(pong, np.array([0, 2, 3])[chosen])
        for a, b in zip(few[1:], all_six[1:], strict=True):
            np.testing.assert_array_equal(a.states_NCHW, b.states_NCHW)

    def test_the_step_after_an_end_is_dead(self):
        """Its action changes nothing, its reward is 0, and a stack begins anew."""
        actions = np.random.default_rng(0).integers(4, size=(60, 2))
        _, *steps = run_through(SHORT, actions)
        ends = [t for t, step in enumerate(steps) if step.truncated_N[0]]
        assert len(ends) >= 2
        dead = ends[0] + 1
        changed = actions[: dead + 1].copy()
        changed[dead, 0] = (changed[dead, 0] + 1) % 4
        after = run_through(SHORT, changed)[-1]
        np.testing.assert_array_equal(after.states_NCHW, steps[dead].states_NCHW)
        assert steps[dead].rewards_N[0] == 0
        assert not steps[dead].states_NCHW[0, :3].any()
        assert steps[dead].states_NCHW[0, 3].any()

    def test_a_lost_life_does_not_end_the_game(self):
        options = replace(SHORT, max_episode_frames=100_000)
        _, *steps = run_through(options, np.random.default_rng(0).integers(4, size=(150, 2)))
        lives = [step.lives_N[0] for step in steps]
        lost = [t for t in range(1, len(lives)) if lives[t] < lives[t - 1]]
        assert len(lost) >= 2
        assert not any(step.terminated_N[0] for step in steps[: lost[1]])

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (AtariOptions("brekout"), "nearest: breakout"),
            (AtariOptions("SpaceInvaders"), "space_invaders"),
            (AtariOptions("xyzzy"), rf"^'xyzzy' is not an ALE game; sobolev.atari.games\(\) lists all {len(games())}$"),
            (AtariOptions("pong", ("up",)), "'up' is not an action of pong; choose from noop, fire, right"),
            (AtariOptions("pong", action_repeat=0), "action_repeat must be 1 or more"),
            (AtariOptions("pong", sticky_actions=1.5), "probability"),
        ],
    )
    def test_refusals_name_what_is_wrong(self, options, said):
        with pytest.raises(ValueError, match=said):
            Environments(options, 1)


class TestActorCritic:
    def test_is_the_policy_and_a_linear_value(self):
        policy = teacher(6, generator(0, "policy"))
        actor, states = ActorCritic(policy, generator=generator(0, "value")), frames(5)
        log_probs, values = actor(states)
        torch.testing.assert_close(log_probs, policy(states))
        torch.testing.assert_close(actor(states.contiguous(memory_format=torch.channels_last))[0], log_probs)
        torch.testing.assert_close(values, actor.value(policy.features(states)).squeeze(1))
        direction = torch.randn(5, 6, generator=generator(0, "direction"))
        ours = torch.autograd.grad((log_probs * direction).sum(), [*policy.parameters()])
        theirs = torch.autograd.grad((policy(states) * direction).sum(), [*policy.parameters()])
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    def test_bfloat16_products_are_close(self):
        policy = teacher(6, generator(0, "policy"))
        torch.nn.init.normal_(policy.actions.weight, std=0.1, generator=generator(0, "actions"))
        exact, rounded = ActorCritic(policy), ActorCritic(policy, torch.bfloat16)
        states = frames(16)
        # Five layers round by 2^-9 each, and a logit is a difference of sums that are larger than it is.
        torch.testing.assert_close(rounded(states)[0], exact(states)[0], rtol=0, atol=15 * 2**-9)
        gradients = [
            torch.cat([g.flatten() for g in torch.autograd.grad(net(states)[0][:, 0].mean(), [*policy.parameters()])])
            for net in (exact, rounded)
        ]
        assert (gradients[0] - gradients[1]).norm() < 0.05 * gradients[0].norm()

    def test_advantages_are_sums_over_each_episode(self):
        rng = np.random.default_rng(0)
        rollout = Rollout.empty(30, 3, 4, torch.device("cpu"))
        rollout.rewards_TN, rollout.values_TN = torch.from_numpy(rng.normal(size=(30, 3))), torch.randn(31, 3).double()
        rollout.terminal_TN = torch.from_numpy(rng.random((30, 3)) < 0.1)
        rollout.ended_TN = torch.from_numpy(rng.random((30, 3)) < 0.1)
        advantages = rollout.advantages(0.9, 0.8)
        for n in range(3):
            for t in range(30):
                expected, weight = 0.0, 1.0
                for k in range(t, 30):
                    following = 0 if rollout.terminal_TN[k, n] else rollout.values_TN[k + 1, n]
                    error = rollout.rewards_TN[k, n] + 0.9 * following - rollout.values_TN[k, n]
                    expected += weight * error
                    weight *= 0.9 * 0.8
                    if rollout.terminal_TN[k, n] or rollout.ended_TN[k, n]:
                        break
                assert advantages[t, n] == pytest.approx(float(expected), abs=1e-9)

    @pytest.mark.parametrize("clip", [0.0, 0.1])
    def test_objective_against_a_loop(self, clip):
        torch.manual_seed(0)
        logits = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
        values, old = torch.randn(20).double(), torch.randn(20).double() * 0.2 - 1.4
        actions, advantages, returns = torch.randint(4, (20,)), torch.randn(20).double(), torch.randn(20).double()
        objective = Objective(clip, 0.5, 0.01, normalise_advantages=False)
        loss, _ = objective(logits.log_softmax(1), values, actions, old, advantages, returns)
        expected = 0.0
        for b in range(20):
            p = torch.softmax(logits[b].detach(), 0)
            ratio = p[actions[b]] / old[b].exp()
            gain = ratio * advantages[b]
            if clip:
                gain = min(gain, min(max(ratio, 1 - clip), 1 + clip) * advantages[b])
            expected += -gain + 0.25 * (values[b] - returns[b]) ** 2 + 0.01 * (p * p.log()).sum()
        assert loss.item() == pytest.approx(float(expected) / 20, abs=1e-12)
        assert torch.autograd.gradcheck(
            lambda y: objective(y.log_softmax(1), values, actions, old, advantages, returns)[0], logits
        )

    def test_without_clipping_the_first_step_is_the_policy_gradient(self):
        torch.manual_seed(0)
        logits = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
        actions, advantages = torch.randint(4, (20,)), torch.randn(20).double()
        log_probs = logits.log_softmax(1)
        taken = log_probs[torch.arange(20), actions]
        zero = torch.zeros(20).double()
        loss, said = Objective(0.0, 0.5, 0.0, False)(log_probs, zero, actions, taken.detach(), advantages, zero)
        ours = torch.autograd.grad(loss, logits, retain_graph=True)
        torch.testing.assert_close(ours, torch.autograd.grad(-(advantages * taken).mean(), logits))
        assert said["policy_kl"] == 0

    def test_actions_are_drawn_with_their_probabilities(self):
        log_probs = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
        uniform = torch.rand(40_000, 4, generator=generator(0, "uniform"))
        counts = sample(log_probs.expand(40_000, 4), uniform).bincount(minlength=4)
        torch.testing.assert_close(counts / 40_000, log_probs.exp(), rtol=0, atol=0.01)
        assert sample(log_probs[None], torch.zeros(1, 4)).item() == 0  # no number is too small


class TestTeacherFiles:
    def test_what_was_written_is_read(self, tmp_path):
        policy = teacher(4, generator(0, "policy"))
        (tmp_path / "a.safetensors").write_bytes(teacher_bytes(policy, SHORT))
        read = load_teacher(tmp_path / "a.safetensors")
        assert read.options == SHORT
        assert not any(parameter.requires_grad for parameter in read.policy.parameters())
        torch.testing.assert_close(read.policy(frames(2)), policy(frames(2)), rtol=0, atol=0)
        assert (tmp_path / "a.safetensors").stat().st_size < 7e6

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_parameters_become_float32(self, tmp_path, dtype):
        state = {name: tensor.to(dtype) for name, tensor in teacher(4).state_dict().items()}
        save_file(state, tmp_path / "a", PLAYS)
        for name, tensor in load_teacher(tmp_path / "a").policy.state_dict().items():
            assert torch.equal(tensor, state[name].float())

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"extra": torch.zeros(1)}, "it differs from one in extra"),
            ({"actions.bias": torch.zeros(3)}, r"actions.bias has shape \(3,\), expected \(4,\)"),
            (
                {"actions.bias": torch.full((4,), torch.nan)},
                "actions.bias holds numbers that are not finite in",
            ),
            (
                {"actions.bias": torch.full((4,), 1e300, dtype=torch.double)},
                "actions.bias holds numbers that are not finite",
            ),
            ({"actions.bias": torch.zeros(4).int()}, "actions.bias has type I32, expected one of F16, BF16, F32, F64"),
            ({"actions.bias": torch.zeros(4).bool()}, "actions.bias has type BOOL, expected"),
            ({"actions.bias": torch.zeros(4).cfloat()}, "actions.bias has type C64, expected"),
            ({"actions.bias": torch.zeros(4).to(torch.float8_e5m2)}, "actions.bias has type F8_E5M2, expected"),
        ],
    )
    def test_parameters_that_are_no_teachers_are_refused(self, tmp_path, changes, said):
        save_file(teacher(4).state_dict() | changes, tmp_path / "a", PLAYS)
        with pytest.raises(ValueError, match=rf"a is no teacher: {said}") as caught:
            load_teacher(tmp_path / "a")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("says", "said"),
        [
            ("breakout", "Expecting value"),
            ("[1]", "these are no options of a game"),
            ("null", "these are no options of a game"),
            ("[" * 100_000, "maximum recursion depth"),
            ({"game": "breakout"}, "these are no options of a game .*actions"),
            ({"unknown": 1}, "unexpected keyword argument 'unknown'"),
            ({"game": "../../x"}, r"'../../x' is not an ALE game"),  # a recording's folder is named after it
            ({"game": ["breakout"]}, "is not an ALE game"),
            ({"actions": 4}, "these are no options"),
            ({"actions": []}, "a policy needs an action"),
            ({"actions": "noop"}, "actions are different ones of noop, fire"),
            ({"actions": ["noop"] * 4}, "actions are different ones of noop, fire"),
            ({"actions": ["noop", "jump"]}, "actions are different ones of noop, fire"),
            ({"actions": [1, 2]}, "actions are names"),
            ({"stack": 3}, "stack is 3, expected 4"),
            ({"stack": 10**12}, r"stack must be 1 or more, and a whole number below 2\^31"),
            ({"stack": True}, "stack must be"),
            ({"noop_max": 1.5}, "noop_max must be 0 or more"),
            ({"fire_reset": 1}, "fire_reset must be true or false"),
            ({"sticky_actions": True}, "sticky_actions is a probability"),
            ({"sticky_actions": float("nan")}, "sticky_actions is a probability"),
        ],
    )
    def test_metadata_of_another_form_is_refused(self, tmp_path, says, said):
        if isinstance(says, dict):
            fields = {"game": "breakout", "actions": ["noop"]} | says
            says = json.dumps(says if says == {"game": "breakout"} else fields)
        save_file({"x": torch.zeros(2)}, tmp_path / "a", {"sobolev atari teacher 1": says})
        with pytest.raises(ValueError, match=rf"a is no teacher: .*{said}") as caught:
            load_teacher(tmp_path / "a")
        assert "\n" not in str(caught.value)

    def test_what_is_no_teachers_file_is_refused(self, tmp_path):
        file = tmp_path / "a.safetensors"
        for make in (lambda _: None, os.mkfifo, os.mkdir):
            make(file)
            with pytest.raises(ValueError, match=r"there is no teacher at .*a\.safetensors"):
                load_teacher(file)
            if file.is_fifo():
                file.unlink()
        file = tmp_path / "b.safetensors"
        whole = teacher_bytes(teacher(4), SHORT)
        for content in (b"", whole[:-1000], whole + b"\0", b"\xff" * 100):
            file.write_bytes(content)
            with pytest.raises(ValueError, match=r"b.safetensors is not a whole safetensors file"):
                load_teacher(file)
        save_file({"x": torch.zeros(2)}, file)
        with pytest.raises(ValueError, match=r"b.safetensors is no teacher: its metadata has no 'sobolev atari"):
            load_teacher(file)

    def test_options_that_are_not_the_policys_are_not_written(self):
        with pytest.raises(ValueError, match="4 actions in the policy and 6"):
            teacher_bytes(teacher(4), replace(SHORT, actions=("noop",) * 6))
        with pytest.raises(ValueError, match="a policy's states have 4 frames, and the options' have 3"):
            teacher_bytes(teacher(4), replace(SHORT, stack=3))


def test_play_counts_the_first_game_of_each_environment():
    options = AtariOptions("pong", ("noop", "right", "left"), max_episode_frames=300)

    def by_brightness(states: torch.Tensor) -> torch.Tensor:
        brightness = states[:, -1].float().mean((1, 2))
        action = (brightness * 1000).long() % 3
        return torch.nn.functional.one_hot(action, 3) * 2.0

    scores = play(by_brightness, options, 3, seed=0, greedy=True, threads=1)
    for seed, score in zip(environment_seeds(0, "play", 3), scores, strict=True):
        environment = Environments(options, 1)
        states, total, over = environment.reset(np.array([seed])), 0, False
        while not over:
            action = by_brightness(torch.from_numpy(states)).argmax(1).numpy()
            states, rewards, terminated, truncated, _ = environment.step(action)
            total, over = total + int(rewards[0]), terminated[0] or truncated[0]
        assert score == total
    assert scores.min() < 0


def test_play_draws_by_its_seed():
    def seen(seed: int, greedy: bool = False) -> torch.Tensor:
        states = []

        def nearly_uniform(states_NCHW: torch.Tensor) -> torch.Tensor:
            states.append(states_NCHW[:, -1].clone())
            return torch.tensor([0.0, 0.1, 0.0, 0.0]).expand(len(states_NCHW), 4)

        play(nearly_uniform, SHORT, 2, seed, greedy, threads=1)
        return torch.cat(states)

    assert torch.equal(seen(0), seen(0))
    assert not torch.equal(seen(0), seen(1))
    assert not torch.equal(seen(0), seen(0, greedy=True))


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Recording:
    policy = teacher(4, generator(0, "teacher"))
    torch.nn.init.normal_(policy.actions.weight, std=0.3, generator=generator(0, "actions"))
    file = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    file.write_bytes(teacher_bytes(policy, SHORT))
    return Recording(load_teacher(file), states=170, environments=3, seed=1)


@pytest.fixture(autouse=True)
def short_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_STEPS", 20)


def by_hand(recording: Recording) -> list[dict]:
    """The same states as stacks, episode by episode, from one environment at a time."""
    n = recording.environments
    seeds = environment_seeds(recording.seed, "recorded environments", n)
    environments = Environments(recording.teacher.options, n, 1)
    states, alive = environments.reset(seeds), np.ones(n, bool)
    current, episodes, count = [None] * n, [], 0
    for t in range(10_000):
        uniform = torch.rand(20, n, 4, generator=generator(recording.seed, "recorded", t // 20))[t % 20]
        actions = sample(recording.teacher.policy(torch.from_numpy(states)), uniform).numpy()
        step = environments.step(actions)
        for i in range(n):
            if not alive[i]:
                current[i] = None
            elif count < recording.states:
                if current[i] is None:
                    current[i] = {"began": (t, i), "states": []}
                    episodes.append(current[i])
                current[i]["states"].append(states[i])
                count += 1
        if count >= recording.states:
            return sorted(episodes, key=lambda episode: episode["began"])
        states, alive = step.states_NCHW, ~(step.terminated_N | step.truncated_N)
    raise AssertionError


@pytest.fixture(scope="module")
def whole(recording, tmp_path_factory) -> Path:
    """A complete recording in shards of 20 steps, which tests read and copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_STEPS", 20)
        return record(recording, tmp_path_factory.mktemp("recordings"), threads=2)


def write_shard(file: Path, arrays: dict[str, np.ndarray | bytes]) -> None:
    """As NumPy writes arrays, or the bytes that are given for one."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO(array if isinstance(array, bytes) else b"")
            if isinstance(array, np.ndarray):
                np.save(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue())


class TestRecordedStates:
    def test_stacks_are_what_the_environment_showed(self, recording, whole):
        read = RecordedStates.load(whole, recording)
        expected = by_hand(recording)
        assert len(read) == 170
        assert len(expected) > 6
        stacks = torch.from_numpy(np.concatenate([episode["states"] for episode in expected]))
        assert torch.equal(read.stack(torch.arange(170)), stacks)
        some = torch.tensor([169, 0, 1, 2, 25, 26, 27, 28])
        assert torch.equal(read.stack(some), stacks[some])
        assert read.episodes.lengths.tolist() == [len(episode["states"]) for episode in expected]

    def test_an_interrupted_recording_goes_on_without_the_teacher(self, recording, whole, tmp_path):
        def pull_the_plug(states: int) -> None:
            if len([*(tmp_path / "parts").glob("*/shard_*.npz")]) == 2:
                raise RuntimeError("pulled the plug")

        with pytest.raises(RuntimeError, match="pulled the plug"):
            record(recording, tmp_path / "parts", progress=pull_the_plug)
        (path,) = (tmp_path / "parts").iterdir()
        with pytest.raises(ValueError, match="no complete recording"):
            RecordedStates.load(path)
        asked = []
        hook = recording.teacher.policy.register_forward_hook(lambda *_: asked.append(1))
        added = []
        assert record(recording, tmp_path / "parts", progress=added.append) == path
        hook.remove()
        assert len(asked) < 170 / 3 - 2 * 20 + 10
        assert sum(added) >= 170
        for file in whole.glob("*.npz"):
            for name, array in np.load(file).items():
                np.testing.assert_array_equal(array, np.load(path / file.name)[name])
        before = (path / "header.json").stat().st_mtime_ns
        record(recording, tmp_path / "parts", progress=pull_the_plug)  # cached: nothing is played
        assert (path / "header.json").stat().st_mtime_ns == before

    def test_another_question_has_another_folder(self, recording):
        names = {recording.name, replace(recording, seed=2).name, replace(recording, states=171).name}
        names.add(replace(recording, environments=2).name)
        names.add(replace(recording, teacher=replace(recording.teacher, sha256="0")).name)
        names.add(replace(recording, device="cuda").name)
        assert len(names) == 6

    def test_a_recording_says_whether_another_device_than_the_cpu_made_it(self, recording, whole, tmp_path):
        """And one of the CPU is called as before recordings said so."""
        assert "device" not in recording.description
        on_gpu = replace(recording, device="cuda:1")
        assert on_gpu.description == recording.description | {"device": "cuda"}
        path = shutil.copytree(whole, tmp_path / "copy")
        with pytest.raises(ValueError, match=r"header.json: device is 'cpu', expected 'cuda'"):
            RecordedStates.load(path, on_gpu)
        header = json.loads((path / "header.json").read_text())
        (path / "header.json").write_text(json.dumps(header | {"device": "cuda"}))
        assert len(RecordedStates.load(path, on_gpu)) == recording.states
        with pytest.raises(ValueError, match=r"header.json: device is 'cuda', expected 'cpu'"):
            RecordedStates.load(path, recording)

    def test_a_recording_that_is_damaged_or_another_is_refused_by_name(self, recording, whole, tmp_path):
        path = shutil.copytree(whole, tmp_path / "copy")
        with pytest.raises(ValueError, match=r"header.json: seed is 1, expected 2"):
            RecordedStates.load(path, replace(recording, seed=2))
        shard, header = path / "shard_001.npz", path / "header.json"
        content, said = shard.read_bytes(), header.read_text()

        def refused(match: str) -> None:
            with pytest.raises(ValueError, match=match) as caught:
                RecordedStates.load(path)
            assert "\n" not in str(caught.value)

        shard.write_bytes(content[:-100])
        refused(r"shard_001.npz is not what was recorded: remove .*copy to record it again")
        os.truncate(shard, 2**40)
        refused(r"shard_001.npz has 1,099,511,627,776 bytes, expected 847,440 at most")
        shard.unlink()
        refused(r"shard_001.npz is missing")
        for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to(whole / path.name)):
            make(shard)
            refused(r"shard_001.npz is no regular file")
            shard.rmdir() if shard.is_dir() else shard.unlink()
        shard.write_bytes(content)
        assert len(RecordedStates.load(path)) == 170

        fields = json.loads(said)
        shards = fields["shards"]
        fewer = dict([*shards.items()][:2])
        outside = {"../x.npz" if name == "shard_001.npz" else name: digest for name, digest in shards.items()}
        reordered = dict(sorted(shards.items(), reverse=True))
        for changed, match in (
            ("{}", "expected format, teacher, options, states"),
            ("[1]", "expected format"),
            ("not json", "is no header of a recording"),
            ("[" * 100_000, "maximum recursion depth"),
            (said.encode()[:-1] + b"\xff", "is no header of a recording"),
            ({"format": "other"}, "format is 'other', expected 'sobolev recorded states 1'"),
            ({"states": True}, "states is True, expected int"),
            ({"states": "170"}, "states is '170', expected int"),
            ({"states": 0}, "states, environments and shards must be 1 or more"),
            ({"states": 100}, "says 100 states, its shards hold 17"),
            ({"states": 400}, "says 400 states, its shards hold 17"),
            ({"shards": fewer}, "says 170 states, its shards hold"),  # a header that signs fewer steps
            ({"shards": outside}, "shards must be shard_000.npz and on, without a gap"),
            ({"shards": reordered}, "shards must be shard_000.npz and on, without a gap"),
            ({"shards": shards | {"shard_001.npz": None}}, "is not what was recorded"),
            ({"environments": 2}, r"alive is bool \(20, 3\), expected bool \(T, 2\) with T from 1 to 20"),
            ({"environments": 10**12}, r"alive is bool \(20, 3\), expected bool \(T, 1000000000000\)"),
            ({"options": {}}, "these are no options of a game"),
            ({"options": fields["options"] | {"stack": 2**40}}, "stack must be 1 or more"),
            ({"extra": 1}, "expected format, teacher"),
        ):
            text = json.dumps(fields | changed) if isinstance(changed, dict) else changed
            header.write_bytes(text if isinstance(text, bytes) else text.encode())
            refused(rf"(header.json|shard_00..npz).*{match}")
        header.write_bytes(b" " * 2**21 + said.encode())
        refused(r"header.json has 2,.* bytes, expected 1,048,576 at most")
        header.unlink()
        refused("holds no complete recording: it has no header.json")
        os.mkfifo(header)
        refused("header.json is no regular file")

    def test_a_shard_that_is_not_what_a_recording_writes_is_refused_by_name(self, recording, whole, tmp_path):
        shard = Path(shutil.copy(whole / "shard_001.npz", tmp_path))
        content, arrays = shard.read_bytes(), dict(np.load(shard))

        def npy(header: str, data: bytes = b"") -> bytes:
            return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data

        huge = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000, 1000)}\n")
        pickled = npy("{'descr': '|O', 'fortran_order': False, 'shape': (20, 3)}\n", b"cos\nsystem\n")
        action_99 = arrays["actions"].copy()
        action_99[3, 1] = 99
        for damaged, match in (
            (content[:-100], "not a zip file"),
            (b"", "not a zip file"),
            *((content[:p] + b"\xff" * 200 + content[p + 200 :], "") for p in (300, len(content) // 2)),
            (arrays | {"frames": huge}, r"frames is uint8 \(1000000, 1000, 1000\), expected uint8"),
            (arrays | {"actions": pickled}, "actions is object"),
            (arrays | {"frames": npy("(" * 9000)}, ""),
            (arrays | {"frames": npy("-" * 9000 + "1")}, ""),
            ({name: arrays[name] for name in ("frames", "alive", "rewards")}, "no item named 'actions.npy'"),
            (arrays | {"rewards": arrays["rewards"].astype(float)}, "rewards is float64"),
            (arrays | {"frames": arrays["frames"][:, :2]}, r"frames is uint8 \(20, 2, 84, 84\)"),
            (arrays | {"alive": arrays["alive"][:7]}, "its arrays have different numbers of steps"),
            (arrays | {"actions": action_99}, "an action is 99, expected 0 to 3"),
        ):
            write_shard(shard, damaged) if isinstance(damaged, dict) else shard.write_bytes(damaged)
            with pytest.raises(ValueError, match=rf"shard_001.npz is no shard of this recording .*{match}") as caught:
                shards.read_shard(shard, recording.description)
            assert "\n" not in str(caught.value)
        shard.unlink()
        shard.symlink_to(whole / shard.name)
        with pytest.raises(ValueError, match=r"shard_001.npz is no regular file: remove it"):
            shards.read_shard(shard, recording.description)

    def test_shards_of_an_interrupted_recording_are_compared_with_what_is_played(self, recording, whole, tmp_path):
        path = shutil.copytree(whole, tmp_path / whole.name)
        (path / "header.json").unlink()
        shard = path / "shard_001.npz"
        arrays = dict(np.load(shard))
        shorter = {name: array[:12] for name, array in arrays.items()}
        for changed in (shorter, arrays | {"rewards": arrays["rewards"] + 1}):
            write_shard(shard, changed)
            with pytest.raises(ValueError, match=rf"shard_001.npz was recorded in another way: remove {path}"):
                record(recording, tmp_path, threads=1)
        assert not (path / "header.json").exists()
        shard.unlink()
        (path / ".shard_001.npz.1.partial").write_bytes(b"as a process leaves it that is killed while it writes")
        record(recording, tmp_path, threads=1)
        assert sorted(file.name for file in path.iterdir()) == sorted(file.name for file in whole.iterdir())
        assert (path / "header.json").read_bytes() == (whole / "header.json").read_bytes()

    @given(st.lists(st.integers(1, 40), min_size=3, max_size=30), st.floats(0.1, 0.6), st.floats(0.05, 0.3))
    def test_no_episode_is_in_two_parts(self, lengths, train, test):
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        total = sum(lengths)
        first = torch.from_numpy(np.repeat(starts, lengths))
        episodes = Episodes(starts, np.array(lengths))
        read = RecordedStates(torch.zeros(total, 84, 84, dtype=torch.uint8), first, 4, episodes)
        try:
            parts = read.split(train, test)
        except ValueError as error:
            assert "too few" in str(error)  # noqa: PT017
            return
        assert parts[0].start == 0
        assert parts[0].stop == parts[1].start
        assert len(parts[0]) >= round(train * total)
        assert not set(first[list(parts[0])].tolist()) & set(first[list(parts[1])].tolist())
        assert parts[0].stop - total * train <= max(lengths) + 1

    def test_impossible_splits_are_refused(self, whole):
        read = RecordedStates.load(whole)
        assert [len(part) for part in read.split(1.0)] == [170]
        for fractions in ((0.9, 0.2), (0.5, 0.0), ()):
            with pytest.raises(ValueError, match="fractions"):
                read.split(*fractions)
        with pytest.raises(ValueError, match="too few"):
            read.split(0.99, 0.001, 0.001)

    def test_impossible_recordings_are_refused(self, recording):
        with pytest.raises(ValueError, match="states must be positive"):
            replace(recording, states=0)
