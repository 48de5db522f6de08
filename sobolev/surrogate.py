"""A network in the units of its data, saved in a file with the names of its inputs and outputs.

A run of `experiment=surrogate` writes such a file.

>>> surrogate = load("runs/surrogate/<run>/surrogate.pt")                              # doctest: +SKIP
>>> y, dy = surrogate.predict(x), surrogate.predict_derivative(x)                      # doctest: +SKIP

x is an array (N, I), y one (N, O) and dy one (N, O, I). A surrogate is also a module, which accepts tensors of single
or double precision and works with `sobolev.Derivatives`.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sobolev.derivatives import derivatives
from sobolev.networks.ensemble import MLPEnsemble, sizes_and_activation
from sobolev.normalizer import InUnits, Normalizer

# The names of tensors in older files: {old name: new name}.
FORMER = {"x_mean": "normalizer.x_mean", "x_std": "normalizer.x_scale"}
FORMER |= {"y_mean": "normalizer.y_mean", "y_std": "normalizer.y_scale"}


class Surrogate(InUnits):
    """y = y_mean + y_scale m((x - x_mean) / x_scale) for inputs (..., I) and outputs (..., O), in float64.

    Args:
        network: m, an `MLPEnsemble.network`.
        units: the means and scales.
        inputs: names of the I inputs.
        outputs: names of the O outputs.
    """

    def __init__(self, network: nn.Module, units: Normalizer, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__(network, units)
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.double()  # a mean far from 0 would use up the 7 digits of float32

    def forward(self, x: Any, *condition: Any, **named: Any) -> Tensor:
        """Values (..., O) of inputs (..., I), an array or a tensor."""
        x = self._inputs(x)
        if not x.dim() or x.shape[-1] != len(self.inputs):
            raise ValueError(self._expected(x))
        return super().forward(x, *condition, **named)

    def predict(self, x: Any) -> np.ndarray:
        """Values (N, O) at inputs (N, I)."""
        with torch.no_grad():
            return self(self._samples(x)).numpy(force=True)

    def predict_derivative(self, x: Any, order: int = 1) -> np.ndarray:
        """Derivatives (N, O, I, ..., I) at inputs (N, I)."""
        with torch.inference_mode(False):
            return derivatives(self, self._samples(x), order)[order].numpy(force=True)

    def _inputs(self, x: Any) -> Tensor:
        mean = self.normalizer.x_mean
        return torch.as_tensor(x if isinstance(x, Tensor) else np.array(x), dtype=mean.dtype, device=mean.device)

    def _samples(self, x: Any) -> Tensor:
        x = self._inputs(x)
        if x.dim() != 2:
            raise ValueError(self._expected(x))
        return x

    def _expected(self, x: Tensor) -> str:
        return f"x has shape {tuple(x.shape)}, expected (N, {len(self.inputs)}): {', '.join(self.inputs)}"

    def save(self, path: str | PathLike) -> None:
        """Write a file for `load`, without code. An existing file is replaced once the new one is complete."""
        from sobolev.files import replacing  # not importable on every system

        sizes, activation = sizes_and_activation(self.model)
        content = {
            "sizes": sizes,
            "activation": activation,
            "inputs": [*self.inputs],
            "outputs": [*self.outputs],
            "state": {name: tensor.cpu() for name, tensor in self.state_dict().items()},
        }
        with replacing(Path(path)) as partial:
            torch.save(content, partial)


def load(path: str | PathLike) -> Surrogate:
    """The surrogate in a file, on the CPU, in evaluation mode. Loading runs no code from the file.

    Raises:
        ValueError: the file was not written by `Surrogate.save`.
    """
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
        sizes = found["sizes"]
        network = MLPEnsemble(sizes, [torch.Generator()], found["activation"]).network(0)
        surrogate = Surrogate(network, Normalizer(sizes[:1], sizes[-1:]), found["inputs"], found["outputs"])
        state = {FORMER.get(name, name.replace("network.", "model.")): t for name, t in found["state"].items()}
        surrogate.load_state_dict(state)
    except OSError:
        raise
    except Exception as error:  # torch raises many kinds for a foreign file
        raise ValueError(f"{path} is not the surrogate.pt of a run ({type(error).__name__})") from error
    return surrogate.eval().requires_grad_(False)
