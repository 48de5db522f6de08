"""Execute one run, or a sweep.

python run.py experiment=regression dataset=rosenbrock seed=3
python run.py -m sweep=regression/figure_2
"""

import os
import signal
import sys
import time
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

BEGAN = time.monotonic()

if __name__ == "__main__":

    def stop_at_once(*_: object) -> None:
        os.write(2, b"interrupted: the same command continues from the last checkpoint\n")
        os._exit(128 + signal.SIGINT)

    # Handles Ctrl-C until a run has something to save. A KeyboardInterrupt might be swallowed during imports.
    signal.signal(signal.SIGINT, stop_at_once)

try:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    from experiments.registry import packages, register_settings
    from experiments.runner import limit, trust
    from experiments.runner.command_line import one_line_errors
    from experiments.runner.errors import BadInput

    if find_spec("torch") is None:
        raise ModuleNotFoundError(name="torch")
except ModuleNotFoundError as missing:
    sys.exit(f"error: {sys.executable} has no {missing.name}: type `make setup`, then `source .venv/bin/activate`")


@hydra.main(version_base="1.3", config_path=str(Path(__file__).resolve().parent / "configs"), config_name="config")
def main(config: DictConfig) -> float:
    asked = HydraConfig.get()
    of_a_sweep = asked.mode is RunMode.MULTIRUN  # the sweeper says what failed, once the other runs have ended
    with nullcontext() if of_a_sweep else one_line_errors():
        if not of_a_sweep and (launcher := asked.runtime.choices["hydra/launcher"]) != "basic":
            raise BadInput(f"hydra/launcher={launcher} starts the runs of a sweep: add -m, or leave it out")
        packages()  # import extensions: a worker process of a sweep has not done so yet
        settings = trust.asked_settings(config, asked)
        if settings.limit.seconds and not of_a_sweep:  # counted from the start of the command
            settings.limit.deadline, settings.limit.seconds = limit.began + settings.limit.seconds, 0.0
        # Imported here because they import torch, which takes seconds.
        from experiments.runner.bundle import packing
        from experiments.runner.execute import execute

        with nullcontext() if of_a_sweep else packing(settings):
            return execute(settings)


if __name__ == "__main__":
    limit.began = BEGAN
    with one_line_errors():
        register_settings()
        trust.install()
        main()
