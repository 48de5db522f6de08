r"""ImageNet-style folders, read as they are needed: `train/<class>/*.JPEG` and `val/<class>/*.JPEG`.

Training takes a crop of random area and shape, as the Inception networks did (Szegedy et al. 2015), and mirrors it:

    area ~ U[min_area, 1] of the image,  log(width / height) ~ U[log 3/4, log 4/3],  place uniform

Worker processes decode whole batches. Batch k of epoch e depends on (seed, e, k) alone, so training goes on from any
batch and on any number of workers or ranks. What stays in memory is a table of file names and labels, one array each
that workers share: about 40 bytes an image, and a few batches on their way.

Pixels are taken as they are stored. An EXIF tag that asks for a picture to be turned is not followed: published results
on ImageNet are of pipelines that do not look at it, and a network that learned from pixels as stored is to be tested on
such. Where a set has such tags, it is said once.

Shape suffixes: B samples, C channels (3), H rows, W columns.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice, repeat
from math import exp, log, sqrt
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sobolev.images.image_set import SPLITS, ImageError, normalise
from sobolev.images.in_memory import hold_out_indices
from sobolev.seeding import generator

SUFFIXES = (".jpeg", ".jpg", ".png")
FORMATS = ("JPEG", "PNG")  # all that a decoder is asked for: of what else it knows, some starts other programs
OTHER_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".jfif", ".jp2", ".jpe", ".ppm", ".tif", ".tiff", ".webp")
MAX_PIXELS = 1 << 25  # decoded of one image: 128 MiB
ATTEMPTS = 10  # at a crop that fits
ASPECTS = (3 / 4, 4 / 3)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Batch = tuple[Tensor, Tensor]  # pixels_BCHW uint8, labels_B int64
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Crop = tuple[Callable[[int, int], Box], bool]  # the box of an image of so much width and height; whether it is mirrored


class ImageFolder:
    """One split of an ImageNet-style folder.

    Classes are the names of the folders, sorted. Files ending in .jpeg, .jpg or .png are its images. Others are let be,
    with a warning that counts those which by their names are images too. `normalise` uses the mean and deviation that
    are customary for ImageNet.

    Args:
        root: the folder that holds `train` and `val`.
        split: "train"; "validation", which is cut from `train` by a fixed permutation; or "test", which is `val`, as
            results on ImageNet are published on it.
        hold_out: images of `train` that make the validation split.

    Raises:
        ImageError: a folder that is missing or has no image, or `train` and `val` whose classes differ.
        ValueError: an unknown split, or a `hold_out` that leaves a split empty.
    """

    mean_C, std_C = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, root: Path | str, split: str = "train", hold_out: int = 0):
        if split not in SPLITS:
            raise ValueError(f"split={split} is unknown: choose from {', '.join(SPLITS)}")
        self.root, self.said_of_exif = Path(root), False
        self.classes = self._common_classes()
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
        rank: int = 0,
        ranks: int = 1,
        min_area: float = 0.08,
        flip: bool = True,
        pin_memory: bool = False,
    ) -> Iterator[Batch]:
        """The shuffled and augmented batches of one epoch; images that do not fill a last batch wait for another epoch.

        Args:
            seed: of the order and the crops.
            epoch: from 0.
            batch_size: of all ranks together.
            size: side of the crops.
            workers: processes that decode; 0 decodes in this one.
            first: the batch to begin with.
            rank: which of the `ranks` shares of each batch to yield: every ranks-th sample from this one on.
            ranks: processes that train together.
            min_area: of a crop, as a part of the image's; the Inception networks' is 0.08.
            flip: whether to mirror half of the crops.
            pin_memory: for copies to a GPU that do not wait.

        Raises:
            ImageError: an image that cannot be read, by name.
            ValueError: a batch larger than the split, or a share that does not exist.
        """
        order = torch.randperm(len(self), generator=generator(seed, "shuffle", epoch)).numpy()
        crops = _RandomCrops(seed, epoch, batch_size, min_area, flip)
        n_batches = self.batches_per_epoch(batch_size)
        batches = _Batches(self, order, batch_size, size, crops, rank, ranks)
        return _load(batches, range(first, n_batches), workers, pin_memory)

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
        """All images once, in order, the last batch smaller.

        Each is resized until its shorter side is `resize`, and its centre of `size` x `size` is taken. The two are one
        step, so that the crop need not begin at a whole pixel.

        Raises:
            ImageError: an image that cannot be read, by name.
            ValueError: a crop larger than the image that it is cut from, or a share that does not exist.
        """
        if not 0 < size <= resize:
            raise ValueError(f"size={size}: expected 1 to resize={resize}")
        batches = _Batches(self, np.arange(len(self)), batch_size, size, _CentralCrops(size / resize), rank, ranks)
        return _load(batches, range(-(-len(self) // batch_size)), workers, pin_memory)

    def batches_per_epoch(self, batch_size: int) -> int:
        """How many whole batches there are.

        Raises:
            ValueError: there is none.
        """
        if not 0 < batch_size <= len(self):
            raise ValueError(f"batch_size={batch_size}: expected 1 to {len(self)}, the images of {self.directory}")
        return len(self) // batch_size

    def _common_classes(self) -> list[str]:
        train, val = (_subfolders(self.root / part) for part in ("train", "val"))
        if difference := sorted(set(train) ^ set(val)):
            where = "train" if difference[0] in train else "val"
            raise ImageError(
                f"{self.root}: train and val must have the same classes, but {len(difference)} "
                f"differ: {difference[0]} is only in {where}"
            )
        return train

    def _list_files(self) -> tuple[np.ndarray, np.ndarray]:
        """Names below the split's folder, as bytes of one width, and labels."""
        names, passed_over = [], Counter()
        for name in self.classes:
            there = sorted(file for file in os.listdir(self.directory / name) if not file.startswith("."))
            files = [file for file in there if file.lower().endswith(SUFFIXES)]
            passed_over.update(suffix for file in there if (suffix := Path(file).suffix.lower()) in OTHER_SUFFIXES)
            if not files:
                raise ImageError(f"{self.directory / name} has no image: expected files named {', '.join(SUFFIXES)}")
            names.append(np.array([os.fsencode(f"{name}/{file}") for file in files]))
        if passed_over:
            kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(passed_over.items()))
            warnings.warn(f"{self.directory}: only {', '.join(SUFFIXES)} are read, not its {kinds}", stacklevel=3)
        labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(files) for files in names])
        return np.concatenate(names), labels


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


