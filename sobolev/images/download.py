"""Data sets from their publishers, whole or not at all.

A file is written under a temporary name while its checksum is computed; archives are unpacked beside it; the set takes
its name by one rename once all of it is there. Processes that want the same set wait for the one that fetches it.
"""

from __future__ import annotations

import fcntl
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
from pathlib import Path

from sobolev.images.image_set import ImageError

CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte

Progress = Callable[
    [str, int, int], None
]  # the file's name, bytes so far, bytes in all (0 where the server does not say)


@dataclass(frozen=True)
class Source:
    """Where a set comes from.

    Attributes:
        directory: the folder that it makes.
        files: address and MD5 of each file, as published. An archive (.tar.gz, .tgz) is unpacked and holds `directory`.
    """

    directory: str
    files: tuple[tuple[str, str], ...]


_MNIST = (
    "https://ossci-datasets.s3.amazonaws.com/mnist"  # PyTorch's mirror; the publisher's own site no longer serves it
)
SOURCES = {
    "cifar10": Source(
        "cifar-10-batches-bin",
        (("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
    ),
    "mnist": Source(
        "mnist",
        (
            (f"{_MNIST}/train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            (f"{_MNIST}/train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
            (f"{_MNIST}/t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
            (f"{_MNIST}/t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
    ),
    "imagenette": Source(
        "imagenette2-160",
        (("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz", "e793b78cc4c9e9a4ccc0c1155377a412"),),
    ),
}


def remedy(name: str, folder: Path) -> str:
    """The end of a refusal: how to get a set that is missing or damaged."""
    directory = folder / SOURCES[name].directory
    away = f"remove {directory}, then " if directory.exists() else ""
    return f"{away}`python -m scripts.download {name} --folder {folder}` fetches it"


def download(name: str, folder: Path | str, progress: Progress | None = None) -> Path:
    """Fetch a data set unless its folder is there already, and return that folder.

    Args:
        name: a key of `SOURCES`.
        folder: where data sets lie; made if needed.
        progress: called with a file's name, its bytes so far and in all, about once a megabyte.

    Raises:
        ImageError: the publisher cannot be reached or sends something else than was published. Nothing is left behind.
        ValueError: an unknown name.
        OSError: the disk is full, or the folder cannot be read or written.
    """
    if name not in SOURCES:
        raise ValueError(f"{name} cannot be downloaded: choose from {', '.join(SOURCES)}")
    source, folder = SOURCES[name], Path(folder)
    target, partial = folder / source.directory, folder / f".{source.directory}.partial"
    if target.exists():  # whole, as it is renamed last; its folder need not be ours to write
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f".{source.directory}.lock"):
        if target.exists():  # by now, from another process
            return target
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        try:
            whole = partial / source.directory
            whole.mkdir(parents=True)
            for address, md5 in source.files:
                path = whole / address.rpartition("/")[2]
                _fetch(address, md5, path, progress)
                if path.suffix == ".tgz" or path.suffixes[-2:] == [".tar", ".gz"]:
                    _unpack(path, partial, address)
                    path.unlink()
            whole.rename(target)
        except ImageError as error:
            raise ImageError(f"{error}: try again, or put the files into {target} by hand") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _fetch(address: str, md5: str, path: Path, progress: Progress | None) -> None:
    """One file, to `path`. MD5 is what publishers give: it tells damage, and the address tells who sends."""
    digest, done = hashlib.md5(usedforsecurity=False), 0
    with _network_errors(address):
        response = urllib.request.urlopen(address, timeout=TIMEOUT)
    total = int(response.headers.get("Content-Length") or 0)
    with response, path.open("wb") as file:
        while True:
            with _network_errors(address):
                chunk = response.read(CHUNK)
            if not chunk:
                break
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress(path.name, done, total)
    if digest.hexdigest() != md5:
        raise ImageError(
            f"{address} sent {done:,} bytes{f' of {total:,}' if total else ''} with MD5 {digest.hexdigest()}, "
            f"expected {md5}"
        )


def _unpack(path: Path, folder: Path, address: str) -> None:
    try:
        with tarfile.open(path) as archive:
            # Nothing outside the folder, no devices, no foreign owners. Python 3.11.0 to 3.11.3 have no filters.
            filtered = {"filter": "data"} if hasattr(tarfile, "data_filter") else {"members": _plain(archive, folder)}
            archive.extractall(folder, **filtered)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ImageError(f"{address} cannot be unpacked ({error})") from None


def _plain(archive: tarfile.TarFile, folder: Path) -> Iterator[tarfile.TarInfo]:
    """The members of an archive that holds nothing but files and folders within a folder; others are an error."""
    for member in archive:
        inside = (folder / member.name).resolve().is_relative_to(folder.resolve())
        if not inside or not (member.isfile() or member.isdir()):
            raise tarfile.ReadError(f"it holds {member.name}, which is no file or folder within it")
        yield member


@contextmanager
def _network_errors(address: str) -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ImageError(f"cannot fetch {address} ({reason})") from None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait for a lock; the kernel lets go of it however a process ends."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
