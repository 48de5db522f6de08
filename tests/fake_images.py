"""Small data sets in their publishers' layouts, made of noise."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from PIL import Image

from sobolev.images import in_memory

CLASSES = ("n01440764", "n02102040", "n02979186")


def write_cifar10(folder: Path, monkeypatch, images: int = 20) -> dict[str, np.ndarray]:
    """Six files of so many records; the loader is told so. Returns records (N, 3073) by part."""
    monkeypatch.setattr(in_memory, "CIFAR_IMAGES", images)
    directory = folder / "cifar-10-batches-bin"
    directory.mkdir(parents=True)
    rng = np.random.default_rng(0)
    parts = {}
    for part, names in in_memory.CIFAR_FILES.items():
        records = rng.integers(256, size=(len(names), images, 3073), dtype=np.uint8)
        records[..., 0] %= 10
        for name, content in zip(names, records, strict=True):
            (directory / name).write_bytes(content.tobytes())
        parts[part] = records.reshape(-1, 3073)
    return parts


def write_mnist(folder: Path, monkeypatch, train: int = 30, test: int = 20) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Four gzipped idx files; the loader is told how many images there are. Returns pixels and labels by part."""
    monkeypatch.setattr(in_memory, "MNIST_FILES", {"train": ("train", train), "test": ("t10k", test)})
    directory = folder / "mnist"
    directory.mkdir(parents=True)
    rng = np.random.default_rng(0)
    parts = {}
    for part, (beginning, n) in in_memory.MNIST_FILES.items():
        pixels, labels = rng.integers(256, size=(n, 28, 28), dtype=np.uint8), rng.integers(10, size=n, dtype=np.uint8)
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
            (directory / f"{beginning}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes()))
        parts[part] = pixels, labels
    return parts


def write_folder(root: Path, train: int = 8, val: int = 3, sides: tuple[int, int] = (24, 48)) -> Path:
    """`train` and `val` with so many images a class, of various sizes, as ImageNet has them."""
    rng = np.random.default_rng(0)
    for split, n in (("train", train), ("val", val)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for index in range(n):
                height, width = rng.integers(*sides, 2)
                smooth = Image.fromarray(rng.integers(256, size=(4, 4, 3), dtype=np.uint8)).resize((width, height))
                smooth.save(root / split / name / f"{name}_{index}.JPEG", "JPEG", quality=95)
    return root
