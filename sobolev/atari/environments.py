"""Many environments of one Atari game, preprocessed as in the paper: a state is 4 grey frames of 84 x 84 pixels, and an
action lasts for 4 frames.

The emulator, its preprocessing and its threads are ale_py's `AtariVectorEnv` (ROMs come with the package). Every option
is passed on explicitly, because the defaults of gymnasium's constructors differ from one another.

Shape suffixes: N environments, C frames of a state, H rows, W columns.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ale_py
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from sobolev.networks.atari_policies import FRAME


@dataclass(frozen=True)
class AtariOptions:
    """The options of a game.

    Args:
        game: the name of a ROM, for example breakout; `games()` lists them.
        actions: names of the agent's actions, for example (noop, right, left); empty for every action that the game
            distinguishes.
        action_repeat: the number of frames that an action lasts.
        stack: C, the number of frames in a state. Frames before an episode's first one are zero.
        max_pool: whether each pixel is its maximum over the last two frames, which removes flicker.
        noop_max: the most frames without an action at the beginning of an episode. Their number is random; this and
            `sticky_actions` are the only randomness.
        fire_reset: whether fire is pressed once at the beginning of an episode, if the game has that action.
        sticky_actions: probability that the emulator repeats the previous action.
        max_episode_frames: the number of emulator frames after which an episode is truncated.
    """

    game: str
    actions: tuple[str, ...] = ()
    action_repeat: int = 4
    stack: int = 4
    max_pool: bool = True
    noop_max: int = 30
    fire_reset: bool = True
    sticky_actions: float = 0.0
    max_episode_frames: int = 108_000

    @classmethod
    def parse(cls, fields: Any) -> AtariOptions:
        """Options from a file, where `fields` is `dataclasses.asdict(options)` as read from JSON.

        Raises:
            ValueError: a field is missing, unknown, of another type or out of range.
        """
        try:
            options = cls(**fields | {"actions": tuple(fields["actions"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"these are no options of a game ({error!r})") from None
        options.check()
        known = [action.lower() for action in ale_py.Action.__members__]
        if len(set(options.actions)) < len(options.actions) or not set(options.actions) <= set(known):
            raise ValueError(f"actions are different ones of {', '.join(known)}, not {options.actions}")
        return options

    def check(self) -> None:
        """Check everything except whether the game has the named actions, which only its emulator knows.

        Raises:
            ValueError: an unknown game, or a field of the wrong type or out of range.
        """
        if self.game not in games():
            otherwise = f"sobolev.atari.games() lists all {len(games())}"
            raise ValueError(f"{self.game!r} is not an ALE game{_nearest(str(self.game), games(), otherwise)}")
        if not isinstance(self.actions, tuple) or not all(isinstance(action, str) for action in self.actions):
            raise ValueError(f"actions are names, not {self.actions!r}")
        for name, least in (("action_repeat", 1), ("stack", 1), ("noop_max", 0), ("max_episode_frames", 1)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value < 2**31:  # which is a C int in the emulator
                raise ValueError(f"{name} must be {least} or more, and a whole number below 2^31, not {value!r}")
        for name in ("max_pool", "fire_reset"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be true or false, not {getattr(self, name)!r}")
        if type(self.sticky_actions) not in (int, float) or not 0 <= self.sticky_actions < 1:
            raise ValueError(f"sticky_actions is a probability below 1, not {self.sticky_actions!r}")


class Transition(NamedTuple):
    """The result of one step of N environments. If an episode ended with the previous step, the action has no effect.

    Attributes:
        states_NCHW: uint8.
        rewards_N: int32, the change of the game's score.
        terminated_N: bool, whether the game is over.
        truncated_N: bool, whether the episode was truncated at `max_episode_frames`.
        lives_N: int32, the remaining lives; 0 in games without lives.
    """

    states_NCHW: np.ndarray
    rewards_N: np.ndarray
    terminated_N: np.ndarray
    truncated_N: np.ndarray
    lives_N: np.ndarray


class Environments:
    """N environments of one game, fully determined by seeds and actions, whatever the number of threads.

    After an episode has ended, the *next* step starts a new one. It ignores its action and its reward is 0, so a
    learner should ignore that transition.

    Losing a life does not end an episode. The emulator's own option for that restarts the whole game, so that later
    lives would never be played.

    Args:
        options: the options of the game.
        n: N.
        threads: of the emulators; 0 means one per core.

    Raises:
        ValueError: an unknown game or action, an option that is out of range, or no environments.
    """

    def __init__(self, options: AtariOptions, n: int, threads: int = 0):
        options.check()
        if n < 1:
            raise ValueError(f"expected an environment or more, not {n}")
        self.options, self.n = options, n
        self._emulators = AtariVectorEnv(
            options.game,
            n,
            batch_size=0,
            num_threads=threads,
            thread_affinity_offset=-1,
            max_num_frames_per_episode=options.max_episode_frames,
            repeat_action_probability=options.sticky_actions,
            full_action_space=False,
            continuous=False,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            img_height=FRAME,
            img_width=FRAME,
            grayscale=True,
            stack_num=options.stack,
            frameskip=options.action_repeat,
            maxpool=options.max_pool,
            noop_max=options.noop_max,
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=options.fire_reset,
        )
        known = [action.name.lower() for action in self._emulators.ale.get_action_set()]
        self.actions = options.actions or tuple(known)
        for action in self.actions:
            if action not in known:
                otherwise = f"choose from {', '.join(known)}"
                raise ValueError(f"{action!r} is not an action of {options.game}{_nearest(action, known, otherwise)}")
        self._indices = np.array([known.index(action) for action in self.actions])

    @property
    def n_actions(self) -> int:
        return len(self.actions)

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Start an episode in each environment from seeds (N,), and return the states (N, C, H, W)."""
        return self._emulators.reset(seed=seeds)[0]

    def step(self, actions_N: np.ndarray) -> Transition:
        """Take an action in each environment; `actions_N` are indices into `actions`."""
        states, rewards, terminated, truncated, info = self._emulators.step(self._indices[actions_N])
        return Transition(states, rewards, terminated, truncated, info["lives"])


def games() -> list[str]:
    """The games whose ROMs come with ale_py."""
    return sorted(path.stem for path in (Path(ale_py.__file__).parent / "roms").glob("*.bin"))


def _nearest(name: str, choices: list[str], otherwise: str) -> str:
    """The end of an error message: the closest choices, or `otherwise` if there are none."""
    close = difflib.get_close_matches(name.lower(), choices, n=3, cutoff=0.5)
    return f"; the nearest: {', '.join(close)}" if close else f"; {otherwise}"
