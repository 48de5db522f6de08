"""Sections 2 and 3 of the paper as code: constructions, sample complexity, and what a wrong derivative costs."""

from sobolev.theory.constructions import (
    Cosines,
    Profile,
    cosine_network,
    fit_cosines,
    interpolating_network,
    piecewise_linear_network,
    ridge_network,
)

__all__ = [
    "Cosines",
    "Profile",
    "cosine_network",
    "fit_cosines",
    "interpolating_network",
    "piecewise_linear_network",
    "ridge_network",
]
