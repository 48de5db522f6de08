"""Sobolev training: networks that learn a function's derivatives together with its values."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sobolev import projections, schedules
    from sobolev.checking import check
    from sobolev.derivatives import Derivatives
    from sobolev.finite_differences import differences
    from sobolev.guards import freeze_batchnorm
    from sobolev.losses import SobolevLoss, SobolevTerms
    from sobolev.normalizer import Normalizer
    from sobolev.regressor import SobolevRegressor
    from sobolev.targets import Projected

__all__ = [
    "Derivatives",
    "Normalizer",
    "Projected",
    "SobolevLoss",
    "SobolevRegressor",
    "SobolevTerms",
    "check",
    "differences",
    "freeze_batchnorm",
    "projections",
    "schedules",
]

_HOMES = {
    "Derivatives": "derivatives",
    "Normalizer": "normalizer",
    "Projected": "targets",
    "SobolevLoss": "losses",
    "SobolevRegressor": "regressor",
    "SobolevTerms": "losses",
    "check": "checking",
    "differences": "finite_differences",
    "freeze_batchnorm": "guards",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: PyTorch takes seconds to import, and `sobolev.files` does not need it."""
    if name in ("projections", "schedules"):
        return import_module(f"sobolev.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'sobolev' has no attribute {name!r}")
    return getattr(import_module(f"sobolev.{_HOMES[name]}"), name)
