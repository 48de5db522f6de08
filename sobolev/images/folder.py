r"""ImageNet-style folders, read as they are needed: `train/<class>/*.JPEG` and `val/<class>/*.JPEG`.

Worker processes decode whole batches. Batch k of epoch e depends only on (seed, e, k), so training can continue from
any batch with any number of workers or ranks. Only the file names and labels stay in memory, in one array each that
workers share (about 40 bytes per image), besides the few batches in progress.

Pixels are used as they are stored (`sobolev.images.decoding` says why). If that may be a mistake, for example because
EXIF asks to rotate an image, there is one warning per set.

Shape suffixes: B samples, C channels (3), H rows, W columns.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sobolev.images.crops import CentralCrops, RandomCrops
from sobolev.images.decoding import decode
from sobolev.images.image_set import SPLITS, ImageError, normalise
from sobolev.images.in_memory import hold_out_indices
from sobolev.seeding import generator

SUFFIXES = (".jpeg", ".jpg", ".png")
OTHER_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".jfif", ".jp2", ".jpe", ".ppm", ".tif", ".tiff", ".webp")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Batch = tuple[Tensor, Tensor]  # pixels_BCHW uint8, labels_B int64


class ImageFolder:
    """One split of an ImageNet-style folder.

    Classes are the sorted names of the folders. Files ending in .jpeg, .jpg or .png are the images. Other files are
    ignored, with a warning that counts images in other formats. `normalise` uses the customary mean and standard
    deviation of ImageNet.

    Args:
        root: the folder that holds `train` and `val`.
        split: "train"; "validation", which is taken from the folder `train` by a fixed permutation; or "test", which is
            the folder `val`, because published results on ImageNet are on it.
        hold_out: the number of images in the folder `train` that form the validation split.

    Raises:
        ImageError: a folder is missing or has no image, there is one class, or `train` and `val` have different ones.
        ValueError: an unknown split, or a `hold_out` that makes a split empty.
    """

    mean_C, std_C = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, root: Path | str, split: str = "train", hold_out: int = 0):
        if split not in SPLITS:
            raise ValueError(f"split={split} is unknown: choose from {', '.join(SPLITS)}")
        self.root, self.noted = Path(root), set[str]()
        self.classes = classes_of(self.root)
        self.directory = self.root / ("val" if split == "test" else "train")
        self.names_N, self.labels_N = self._list_files()
        if split != "test":
            if not (split == "validation") <= hold_out < len(self):
                raise ValueError(
                    f"hold_out={hold_out}: expected {int(split == 'validation')} to {len(self) - 1} "
                    f"of {len(self)} training images"
                )
            kept, held = hold_out_indices(len(self), hold_out)
            chosen = (held if split == "validation" else kept).numpy()
            self.names_N, self.labels_N = self.names_N[chosen], self.labels_N[chosen]

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    def normalise(self, pixels_BCHW: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(x / 255 - mean) / std of a uint8 batch, on its device, in channels_last."""
        return normalise(pixels_BCHW, self.mean_C, self.std_C, dtype)

    def train(
        self,
        seed: int,
        epoch: int,
        batch_size: int,
        size: int,
        workers: int = 0,
        *,
        first: int = 0,
        epochs: int = 1,
        rank: int = 0,
        ranks: int = 1,
        min_area: float = 0.08,
        flip: bool = True,
        pin_memory: bool = False,
    ) -> Iterator[Batch]:
        """The shuffled and augmented batches of an epoch. Images that do not fill a last batch are left out.

        Args:
            seed: of the order and the crops.
            epoch: from 0.
            batch_size: the samples of a batch over all ranks.
            size: the side of the crops, in pixels.
            workers: the number of decoding processes; 0 decodes in this process.
            first: the batch to start with.
            epochs: the number of consecutive epochs, including this one. The same processes decode all of them.
            rank: which of the `ranks` shares of each batch to yield: samples rank, rank + ranks, rank + 2 ranks, ...
            ranks: the number of processes that train together.
            min_area: the smallest area of a crop, as a fraction of the image's. The Inception networks use 0.08.
            flip: whether to mirror half of the crops.
            pin_memory: whether batches lie in pinned memory, from which copies to a GPU are asynchronous.

        Raises:
            ImageError: an image cannot be read. The message names it.
            ValueError: a batch larger than the split, or a rank that does not exist.
        """
        n_batches = self.batches_per_epoch(batch_size)
        of_epoch = partial(_shuffled, seed, len(self), batch_size, min_area, flip)
        batches = _Batches(self, of_epoch, batch_size, size, rank, ranks)
        following = range(epoch, epoch + epochs)
        numbers = ((e, k) for e in following for k in range(first if e == epoch else 0, n_batches))
        return _load(batches, numbers, workers, pin_memory)

    def evaluate(
        self,
        batch_size: int,
        size: int,
        resize: int,
        workers: int = 0,
        *,
        rank: int = 0,
        ranks: int = 1,
        pin_memory: bool = False,
    ) -> Iterator[Batch]:
        """All images once, in order; the last batch may be smaller.

        Each image is resized to a shorter side of `resize`, and the central `size` x `size` pixels are used. Both
        happen in one step, so that the crop need not start at a whole pixel.

        Raises:
            ImageError: an image cannot be read. The message names it.
            ValueError: a crop larger than the resized image, or a rank that does not exist.
        """
        if not 0 < size <= resize:
            raise ValueError(f"size={size}: expected 1 to resize={resize}")
        batches = _Batches(self, partial(_in_order, len(self), size / resize), batch_size, size, rank, ranks)
        numbers = ((0, k) for k in range(-(-len(self) // batch_size)))
        return _load(batches, numbers, workers, pin_memory)

    def batches_per_epoch(self, batch_size: int) -> int:
        """The number of full batches.

        Raises:
            ValueError: there is none.
        """
        if not 0 < batch_size <= len(self):
            raise ValueError(f"batch_size={batch_size}: expected 1 to {len(self)}, the images of {self.directory}")
        return len(self) // batch_size

    def _list_files(self) -> tuple[np.ndarray, np.ndarray]:
        """The images' paths below the split's folder, as bytes of one width, and their labels."""
        names, passed_over = [], Counter[str]()
        for name in self.classes:
            there = sorted(file for file in os.listdir(self.directory / name) if not file.startswith("."))
            files = [file for file in there if file.lower().endswith(SUFFIXES)]
            # Not `Path.suffix`, which would intern each of a million names.
            suffixes = (os.path.splitext(file)[1].lower() for file in there)
            passed_over.update(suffix for suffix in suffixes if suffix in OTHER_SUFFIXES)
            if not files:
                raise ImageError(f"{self.directory / name} has no image: expected files named {', '.join(SUFFIXES)}")
            names.append(np.array([os.fsencode(f"{name}/{file}") for file in files]))
        if passed_over:
            kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(passed_over.items()))
            warnings.warn(f"{self.directory}: only {', '.join(SUFFIXES)} are read, not its {kinds}", stacklevel=3)
        labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(files) for files in names])
        return np.concatenate(names), labels


