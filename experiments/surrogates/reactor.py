r"""A plug-flow reactor with a cooling jacket, solved together with its exact sensitivities.

A reacts to P, which reacts on to the waste W, along the length z from 0 to 1. Both reactions give off heat, and the
second has the larger activation energy, so that a hot reactor burns its product:

    A' = -tau k1 A          k_j = K_j exp(-E_j (1/T - 1/T_REFERENCE))
    P' =  tau (k1 A - k2 P)
    T' =  tau (RISE_1 k1 A + RISE_2 k2 P - U (T - T_jacket))
    M' =  exp((T - T_REFERENCE) / WIDTH)
    Q' =  tau U (T - T_jacket)

from A = A_inlet, T = T_inlet and zeros. The parameters p are the inputs, and the outputs are conversion 1 - A/A_inlet,
yield P/A_inlet, a smooth maximum of the temperature T_REFERENCE + WIDTH log M, and the cooling duty Q, all at z = 1.

The sensitivities S = ds/dp of the state s = (A, P, T, M, Q) solve S' = (df/ds) S + df/dp beside it. Shape suffixes: N
samples (solved side by side), S state, I parameters.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp
from tqdm import tqdm

from experiments.surrogates.files import Samples

INPUTS = ("inlet_temperature", "jacket_temperature", "residence_time", "inlet_concentration", "heat_transfer")
OUTPUTS = ("conversion", "yield", "peak_temperature", "cooling_duty")
LOWEST = np.array([335.0, 320.0, 0.5, 0.8, 1.0])  # K, K, min, mol/L, 1/min
HIGHEST = np.array([360.0, 350.0, 2.0, 1.2, 4.0])
T_REFERENCE, WIDTH = 350.0, 4.0  # K
K = np.array([0.8, 0.06])  # 1/min at T_REFERENCE
E = np.array([7000.0, 9500.0])  # activation energies over the gas constant, in K
RISE = np.array([35.0, 25.0])  # K for a mol/L that reacts
N_STATE = 5
TOGETHER = 64  # samples of one call of the solver
TOLERANCES = {"rtol": 1e-9, "atol": 1e-11}


def draw(n: int, rng: np.random.Generator) -> np.ndarray:
    """Parameters (N, I), uniform in their ranges."""
    return rng.uniform(LOWEST, HIGHEST, (n, len(INPUTS)))


def rates(s_SN: np.ndarray, p_IN: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """f (S, N), df/ds (S, S, N) and df/dp (S, I, N) at a state."""
    a, p, t = s_SN[:3]
    _, jacket, tau, _, u = p_IN
    k1, k2 = K[:, None] * np.exp(-E[:, None] * (1 / t - 1 / T_REFERENCE))
    k1_t, k2_t = k1 * E[0] / t**2, k2 * E[1] / t**2
    cooling, heat = u * (t - jacket), RISE[0] * k1 * a + RISE[1] * k2 * p
    peak = np.exp((t - T_REFERENCE) / WIDTH)
    f = np.stack((-tau * k1 * a, tau * (k1 * a - k2 * p), tau * (heat - cooling), peak, tau * cooling))
    f_s = np.zeros((N_STATE, N_STATE, len(a)))
    f_s[0, 0], f_s[0, 2] = -tau * k1, -tau * k1_t * a
    f_s[1, 0], f_s[1, 1], f_s[1, 2] = tau * k1, -tau * k2, tau * (k1_t * a - k2_t * p)
    f_s[2, 0], f_s[2, 1] = tau * RISE[0] * k1, tau * RISE[1] * k2
    f_s[2, 2] = tau * (RISE[0] * k1_t * a + RISE[1] * k2_t * p - u)
    f_s[3, 2], f_s[4, 2] = peak / WIDTH, tau * u
    f_p = np.zeros((N_STATE, len(INPUTS), len(a)))
    f_p[2, 1], f_p[4, 1] = tau * u, -tau * u
    f_p[:, 2] = f / tau
    f_p[3, 2] = 0
    f_p[2, 4], f_p[4, 4] = -tau * (t - jacket), tau * (t - jacket)
    return f, f_s, f_p


def solve(p_NI: np.ndarray, sensitivities: bool = True) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Outputs (N, O), their derivatives (N, O, I) by the parameters, and how often the solver asked for f.

    Raises:
        ArithmeticError: the solver does not come to the end.
    """
    p_IN, n, n_inputs = p_NI.T, len(p_NI), len(INPUTS)
    size = N_STATE * (1 + n_inputs * sensitivities)
    start = np.zeros((size, n))
    start[0], start[2] = p_IN[3], p_IN[0]
    if sensitivities:
        ds = start[N_STATE:].reshape(N_STATE, n_inputs, n)
        ds[0, 3] = ds[2, 0] = 1

    def along(_: float, state: np.ndarray) -> np.ndarray:
        state = state.reshape(size, n)
        f, f_s, f_p = rates(state[:N_STATE], p_IN)
        if not sensitivities:
            return f.ravel()
        ds = state[N_STATE:].reshape(N_STATE, n_inputs, n)
        return np.concatenate((f.ravel(), (np.einsum("rsn,sin->rin", f_s, ds) + f_p).ravel()))

    solved = solve_ivp(along, (0, 1), start.ravel(), method="DOP853", t_eval=[1.0], **TOLERANCES)
    if not solved.success:
        raise ArithmeticError(f"the reactor cannot be solved: {solved.message}")
    end = solved.y[:, -1].reshape(size, n)
    a, p, _, m, q = end[:N_STATE]
    inlet = p_IN[3]
    y = np.stack((1 - a / inlet, p / inlet, T_REFERENCE + WIDTH * np.log(m), q), 1)
    if not sensitivities:
        return y, None, solved.nfev
    ds = end[N_STATE:].reshape(N_STATE, n_inputs, n)
    dy = np.stack((-ds[0] / inlet, ds[1] / inlet, WIDTH * ds[3] / m, ds[4]))
    dy[0, 3] += a / inlet**2
    dy[1, 3] -= p / inlet**2
    return y, dy.transpose(2, 0, 1), solved.nfev


def samples(n: int, seed: int) -> tuple[Samples, float]:
    """So many solves at random parameters, and what one with its sensitivities costs, in solves without.

    The cost counts numbers that are integrated: (1 + I) times as many, at as many points as the solver took for each.
    """
    x = draw(n, np.random.default_rng(seed))
    first, *_ = blocks = [x[k : k + TOGETHER] for k in range(0, n, TOGETHER)]
    solved = [solve(block) for block in tqdm(blocks, f"{n} solves of the reactor", disable=None)]
    y, dy = (np.concatenate([each[k] for each in solved]) for k in (0, 1))
    cost = (1 + len(INPUTS)) * solved[0][2] / solve(first, sensitivities=False)[2]
    return Samples(x, y, dy, INPUTS, OUTPUTS), cost
