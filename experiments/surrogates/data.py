"""The data of a surrogate: a user's own file, or a task that is computed here once and then cached."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.surrogates import basket, reactor
from experiments.surrogates.files import SPLITS, Samples, read, sizes, split
from experiments.surrogates.settings import DatasetConfig
from sobolev.files import locked, replacing, sha256

Parts = dict[str, Samples]  # by split


def load(dataset: DatasetConfig) -> tuple[Parts, dict[str, float]]:
    """The three parts, and the cost of a sample with derivatives relative to one without, by how they are computed.

    Raises:
        BadInput: the file is not as expected, or has too few samples.
    """
    if dataset.source == "reactor":
        samples, costs = _solved(dataset)
        return split(samples, dataset.split, dataset.seed, "dataset.n_samples"), costs
    if dataset.source == "basket":
        return _paths(dataset), {}
    return split(read(dataset.path, tuple(dataset.outputs)), dataset.split, dataset.seed, dataset.path), {}


def shape_of(dataset: DatasetConfig) -> tuple[int, int]:
    """The numbers of inputs and of outputs. Raises BadInput for a file that is not as expected."""
    if dataset.source == "reactor":
        return len(reactor.INPUTS), len(reactor.OUTPUTS)
    if dataset.source == "basket":
        return basket.N_ASSETS, 1
    samples = read(dataset.path, tuple(dataset.outputs))
    return samples.x.shape[1], samples.y.shape[1]


def _solved(dataset: DatasetConfig) -> tuple[Samples, dict[str, float]]:
    """The reactor's samples, from the cache if they are there."""
    folder = Path(dataset.folder)
    code = sha256(Path(reactor.__file__))[:8]  # a changed reactor has other samples
    path = folder / f"reactor-{code}-n{dataset.n_samples}-seed{dataset.seed}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        kept = _kept(path)
        if kept is None:
            samples, cost = reactor.samples(dataset.n_samples, dataset.seed)
            kept = {"x": samples.x, "y": samples.y, "dy": samples.dy, "cost": cost}
            with replacing(path) as partial, partial.open("wb") as file:
                np.savez_compressed(file, **kept)
    x, y, dy = (kept[name] for name in ("x", "y", "dy"))
    costs = {"sensitivities": float(kept["cost"]), "differences": 1.0 + x.shape[1]}  # one-sided: the cheapest
    return Samples(x, y, dy, reactor.INPUTS, reactor.OUTPUTS), costs


def _kept(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a cache file; None if there is none or it is damaged, and the samples are then computed again."""
    if not path.exists():
        return None
    try:
        # np.load would accept an array or a pickle, judging by the first bytes, and leaves a damaged file open.
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ("x", "y", "dy", "cost")}
    except OSError:
        raise
    except Exception:  # zipfile, zlib and NumPy raise different errors for a damaged file
        return None


def _paths(dataset: DatasetConfig) -> Parts:
    """Noisy paths for training and validation, and closed-form values for testing."""
    rng = np.random.default_rng(dataset.seed)
    drawn = [basket.draw(n, rng) for n in sizes(dataset.n_samples, dataset.split)]
    found = [basket.paths(x, rng) for x in drawn[:2]]
    return dict(zip(SPLITS, (*found, basket.closed_form(drawn[2])), strict=True))
