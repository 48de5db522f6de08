"""Functions to regress: the seven benchmarks of the paper's Section 4.1, and others of up to ten inputs."""

from collections import ChainMap
from types import MappingProxyType

from sobolev.functions.benchmark import BenchmarkFunction
from sobolev.functions.benchmarks import BENCHMARKS
from sobolev.functions.engineering import ENGINEERING
from sobolev.functions.others import OTHERS

FUNCTIONS = ChainMap(BENCHMARKS, OTHERS, ENGINEERING)  # every function by name, including those added later
SHIPPED = MappingProxyType(dict(FUNCTIONS))  # the functions of this library only

__all__ = ["BENCHMARKS", "ENGINEERING", "FUNCTIONS", "OTHERS", "SHIPPED", "BenchmarkFunction"]
