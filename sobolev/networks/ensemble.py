"""Many small multi-layer perceptrons trained as one.

Shape suffixes: E networks, N samples per network, I inputs, H hidden units, O outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def _uniform_fan_in(weight_OI: Tensor, bias_O: Tensor, generator: torch.Generator) -> None:
    """PyTorch's default for nn.Linear: weights and biases uniform in +-1/sqrt(fan_in)."""
    bound = weight_OI.shape[1] ** -0.5
    nn.init.uniform_(weight_OI, -bound, bound, generator=generator)
    nn.init.uniform_(bias_O, -bound, bound, generator=generator)


def _glorot(weight_OI: Tensor, bias_O: Tensor, generator: torch.Generator) -> None:
    """Glorot and Bengio's uniform weights and zero biases: TensorFlow's default."""
    nn.init.xavier_uniform_(weight_OI, generator=generator)
    nn.init.zeros_(bias_O)


def _he(weight_OI: Tensor, bias_O: Tensor, generator: torch.Generator) -> None:
    """He's normal weights for ReLU and zero biases."""
    nn.init.kaiming_normal_(weight_OI, nonlinearity="relu", generator=generator)
    nn.init.zeros_(bias_O)


def _he_spread(weight_OI: Tensor, bias_O: Tensor, generator: torch.Generator) -> None:
    """He's normal weights, and biases uniform in +-1/sqrt(fan_in), which spread the kinks instead of all lying at 0."""
    _he(weight_OI, bias_O, generator)
    bound = weight_OI.shape[1] ** -0.5
    nn.init.uniform_(bias_O, -bound, bound, generator=generator)


INITIALISATIONS = {"uniform_fan_in": _uniform_fan_in, "glorot": _glorot, "he": _he, "he_spread": _he_spread}


