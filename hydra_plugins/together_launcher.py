"""The launcher behind `hydra/launcher=together`: runs with the same `in_common` train as one ensemble, in this process.

Hydra finds launchers only in the package `hydra_plugins`. The work is done in `experiments.runner.together`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class TogetherLauncher(Launcher):
    """Composes the configs of the given jobs and executes them together."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what Hydra passes to every launcher. The task function, which executes one run, is not needed."""
        self._loader, self._config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """The objective of each run, or the error that it failed with."""
        # Imported here because Hydra imports every plugin for every command, and `--help` must stay fast.
        from experiments.runner.together import execute_together
        from experiments.runner.trust import asked_settings

        composed = (self._loader.load_sweep_config(self._config, list(overrides)) for overrides in job_overrides)
        outcomes = execute_together([asked_settings(config, config.hydra) for config in composed])
        failed = {True: JobStatus.FAILED, False: JobStatus.COMPLETED}
        return [JobReturn(_return_value=each, status=failed[isinstance(each, Exception)]) for each in outcomes]
