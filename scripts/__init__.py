"""Programs that turn rows into figures, tables and the report, and benchmarks. None trains a model that is shown."""

import experiments  # noqa: F401 - sets OpenMP's environment before torch is imported, as for runs