def _load(batches: _Batches, numbers: range, workers: int, pin_memory: bool) -> Iterator[Batch]:
    # Its own generator: a loader would draw from torch's global one, which is not ours to move.
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
        pixels_BCHW, labels_B, n_turned = batch
        if n_turned and not batches.folder.said_of_exif:
            batches.folder.said_of_exif = True
            what = f"EXIF asks to turn {n_turned} of the {len(labels_B)} images in a batch"
            warnings.warn(f"{batches.folder.directory}: {what}; pixels are taken as they are stored", stacklevel=2)
        yield pixels_BCHW, labels_B


class _Batches(Dataset):
    """Batch k as item k, and how many of its images EXIF asks to turn.

    What is wrong with an image is handed over instead of raised: a loader would wrap it in a traceback.
    """

    def __init__(
        self,
        folder: ImageFolder,
        order: np.ndarray,
        batch_size: int,
        size: int,
        crops: _RandomCrops | _CentralCrops,
        rank: int,
        ranks: int,
    ):
        if batch_size < 1 or not 0 <= rank < ranks:
            raise ValueError(
                f"batch_size={batch_size}, rank={rank} of {ranks}: expected a batch, and a rank below ranks"
            )
        self.folder, self.order, self.batch_size, self.size, self.crops = folder, order, batch_size, size, crops
        self.share = slice(rank, None, ranks)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, int] | ImageError:
        chosen = self.order[number * self.batch_size : (number + 1) * self.batch_size][self.share]
        crops = islice(self.crops.of_batch(number), self.share.start, None, self.share.step)
        pixels_BHWC = torch.empty(len(chosen), self.size, self.size, 3, dtype=torch.uint8)
        n_turned = 0
        with warnings.catch_warnings():  # not for each image: what was said once would be said anew after it
            warnings.filterwarnings("ignore", module=r"PIL\.")  # about palettes and damaged EXIF
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for pixels_HWC, index, crop in zip(pixels_BHWC.numpy(), chosen, crops, strict=False):
                path = self.folder.directory / os.fsdecode(self.folder.names_N[index])
                try:
                    pixels_HWC[:], turned = _decode(path, self.size, crop)
                except Exception as error:  # Pillow raises many kinds, and all mean this image
                    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                    return ImageError(f"{path} cannot be read ({reason}): replace it or remove it")
                n_turned += turned
        labels_B = torch.from_numpy(self.folder.labels_N[chosen].astype(np.int64))
        return pixels_BHWC.permute(0, 3, 1, 2), labels_B, n_turned


