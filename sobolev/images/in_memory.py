r"""Digits, MNIST and CIFAR-10, held in memory as uint8.

`IN_MEMORY[name](folder, split, hold_out)` reads a split. Publishers provide a training and a test subset. `hold_out`
images of the training subset form the split `validation`, and the others the split `train`. The permutation depends
only on their number, so a larger `hold_out` holds out the same images and more.

The size, the structure and the range of labels of a file are checked each time it is read.

Shape suffixes: N samples, C channels, H rows, W columns.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sobolev.images.download import remedy
from sobolev.images.image_set import SPLITS, ImageError, ImageSet
from sobolev.seeding import generator

N_CLASSES = 10  # of each of the three sets
DIGITS_TEST = 360  # a fifth of all
CIFAR_SHAPE = (3, 32, 32)
CIFAR_IMAGES = 10_000  # in each file
CIFAR_FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
MNIST_SIDE = 28
MNIST_FILES = {
    "train": ("train", 60_000),
    "test": ("t10k", 10_000),
}  # the prefix of file names, and the number of images

Labelled = tuple[Tensor, Tensor]  # pixels_NCHW uint8, labels_N int64


def read_digits(folder: Path, subset: str) -> Labelled:
    """1,797 handwritten digits of 8 x 8 pixels, bundled with scikit-learn: nothing to download.

    Their 17 grey levels are scaled to 0 to 255. This copy is one of the two subsets of its publisher (UCI), so the test
    set is our own: a fifth of it, by a fixed permutation.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImageError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from None
    bundled = load_digits()
    order = torch.randperm(len(bundled.target), generator=generator(0, "digits test part"))
    chosen = (order[:DIGITS_TEST] if subset == "test" else order[DIGITS_TEST:]).sort().values
    pixels = torch.from_numpy(np.rint(bundled.images[:, None] * (255 / 16)).astype(np.uint8))
    return pixels[chosen], torch.from_numpy(bundled.target.astype(np.int64))[chosen]


def read_mnist(folder: Path, subset: str) -> Labelled:
    """70,000 handwritten digits of 28 x 28 pixels: <folder>/mnist/*-ubyte.gz, four gzipped idx files."""
    beginning, n = MNIST_FILES[subset]
    directory = folder / "mnist"
    pixels = _read_idx(directory / f"{beginning}-images-idx3-ubyte.gz", (n, MNIST_SIDE, MNIST_SIDE), folder)
    path = directory / f"{beginning}-labels-idx1-ubyte.gz"
    return pixels[:, None], _checked_labels(_read_idx(path, (n,), folder), path, "mnist", folder)


def _read_idx(path: Path, shape: tuple[int, ...], folder: Path) -> Tensor:
    """An idx file: bytes 0, 0, 8 (uint8), the number of dimensions, their sizes as big-endian int32, the values."""
    header = np.array([0x800 + len(shape), *shape], ">i4").tobytes()
    length = len(header) + prod(shape)
    _check_file(path, "mnist", folder)
    try:
        with gzip.open(path) as file:
            content = file.read(length + 1)  # one byte more, so that gzip reaches the end and compares its checksum
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ImageError(f"{path} is damaged ({error}): {remedy('mnist', folder)}") from None
    if len(content) != length or not content.startswith(header):
        what = " x ".join(map(str, shape))
        raise ImageError(
            f"{path} is damaged: expected an idx file of {what} bytes after its header; {remedy('mnist', folder)}"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape).copy())


def read_cifar10(folder: Path, subset: str) -> Labelled:
    """60,000 photographs of 32 x 32 pixels: <folder>/cifar-10-batches-bin/*.bin, the binary version.

    A record is one byte for the label and 3,072 for the pixels: the red, green and blue planes by rows.
    """
    record = 1 + prod(CIFAR_SHAPE)
    length = CIFAR_IMAGES * record
    records = []
    for path in (folder / "cifar-10-batches-bin" / name for name in CIFAR_FILES[subset]):
        _check_file(path, "cifar10", folder)
        if (found := path.stat().st_size) != length:
            raise ImageError(
                f"{path} is damaged: expected {length:,} bytes, found {found:,}; {remedy('cifar10', folder)}"
            )
        records.append(np.fromfile(path, np.uint8, length).reshape(CIFAR_IMAGES, record))
        _checked_labels(torch.from_numpy(records[-1][:, 0]), path, "cifar10", folder)
    pixels = np.concatenate([content[:, 1:] for content in records]).reshape(-1, *CIFAR_SHAPE)
    labels = np.concatenate([content[:, 0] for content in records])
    return torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64))


def _check_file(path: Path, name: str, folder: Path) -> None:
    """Refuse a missing file, and pipes and devices, which may never end."""
    if not path.is_file():
        raise ImageError(f"{path} {'is no file' if path.exists() else 'is missing'}: {remedy(name, folder)}")


def _checked_labels(labels_N: Tensor, path: Path, name: str, folder: Path) -> Tensor:
    if labels_N.max() >= N_CLASSES:
        raise ImageError(
            f"{path} is damaged: expected labels from 0 to {N_CLASSES - 1}, found {int(labels_N.max())}; "
            f"{remedy(name, folder)}"
        )
    return labels_N.long()


def _load(read: Callable[[Path, str], Labelled], folder: Path | str, split: str, hold_out: int = 0) -> ImageSet:
    """Read one split.

    Args:
        read: a function of the folder and of the publisher's subset, "train" or "test".
        folder: the folder of data sets, each in its own subfolder.
        split: "train", "validation" or "test".
        hold_out: the number of images of the publisher's training set that form the validation split. Mean and standard
            deviation are those of the split `train`, without them.

    Raises:
        ImageError: the set is missing or damaged.
        ValueError: an unknown split, or a `hold_out` that makes a split empty.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split} is unknown: choose from {', '.join(SPLITS)}")
    folder = Path(folder)
    pixels, labels = read(folder, "train")
    if not (split == "validation") <= hold_out < len(labels):
        raise ValueError(
            f"hold_out={hold_out}: expected {int(split == 'validation')} to {len(labels) - 1} "
            f"of {len(labels)} training images"
        )
    kept, held = hold_out_indices(len(labels), hold_out)
    train = pixels[kept] if hold_out else pixels
    mean, std = _statistics(train)
    if split == "train":
        pixels, labels = train, labels[kept]
    elif split == "validation":
        pixels, labels = pixels[held], labels[held]
    else:
        pixels, labels = read(folder, "test")
    return ImageSet(pixels, labels, N_CLASSES, mean, std)


def hold_out_indices(n: int, hold_out: int) -> tuple[Tensor, Tensor]:
    """The indices of n images that stay in the training split, and the `hold_out` indices of the validation split."""
    order = torch.randperm(n, generator=generator(0, "validation split"))
    return order[hold_out:].sort().values, order[:hold_out].sort().values


def _statistics(pixels_NCHW: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The exact mean and standard deviation of each channel, from counts of the 256 values."""
    counts = np.zeros((pixels_NCHW.shape[1], 256))
    for chunk in pixels_NCHW.split(4096):  # in chunks, because counting converts each pixel to int64
        for channel, count in enumerate(counts):
            count += np.bincount(chunk[:, channel].numpy().ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(1)
    std = np.sqrt(counts @ values**2 / counts.sum(1) - mean**2)
    return tuple(mean.tolist()), tuple(std.tolist())


IN_MEMORY: dict[str, Callable[..., ImageSet]] = {
    "digits": partial(_load, read_digits),
    "mnist": partial(_load, read_mnist),
    "cifar10": partial(_load, read_cifar10),
}
