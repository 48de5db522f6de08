"""From runs to the evidence that ships: python -m scripts.collect"""

import sys

from experiments.evidence.collect import main

if __name__ == "__main__":
    sys.exit(main())