def _decode(path: Path, size: int, crop: Crop) -> tuple[np.ndarray, bool]:
    """A crop (size, size, 3) of an image, whatever its colours are stored as, and whether EXIF asks to turn it.

    Where a crop is twice as large as needed or more, a JPEG is decoded at half the resolution or less.
    """
    box_of, mirrored = crop
    if not path.is_file() and path.exists():
        raise OSError("no regular file")  # a pipe or a device may never end
    with Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        turned = _to_be_turned(image)
        left, top, right, bottom = box_of(width, height)
        excess = max(min(right - left, bottom - top) / size, 1)
        reduced = image.draft("RGB", (int(width / excess), int(height / excess)))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels, expected {MAX_PIXELS:,} at most")
        scale = reduced[1][2] / width if reduced else 1  # 1, 1/2, 1/4 or 1/8
        box = (left * scale, top * scale, min(right * scale, image.width), min(bottom * scale, image.height))
        if image.mode.startswith("I"):  # 16 bits of grey, which `convert` would cut at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        pixels_HWC = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box))
    return pixels_HWC[:, ::-1] if mirrored else pixels_HWC, turned


def _to_be_turned(image: Image.Image) -> bool:
    """Whether EXIF asks for the picture to be turned or mirrored; a tag that cannot be read asks for nothing."""
    with suppress(Exception):
        return "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    return False


@dataclass(frozen=True)
class _CentralCrops:
    """Squares in the middle: `part` of the shorter side."""

    part: float

    def of_batch(self, number: int) -> Iterator[Crop]:
        return repeat((self._box, False))

    def _box(self, width: int, height: int) -> Box:
        side = self.part * min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side


@dataclass(frozen=True)
class _RandomCrops:
    """Crops of random area, shape and place, half of them mirrored."""

    seed: int
    epoch: int
    batch_size: int
    min_area: float
    flip: bool

    def of_batch(self, number: int) -> Iterator[Crop]:
        source = generator(self.seed, "crop", self.epoch, number)
        uniform = torch.rand(self.batch_size, 2 * ATTEMPTS + 3, generator=source, dtype=torch.float64).tolist()
        for *shapes, across, down, mirror in uniform:
            yield partial(self._box, shapes, across, down), self.flip and mirror < 0.5

    def _box(self, shapes: list[float], across: float, down: float, width: int, height: int) -> Box:
        """The first of the attempted shapes that fits; if none does, as much of the image as has a shape in range."""
        low, high = map(log, ASPECTS)
        for area, shape in zip(shapes[::2], shapes[1::2], strict=True):
            area = width * height * (self.min_area + (1 - self.min_area) * area)
            aspect = exp(low + (high - low) * shape)
            w, h = sqrt(area * aspect), sqrt(area / aspect)
            if w <= width and h <= height:
                break
        else:
            w, h = min(width, height * ASPECTS[1]), min(height, width / ASPECTS[0])
        left, top = across * (width - w), down * (height - h)
        return left, top, left + w, top + h
