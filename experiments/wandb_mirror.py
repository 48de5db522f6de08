"""Weights & Biases as a mirror of the rows: whatever happens to it, the run and its CSV go on."""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from omegaconf import OmegaConf

from experiments.config import RunConfig, WandbMode


class WandbMirror:
    """One W&B run a run of ours, with our run's id, so that resuming continues it and a sweep keeps them apart."""

    def __init__(self, config: RunConfig, directory: Path):
        self._run: Any = None
        if config.recorder.wandb is WandbMode.disabled:
            return
        os.environ.setdefault("WANDB_SILENT", "true")
        if config.recorder.wandb is WandbMode.online:
            try:
                return self._start(config, directory, "online")
            except Exception as error:
                first = (str(error).splitlines() or [type(error).__name__])[0]
                print(f"W&B is not reached, recording offline (`make wandb-sync` sends it): {first}", file=sys.stderr)
                self._guard(_let_go)
        self._guard(lambda: self._start(config, directory, "offline"))

    def _start(self, config: RunConfig, directory: Path, mode: str) -> None:
        import wandb  # slow to import, and not needed when disabled

        self._run = wandb.init(
            project=config.recorder.project,
            group=config.recorder.group,
            name=directory.name,
            id=directory.name,
            resume="allow" if mode == "online" else None,
            dir=str(directory),
            mode=mode,
            settings=wandb.Settings(init_timeout=30, finish_timeout=60),
            config=OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True),
        )

    def log(self, step: int, rows: list[tuple[int, str, str, float]]) -> None:
        """Each seed's value, and the median over seeds under the metric's own name."""
        values: dict[str, float] = {}
        over_seeds = defaultdict(list)
        for seed, split, metric, value in rows:
            values[f"seed_{seed}/{split}/{metric}"] = value
            over_seeds[f"{split}/{metric}"].append(value)
        values |= {name: median(seen) for name, seen in over_seeds.items()}
        if self._run:
            self._guard(lambda: self._run.log({"step": step, **values}))

    def summarise(self, summary: dict[str, Any], files: list[Path]) -> None:
        """The summary, and as one artifact the files that the run leaves besides: surfaces, weights, figures."""
        if self._run:
            self._guard(lambda: self._summarise(summary, files))

    def _summarise(self, summary: dict[str, Any], files: list[Path]) -> None:
        import wandb

        self._run.summary.update(summary)
        if files:
            artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", self._run.name)[:128], type="run")
            for path in files:
                artifact.add_file(str(path))
            self._run.log_artifact(artifact)

    def finish(self, exit_code: int) -> None:
        """Always called: a W&B run left open would swallow the next job of a sweep."""
        if self._run:
            self._guard(lambda: self._run.finish(exit_code=exit_code))
            self._run = None

    def _guard(self, action: Callable[[], Any]) -> None:
        """Do it; at the first failure say so and go on without W&B."""
        try:
            action()
        except Exception as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"W&B failed and is left out from here on (rows are in metrics.csv): {first}", file=sys.stderr)
            self._run = None


def _let_go() -> None:
    """End W&B's own process: it would hold on to the id of a run that it could not start."""
    import wandb

    wandb.teardown()
