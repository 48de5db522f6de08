"""The file that a run leaves: a network that takes and gives the units of the data.

>>> from experiments.surrogates.model import load                                     # doctest: +SKIP
>>> surrogate = load("runs/surrogate/<run>/surrogate.pt")                              # doctest: +SKIP
>>> y, dy = sobolev.Derivatives(surrogate).eval()(x)      # (N, O) and (N, O, I)       # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from experiments.runner.errors import BadInput
from experiments.surrogates.files import Samples
from sobolev.files import replacing
from sobolev.networks import ACTIVATIONS, MLPEnsemble


class Scales(NamedTuple):
    """Means and standard deviations of inputs and outputs, of each of E networks' own training points.

    `sobolev.Normalizer` measures those of one network, in double precision, from which rows that ship differ in their
    last digits.
    """

    x_mean: Tensor  # (E, 1, I)
    x_std: Tensor
    y_mean: Tensor  # (E, 1, O)
    y_std: Tensor

    @classmethod
    def of(cls, x_ENI: Tensor, y_ENO: Tensor) -> Scales:
        return cls(*_moments(x_ENI), *_moments(y_ENO))

    def scaled(self, x_ENI: Tensor, y_ENO: Tensor, dy_ENOI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z-scored inputs and values, and the derivatives of these values by these inputs."""
        dy = dy_ENOI * self.x_std[:, :, None] / self.y_std[..., None]
        return (x_ENI - self.x_mean) / self.x_std, (y_ENO - self.y_mean) / self.y_std, dy


def _moments(t_ENK: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (E, 1, K) of what is known; a column that is constant in some points has scale 1."""
    mean = t_ENK.nanmean(1, keepdim=True)
    std = (t_ENK - mean).square().nanmean(1, keepdim=True).sqrt()
    return mean.nan_to_num(0.0), torch.where(std > 0, std, 1.0)


class Surrogate(nn.Module):
    """y = y_mean + y_std m((x - x_mean) / x_std) for inputs (..., I) and outputs (..., O).

    Attributes:
        inputs: names of the I inputs.
        outputs: names of the O outputs.
    """

    def __init__(self, network: nn.Module, scales: Scales, inputs: tuple[str, ...], outputs: tuple[str, ...]):
        super().__init__()
        self.network, self.inputs, self.outputs = network, inputs, outputs
        for name, value in scales._asdict().items():
            self.register_buffer(name, value.reshape(-1))

    def forward(self, x: Tensor) -> Tensor:
        return self.y_mean + self.y_std * self.network((x - self.x_mean) / self.x_std)


def save(path: Path, ensemble: MLPEnsemble, e: int, scales: Scales, samples: Samples) -> None:
    """Write network e, with its scales and the names of inputs and outputs."""
    surrogate = Surrogate(ensemble.network(e), Scales(*(each[e] for each in scales)), samples.inputs, samples.outputs)
    content = {
        "sizes": [*ensemble.sizes],
        "activation": next(name for name, kind in ACTIVATIONS.items() if type(ensemble.activation) is kind),
        "inputs": [*samples.inputs],
        "outputs": [*samples.outputs],
        "state": surrogate.cpu().state_dict(),
    }
    with replacing(path) as partial:
        torch.save(content, partial)


def load(path: str | Path) -> Surrogate:
    """The surrogate in a run's `surrogate.pt`, on the CPU, in evaluation mode. Loading runs no code of the file.

    Raises:
        BadInput: the file is not one that a run of a surrogate left.
    """
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
        sizes, names = found["sizes"], (tuple(found["inputs"]), tuple(found["outputs"]))
        network = MLPEnsemble(sizes, [torch.Generator()], found["activation"]).network(0)
        ones = [torch.ones(size) for size in (sizes[0], sizes[0], sizes[-1], sizes[-1])]
        surrogate = Surrogate(network, Scales(*ones), *names).to(found["state"]["x_mean"].dtype)
        surrogate.load_state_dict(found["state"])
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # torch has many errors for a file that is not its own
        raise BadInput(f"{path} is not the surrogate.pt of a run ({type(error).__name__})") from None
    return surrogate.eval().requires_grad_(False)
