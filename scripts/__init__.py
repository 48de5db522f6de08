"""From recorded rows to figures, tables and the report; benchmarks. Nothing here trains a model that is shown."""

import experiments  # noqa: F401 - benchmarks run as runs do: its settings come before torch is loaded
