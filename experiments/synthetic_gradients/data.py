"""The images of a run: read from disk or downloaded, then batched for training and evaluation.

Shape suffixes: N samples of a split, B samples of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path

import torch
from torch import Tensor

from experiments.runner.errors import BadInput
from experiments.runner.run import Run
from experiments.synthetic_gradients.downloads import fetch
from experiments.synthetic_gradients.settings import DecoupledConfig, ImageDatasetConfig, ImageFolderConfig
from sobolev.devices import to_device
from sobolev.images import IN_MEMORY, SOURCES, ImageError, ImageFolder, ImageSet, photometric, shift_and_flip
from sobolev.images.folder import classes_of
from sobolev.seeding import generator

EVALUATED = 100  # images per evaluation batch; also decides on which of them gradients are compared

Batch = tuple[Tensor, Tensor]  # x_BCHW, normalised; labels_B
Images = ImageSet | ImageFolder


def load(config: DecoupledConfig, device: torch.device) -> tuple[Images, Images]:
    """The training split and the evaluated split. Data sets held in memory are on the device.

    Raises:
        BadInput: the data set is missing or damaged, or its number of images is not the config's.
    """
    dataset = config.dataset
    try:
        if is_downloaded(dataset):
            fetch(dataset.name, dataset.folder)
        if isinstance(dataset, ImageDatasetConfig):
            read = IN_MEMORY[dataset.name]
            sets = [read(dataset.folder, s, dataset.hold_out).to(device) for s in ("train", config.evaluate_on)]
        else:
            sets = [ImageFolder(directory_of(dataset), s, dataset.hold_out) for s in ("train", config.evaluate_on)]
    except (ValueError, PermissionError) as error:
        raise BadInput(f"dataset={dataset.name}: {error}") from None
    found = len(sets[0]) + dataset.hold_out
    if found != dataset.n_train:
        raise BadInput(f"dataset.n_train={dataset.n_train}, but there are {found}: set dataset.n_train={found}")
    if not config.optimizer.batch_size <= len(sets[0]):
        raise BadInput(f"optimizer.batch_size={config.optimizer.batch_size}: expected 1 to {len(sets[0])}")
    return tuple(sets)


def check_folder(dataset: ImageDatasetConfig | ImageFolderConfig) -> None:
    """Refuse folders of images that are no data set, before a run is opened; those to be downloaded come later."""
    if isinstance(dataset, ImageFolderConfig) and not is_downloaded(dataset):
        try:
            classes_of(directory_of(dataset))
        except (ValueError, PermissionError) as error:
            raise BadInput(f"dataset={dataset.name}: {error}") from None


def is_downloaded(dataset: ImageDatasetConfig | ImageFolderConfig) -> bool:
    """Whether the data set is one that may be downloaded. A folder that exists may be the user's own."""
    own = isinstance(dataset, ImageFolderConfig) and directory_of(dataset).exists()
    return dataset.download and dataset.name in SOURCES and not own


def directory_of(dataset: ImageFolderConfig) -> Path:
    return Path(dataset.folder) / dataset.directory


def shape_of(images: Images, config: DecoupledConfig) -> tuple[int, int, int]:
    """The shape (C, H, W) of a sample."""
    if isinstance(images, ImageSet):
        return tuple(images.pixels_NCHW.shape[1:])
    return (3, config.dataset.size, config.dataset.size)


def train_batches(images: Images, config: DecoupledConfig, first: int, run: Run) -> Iterator[Batch]:
    """Endless augmented batches from update `first` on; each process gets its share.

    Order and augmentation of batch k of epoch e are drawn from (seed, e, k), so they do not depend on `first`.
    """
    batches_from = from_folder if isinstance(images, ImageFolder) else from_memory
    for pixels_BCHW, labels_B in batches_from(images, config, first, run):
        yield images.normalise(pixels_BCHW, run.dtype), labels_B


def from_memory(images: ImageSet, config: DecoupledConfig, first: int, run: Run) -> Iterator[Batch]:
    """Endless batches from update `first` on: this process's share, shuffled, shifted and flipped, as bytes."""
    dataset, batch_size = config.dataset, config.optimizer.batch_size
    start_epoch, start = divmod(first, len(images) // batch_size)
    for epoch in count(start_epoch):
        order_N = torch.randperm(len(images), generator=generator(config.seed, "shuffle", epoch))
        batches = islice(to_device(order_N, run.device).split(batch_size), start, len(images) // batch_size)
        for k, chosen_B in enumerate(batches, start):
            draw = generator(config.seed, "augment", epoch, k)
            pixels_BCHW = shift_and_flip(images.pixels_NCHW[chosen_B], draw, dataset.padding, dataset.flip)
            yield run.ranks.shard(pixels_BCHW), run.ranks.shard(images.labels_N[chosen_B])
        start = 0


def from_folder(images: ImageFolder, config: DecoupledConfig, first: int, run: Run) -> Iterator[Batch]:
    """Endless batches from update `first` on: this process's share, cropped, flipped and recoloured, as bytes."""
    dataset, ranks = config.dataset, run.ranks
    per_epoch = images.batches_per_epoch(config.optimizer.batch_size)
    epoch, start = divmod(first, per_epoch)
    batches = images.train(
        config.seed,
        epoch,
        config.optimizer.batch_size,
        dataset.size,
        dataset.workers,
        first=start,
        epochs=2**62,
        rank=ranks.rank,
        ranks=ranks.count,
        min_area=dataset.min_area,
        flip=dataset.flip,
        pin_memory=run.device.type == "cuda",
    )
    for update, (pixels_BCHW, labels_B) in enumerate(readable(batches), first):
        pixels_BCHW, labels_B = (to_device(tensor, run.device) for tensor in (pixels_BCHW, labels_B))
        if dataset.colour:
            draw = generator(config.seed, "colour", *divmod(update, per_epoch))
            pixels_BCHW = photometric(pixels_BCHW, draw, dataset.colour, ranks.rank, ranks.count)
        yield pixels_BCHW, labels_B


def evaluation_batches(images: Images, config: DecoupledConfig, run: Run) -> Iterator[Batch]:
    """One pass over a split; each process gets its share."""
    dataset, ranks = config.dataset, run.ranks
    if isinstance(images, ImageFolder):
        batches = images.evaluate(
            EVALUATED,
            dataset.size,
            dataset.resize,
            dataset.workers,
            rank=ranks.rank,
            ranks=ranks.count,
            pin_memory=run.device.type == "cuda",
        )
    else:
        batches = zip(images.pixels_NCHW.split(EVALUATED), images.labels_N.split(EVALUATED), strict=True)
        batches = ((ranks.shard(pixels_BCHW), ranks.shard(labels_B)) for pixels_BCHW, labels_B in batches)
    for pixels_BCHW, labels_B in readable(batches):
        yield images.normalise(to_device(pixels_BCHW, run.device), run.dtype), to_device(labels_B, run.device)


def readable(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches; an unreadable image ends the run with one line."""
    try:
        yield from batches
    except ImageError as error:
        raise BadInput(str(error)) from None
