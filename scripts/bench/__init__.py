"""Benchmarks against naive loops and against the machine's limit, one program per domain."""
