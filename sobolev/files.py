"""Files that several processes read and write: replaced as a whole, written by one at a time, compared by checksum."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


class Busy(Exception):
    """Another process holds the lock."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name once it is whole and on the disk.

    Its name is this process's own, so that two writers never share it; an error removes it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)  # or a power loss may undo the renaming


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`; the kernel lets go of it however the process ends.

    Raises:
        Busy: another process holds it, and `wait` is false.
    """
    try:
        with FileLock(path, timeout=-1 if wait else 0):
            yield
    except Timeout:
        raise Busy(str(path)) from None


def sha256(path: Path, length: int | None = None) -> str:
    """The digest of a file's first `length` bytes, of all by default."""
    return hashlib.sha256(path.read_bytes()[:length]).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
