r"""A ReLU policy whose forward, backward and tangent passes are written out, for training on input derivatives.

`ReLUPasses` computes the same function as an `AtariPolicy`, faster. Each convolution of stride s is taken over patches
of s x s pixels that count as s^2 C channels, so that a convolution with kernel k and stride s becomes one with kernel
k / s and stride 1:

    8x8/4 over 84x84x4   ->   2x2 over 21x21x64        4x4/2 over 20x20x16   ->   2x2 over 10x10x64

Convolutions of many channels with stride 1 reach several times the speed of those of 4 channels with stride 4, above
all in the derivative by the input. States, and tensors of their shape, are kept as flat patches: one row per state.

Raw frames enter unscaled, from 0 to 255, and the first layer's weights are divided by 255 instead, which saves a pass
over the states. Derivatives and tangents are nevertheless by states in [0, 1].

Shape suffixes: B samples, I inputs (4 x 84 x 84, as flat patches), C channels, H rows, W columns, A actions.
There are L layers: the convolutions, the hidden layer and the actions.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from sobolev.networks.atari_policies import FRAME, AtariPolicy

WHITE = 255.0  # the brightest pixel of a raw frame


def space_to_depth(x_BCHW: Tensor, stride: int) -> Tensor:
    """Patches of stride x stride pixels as channels, in the order (row, column, channel), in channels-last memory."""
    batch, channels, height, width = x_BCHW.shape
    x = x_BCHW.permute(0, 2, 3, 1).reshape(batch, height // stride, stride, width // stride, stride, channels)
    x = x.transpose(2, 3).reshape(batch, height // stride, width // stride, stride**2 * channels)
    return x.permute(0, 3, 1, 2)


def depth_to_space(patches_BCHW: Tensor, stride: int) -> Tensor:
    """The inverse of `space_to_depth`."""
    batch, channels, height, width = patches_BCHW.shape
    x = patches_BCHW.permute(0, 2, 3, 1).reshape(batch, height, width, stride, stride, channels // stride**2)
    x = x.transpose(2, 3).reshape(batch, height * stride, width * stride, channels // stride**2)
    return x.permute(0, 3, 1, 2)


class ReLUPasses(nn.Module):
    r"""An `AtariPolicy` over flat patches of raw frames, with its passes written out.

    With z_l = W_l h_{l-1} + b_l, h_l = s_l z_l and masks s_l = [z_l > 0], and logits y = W_L h_{L-1} + b_L:

        forward    h_0 = x,    h_l = s_l (W_l h_{l-1} + b_l)     y = W_L h_{L-1} + b_L
        backward   g_L = w,    g_l = s_l (W_{l+1}^T g_{l+1})     D_x <y, w> = W_1^T g_1
        tangent    u_0 = e,    u_l = s_l (W_l u_{l-1})           D_x y . e = W_L u_{L-1}
        weights    dW_l = sum_b g_l h_{l-1}^T                    db_l = sum_b g_l

    The parameters are those of the policy in another layout, which makes no difference to an optimiser. The forward
    pass is computed in their dtype, and the backward and tangent passes and the weights' gradients in `compute_dtype`.
    In bfloat16 (products accumulate in float32) these are two to four times as fast. The masks come from the forward
    pass and stay exact. If it were rounded as well, masks would flip, and derivatives would be wrong by several per
    cent instead of one.

    Call `refresh` after each step of an optimiser. Loading a state and moving to a device do this automatically.

    Args:
        policy: the policy, whose parameters are copied.
        compute_dtype: torch.bfloat16, or None for the type of the policy's parameters.

    Raises:
        ValueError: a kernel or the side of a layer's input is not a multiple of the stride.
    """

    def __init__(self, policy: AtariPolicy, compute_dtype: torch.dtype | None = None):
        super().__init__()
        self.architecture = policy.architecture
        self._compute_dtype = compute_dtype
        self.strides = [convolution.stride for convolution in policy.architecture.convolutions]
        side = FRAME
        for convolution in policy.architecture.convolutions:
            if convolution.kernel % convolution.stride or side % convolution.stride:
                raise ValueError(
                    f"a convolution of kernel {convolution.kernel} and stride {convolution.stride} over {side} pixels "
                    "cannot be taken over patches: the stride must divide both"
                )
            side = (side - convolution.kernel) // convolution.stride + 1
        self.sides = (side, policy.architecture.convolutions[-1].channels)  # of the hidden layer's input
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer in self._layers(policy):
            for parameters, like in zip((self.weights, self.biases), layer.parameters(), strict=True):
                parameters.append(nn.Parameter(torch.empty_like(like)))
        self._scaled: list[Tensor] = []  # the first layer's weights, divided by WHITE
        self._reduced: list[Tensor] = []  # weights in `compute_dtype`, where that is another type
        self.load(policy)
        self.register_load_state_dict_post_hook(lambda module, _: module.refresh())

    @property
    def compute_dtype(self) -> torch.dtype:
        return self._compute_dtype or self.weights[0].dtype

    def _apply(self, *arguments: Any, **options: Any) -> ReLUPasses:
        """Convert the parameters, as `to`, `double` and the like do, and refresh the copies that the passes use."""
        super()._apply(*arguments, **options)
        self.refresh()
        return self

    @torch.no_grad()
    def load(self, policy: AtariPolicy) -> None:
        """Copy the parameters of a policy of this architecture."""
        side, channels = self.sides
        for own_weight, own_bias, layer in zip(self.weights, self.biases, self._layers(policy), strict=True):
            weight, bias = (parameter.detach() for parameter in layer.parameters())
            if isinstance(layer, nn.Conv2d):
                weight = space_to_depth(weight, layer.stride[0])
            elif layer is policy.hidden:
                weight = weight.view(-1, channels, side, side).permute(0, 2, 3, 1).flatten(1)
            own_weight.data = weight.clone(memory_format=torch.preserve_format)
            own_bias.data = bias.clone()
        self.refresh()

    @torch.no_grad()
    def store(self, policy: AtariPolicy) -> AtariPolicy:
        """Copy the parameters into a policy of this architecture, and return it."""
        side, channels = self.sides
        for index, layer in enumerate(self._layers(policy)):
            own = self.weights[index].detach()
            if isinstance(layer, nn.Conv2d):
                own = depth_to_space(own, layer.stride[0])
            elif layer is policy.hidden:
                own = own.view(-1, side, side, channels).permute(0, 3, 1, 2).flatten(1)
            weight, bias = layer.parameters()
            weight.copy_(own)
            bias.copy_(self.biases[index])
        return policy

    @staticmethod
    def _layers(policy: AtariPolicy) -> list[nn.Module]:
        return [*policy.convolutions, policy.hidden, policy.actions]

    @torch.no_grad()
    def refresh(self) -> None:
        """Update the copies of the weights that the passes use. Call it whenever parameters have changed.

        Copies keep their memory. Otherwise a CUDA graph of a step that ends with this call would always compute with
        the weights from when it was captured.
        """
        self._w = weights = [weight.detach() for weight in self.weights[:-1]]
        self._scaled = _room(self._scaled, weights[:1], weights[0].dtype)
        torch.div(weights[0], WHITE, out=self._scaled[0])
        self._forward_weights = [*self._scaled, *weights[1:]]
        if self.compute_dtype != weights[0].dtype:
            self._w = self._reduced = _room(self._reduced, weights, self.compute_dtype)
            torch._foreach_copy_(self._reduced, weights)

    def flat_patches(self, state_BCHW: Tensor) -> Tensor:
        """States (B, C, 84, 84), or tensors of their shape, as the rows (B, I) that the passes take."""
        return space_to_depth(state_BCHW, self.strides[0]).permute(0, 2, 3, 1).flatten(1)

    def from_flat_patches(self, row_BI: Tensor) -> Tensor:
        """The inverse of `flat_patches`."""
        return depth_to_space(self._unflatten(row_BI), self.strides[0])

    def _unflatten(self, row_BI: Tensor) -> Tensor:
        side = FRAME // self.strides[0]
        return row_BI.view(len(row_BI), side, side, -1).permute(0, 3, 1, 2)

    @torch.no_grad()
    def values(self, raw_BI: Tensor) -> tuple[list[Tensor], Tensor]:
        """The forward pass at raw states, from 0 to 255 in any dtype: each layer's input h_0, ..., h_{L-1}, and the
        logits (B, A)."""
        h = self._unflatten(raw_BI.to(self.weights[0].dtype))
        inputs = []
        for index, (weight, bias) in enumerate(zip(self._forward_weights, self.biases, strict=False)):
            h = self._onto(h, index)
            inputs.append(self._unflatten(raw_BI.to(self.compute_dtype)) if index == 0 else h.to(self.compute_dtype))
            h = torch.nn.functional.conv2d(h, weight, bias) if weight.dim() == 4 else torch.addmm(bias, h, weight.mT)
            h = h.relu_()
        inputs.append(h)
        return inputs, torch.addmm(self.biases[-1], h, self.weights[-1].mT)

    @overload
    def backward(self, w_BA: Tensor, inputs: list[Tensor], to_input: Literal[True]) -> tuple[list[Tensor], Tensor]: ...

    @overload
    def backward(self, w_BA: Tensor, inputs: list[Tensor], to_input: Literal[False]) -> tuple[list[Tensor], None]: ...

    @torch.no_grad()
    def backward(self, w_BA: Tensor, inputs: list[Tensor], to_input: bool) -> tuple[list[Tensor], Tensor | None]:
        """The backward pass of <logits, w>: g_1, ..., g_L, and its derivative (B, I) by states in [0, 1] or None."""
        signals = [w_BA]
        g = _mask(w_BA @ self.weights[-1], inputs[-1]).to(self.compute_dtype)
        for index in range(len(self._w) - 1, -1, -1):
            signals.append(g)
            if index == 0 and not to_input:
                return signals[::-1], None
            weight = self._w[index]
            g = _convolution_backward(g, inputs[index], weight, by_input=True) if weight.dim() == 4 else g @ weight
            if index:
                g = self._back(_mask(g, inputs[index]), index)
        return signals[::-1], g.permute(0, 2, 3, 1).flatten(1)

    @torch.no_grad()
    def tangent(self, e_BI: Tensor, inputs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The tangent pass along e, in units of states in [0, 1]: u_0, ..., u_{L-1}, and the tangent of the logits."""
        u = self._unflatten(e_BI)
        tangents = []
        for index, weight in enumerate(self._w):
            u = self._onto(u, index)
            if index:
                u = _mask(u, inputs[index])
            tangents.append(u)
            u = torch.nn.functional.conv2d(u, weight) if weight.dim() == 4 else u @ weight.mT
        u = _mask(u.to(inputs[-1].dtype), inputs[-1])
        tangents.append(u)
        return tangents, u @ self.weights[-1].mT

    @torch.no_grad()
    def accumulate(self, inputs: list[Tensor], signals: list[Tensor], of_values: bool) -> None:
        """Add sum_b g_l h_{l-1}^T to the `.grad` of the weights.

        The inputs are values h, or tangents u if `of_values` is false. For values, also add sum_b g_l to the `.grad` of
        the biases, on which tangents do not depend.
        """
        for index, (h, g) in enumerate(zip(inputs, signals, strict=True)):
            weight, bias = self.weights[index], self.biases[index]
            product = _convolution_backward(g, h, self._w[index], by_input=False) if h.dim() == 4 else g.mT @ h
            weight.grad.add_(product, alpha=1 / WHITE if of_values and index == 0 else 1)
            if of_values:
                bias.grad += g.sum((0, 2, 3) if g.dim() == 4 else 0, dtype=bias.dtype)

    def _onto(self, h: Tensor, index: int) -> Tensor:
        """The output of layer `index - 1` in the layout that layer `index` takes."""
        if index == 0 or index > len(self.strides):
            return h
        if index == len(self.strides):
            return h.permute(0, 2, 3, 1).flatten(1)
        return space_to_depth(h, self.strides[index]) if self.strides[index] > 1 else h

    def _back(self, g: Tensor, index: int) -> Tensor:
        """The inverse of `_onto`."""
        if index > len(self.strides):
            return g
        if index == len(self.strides):
            side, channels = self.sides
            return g.view(-1, side, side, channels).permute(0, 3, 1, 2)
        return depth_to_space(g, self.strides[index]) if self.strides[index] > 1 else g


def _convolution_backward(g: Tensor, h: Tensor, weight: Tensor, by_input: bool) -> Tensor:
    """The gradient by the input h of a convolution, or by its weights, for the gradient g by its output."""
    return torch.ops.aten.convolution_backward(
        g, h, weight, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, (by_input, not by_input, False)
    )[0 if by_input else 1]


def _room(copies: list[Tensor], weights: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """`copies` if they fit these weights in this dtype, else new memory."""
    found = [(copy.shape, copy.dtype, copy.device) for copy in copies]
    if found == [(weight.shape, dtype, weight.device) for weight in weights]:
        return copies
    return [torch.empty_like(weight, dtype=dtype) for weight in weights]


def _mask(source: Tensor, h: Tensor) -> Tensor:
    """`source` where the ReLU output h is positive and 0 elsewhere, in place."""
    return torch.ops.aten.threshold_backward.grad_input(source, h, 0, grad_input=source)
