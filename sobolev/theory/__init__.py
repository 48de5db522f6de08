"""Sections 2 and 3 of the paper as code: constructions, sample complexity, and the cost of a wrong derivative."""

from sobolev.theory.constructions import (
    cosine_network,
    fit_cosines,
    interpolating_network,
    piecewise_linear_network,
)

__all__ = [
    "cosine_network",
    "fit_cosines",
    "interpolating_network",
    "piecewise_linear_network",
]
