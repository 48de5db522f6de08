"""Export the teachers of complete train_teacher runs: one file and one card per game.

python -m scripts.export_teachers
python -m scripts.export_teachers --runs a/runs b/runs --out results/teachers

Of several runs of one game, the one with the most steps is exported, and of these the latest. Because students learn
from it, an existing teacher is only replaced by one with the same options and algorithm and at least as many steps, or
by any with --replace. A run that started from the existing teacher replaces it if it scores more, and its steps are
added to that teacher's. Runs that are left out are named on stderr; the exit status is 1 if nothing was exported or a
run's files are damaged.

`<game>.safetensors` is the file that the run saved. `<game>.json` records what it plays, how it was trained, and its
scores over whole games: every life, unclipped, with sampled actions (`score`) or the most probable ones
(`score_greedy`). `before` is the card of the teacher that training started from, if there was one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from experiments.evidence.reading import EvidenceError, inside, read_arrays, read_bytes, read_json
from experiments.evidence.results import alone, replace_together
from experiments.evidence.runs import CompleteRun, left_out
from experiments.evidence.schemas import SCORES, Card, Digest, TeacherConfig, TeacherSummary
from sobolev.atari import load_teacher


@dataclass(frozen=True, eq=False)
class TrainedTeacher:
    """A complete run of train_teacher, with its scores and its teacher's file."""

    run: CompleteRun
    scores: dict[str, np.ndarray]
    content: bytes  # of its teacher's file

    @classmethod
    def read(cls, path: Path) -> TrainedTeacher:
        """Read a complete run.

        Raises:
            EvidenceError: a file is missing, damaged or outside the folder.
        """
        run = CompleteRun.read(path, TeacherConfig, TeacherSummary)
        scores = read_arrays(inside(path, "scores.npz"), SCORES)
        content = read_bytes(file := inside(path, "teacher.safetensors"))
        try:
            teacher = load_teacher(file)
        except (ValueError, OSError) as error:
            raise EvidenceError(str(error)) from None
        if teacher.sha256 != hashlib.sha256(content).hexdigest() or teacher.options.game != run.summary.options.game:
            raise EvidenceError(f"{file} is not the teacher that the run left")
        return cls(run, scores, content)

    def order(self, there: Card | None) -> tuple[int, float]:
        """By steps (including those of the existing teacher if the run started from it), then by time."""
        return self.steps(there), (self.run.path / "summary.json").stat().st_mtime

    def steps(self, there: Card | None) -> int:
        before = self.begun_with(there)
        return self.run.summary.steps + (before.training.steps if isinstance(before, Card) else 0)

    def begun_with(self, there: Card | None) -> Card | Digest | None:
        """What is known of the teacher that it started from: its card, if it is the existing one, else its SHA-256."""
        if not (start := self.run.summary.start_sha256):
            return None
        return there if there and there.sha256 == start else Digest(sha256=start)

    def objection(self, file: Path, there: Card | None) -> str | None:
        """Why it should not replace the teacher in `file`, whose card is `there`; None if it may."""
        if not file.exists():
            return None
        card = file.with_suffix(".json")
        if there is None:
            return f"{file} is there, and {card.name} does not say how it was trained"
        summary = self.run.summary
        options, algorithm = summary.options.model_dump(), self.run.config["teacher"]["algorithm"]
        if differing := [name for name, value in options.items() if there.options.get(name) != value]:
            return f"it has other {', '.join(differing)} than {card}"
        if algorithm != there.training.algorithm:
            return f"it was trained by {algorithm}, the one in {file} by {there.training.algorithm}"
        if summary.start_sha256 and there.run_id == self.run.path.name:
            return f"it is the one in {file}"
        if summary.start_sha256 == there.sha256:
            score = there.score.mean
            return None if summary.score > score else f"it scores {summary.score:.1f}, the one in {file} {score}"
        if summary.steps < there.training.steps:
            return f"it has {summary.steps:,} steps, the one in {file} {there.training.steps:,}"
        return None

    def card(self, there: Card | None, as_written: dict[str, Any] | None) -> dict[str, Any]:
        """The teacher's card: what to know before trusting it."""
        summary, config, manifest = self.run.summary, self.run.config, self.run.manifest.model_dump()
        before, steps = self.begun_with(there), self.steps(there)
        return {
            "game": summary.options.game,
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "options": summary.options.model_dump(),
            "training": {**config["teacher"], "steps": steps},
            "frames": steps * summary.options.action_repeat,
            "seed": config["seed"],
            **{
                name: {
                    "episodes": len(values),
                    "mean": round(float(values.mean()), 2),
                    "std": round(float(values.std()), 2),
                    "min": float(values.min()),
                    "max": float(values.max()),
                }
                for name, values in self.scores.items()
            },
            "ale_py": version("ale-py"),
            **{key: manifest[key] for key in ("run_id", "revision", "dirty", "torch", "device", "wall_seconds")},
            **({"before": as_written if isinstance(before, Card) else before.model_dump()} if before else {}),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", default=[Path("runs")], help="folders of runs")
    parser.add_argument("--out", type=Path, default=Path("results/teachers"), help="where teachers go")
    parser.add_argument("--replace", action="store_true", help="replace any existing teacher")
    arguments = parser.parse_args()
    runs = [path.parent for root in arguments.runs for path in root.glob("train_teacher/*/summary.json")]
    if not runs:
        sys.exit(
            f"error: no complete run of train_teacher under {', '.join(map(str, arguments.runs))}: "
            "python run.py experiment=train_teacher makes one"
        )
    of_games: dict[str, list[TrainedTeacher]] = {}
    damaged = False
    for path in runs:
        try:
            teacher = TrainedTeacher.read(path)
        except (EvidenceError, OSError) as error:
            left_out(path, error)
            damaged = True
        else:
            of_games.setdefault(teacher.run.summary.options.game, []).append(teacher)
    exported = 0
    try:
        for game, of_game in sorted(of_games.items()):
            with alone(arguments.out):
                exported += export(of_game, arguments.out / f"{game}.safetensors", arguments.replace)
    except (EvidenceError, OSError) as error:
        sys.exit(f"error: {error}")
    if damaged or not exported:
        sys.exit(1)


def export(of_game: list[TrainedTeacher], file: Path, replace: bool) -> bool:
    """Write the best acceptable teacher of a game to `file`, and its card next to it; return whether there is one."""
    there, as_written = known(file.with_suffix(".json"))
    of_game.sort(key=lambda teacher: teacher.order(there))
    against = {teacher: None if replace else teacher.objection(file, there) for teacher in of_game}
    if told := against[of_game[-1]]:
        print(f"left out {of_game[-1].run.path}: {told} (--replace takes it)", file=sys.stderr)
    if not (acceptable := [teacher for teacher in of_game if not against[teacher]]):
        return False
    best = acceptable[-1]
    card = best.card(there, as_written)
    written = {file.name: best.content, f"{file.stem}.json": (json.dumps(card, indent=2) + "\n").encode()}
    replace_together(file.parent, written)
    print(f"{file.with_suffix('')}: {card['score']['mean']:.1f} ± {card['score']['std']:.1f}")
    return True


def known(path: Path) -> tuple[Card | None, dict[str, Any] | None]:
    """The existing teacher's card, validated, and as written; None for both if it is missing or damaged."""
    try:
        return read_json(path, Card), read_json(path, dict[str, Any])
    except EvidenceError:
        return None, None
