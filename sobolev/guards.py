"""Checks for what would silently make derivatives wrong, in the modules that f runs and in its autograd graph.

f may be a module, a function or a closure around either, so modules are inspected as they are executed.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from sobolev.calling import Function

# Wrappers whose hooks act on gradients during a backward pass. Backward passes to the input must not trigger them.
INSIDE_OUT = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule")


@contextmanager
def refusing_modules(f: Function, by_values: bool = False) -> Iterator[None]:
    """While f runs, refuse modules whose derivatives by the input, or the gradients of these, would be wrong.

    Raises:
        ValueError: f runs a BatchNorm that uses the statistics of its batch; a wrapper for training in several
            processes (unless `by_values`); or active dropout (if `by_values`, that is, with finite differences).
    """
    thread = threading.get_ident()  # the hook sees the modules of all threads

    def inspect(module: nn.Module, _: object) -> None:
        if threading.get_ident() != thread:
            return
        if mixes_by_statistics(module):
            raise ValueError(
                f"BatchNorm layer {_name(f, module)} mixes the samples of a batch, so a sample has no derivative of "
                "its own: call sobolev.freeze_batchnorm(model) after model.train(), or use GroupNorm or LayerNorm"
            )
        if by_values:
            if drops_out(module):
                raise ValueError(
                    f"layer {_name(f, module)} drops out anew at every point, so differences of values would be noise: "
                    "call model.eval(), or take derivatives by backpropagation"
                )
            return
        if wrapper := next((each.__name__ for each in type(module).__mro__ if each.__name__ in INSIDE_OUT), None):
            around = "fully_shard" if wrapper == "FSDPModule" else wrapper
            raise ValueError(
                f"derivatives taken outside {wrapper} miss its synchronisation: wrap the other way round, "
                f"{around}(Derivatives(model)), and nothing inside the model"
            )

    handle = register_module_forward_pre_hook(inspect)
    try:
        yield
    finally:
        handle.remove()


def drops_out(module: nn.Module) -> bool:
    """Whether a module is a dropout whose output is another one at every call."""
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0


def mixes_by_statistics(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm whose output y_b depends on the inputs x_b' of other samples."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None)


def _name(f: Function, module: nn.Module) -> str:
    named = f.named_modules() if isinstance(f, nn.Module) else ()
    return next((repr(name) for name, each in named if each is module), f"({type(module).__name__})")


_seen: WeakKeyDictionary[Function, Counter[bool]] = WeakKeyDictionary()


def check_samples_apart(f: Function, y: Tensor, x: Tensor, batch_dims: int) -> None:
    """Refuse an f that mixes samples, because grad(sum_b y_b) would not be the derivative of any single sample.

    The outputs of one half of the samples must not depend on the inputs of the other half. Checking this costs a
    backward pass, so it is done at the 1st, 2nd, 4th, 8th ... call of a function, and of a module in each mode. (One
    check alone could miss an operation that starts with a weight of 0, or a first batch that is too small.)

    Raises:
        ValueError: f mixes samples.
    """
    samples, mode = x.shape[:batch_dims].numel(), _mode(f)
    if samples < 2 or not y.requires_grad or not y.numel() or not x.numel():
        return
    seen = _seen_of(f)
    seen[mode] += 1
    if seen[mode].bit_count() > 1:
        return
    # Samples are halved by the parity of their number's bits, so that no regular dependence (such as on the previous
    # sample) is missed.
    half = torch.tensor([number.bit_count() % 2 == 1 for number in range(samples)], device=y.device)
    v = torch.linspace(1, 2, y.numel(), dtype=y.dtype, device=y.device).view(samples, -1)  # a plain sum may be constant
    v = v * half[:, None]
    derivative = torch.autograd.grad(y, x, v.view_as(y), retain_graph=True, allow_unused=True)[0]
    if derivative is not None and (derivative.reshape(samples, -1)[~half].abs() > 0).any():
        seen[mode] = 0
        raise ValueError(
            "f mixes the samples of a batch (outputs of some depend on inputs of others), so a sample has no "
            f"derivative of its own: the first {batch_dims} dimension(s) of x number samples, and f must treat each on "
            "its own. Causes: statistics over the batch, attention or recurrence with batch_first=False"
        )


def check_is_due(f: Function) -> bool:
    """Whether the next call of `check_samples_apart` would check."""
    return (_seen_of(f)[_mode(f)] + 1).bit_count() == 1


def _mode(f: Function) -> bool:
    return getattr(f, "training", False)


def _seen_of(f: Function) -> Counter[bool]:
    """How often f was called, by its mode (training or not)."""
    try:
        return _seen.setdefault(f, Counter())
    except TypeError:  # f cannot be a key, so its calls cannot be counted
        return Counter()


def freeze_batchnorm(model: nn.Module) -> nn.Module:
    """Make every BatchNorm of the model use its running statistics, so that samples no longer mix.

    `model.train()` undoes this, so call it after each `model.train()`. Returns the model.

    Raises:
        ValueError: a BatchNorm that keeps no running statistics.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is None:
                raise ValueError(f"BatchNorm layer {name!r} keeps no running statistics, so it cannot be frozen")
            module.eval()
    return model