def classes_of(root: Path) -> list[str]:
    """The names of the classes below `train` and `val`, sorted.

    Raises:
        ImageError: a folder is missing, there is one class, or `train` and `val` have different ones.
    """
    train, val = (_subfolders(root / name) for name in ("train", "val"))
    if difference := sorted(set(train) ^ set(val)):
        where = "train" if difference[0] in train else "val"
        raise ImageError(
            f"{root}: train and val must have the same classes, but {len(difference)} "
            f"differ: {difference[0]} is only in {where}"
        )
    if len(train) < 2:
        raise ImageError(f"{root}: expected two classes or more, but the only one is {train[0]}")
    return train


def _subfolders(directory: Path) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    if not names:
        raise ImageError(
            f"{directory} is missing or empty: expected a folder of images for each class, as train/n01440764/*.JPEG; "
            "ImageNet comes from image-net.org, and `python -m scripts.download imagenette` fetches ten of its classes"
        )
    return names


@lru_cache(maxsize=2)  # a decoding process needs one epoch and, at its end, the next one too
def _shuffled(
    seed: int, n: int, batch_size: int, min_area: float, flip: bool, epoch: int
) -> tuple[np.ndarray, RandomCrops]:
    """The order of the images in an epoch, and their crops."""
    order = torch.randperm(n, generator=generator(seed, "shuffle", epoch)).numpy()
    return order, RandomCrops(seed, epoch, batch_size, min_area, flip)


