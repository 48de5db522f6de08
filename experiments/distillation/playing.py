"""Draw an animation of a teacher and its students, each playing the game.

python -m scripts.playing RUN [RUN ...] [--out results/figures/playing.gif]

`make playing` trains the students that the README shows. The animation shows the first of the games on which each run's
student was evaluated at the end, and the first game that the teacher plays with the same seeds, from the start. Each
picture is a state as the networks see it: its four frames, overlaid.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from experiments.distillation.names import METHODS, title
from experiments.evidence.reading import EvidenceError, inside
from experiments.evidence.runs import CompleteRun
from experiments.evidence.schemas import StudentConfig
from experiments.runner.settings import located
from sobolev.atari import Teacher, Transition, load_teacher, play
from sobolev.files import replacing
from sobolev.networks.atari_policies import FRAME, Architecture, AtariPolicy, Convolution

STEPS = 640  # steps of the agent that are shown, 43 seconds of the game
EVERY = 4  # steps from one picture to the next, so that each frame is in one of them
PICTURE, LAST = 80, 2000  # duration of a picture and of the last one, in milliseconds
ZOOM = 3  # screen pixels per pixel that the networks see
MARGIN, LINE = 12, 22  # pixels
GREYS = 16


@dataclass(frozen=True)
class Game:
    """A game from its start: the states, with their frames overlaid (T, H, W), and the score after each step (T,)."""

    player: str
    states_THW: np.ndarray
    score_T: np.ndarray
    over: bool  # at the end of these steps

    def drawn(self, step: int) -> Image.Image:
        """The state after a step, under the player's name and above the score."""
        last = len(self.score_T) - 1
        panel = Image.new("L", (FRAME * ZOOM, FRAME * ZOOM + 2 * LINE), 255)
        state = Image.fromarray(self.states_THW[min(step, last)])
        panel.paste(state.resize((FRAME * ZOOM,) * 2, Image.Resampling.NEAREST), (0, LINE))
        over = ", game over" if self.over and step >= last else ""
        draw, font = ImageDraw.Draw(panel), ImageFont.load_default(size=15)
        draw.text((0, 0), self.player, fill=0, font=font)
        draw.text((0, LINE + FRAME * ZOOM + 3), f"score {self.score_T[min(step, last)]}{over}", fill=0, font=font)
        return panel


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.playing", description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a complete run of distillation")
    parser.add_argument("--out", type=Path, default=Path("results/figures/playing.gif"), help="the picture")
    options = parser.parse_args(arguments)
    try:
        runs = [CompleteRun.read(path, StudentConfig) for path in options.runs]
        teacher = teacher_of(runs)
        games = [first_game("teacher", teacher.policy, teacher, runs[0].config)]
        for run in sorted(runs, key=lambda run: [*METHODS].index(run.config["labels"]["method"])):
            method = METHODS[run.config["labels"]["method"]]
            games.append(first_game(f"student, {method}", student_of(run, teacher), teacher, run.config))
    except (EvidenceError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    save(games, caption_of(runs), options.out)
    print(options.out)
    return 0


def teacher_of(runs: list[CompleteRun]) -> Teacher:
    """The teacher that all runs share.

    Raises:
        ValueError: there is no such teacher, or a run differs from the first in more than its objective.
    """
    first = runs[0]
    for run in runs:
        for key in ("dataset.teacher_sha256", "n_train", "optimizer.steps", "seed", "play_episodes"):
            if run.settings[key] != first.settings[key]:
                raise ValueError(f"{run.path} has another {key} than {first.path}: students side by side share it")
    teacher = load_teacher(located(first.config["dataset"]["teacher"]))
    if teacher.sha256 != first.config["dataset"]["teacher_sha256"]:
        raise ValueError(f"{first.config['dataset']['teacher']} is not the teacher that {first.path} learned from")
    return teacher


def student_of(run: CompleteRun, teacher: Teacher) -> AtariPolicy:
    """The student that a run saved.

    Raises:
        EvidenceError: it saved none, or one that does not fit its config.
    """
    layers = run.config["student"]
    convolutions = tuple(Convolution(*layer) for layer in layers["convolutions"])
    policy = AtariPolicy(teacher.policy.n_actions, Architecture(convolutions, layers["hidden"]))
    file = inside(run.path, "student.npz")
    try:
        with file.open("rb") as content, np.load(content) as arrays:
            policy.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays})
    except FileNotFoundError:
        raise EvidenceError(f"{run.path} has no student.npz: remove the folder and type its command again") from None
    except Exception as error:  # zipfile, zlib, NumPy and PyTorch each have their own for a damaged file
        raise EvidenceError(f"{file} does not hold the student of the run's config ({type(error).__name__})") from None
    return policy


def first_game(player: str, policy: AtariPolicy, teacher: Teacher, config: dict[str, Any]) -> Game:
    """The first of the games at a run's end, played by this policy."""
    states, rewards, ends = [], [], []

    def watch(step: Transition) -> None:
        if len(states) < STEPS:
            states.append(step.states_NCHW[0].max(0))
            rewards.append(step.rewards_N[0])
            ends.append(step.terminated_N[0] or step.truncated_N[0])

    play(policy, teacher.options, config["play_episodes"], config["seed"], threads=1, watch=watch)
    over = True in ends
    length = ends.index(True) + 1 if over else len(ends)
    return Game(player, np.stack(states[:length]), np.cumsum(rewards[:length]), over)


def caption_of(runs: list[CompleteRun]) -> str:
    config, scale = runs[0].config, runs[0].summary.scale
    trained = f"{config['optimizer']['steps']:,} updates on {config['n_train']:,} states, seed {config['seed']}"
    return f"{title(config['dataset']['game'])}: {trained}{' (reduced)' if scale == 'reduced' else ''}"


def save(games: list[Game], caption: str, path: Path) -> None:
    """Write the games side by side as a GIF, with few grey levels to keep it small."""
    panels = [game.drawn(0) for game in games]
    width, height = (FRAME * ZOOM + MARGIN) * len(panels) + MARGIN, panels[0].height + LINE + 2 * MARGIN
    pictures = []
    for step in range(0, max(len(game.score_T) for game in games), EVERY):
        picture = Image.new("L", (width, height), 255)
        for number, game in enumerate(games):
            picture.paste(game.drawn(step), (MARGIN + number * (FRAME * ZOOM + MARGIN), MARGIN + LINE))
        ImageDraw.Draw(picture).text((MARGIN, MARGIN // 2), caption, fill=0, font=ImageFont.load_default(size=15))
        pictures.append(_few_greys(picture))
    durations = [*[PICTURE] * (len(pictures) - 1), LAST]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        pictures[0].save(
            partial, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True
        )


def _few_greys(picture: Image.Image) -> Image.Image:
    """The picture with the palette that all pictures share."""
    levels = np.round(np.asarray(picture) / 255 * (GREYS - 1)).astype(np.uint8)
    reduced = Image.fromarray(levels, "P")
    reduced.putpalette([round(level * 255 / (GREYS - 1)) for level in range(GREYS) for _ in range(3)])
    return reduced
