"""The fused Sobolev step for networks with a smooth activation; `ReLUSobolevStep` is the one for ReLU networks.

Shape suffixes: E networks, N samples per network, I inputs, H hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sobolev.networks.ensemble import MLPEnsemble, check_weight

# act(z), act'(z), and a function that computes act''(z), which is not needed for values alone
Orders = tuple[Tensor, Tensor, Callable[[], Tensor]]


def _tanh(z: Tensor) -> Orders:
    h = z.tanh()
    s = 1 - h * h
    return h, s, lambda: -2 * h * s


def _softplus(z: Tensor) -> Orders:
    s = z.sigmoid()
    return nn.functional.softplus(z), s, lambda: s * (1 - s)


def _silu(z: Tensor) -> Orders:
    p = z.sigmoid()
    h = z * p
    slope = p * (1 - p)
    return h, p + z * slope, lambda: slope * (2 + z - 2 * h)


def _gelu(z: Tensor) -> Orders:
    cumulative, z2 = torch.special.ndtr(z), z * z
    density = (-0.5 * z2).exp_().mul_(1 / math.sqrt(2 * math.pi))
    return z * cumulative, (z * density).add_(cumulative), lambda: (2 - z2).mul_(density)


ORDERS: dict[type[nn.Module], Callable[[Tensor], Orders]] = {
    nn.Tanh: _tanh,
    nn.Softplus: _softplus,
    nn.SiLU: _silu,
    nn.GELU: _gelu,
}
DISTANCES = ("squared_l2", "l2")  # keys of `sobolev.distances.DISTANCES`


class SmoothSobolevStep:
    r"""Loss and parameter gradients of a scalar ensemble with a smooth activation, without autograd.

    The loss of each network is Eq. 1 of the paper (Czarnecki et al., 2017) at order 1, with weights a and b:

        L = 1/N sum_n [ a (m(x_n) - f_n)^2 + b d(grad m(x_n), df_n) ],     d(p, q) = ||p - q||^2 or ||p - q||

    With z_l = h_{l-1} W_l + b_l and h_l, s_l, c_l = act, act', act'' of z_l, four passes give everything:

        forward   h_0 = x,              h_l = act(h_{l-1} W_l + b_l),               m = h_{L-1} W_L + b_L
        backward  G_{L-1} = W_L^T,      g_l = s_l G_l,   G_{l-1} = g_l W_l^T,       grad m = G_0
        tangent   t_0 = e,              q_l = t_{l-1} W_l,   t_l = s_l q_l
        reverse   A_{L-1} = r W_L^T,    a_l = s_l A_l + c_l q_l G_l,   A_{l-1} = a_l W_l^T

    where r = dL/dm (N x 1) and e = dL/d(grad m) (N x I). The gradient of <e, grad m> is that of the tangent of m along
    e, <q_l, g_l> at any layer l: it depends on W_l through the product with t_{l-1}, and on z_l through s_l, whose
    derivative is c_l. So the reverse pass adds c_l q_l G_l at every layer, and

        dL/dW_l = h_{l-1}^T a_l + t_{l-1}^T g_l,        dL/db_l = 1^T a_l.

    Between two hidden layers that is 6 products of size N x H x H, whatever the number of inputs: one in each pass
    and two for W_l. Double backpropagation needs as many; this saves autograd's graph. A ReLU has c = 0, hence
    a_l = r g_l: it needs no reverse pass and one product for W_l, 4 in all. Values alone need 3: forward, reverse, W_l.

    Args:
        ensemble: the networks that are trained; `takes` says which are supported.
        distance: d, "squared_l2" or "l2". The gradient of the norm at 0 is set to 0.
        value_weight: a, one number or one per network, of shape (E, 1, 1).

    Raises:
        ValueError: an unsupported network or distance, or a weight of the wrong shape; in use, tensors of the wrong
            shape.
    """

    def __init__(self, ensemble: MLPEnsemble, distance: str = "squared_l2", value_weight: float | Tensor = 1.0) -> None:
        if not self.takes(ensemble):
            names = ", ".join(kind.__name__ for kind in ORDERS)
            raise ValueError(f"the smooth step is for networks of {names} with hidden layers and one output")
        if distance not in DISTANCES:
            raise ValueError(f"distance must be {' or '.join(DISTANCES)}, not {distance!r}")
        check_weight("value_weight", value_weight, ensemble)
        self.ensemble, self.norm, self.value_weight = ensemble, distance == "l2", value_weight
        self.orders = ORDERS[type(ensemble.activation)]

    @staticmethod
    def takes(ensemble: MLPEnsemble) -> bool:
        """Whether these networks are supported: hidden layers with a smooth activation, and one output.

        Activations are those of `ORDERS` with PyTorch's default options: GELU is not approximate, and Softplus has
        beta = 1.
        """
        kind = type(ensemble.activation)
        known = kind in ORDERS and ensemble.activation.extra_repr() == kind().extra_repr()
        return known and ensemble.sizes[-1] == 1 and len(ensemble.sizes) > 2

    @torch.no_grad()
    def __call__(
        self, x_ENI: Tensor, f_EN1: Tensor, df_ENI: Tensor | None = None, gradient_weight: float | Tensor = 1.0
    ) -> Tensor:
        """Fill `.grad` of the parameters from one batch of any size.

        Args:
            x_ENI: inputs.
            f_EN1: values of the target.
            df_ENI: its gradients; None, like a weight of 0, ignores them.
            gradient_weight: b, one number or one per network, of shape (E, 1, 1). It may change from call to call.

        Returns:
            The loss of each network (E,).
        """
        if not isinstance(gradient_weight, Tensor) and gradient_weight == 0:
            df_ENI = None
        self._check(x_ENI, f_EN1, df_ENI)
        check_weight("gradient_weight", gradient_weight, self.ensemble)
        weights, biases = [*self.ensemble.weights], [*self.ensemble.biases]
        h, s, c = [x_ENI], list[Tensor](), list[Callable[[], Tensor]]()
        for weight, bias in zip(weights[:-1], biases, strict=False):
            of_layer = self.orders(torch.baddbmm(bias, h[-1], weight))
            h.append(of_layer[0])
            s.append(of_layer[1])
            c.append(of_layer[2])
        r_EN1 = torch.baddbmm(biases[-1], h[-1], weights[-1]).sub_(f_EN1)
        loss_E11 = self.value_weight * r_EN1.square().mean(1, keepdim=True)
        r_EN1.mul_(2 / x_ENI.shape[1] * self.value_weight)
        weights[-1].grad = h[-1].mT @ r_EN1
        biases[-1].grad = r_EN1.sum(1, keepdim=True)
        g, bends, t = list[Tensor](), list[Tensor](), list[Tensor]()
        if df_ENI is not None:
            g, signal = self._backward(s)
            e_ENI = torch.bmm(g[0], weights[0].mT).sub_(df_ENI)
            loss_E11 = loss_E11 + self._scale(e_ENI, gradient_weight)
            bends, t = self._tangent(e_ENI, s, c, signal)
            weights[-1].grad += t[-1].sum(1, keepdim=True).mT
        a = s[-1] * (r_EN1 * weights[-1].mT)
        for layer in range(len(s) - 1, -1, -1):
            if bends:
                a += bends[layer]
            weights[layer].grad = h[layer].mT @ a
            biases[layer].grad = a.sum(1, keepdim=True)
            if t:
                weights[layer].grad.baddbmm_(t[layer].mT, g[layer])
            if layer:
                a = torch.bmm(a, weights[layer].mT).mul_(s[layer - 1])
        return loss_E11.flatten()

    def _check(self, x_ENI: Tensor, f_EN1: Tensor, df_ENI: Tensor | None) -> None:
        shape = (len(self.ensemble), x_ENI.shape[1] if x_ENI.dim() == 3 else "N", self.ensemble.sizes[0])
        expected = {"inputs": (x_ENI, shape), "values": (f_EN1, (*shape[:2], 1)), "gradients": (df_ENI, shape)}
        for name, (tensor, shape) in expected.items():
            if tensor is not None and tensor.shape != shape:
                said = f"({', '.join(map(str, shape))})"
                raise ValueError(f"expected {name} of shape {said}, got {tuple(tensor.shape)}")

    def _backward(self, s: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """g_l and G_l of the hidden layers."""
        weights = self.ensemble.weights
        signal = [weights[-1].mT.expand_as(s[-1])]  # G_l, from the last hidden layer on
        g = [s[-1] * signal[0]]
        for layer in range(len(s) - 1, 0, -1):
            signal.append(torch.bmm(g[-1], weights[layer].mT))
            g.append(s[layer - 1] * signal[-1])
        return g[::-1], signal[::-1]

    def _scale(self, e_ENI: Tensor, gradient_weight: float | Tensor) -> Tensor:
        """Turn the residuals of gradients into e in place, and return their part of the loss (E, 1, 1)."""
        n = e_ENI.shape[1]
        if self.norm:
            size_EN1 = e_ENI.norm(dim=-1, keepdim=True)
            e_ENI /= size_EN1.clamp(min=torch.finfo(e_ENI.dtype).tiny)
            e_ENI *= gradient_weight / n
        else:
            size_EN1 = e_ENI.square().sum(-1, keepdim=True)
            e_ENI *= 2 * gradient_weight / n
        return gradient_weight * size_EN1.mean(1, keepdim=True)

    def _tangent(
        self, e_ENI: Tensor, s: list[Tensor], c: list[Callable[[], Tensor]], signal: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """c_l q_l G_l of the hidden layers, and t_l from t_0 on."""
        t, bends = [e_ENI], []
        for layer in range(len(s)):
            q = torch.bmm(t[-1], self.ensemble.weights[layer])
            bends.append(c[layer]().mul_(q).mul_(signal[layer]))
            t.append(q.mul_(s[layer]))
        return bends, t
