"""The launcher behind `hydra/launcher=together`: runs that have enough in common are one training, in this process.

Hydra takes launchers from the package `hydra_plugins` alone. What there is to do is in `experiments.runner.together`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class TogetherLauncher(Launcher):
    """Composes the runs that it is given, and executes them together."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """What Hydra tells every launcher. The task, which is one run, is of no use here."""
        self._loader, self._config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """The number that each run ends with, or what it failed with."""
        # Hydra imports every plugin for every command; these would slow down `--help`.
        from experiments.runner.together import execute_together
        from experiments.runner.trust import asked_settings

        composed = (self._loader.load_sweep_config(self._config, list(overrides)) for overrides in job_overrides)
        outcomes = execute_together([asked_settings(config, config.hydra) for config in composed])
        failed = {True: JobStatus.FAILED, False: JobStatus.COMPLETED}
        return [JobReturn(_return_value=each, status=failed[isinstance(each, Exception)]) for each in outcomes]
