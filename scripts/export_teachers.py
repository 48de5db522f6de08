"""From complete runs of train_teacher to the teachers that ship: a file and a card a game.

python -m scripts.export_teachers
python -m scripts.export_teachers --runs a/runs b/runs --out results/teachers

Of several runs of one game the one with most steps is taken, then the later one. `<game>.safetensors` is what the run
left; `<game>.json` says what it plays, how it was trained, and its scores over whole games: every life, nothing
clipped, actions drawn from the policy (`score`) or its most probable ones (`score_greedy`).
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from experiments.run import replacing
from sobolev.atari import load_teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", default=[Path("runs")], help="folders of runs")
    parser.add_argument("--out", type=Path, default=Path("results/teachers"), help="where teachers go")
    arguments = parser.parse_args()
    runs = [path.parent for root in arguments.runs for path in root.glob("train_teacher/*/summary.json")]
    if not runs:
        sys.exit(
            f"error: no complete run of train_teacher under {', '.join(map(str, arguments.runs))}: "
            "python run.py experiment=train_teacher makes one"
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    chosen = {json.loads((run / "summary.json").read_text())["options"]["game"]: run for run in sorted(runs, key=order)}
    for game, run in sorted(chosen.items()):
        try:
            told = export(run, arguments.out / f"{game}.safetensors")
        except ValueError as error:
            sys.exit(f"error: {error}")
        print(f"{arguments.out / game}: {told['score']['mean']:.1f} ± {told['score']['std']:.1f}")


def order(run: Path) -> tuple[int, float]:
    summary = run / "summary.json"
    return json.loads(summary.read_text())["steps"], summary.stat().st_mtime


def export(run: Path, file: Path) -> dict:
    """Copy a run's teacher to `file` and write its card beside it; the card."""
    teacher = load_teacher(run / "teacher.safetensors")
    with replacing(file) as path:
        path.write_bytes((run / "teacher.safetensors").read_bytes())
    told = card(run, teacher.sha256)
    with replacing(file.with_suffix(".json")) as path:
        path.write_text(json.dumps(told, indent=2) + "\n")
    return told


def card(run: Path, sha256: str) -> dict:
    """What one should know of a teacher before trusting it."""
    summary = json.loads((run / "summary.json").read_text())
    manifest = json.loads((run / "manifest.json").read_text())
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    with np.load(run / "scores.npz") as arrays:
        scores = {name: arrays[name] for name in ("score", "score_greedy")}
    return {
        "game": summary["options"]["game"],
        "sha256": sha256,
        "options": summary["options"],
        "training": {**config["teacher"], "steps": summary["steps"]},
        "frames": summary["steps"] * summary["options"]["action_repeat"],
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
    }


if __name__ == "__main__":
    main()
