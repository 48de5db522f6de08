"""Sobolev training: networks that learn a function's derivatives together with its values."""

from sobolev import projections
from sobolev.checking import check
from sobolev.derivatives import Derivatives
from sobolev.guards import freeze_batchnorm
from sobolev.losses import SobolevLoss, SobolevTerms

__all__ = ["Derivatives", "SobolevLoss", "SobolevTerms", "check", "freeze_batchnorm", "projections"]