class MLPEnsemble(nn.Module):
    """E independent multi-layer perceptrons whose layers are batched matrix products.

        h_0 = x,   h_l = act(h_{l-1} W_l + b_l),   y = h_{L-1} W_L + b_L        for each network e

    A single network is an ensemble of one. Network e is drawn only from `generators[e]`, so it does not depend on the
    other networks.

    Args:
        sizes: layer widths from input to output, such as (2, 256, 256, 1).
        generators: one per network; their number is E.
        activation: a key of `ACTIVATIONS`.
        initialisation: a key of `INITIALISATIONS`.

    Raises:
        ValueError: an unknown activation or initialisation, fewer than two sizes, or no generator.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        generators: Sequence[torch.Generator],
        activation: str = "relu",
        initialisation: str = "uniform_fan_in",
    ):
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes must be two or more positive widths, not {tuple(sizes)}")
        if not generators:
            raise ValueError("an ensemble needs one generator per network, and got none")
        for name, choices in ((activation, ACTIVATIONS), (initialisation, INITIALISATIONS)):
            if name not in choices:
                raise ValueError(f"{name!r} is not one of {', '.join(choices)}")
        self.sizes = tuple(sizes)
        self.activation = ACTIVATIONS[activation]()
        initialise = INITIALISATIONS[initialisation]
        self.weights = nn.ParameterList()  # (E, I, O) per layer
        self.biases = nn.ParameterList()  # (E, 1, O) per layer
        with torch.no_grad():
            # Each network draws from its own generator, in the order of its layers.
            for fan_in, fan_out in pairwise(sizes):
                weight_EIO = torch.empty(len(generators), fan_in, fan_out)
                bias_E1O = torch.empty(len(generators), 1, fan_out)
                for weight_IO, bias_1O, rng in zip(weight_EIO, bias_E1O, generators, strict=True):
                    initialise(weight_IO.mT, bias_1O[0], rng)
                self.weights.append(nn.Parameter(weight_EIO))
                self.biases.append(nn.Parameter(bias_E1O))

    def __len__(self) -> int:
        return self.weights[0].shape[0]

    def forward(self, x_ENI: Tensor) -> Tensor:
        """Values (E, N, O) of inputs (E, N, I), or of inputs (N, I) that all networks share."""
        h = x_ENI if x_ENI.dim() == 3 else x_ENI.expand(len(self), *x_ENI.shape)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if layer:
                h = self.activation(h)
            h = torch.baddbmm(bias, h, weight)
        return h

    def part(self, networks: slice) -> MLPEnsemble:
        """Some of the networks as an ensemble that shares their memory."""
        part = copy.copy(self)
        part._modules = dict(self._modules)
        for name in ("weights", "biases"):
            tensors = (parameter.detach()[networks] for parameter in getattr(self, name))
            setattr(part, name, nn.ParameterList(map(nn.Parameter, tensors)))
        return part

    def network(self, e: int) -> nn.Sequential:
        """A copy of network e as an `nn.Sequential` of `nn.Linear` layers and activations."""
        layers: list[nn.Module] = []
        with torch.no_grad():
            for weight, bias in zip(self.weights, self.biases, strict=True):
                if layers:
                    layers.append(type(self.activation)())
                linear = nn.Linear(weight.shape[1], weight.shape[2], device=weight.device, dtype=weight.dtype)
                linear.weight.copy_(weight[e].mT)
                linear.bias.copy_(bias[e, 0])
                layers.append(linear)
        return nn.Sequential(*layers)


def sizes_and_activation(network: nn.Module) -> tuple[list[int], str]:
    """What `MLPEnsemble` is made from again, of one of its networks: layer widths, and a key of `ACTIVATIONS`."""
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    kinds = {type(layer) for layer in network.modules()}
    activation = next(name for name, kind in ACTIVATIONS.items() if kind in kinds or len(linear) == 1)
    return [linear[0].in_features, *(layer.out_features for layer in linear)], activation


def check_weight(name: str, weight: float | Tensor, ensemble: MLPEnsemble) -> None:
    """Refuse a loss weight that is neither one number nor one per network, because other shapes would broadcast.

    Raises:
        ValueError: a tensor whose shape is neither (E, 1, 1) nor ().
    """
    shape = (len(ensemble), 1, 1)
    if isinstance(weight, Tensor) and weight.shape not in ((), shape):
        raise ValueError(f"{name} must be one number, or one per network of shape {shape}, not {tuple(weight.shape)}")


class ReLUSobolevStep:
    r"""Parameter gradients of the Sobolev loss for a scalar ReLU ensemble, without autograd and its allocations.

    The loss of each network is Eq. 1 of the paper at order 1, as Section 4.1 uses it:

        L = 1/N sum_n [ a (m(x_n) - f_n)^2 + b || grad m(x_n) - df_n ||^2 ]

    With z_l = h_{l-1} W_l + b_l, h_l = s_l z_l and s_l = [z_l > 0], three passes give everything:

        forward   h_0 = x,      h_l = s_l (h_{l-1} W_l + b_l),   m = h_{L-1} W_L + b_L
        backward  g_L = 1,      g_l = s_l (g_{l+1} W_{l+1}^T),   grad m = g_1 W_1^T
        tangent   u_0 = e,      u_l = s_l (u_{l-1} W_l)

    where r = dL/dm (N x 1) and e = dL/d(grad m) (N x I). The mask s_l has no derivative, so the gradient
    of <e, grad m> is that of the tangent of m along e. As dm/dz_l = g_l for values and tangents alike,

        dL/dW_l = (r h_{l-1} + u_{l-1})^T g_l,        dL/db_l = r^T g_l.

    That is 4 products of size N x H x H per hidden layer, whatever the number of inputs. Value-only
    training takes 3, double backpropagation 6, and carrying both tangents of a 2-input network forward 9.

    Calling the step with inputs (E, N, I), values (E, N, 1) and gradients (E, N, I) fills `.grad` of the
    ensemble's parameters. Its buffers are allocated once and reused.

    Args:
        ensemble: the networks that are trained.
        batch_size: N.
        value_weight: a, one number or one per network, of shape (E, 1, 1).
        gradient_weight: b, likewise. If it is 0, gradients are not computed.

    Raises:
        ValueError: an activation that is not ReLU, no hidden layer, more than one output, or a weight of the wrong
            shape; in use, a batch of the wrong shape.
    """

    def __init__(
        self,
        ensemble: MLPEnsemble,
        batch_size: int,
        value_weight: float | Tensor = 1.0,
        gradient_weight: float | Tensor = 1.0,
    ):
        if not isinstance(ensemble.activation, nn.ReLU) or ensemble.sizes[-1] != 1 or len(ensemble.sizes) < 3:
            raise ValueError("the fused step is for ReLU networks with hidden layers and one output")
        weight = ensemble.weights[0]
        self.ensemble = ensemble
        self.shape = (len(ensemble), batch_size, ensemble.sizes[0])
        check_weight("value_weight", value_weight, ensemble)
        check_weight("gradient_weight", gradient_weight, ensemble)
        self.value_factor = 2.0 / batch_size * value_weight
        self.gradient_factor = 2.0 / batch_size * gradient_weight
        self.with_gradient = bool(torch.as_tensor(gradient_weight).any())

        def buffers() -> list[Tensor]:
            return [weight.new_empty(len(ensemble), batch_size, width) for width in ensemble.sizes[1:-1]]

        self.h, self.g, self.u = buffers(), buffers(), buffers() if self.with_gradient else []
        self.y_EN1 = weight.new_empty(len(ensemble), batch_size, 1)
        self.r_EN1 = torch.empty_like(self.y_EN1)
        self.dy_ENI = weight.new_empty(self.shape)
        self.e_ENI = torch.empty_like(self.dy_ENI)

    @torch.no_grad()
    def __call__(self, x_ENI: Tensor, f_EN1: Tensor, df_ENI: Tensor) -> None:
        expected = {"inputs": (x_ENI, self.shape), "values": (f_EN1, self.y_EN1.shape)}
        if self.with_gradient:
            expected["gradients"] = df_ENI, self.shape
        for name, (tensor, shape) in expected.items():
            if tensor.shape != shape:
                raise ValueError(f"expected {name} of shape {tuple(shape)}, got {tuple(tensor.shape)}")
        for parameter in self.ensemble.parameters():
            if parameter.grad is None:  # at the first call, and after `optimizer.zero_grad()`
                parameter.grad = torch.empty_like(parameter)
        if self.with_gradient:
            self._sobolev(x_ENI, f_EN1, df_ENI)
        else:
            self._value(x_ENI, f_EN1)

    def _forward_and_backward(self, x_ENI: Tensor) -> None:
        """The forward pass into `h` and `y`, and the backward pass into `g`."""
        weights, biases = self.ensemble.weights, self.ensemble.biases
        below = x_ENI
        for h, weight, bias in zip(self.h, weights, biases, strict=False):
            below = torch.baddbmm(bias, below, weight, out=h).relu_()
        torch.baddbmm(biases[-1], below, weights[-1], out=self.y_EN1)
        _mask(weights[-1].mT.expand_as(self.g[-1]), self.h[-1], out=self.g[-1])
        for layer in range(len(self.g) - 2, -1, -1):
            torch.bmm(self.g[layer + 1], weights[layer + 1].mT, out=self.g[layer])
            _mask(self.g[layer], self.h[layer], out=self.g[layer])

    def _sobolev(self, x_ENI: Tensor, f_EN1: Tensor, df_ENI: Tensor) -> None:
        weights, biases = self.ensemble.weights, self.ensemble.biases
        self._forward_and_backward(x_ENI)
        torch.bmm(self.g[0], weights[0].mT, out=self.dy_ENI)
        r = torch.sub(self.y_EN1, f_EN1, out=self.r_EN1).mul_(self.value_factor)
        e = torch.sub(self.dy_ENI, df_ENI, out=self.e_ENI).mul_(self.gradient_factor)
        below = e
        for u, h, weight in zip(self.u, self.h, weights, strict=False):
            below = _mask(torch.bmm(below, weight, out=u), h, out=u)
        # At the output g is 1, so both of its gradients are plain sums over the samples.
        torch.sum(self.u[-1], 1, keepdim=True, out=weights[-1].grad.mT)
        weights[-1].grad.baddbmm_(self.h[-1].mT, r)
        torch.sum(r, 1, keepdim=True, out=biases[-1].grad)
        for layer in range(len(self.g) - 1, -1, -1):
            u, h = (self.u[layer - 1], self.h[layer - 1]) if layer else (e, x_ENI)
            torch.bmm(u.addcmul_(h, r).mT, self.g[layer], out=weights[layer].grad)
            torch.bmm(r.mT, self.g[layer], out=biases[layer].grad)

    def _value(self, x_ENI: Tensor, f_EN1: Tensor) -> None:
        weights, biases = self.ensemble.weights, self.ensemble.biases
        self._forward_and_backward(x_ENI)
        r = torch.sub(self.y_EN1, f_EN1, out=self.r_EN1).mul_(self.value_factor)
        torch.bmm(self.h[-1].mT, r, out=weights[-1].grad)
        torch.sum(r, 1, keepdim=True, out=biases[-1].grad)
        for layer in range(len(self.g) - 1, -1, -1):
            g = self.g[layer].mul_(r)
            torch.bmm((self.h[layer - 1] if layer else x_ENI).mT, g, out=weights[layer].grad)
            torch.sum(g, 1, keepdim=True, out=biases[layer].grad)


def _mask(source: Tensor, h: Tensor, out: Tensor) -> Tensor:
    """`source` where the ReLU output h is positive and 0 elsewhere, in one pass (`out` may be `source`)."""
    return torch.ops.aten.threshold_backward.grad_input(source, h, 0, grad_input=out)
