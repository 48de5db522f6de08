"""Download data sets from their publishers, completely or not at all.

A set is fetched and unpacked in a temporary folder, which is renamed to the set's name once it is complete. Processes
that want the same set wait for the one that fetches it.

The usual library for this, pooch, is not used. pooch 1.9 downloads every byte of a file that is too long before it
compares checksums, and on Python 3.11 it lets an archive write outside its folder.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tarfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from sobolev.files import locked, replacing
from sobolev.images.image_set import ImageError

CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte
UNREADABLE = (  # errors from reading a damaged archive
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,
    OverflowError,
    MemoryError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
)

Progress = Callable[[str, int, int], None]  # the file's name, bytes so far, bytes in all


@dataclass(frozen=True)
class Source:
    """The source of a data set.

    Attributes:
        directory: the name of its folder.
        files: the address, size in bytes and MD5 of each file, as published. An archive (.tar.gz, .tgz) is unpacked; it
            must contain `directory`.
    """

    directory: str
    files: tuple[tuple[str, int, str], ...]


# PyTorch's mirror, because the publisher's own site no longer serves the files.
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
SOURCES = {
    "cifar10": Source(
        "cifar-10-batches-bin",
        (("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", 170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),),
    ),
    "mnist": Source(
        "mnist",
        (
            (f"{_MNIST}/train-images-idx3-ubyte.gz", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            (f"{_MNIST}/train-labels-idx1-ubyte.gz", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
            (f"{_MNIST}/t10k-images-idx3-ubyte.gz", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
            (f"{_MNIST}/t10k-labels-idx1-ubyte.gz", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
    ),
    "imagenette": Source(
        "imagenette2-160",
        (
            (
                "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",
                99_003_388,
                "e793b78cc4c9e9a4ccc0c1155377a412",
            ),
        ),
    ),
}


def remedy(name: str, folder: Path) -> str:
    """The end of an error message: how to get a set that is missing or damaged."""
    directory = folder / SOURCES[name].directory
    away = f"remove {directory}, then " if directory.exists() else ""
    return f"{away}`python -m scripts.download {name} --folder {folder}` fetches it"


def download(name: str, folder: Path | str, progress: Progress | None = None) -> Path:
    """Fetch a data set unless its folder is there already, and return that folder.

    Args:
        name: a key of `SOURCES`.
        folder: the folder of data sets, which is created if it does not exist.
        progress: called about once per megabyte with the file's name, the bytes so far and the bytes in all.

    Raises:
        ImageError: the publisher cannot be reached, or does not send what was published. Nothing is left behind.
        ValueError: an unknown name.
        OSError: the disk is full, or the folder cannot be read or written, or cannot be locked.
    """
    if name not in SOURCES:
        raise ValueError(f"{name} cannot be downloaded: choose from {', '.join(SOURCES)}")
    source, folder = SOURCES[name], Path(folder)
    target = folder / source.directory
    if target.exists() and not target.is_dir():
        raise ImageError(f"{target} is no folder: remove it")
    if target.exists():  # it is complete, because it is renamed last; its folder may be read-only
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f".{source.directory}.lock"):
        if target.exists():  # another process has just fetched it
            return target
        for left in folder.glob(f".{source.directory}.*.partial"):  # left by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        try:
            with replacing(target) as partial:
                _assemble(source, partial, progress)
        except ImageError as error:
            raise ImageError(f"{error}: try again, or put the files into {target} by hand") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # it is not there if it was renamed
    return target


def _assemble(source: Source, directory: Path, progress: Progress | None) -> None:
    """Create the directory with the complete set."""
    directory.mkdir()
    for address, size, md5 in source.files:
        path = directory / address.rpartition("/")[2]
        _fetch(address, size, md5, path, progress)
        if path.name.endswith((".tar.gz", ".tgz")):
            try:
                _unpack(path, source.directory)
            except UNREADABLE as error:
                raise ImageError(f"{address} cannot be unpacked ({error})") from None
            path.unlink()
    if not any(directory.iterdir()):
        raise ImageError(f"{address} cannot be unpacked (it holds nothing in {source.directory})")


def _fetch(address: str, size: int, md5: str, path: Path, progress: Progress | None) -> None:
    """Fetch one file to `path`. The published MD5 detects damage; https protects against fraud."""
    digest, done = hashlib.md5(usedforsecurity=False), 0
    with _network_errors(address):
        response = urllib.request.urlopen(address, timeout=TIMEOUT)
    with response, path.open("wb") as file:
        while done <= size:  # one byte more than there should be shows that the file is too long
            with _network_errors(address):
                chunk = response.read(min(CHUNK, size + 1 - done))
            if not chunk:
                break
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress(path.name, done, size)
    if done != size or digest.hexdigest() != md5:
        what = f"more than {size:,}" if done > size else f"{done:,} of {size:,}"
        raise ImageError(f"{address} sent {what} bytes with MD5 {digest.hexdigest()}, expected {md5}")


def _unpack(path: Path, directory: str) -> None:
    """Unpack the contents of an archive's `directory` beside the archive. It may hold only files and folders.

    Each member is written by this function, so that no owner, mode, link or device is adopted on any Python version.
    """
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if name.parts[:1] != (directory,) or ".." in name.parts or not (member.isfile() or member.isdir()):
                raise tarfile.ReadError(f"it holds {member.name!r}, which is no file or folder in {directory}")
            target = path.parent.joinpath(*name.parts[1:])
            source = archive.extractfile(member)
            if source is None:  # a folder
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                with source, target.open("xb") as file:
                    shutil.copyfileobj(source, file)


@contextmanager
def _network_errors(address: str) -> Iterator[None]:
    """Errors of the network become an `ImageError` that names the address."""
    try:
        yield
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a redirection to a bad address
        reason = getattr(error, "reason", None) or error
        raise ImageError(f"cannot fetch {address} ({reason})") from None
