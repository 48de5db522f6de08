"""Judge the paper's claims: python -m scripts.report"""

import sys

from experiments.evidence.report import main

if __name__ == "__main__":
    sys.exit(main())
