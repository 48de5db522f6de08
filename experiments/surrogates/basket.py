r"""A call option on a basket, priced by Monte Carlo: one path per sample, with its pathwise derivatives.

Assets follow Bachelier's model, S_T = S + L z with z standard normal and L L^T the covariance at expiry. The option
pays max(a^T S_T - STRIKE, 0) for weights a that sum to 1. The inputs are the spots S. A label is the payoff of one path
that starts at S, with its pathwise derivative a [a^T S_T > STRIKE] (Huge & Savine, Differential Machine Learning,
2020). Price and deltas, the conditional means of these labels, have a closed form: with s^2 = a^T L L^T a and
d = (a^T S - STRIKE) / s,

    price = s (d Phi(d) + phi(d)),    deltas = a Phi(d).
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from experiments.surrogates.files import Samples

N_ASSETS = 7
INPUTS = tuple(f"spot_{k}" for k in range(1, N_ASSETS + 1))
STRIKE, SPOT, SPREAD = 100.0, 100.0, 30.0  # spots are normal with mean SPOT and standard deviation SPREAD
WEIGHTS = np.arange(1.0, N_ASSETS + 1) / np.arange(1.0, N_ASSETS + 1).sum()
DEVIATIONS = np.linspace(15.0, 35.0, N_ASSETS)  # standard deviation of each asset at expiry
CORRELATION = 0.5  # between any two assets
COVARIANCE = DEVIATIONS[:, None] * DEVIATIONS * (CORRELATION + (1 - CORRELATION) * np.eye(N_ASSETS))
FACTOR = np.linalg.cholesky(COVARIANCE)  # L


def draw(n: int, rng: np.random.Generator) -> np.ndarray:
    """Spots (N, I), with the correlation of the assets' moves."""
    correlation = COVARIANCE / np.outer(DEVIATIONS, DEVIATIONS)
    return SPOT + SPREAD * rng.standard_normal((n, N_ASSETS)) @ np.linalg.cholesky(correlation).T


def paths(x: np.ndarray, rng: np.random.Generator) -> Samples:
    """The payoff and pathwise derivatives of one path from each row of spots (N, I)."""
    excess = (x + rng.standard_normal(x.shape) @ FACTOR.T) @ WEIGHTS - STRIKE
    dy = WEIGHTS * (excess > 0)[:, None]
    return Samples(x, np.maximum(excess, 0.0)[:, None], dy[:, None], INPUTS, ("price",))


def closed_form(x: np.ndarray) -> Samples:
    """Prices and deltas at spots (N, I)."""
    s = np.sqrt(WEIGHTS @ COVARIANCE @ WEIGHTS)
    d = (x @ WEIGHTS - STRIKE) / s
    price = s * (d * norm.cdf(d) + norm.pdf(d))
    return Samples(x, price[:, None], (WEIGHTS * norm.cdf(d)[:, None])[:, None], INPUTS, ("price",))
