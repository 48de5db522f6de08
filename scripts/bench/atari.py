"""Teacher training in agent steps per second, against Stable-Baselines3's PPO: python -m scripts.bench.atari

Ours runs with the shipped settings, theirs with their published settings for Atari (8 environments, 128 steps, batches
of 256, 4 epochs). Both play the same game and take turns; results are medians over rounds. The parts of ours are
measured as well: the bare emulators with the same number of threads, the policy's forward passes, and the updates.
Without Stable-Baselines3 only ours is measured. If the game's teacher ships, recording its play is measured too,
against a loop of its forward passes and the bare emulators. (pip install stable-baselines3==2.9.2
opencv-python-headless)

Wall-clock seconds are what a user waits. On a shared machine, CPU seconds per step are the better measure.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.distillation.settings import TrainTeacherConfig
from experiments.distillation.train_teacher import Players, atari_options, learn
from experiments.registry import register_settings
from scripts.bench.regression import default_out, device_name, prepare, show
from sobolev.atari import (
    ActorCritic,
    Environments,
    Objective,
    Recording,
    environment_seeds,
    load_teacher,
    record,
)
from sobolev.networks.atari_policies import teacher
from sobolev.seeding import generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="breakout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="device of the networks; emulators run on the CPU")
    parser.add_argument("--out", type=Path, help="default: bench.csv or bench_cuda.csv in results/teachers")
    arguments = parser.parse_args()
    device = prepare(arguments.threads, arguments.device)
    candidates = ours(arguments.game, arguments.threads, device) | recording(arguments.game, arguments.threads)
    if theirs := stable_baselines(arguments.game, device):
        candidates["stable_baselines3"] = theirs
    rows = [
        {
            "game": arguments.game,
            "candidate": name,
            "steps_per_second": f"{1 / wall:.0f}",
            "cpu_ms_per_step": f"{1e3 * cpu:.3f}",
            "device": device_name(device),
            "threads": arguments.threads,
        }
        for name, (wall, cpu) in alternate(candidates, arguments.rounds, device).items()
    ]
    show(rows, arguments.out or default_out("teachers", device))


def alternate(
    candidates: dict[str, Callable[[], int]], rounds: int, device: torch.device
) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds per step. Each call of a candidate returns the number of steps that it made."""
    for call in candidates.values():
        call()
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            wall, cpu = time.perf_counter(), time.process_time()
            steps = call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            measured[name].append(((time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps))
    return {name: tuple(map(statistics.median, zip(*pairs, strict=True))) for name, pairs in measured.items()}


def shipped(game: str) -> TrainTeacherConfig:
    register_settings()
    with initialize_config_dir(str(Path(__file__).parents[2] / "configs"), version_base="1.3"):
        return OmegaConf.to_object(compose("config", ["experiment=train_teacher", f"dataset=atari/{game}"]))


def ours(game: str, threads: int, device: torch.device) -> dict[str, Callable[[], int]]:
    """One update as in experiments/distillation/train_teacher.py, and its parts."""
    config = shipped(game)
    settings = config.teacher
    environments = Environments(atari_options(config.dataset), settings.environments, threads)
    players = Players(environments, settings)
    players.begin(environment_seeds(0, "bench", settings.environments))
    rollout = players.rollout(device)
    actor = ActorCritic(teacher(environments.n_actions), getattr(torch, settings.compute_dtype.name)).to(device)
    optimizer = torch.optim.Adam(actor.parameters(), lr=settings.learning_rate, eps=1e-5, fused=True)
    objective = Objective(settings.clip, settings.value_coef, settings.entropy_coef, settings.normalise_advantages)
    steps = settings.environments * settings.horizon
    count = itertools.count()

    def update() -> int:
        number = next(count)
        players.collect(rollout, actor, generator(0, "actions", number))
        shuffles = (generator(0, "shuffle", number, epoch) for epoch in range(settings.epochs))
        learn(rollout, actor, objective, optimizer, shuffles, settings)
        return steps

    bare = Environments(atari_options(config.dataset), settings.environments, threads)
    bare.reset(environment_seeds(0, "bench", settings.environments))
    rng = np.random.default_rng(0)

    def emulators() -> int:
        for _ in range(settings.horizon):
            bare.step(rng.integers(bare.n_actions, size=bare.n))
        return steps

    @torch.no_grad()
    def forward() -> int:
        weights = actor.cast()
        for t in range(settings.horizon):
            actor(rollout.states_TNHWC[t].permute(0, 3, 1, 2), weights)
        return steps

    def updates() -> int:
        shuffles = (generator(0, "shuffle", 0, epoch) for epoch in range(settings.epochs))
        learn(rollout, actor, objective, optimizer, shuffles, settings)
        return steps

    return {"ours": update, "of it emulators": emulators, "of it forward": forward, "of it updates": updates}


def recording(game: str, threads: int) -> dict[str, Callable[[], int]]:
    """Recording a shard of states, from opening the emulators to the file, and the part that is unavoidable."""
    path = Path(f"results/teachers/{game}.safetensors")
    if not path.exists():
        return {}
    played, n, steps, seeds = load_teacher(path), 16, 500, itertools.count()

    def record_states() -> int:
        with tempfile.TemporaryDirectory() as folder:
            record(Recording(played, n * steps, n, next(seeds)), folder, threads)
        return n * steps

    @torch.no_grad()
    def play_and_forget() -> int:
        environments = Environments(played.options, n, threads)
        states_NCHW = environments.reset(environment_seeds(next(seeds), "bench", n))
        for _ in range(steps):
            states_NCHW = environments.step(played.policy(torch.from_numpy(states_NCHW)).argmax(1).numpy()).states_NCHW
        return n * steps

    return {"recording": record_states, "of it emulators and forward": play_and_forget}


def stable_baselines(game: str, device: torch.device) -> Callable[[], int] | None:
    """One rollout and its update by Stable-Baselines3's PPO, with its published settings for Atari."""
    try:
        import ale_py
        import gymnasium
        from stable_baselines3 import PPO
        from stable_baselines3.common.env_util import make_atari_env
        from stable_baselines3.common.vec_env import VecFrameStack
    except ImportError:
        print("Stable-Baselines3 is not installed: left out", file=sys.stderr)
        return None
    gymnasium.register_envs(ale_py)
    name = "".join(word.capitalize() for word in game.split("_"))
    environments = VecFrameStack(make_atari_env(f"{name}NoFrameskip-v4", n_envs=8, seed=0), n_stack=4)
    model = PPO(
        *("CnnPolicy", environments),
        n_steps=128,
        batch_size=256,
        n_epochs=4,
        learning_rate=2.5e-4,
        clip_range=0.1,
        vf_coef=0.5,
        ent_coef=0.01,
        device=device,
    )
    steps = 8 * 128

    def update() -> int:
        model.learn(steps, reset_num_timesteps=False)
        return steps

    return update


if __name__ == "__main__":
    main()
