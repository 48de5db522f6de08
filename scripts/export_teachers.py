"""Export trained teachers to results/teachers/: python -m scripts.export_teachers"""

import sys

from experiments.distillation.export_teachers import main

if __name__ == "__main__":
    sys.exit(main())
