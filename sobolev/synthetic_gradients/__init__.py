"""Decoupled networks, whose parts learn from synthetic gradients (Section 4.3, SM 4)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sobolev.synthetic_gradients.technique import TECHNIQUES, Technique

if TYPE_CHECKING:
    from sobolev.synthetic_gradients.network import Comparison, DecoupledNetwork, Step
    from sobolev.synthetic_gradients.parallel import ParallelStep

__all__ = [
    "TECHNIQUES",
    "Comparison",
    "DecoupledNetwork",
    "ParallelStep",
    "Step",
    "Technique",
]

_HOMES = {"Comparison": "network", "DecoupledNetwork": "network", "ParallelStep": "parallel", "Step": "network"}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: PyTorch takes seconds to import, and techniques do not need it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sobolev.synthetic_gradients' has no attribute {name!r}")
    return getattr(import_module(f"sobolev.synthetic_gradients.{_HOMES[name]}"), name)
