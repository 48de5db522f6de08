"""Sobolev training: networks that learn a function's derivatives together with its values."""

from sobolev import projections
from sobolev.derivatives import Derivatives, freeze_batchnorm
from sobolev.losses import SobolevLoss, SobolevTerms

__all__ = ["Derivatives", "SobolevLoss", "SobolevTerms", "freeze_batchnorm", "projections"]
