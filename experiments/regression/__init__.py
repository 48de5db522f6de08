"""Section 4.1: regression on optimisation benchmarks, and what its rows show."""
