"""Draw an animation of a teacher and its students playing: python -m scripts.playing RUN [RUN ...]"""

import sys

from experiments.distillation.playing import main
from experiments.runner.command_line import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
