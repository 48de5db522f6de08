"""Decoupled networks, whose parts learn from synthetic gradients (Section 4.3, SM 4)."""

from sobolev.synthetic_gradients.network import Comparison, DecoupledNetwork, Step
from sobolev.synthetic_gradients.parallel import ParallelStep
from sobolev.synthetic_gradients.technique import TECHNIQUES, Technique

__all__ = [
    "TECHNIQUES",
    "Comparison",
    "DecoupledNetwork",
    "ParallelStep",
    "Step",
    "Technique",
]
