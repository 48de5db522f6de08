"""The sweeper behind `python run.py -m`: Hydra's own grid, less the runs that are complete.

Hydra takes sweepers from the package `hydra_plugins` alone, hence this folder.
"""

from __future__ import annotations

import copy
import signal
import sys
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, flag_override


class ResumingSweeper(BasicSweeper):
    """Launches the runs of a grid that are not complete, and reports what failed once all have ended."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        # Hydra imports every plugin for every command; these would slow down `--help`.
        from experiments.errors import BadInput, explain
        from experiments.precision import settled
        from experiments.ranks import torchrun_ranks
        from experiments.run import folder_of, is_complete, refusing_folder
        from experiments.sweep import Grid, Watch, say

        if torchrun_ranks()[1] > 1:
            raise BadInput("torchrun starts one run: start those of a sweep one by one, or a sweep on each device")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that local workers are ended too
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        (jobs,) = self.split_arguments(overrides, max_batch_size=None)

        folders: dict[Path, list[str]] = {}  # a question asked twice is run once
        for job in jobs:
            composed = self._compose(job)
            config = OmegaConf.to_object(composed)
            folders.setdefault(folder_of(config), [*job, *settled(composed, config)])
        if not folders:
            raise BadInput("a grid of no runs: one of its ranges is empty")
        name = next((str(o.value()) for o in overrides if o.get_key_element() == "sweep"), "sweep")
        grid = Grid(name, list(folders))
        with refusing_folder():
            Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
            say(grid)
            waiting = [job for folder, job in folders.items() if not is_complete(folder)]
        if not waiting:
            return []
        with Watch(grid):
            try:
                results = self.launcher.launch(waiting, initial_job_idx=0)
            except (RuntimeError, ValueError) as error:  # no Slurm, a worker killed: errors of runs are in results
                raise BadInput(f"{self.config.hydra.runtime.choices['hydra/launcher']}: {explain(error)}") from error
        errors = [explain(result._return_value) for result in results if result.status is not JobStatus.COMPLETED]
        if errors:
            raise BadInput(f"{len(errors)} of {len(waiting)} runs failed; the first: {errors[0]}")
        return results

    def _compose(self, job: list[str]) -> DictConfig:
        """The config of one job, as Hydra would compose it.

        Composing takes 0.1 s. Jobs that choose the same config files differ in values alone, and share it.
        """
        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(job)
        files = tuple(o.input_line for o in overrides if loader.repository.group_exists(o.key_or_group))
        if files not in self._composed:
            config: DictConfig = loader.load_sweep_config(self.config, list(files))
            with flag_override(config, ["struct", "readonly"], False):
                del config["hydra"]
            self._composed[files] = config
        config = copy.deepcopy(self._composed[files])
        loader._apply_overrides_to_config([o for o in overrides if o.input_line not in files], config)
        return config
