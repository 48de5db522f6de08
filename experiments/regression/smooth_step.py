"""The parameter gradients of a smooth scalar ensemble under a loss of values and gradients, without autograd.

With z_l = h_{l-1} W_l + b_l, h_l = act(z_l), s_l = act'(z_l) and c_l = act''(z_l), four passes give everything:

    forward    h_0 = x,   m = h_{L-1} W_L + b_L
    backward   G_{L-1} = W_L^T,   g_l = s_l G_l,   G_{l-1} = g_l W_l^T,   grad m = G_0
    tangent    t_0 = e,   q_l = t_{l-1} W_l,   t_l = s_l q_l
    adjoint    A_{L-1} = r W_L^T,   a_l = s_l A_l + c_l q_l G_l,   A_{l-1} = a_l W_l^T

with r = dL/dm (N x 1) and e = dL/d(grad m) (N x I). Then dL/dW_l = h_{l-1}^T a_l + t_{l-1}^T g_l and dL/db_l = sum a_l.

Shape suffixes: E networks, N samples of each, I inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sobolev.networks import MLPEnsemble

Orders = tuple[Tensor, Tensor, Tensor]  # act, act' and act'' of z


def _tanh(z: Tensor) -> Orders:
    h = z.tanh()
    s = 1 - h * h
    return h, s, -2 * h * s


def _softplus(z: Tensor) -> Orders:
    s = z.sigmoid()
    return nn.functional.softplus(z), s, s * (1 - s)


def _silu(z: Tensor) -> Orders:
    p = z.sigmoid()
    h = z * p
    slope = p * (1 - p)
    return h, p + z * slope, slope * (2 + z - 2 * h)


def _gelu(z: Tensor) -> Orders:
    cumulative = torch.special.ndtr(z)
    density = (z * z).mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
    return z * cumulative, cumulative + z * density, density * (2 - z * z)


ORDERS: dict[type[nn.Module], Callable[[Tensor], Orders]] = {
    nn.Tanh: _tanh,
    nn.Softplus: _softplus,
    nn.SiLU: _silu,
    nn.GELU: _gelu,
}


class SmoothSobolevStep:
    """Fills the parameters' `.grad` with those of 1/N sum_n [ (m - f)^2 + w d(grad m, df) ].

    Args:
        ensemble: networks with hidden layers, one output and an activation of `ORDERS`.
        norm: d is the norm of the difference, and its square where this is false.
    """

    def __init__(self, ensemble: MLPEnsemble, norm: bool) -> None:
        self.ensemble, self.norm = ensemble, norm
        self.orders = ORDERS[type(ensemble.activation)]

    @torch.no_grad()
    def __call__(self, x_ENI: Tensor, f_EN1: Tensor, df_ENI: Tensor, weight_E11: Tensor | None) -> None:
        """One batch; no weight leaves the gradients out."""
        weights, biases = [*self.ensemble.weights], [*self.ensemble.biases]
        h, s, c = [x_ENI], [], []
        for weight, bias in zip(weights[:-1], biases, strict=False):
            for entries, tensor in zip((h, s, c), self.orders(torch.baddbmm(bias, h[-1], weight)), strict=True):
                entries.append(tensor)
        r_EN1 = torch.baddbmm(biases[-1], h[-1], weights[-1]).sub_(f_EN1).mul_(2 / x_ENI.shape[1])
        adjoint = [s[-1] * (r_EN1 * weights[-1].mT)]  # a_l, from the last hidden layer on
        weights[-1].grad = h[-1].mT @ r_EN1
        biases[-1].grad = r_EN1.sum(1, keepdim=True)
        if weight_E11 is not None:
            g, bends, t = self._of_gradients(s, c, df_ENI, weight_E11)
            adjoint[0] += bends[-1]
            weights[-1].grad += t[-1].sum(1, keepdim=True).mT
        for layer in range(len(s) - 1, -1, -1):
            a = adjoint[-1]
            weights[layer].grad = h[layer].mT @ a
            biases[layer].grad = a.sum(1, keepdim=True)
            if weight_E11 is not None:
                weights[layer].grad.baddbmm_(t[layer].mT, g[layer])
            if layer:
                below = torch.bmm(a, weights[layer].mT).mul_(s[layer - 1])
                adjoint.append(below if weight_E11 is None else below.add_(bends[layer - 1]))

    def _of_gradients(
        self, s: list[Tensor], c: list[Tensor], df_ENI: Tensor, weight_E11: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """g_l, c_l q_l G_l and t_l of the layers."""
        weights = [*self.ensemble.weights]
        signal = [weights[-1].mT.expand_as(s[-1])]  # G_l, from the last hidden layer on
        g = [s[-1] * signal[0]]
        for layer in range(len(s) - 1, 0, -1):
            signal.append(torch.bmm(g[-1], weights[layer].mT))
            g.append(s[layer - 1] * signal[-1])
        e_ENI = torch.bmm(g[-1], weights[0].mT).sub_(df_ENI)
        if self.norm:
            e_ENI /= e_ENI.norm(dim=-1, keepdim=True).clamp_(min=torch.finfo(e_ENI.dtype).tiny)
            e_ENI *= weight_E11 / e_ENI.shape[1]
        else:
            e_ENI *= 2 * weight_E11 / e_ENI.shape[1]
        g.reverse()
        signal.reverse()
        t, bends = [e_ENI], []
        for layer, weight in enumerate(weights[:-1]):
            q = torch.bmm(t[-1], weight)
            bends.append((c[layer] * q).mul_(signal[layer]))
            t.append(q.mul_(s[layer]))
        return g, bends, t