@lru_cache(maxsize=2)
def _in_order(n: int, fraction: float, epoch: int) -> tuple[np.ndarray, CentralCrops]:
    """The images in their stored order, and central crops."""
    return np.arange(n), CentralCrops(fraction)


def _load(batches: _Batches, numbers: Iterable[tuple[int, int]], workers: int, pin_memory: bool) -> Iterator[Batch]:
    """The batches with these numbers, decoded by worker processes, with one warning of each kind per folder."""
    # It has its own generator, because a loader without one draws from torch's global generator.
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, ImageError):
            raise batch
        pixels_BCHW, labels_B, notes = batch
        for note in notes.keys() - batches.folder.noted:
            batches.folder.noted.add(note)
            what = f"{notes[note]} of the {len(labels_B)} images in a batch {note}"
            warnings.warn(f"{batches.folder.directory}: {what}", stacklevel=2)
        yield pixels_BCHW, labels_B


class _Batches(Dataset):
    """Item (e, k) is batch k of epoch e, with notes on what may be a mistake and the number of images of each.

    The error of an unreadable image is returned, not raised, because a loader would wrap it in a traceback.
    """

    def __init__(
        self,
        folder: ImageFolder,
        of_epoch: Callable[[int], tuple[np.ndarray, RandomCrops | CentralCrops]],
        batch_size: int,
        size: int,
        rank: int,
        ranks: int,
    ):
        if batch_size < 1 or not 0 <= rank < ranks:
            raise ValueError(
                f"batch_size={batch_size}, rank={rank} of {ranks}: expected batch_size above 0 and a rank below ranks"
            )
        self.folder, self.of_epoch, self.batch_size, self.size = folder, of_epoch, batch_size, size
        self.share = slice(rank, None, ranks)

    def __getitem__(self, epoch_and_number: tuple[int, int]) -> tuple[Tensor, Tensor, dict[str, int]] | ImageError:
        epoch, number = epoch_and_number
        order, crops = self.of_epoch(epoch)
        chosen = order[number * self.batch_size : (number + 1) * self.batch_size][self.share]
        of_batch = islice(crops.of_batch(number), self.share.start, None, self.share.step)
        pixels_BHWC = torch.empty(len(chosen), self.size, self.size, 3, dtype=torch.uint8)
        notes = Counter[str]()
        # Around the whole batch, because after every such block Python forgets which warnings it has already shown.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # about palettes and damaged EXIF
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for pixels_HWC, index, crop in zip(pixels_BHWC.numpy(), chosen, of_batch, strict=False):
                path = self.folder.directory / os.fsdecode(self.folder.names_N[index])
                try:
                    pixels_HWC[:], of_image = decode(path, self.size, crop)
                except Exception as error:  # Pillow raises many kinds, and each means that this image is bad
                    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                    return ImageError(f"{path} cannot be read ({reason}): replace it or remove it")
                notes.update(of_image)
        labels_B = torch.from_numpy(self.folder.labels_N[chosen].astype(np.int64))
        return pixels_BHWC.permute(0, 3, 1, 2), labels_B, dict(notes)  # a loader would copy a Counter, and double it
