"""From recorded rows to figures, tables and the report; benchmarks. Nothing here trains a model that is shown."""
