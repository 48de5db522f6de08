"""Functions to regress: the seven benchmarks of the paper's Section 4.1, and others of up to six inputs."""

from collections import ChainMap

from sobolev.functions.benchmark import BenchmarkFunction
from sobolev.functions.benchmarks import BENCHMARKS
from sobolev.functions.others import OTHERS

FUNCTIONS = ChainMap(BENCHMARKS, OTHERS)  # every function by its name, also those that are added later

__all__ = ["BENCHMARKS", "FUNCTIONS", "OTHERS", "BenchmarkFunction"]