NORMALISED = 0.1  # the largest |log sum p| of log-probabilities, which bfloat16 may round; logits may have any


def check_log_probabilities(outputs: Mapping[str, Tensor], seen: set[torch.device]) -> None:
    """Refuse outputs (..., classes), by whose they are, that are not log-probabilities.

    On a GPU, where each check waits for what is queued, only the first are looked at: `seen` is where some were.

    Raises:
        ValueError: whose outputs are none.
    """
    for whose, log_p in outputs.items():
        if log_p.device not in seen and (log_p.detach().logsumexp(-1).abs() > NORMALISED).any():
            raise ValueError(
                f"{whose}'s outputs are not log-probabilities of a sample's {log_p.shape[-1]} components: end it in "
                "LogSoftmax(-1), with outputs of shape (samples, classes)"
            )
    seen.update(log_p.device for log_p in outputs.values() if log_p.device.type != "cpu")


# Activations whose second derivative is zero wherever it exists.
PIECEWISE_LINEAR = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ReLU6,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Threshold,
)


def warn_if_vanishing(model: Function, order: int) -> None:
    """Warn that derivatives of order >= 2 vanish if all nonlinear modules of the model are piecewise linear."""
    if order < 2 or not isinstance(model, nn.Module):
        return
    nonlinear = [module for module in model.modules() if _may_be_nonlinear(module)]
    if nonlinear and all(isinstance(module, PIECEWISE_LINEAR) for module in nonlinear):
        names = ", ".join(sorted({type(module).__name__ for module in nonlinear}))
        warnings.warn(
            f"the only activations of {type(model).__name__} are piecewise linear ({names}): its derivatives of order "
            "2 and above are zero almost everywhere and cannot be trained. Use a smooth one, such as Tanh or SiLU.",
            stacklevel=3,
        )


def warn_if_dropping(target: object) -> None:
    """Warn of a target that drops out, whose values and derivatives are other ones at every call."""
    if isinstance(target, nn.Module) and any(map(drops_out, target.modules())):
        warnings.warn(
            f"the target, {type(target).__name__}, drops out anew at every call, so what is learned is noisy: call "
            "eval() on it",
            stacklevel=3,
        )


def _may_be_nonlinear(module: nn.Module) -> bool:
    """Whether it is an activation, a normalisation, a recurrent layer, or a layer from outside PyTorch."""
    home = type(module).__module__
    foreign_leaf = not home.startswith("torch.nn.") and not any(module.children())
    kinds = ("activation", "normalization", "instancenorm", "rnn")
    return foreign_leaf or home.removeprefix("torch.nn.modules.") in kinds
