"""Atari games: environments, actor-critic training, teachers and the states that teachers visit (Section 4.2)."""

from sobolev.atari.actor_critic import ActorCritic, Objective, Rollout, sample
from sobolev.atari.environments import AtariOptions, Environments, Transition, games
from sobolev.atari.play import environment_seeds, play
from sobolev.atari.recorded_states import RecordedStates
from sobolev.atari.recording import Recording, record
from sobolev.atari.teachers import Teacher, load_teacher, teacher_bytes

__all__ = [
    "ActorCritic",
    "AtariOptions",
    "Environments",
    "Objective",
    "RecordedStates",
    "Recording",
    "Rollout",
    "Teacher",
    "Transition",
    "environment_seeds",
    "games",
    "load_teacher",
    "play",
    "record",
    "sample",
    "teacher_bytes",
]
