"""The seven optimisation benchmarks that Section 4.1 of the paper regresses, with closed-form derivatives."""

from sobolev.functions.benchmark import BenchmarkFunction
from sobolev.functions.benchmarks import BENCHMARKS

__all__ = ["BENCHMARKS", "BenchmarkFunction"]
