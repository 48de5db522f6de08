"""From complete runs of train_teacher to the teachers that ship: a file and a card a game.

python -m scripts.export_teachers
python -m scripts.export_teachers --runs a/runs b/runs --out results/teachers

Of several runs of one game the one with most steps is taken, then the later one. A teacher that is there gives way only
to one of the same options and algorithm and of as many steps or more, or to any with --replace: students learn from it.
What is left out is said on stderr, and the exit status is 1 where nothing was exported. A training that went on from
the very teacher that is there replaces it if it scores more, and adds its steps to that one's.

`<game>.safetensors` is what the run left; `<game>.json` says what it plays, how it was trained, and its scores over
whole games: every life, nothing clipped, actions drawn from the policy (`score`) or its most probable ones
(`score_greedy`). `before` is the card of the teacher that its training began with, if it began with one.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
import zlib
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from sobolev.atari import load_teacher
from sobolev.files import replacing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", default=[Path("runs")], help="folders of runs")
    parser.add_argument("--out", type=Path, default=Path("results/teachers"), help="where teachers go")
    parser.add_argument("--replace", action="store_true", help="export whatever teacher is there")
    arguments = parser.parse_args()
    runs = [path.parent for root in arguments.runs for path in root.glob("train_teacher/*/summary.json")]
    if not runs:
        sys.exit(
            f"error: no complete run of train_teacher under {', '.join(map(str, arguments.runs))}: "
            "python run.py experiment=train_teacher makes one"
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    of_games: dict[str, list[Path]] = {}
    for run in runs:
        of_games.setdefault(json.loads((run / "summary.json").read_text())["options"]["game"], []).append(run)
    exported = 0
    for game, of_game in sorted(of_games.items()):
        file = arguments.out / f"{game}.safetensors"
        of_game.sort(key=partial(order, file))
        against = {run: None if arguments.replace else objection(run, file) for run in of_game}
        if told := against[of_game[-1]]:
            print(f"left out {of_game[-1]}: {told} (--replace takes it)", file=sys.stderr)
        if not (acceptable := [run for run in of_game if not against[run]]):
            continue
        try:
            score = export(acceptable[-1], file)["score"]
        except ValueError as error:
            sys.exit(f"error: {error}")
        print(f"{arguments.out / game}: {score['mean']:.1f} ± {score['std']:.1f}")
        exported += 1
    if not exported:
        sys.exit(1)


def order(file: Path, run: Path) -> tuple[int, float]:
    """By steps, those of the teacher in `file` included where a run went on from it, then by time."""
    summary = json.loads((run / "summary.json").read_text())
    before = begun_with(summary, file.with_suffix(".json"))
    steps = summary["steps"] + before.get("training", {}).get("steps", 0)
    return steps, (run / "summary.json").stat().st_mtime


def begun_with(summary: dict, there: Path) -> dict:
    """What is known of the teacher that a run went on from: its card, if that is `there`, or its SHA-256 alone."""
    if not (start := summary.get("start_sha256")):
        return {}
    try:
        known = json.loads(there.read_text())
    except (OSError, ValueError):
        known = {}
    return known if known.get("sha256") == start else {"sha256": start}


def objection(run: Path, file: Path) -> str | None:
    """Why a run's teacher should not replace the one in `file`; None where it may."""
    if not file.exists():
        return None
    there = file.with_suffix(".json")
    try:
        known = json.loads(there.read_text())
        options, steps, algorithm = known["options"], known["training"]["steps"], known["training"]["algorithm"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{file} is there, and {there.name} does not say how it was trained"
    summary = json.loads((run / "summary.json").read_text())
    ours = OmegaConf.load(run / "config.yaml").teacher.algorithm
    if differing := [name for name, value in summary["options"].items() if options.get(name) != value]:
        return f"it has other {', '.join(differing)} than {there}"
    if ours != algorithm:
        return f"it was trained by {ours}, the one in {file} by {algorithm}"
    if summary.get("start_sha256") and known.get("run_id") == run.name:
        return f"it is the one in {file}"
    if summary.get("start_sha256") == known["sha256"]:
        score = known["score"]["mean"]
        return None if summary["score"] > score else f"it scores {summary['score']:.1f}, the one in {file} {score}"
    if summary["steps"] < steps:
        return f"it has {summary['steps']:,} steps, the one in {file} {steps:,}"
    return None


def export(run: Path, file: Path) -> dict:
    """Copy a run's teacher to `file` and write its card beside it; the card.

    Raises:
        ValueError: a file of the run that is missing or damaged; nothing is replaced then.
    """
    teacher = load_teacher(run / "teacher.safetensors")
    try:
        told = card(run, teacher.sha256, file.with_suffix(".json"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{run} is not a whole run ({error})") from None
    with replacing(file) as path:
        path.write_bytes((run / "teacher.safetensors").read_bytes())
    with replacing(file.with_suffix(".json")) as path:
        path.write_text(json.dumps(told, indent=2) + "\n")
    return told


def card(run: Path, sha256: str, there: Path) -> dict:
    """What one should know of a teacher before trusting it. `there` may be the card of the one it began with."""
    summary = json.loads((run / "summary.json").read_text())
    manifest = json.loads((run / "manifest.json").read_text())
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    with np.load(run / "scores.npz") as arrays:
        scores = {name: arrays[name] for name in ("score", "score_greedy")}
    before = begun_with(summary, there)
    steps = summary["steps"] + before.get("training", {}).get("steps", 0)
    return {
        "game": summary["options"]["game"],
        "sha256": sha256,
        "options": summary["options"],
        "training": {**config["teacher"], "steps": steps},
        "frames": steps * summary["options"]["action_repeat"],
        "seed": config["seed"],
        **{
            name: {
                "episodes": len(values),
                "mean": round(float(values.mean()), 2),
                "std": round(float(values.std()), 2),
                "min": float(values.min()),
                "max": float(values.max()),
            }
            for name, values in scores.items()
        },
        "ale_py": version("ale-py"),
        **{key: manifest[key] for key in ("run_id", "revision", "dirty", "torch", "device", "wall_seconds")},
        **({"before": before} if before else {}),
    }


if __name__ == "__main__":
    main()
