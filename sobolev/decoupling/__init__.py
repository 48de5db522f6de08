"""Networks in parts that learn from synthetic gradients, without waiting for each other (Section 4.3, SM 4)."""

from sobolev.decoupling.network import Comparison, DecoupledNetwork, Step
from sobolev.decoupling.parallel import ParallelStep
from sobolev.decoupling.pipeline import Pipeline
from sobolev.decoupling.technique import TECHNIQUES, Prediction, Technique

__all__ = [
    "TECHNIQUES",
    "Comparison",
    "DecoupledNetwork",
    "ParallelStep",
    "Pipeline",
    "Prediction",
    "Step",
    "Technique",
]
