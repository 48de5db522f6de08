"""Sobolev training: networks that learn a function's derivatives together with its values."""

from sobolev import projections
from sobolev.derivatives import Derivatives, derivatives, freeze_batchnorm, projected_derivatives
from sobolev.losses import SobolevLoss, SobolevTerms

__all__ = [
    "Derivatives",
    "SobolevLoss",
    "SobolevTerms",
    "derivatives",
    "freeze_batchnorm",
    "projected_derivatives",
    "projections",
]
