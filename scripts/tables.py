"""Tables from recorded rows: python -m scripts.tables"""

import sys

from experiments.evidence.tables import main

if __name__ == "__main__":
    sys.exit(main())
