"""Section 4.1: regression on optimisation benchmarks, with its figures, tables and claims."""
