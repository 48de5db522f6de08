"""One run, or a sweep of them.

python run.py experiment=regression dataset=rosenbrock seed=3
python run.py -m sweep=figure_2
"""

import os
import signal
import sys

if __name__ == "__main__":

    def stop_at_once(*_: object) -> None:
        os.write(2, b"interrupted: the same command continues from the last checkpoint\n")
        os._exit(128 + signal.SIGINT)

    # Ctrl-C until a run has something to save: modules that are being imported may swallow a KeyboardInterrupt.
    signal.signal(signal.SIGINT, stop_at_once)

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments.config import register
from experiments.errors import one_line_errors
from experiments.run import execute
from experiments.trust import check_command_line

register()


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(config: DictConfig) -> float:
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        return execute(OmegaConf.to_object(config))  # the sweeper says what failed, once the other runs have ended
    with one_line_errors():
        return execute(OmegaConf.to_object(config))


if __name__ == "__main__":
    with one_line_errors():
        check_command_line(sys.argv[1:])
        main()
