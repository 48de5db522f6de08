"""Files that several processes read and write: replaced as a whole, locked for one writer at a time, with checksums.

Errors of the operating system name their file, which Python omits once a file is open.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLock, Timeout

# The errors of a file system without locks, such as Lustre mounted without `flock`.
WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP)

_held: set[int] = set()


class Busy(Exception):
    """Another process holds the lock."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which is renamed to `path` once the file (or folder) is complete and on disk.

    The temporary name has the process's number, so that two writers never share it. After an error it is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with naming(path, temporary):
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)  # otherwise a power loss may undo the renaming


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Make errors of the operating system name `path` if they name no file or the temporary one."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename) == str(temporary):
            error.filename = str(path)
        raise


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock on the file `path`, which the kernel releases however the process ends.

    If the file system has no locks, the lock is a file `<path>.held`, which names its process. Such a file is ignored
    if its process ran on this machine and has ended; one from another machine must be removed by hand.

    Raises:
        Busy: another process holds the lock, and `wait` is false.
        OSError: the lock cannot be requested.
    """
    with naming(path):
        descriptor = _open_locked(path, wait)
    if descriptor is None:
        with _held_file(path.with_name(f"{path.name}.held"), wait):
            yield
        return
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # it is not in a forked child
            _held.remove(descriptor)
            _close(descriptor)


def sha256(path: Path, length: int | None = None) -> str:
    """The SHA-256 digest of a file's first `length` bytes, by default of the whole file."""
    return hashlib.sha256(read(path)[:length]).hexdigest()


def read(path: Path) -> bytes:
    """A file's content. A pipe or a device, which may never end, is refused."""
    with naming(path):
        if not (path.is_file() or path.is_dir()) and path.exists():
            raise OSError(errno.EINVAL, "no regular file", str(path))
        return path.read_bytes()


def _open_locked(path: Path, wait: bool) -> int | None:
    """A descriptor that holds the lock, or None if the file system has no locks."""
    while True:
        with ExitStack() as closing:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            closing.callback(_close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise Busy(f"{path} is held by another process") from None
            except OSError as error:
                if error.errno in WITHOUT_LOCKS:
                    return None
                raise
            if os.fstat(descriptor).st_nlink:  # 0 means that its last holder has removed it, and there may be a new one
                closing.pop_all()
                return descriptor


@contextmanager
def _held_file(path: Path, wait: bool) -> Iterator[None]:
    """A lock for file systems that have none: a file that exists while the lock is held."""
    lock = SoftFileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        raise Busy(f"{path} is held by another process; if there is none, remove it") from None
    try:
        yield
    finally:
        lock.release()


def _close(descriptor: int) -> None:
    """Release a lock. Nothing was written to its file, so an error (such as a full disk) loses nothing."""
    with suppress(OSError):
        os.close(descriptor)


def _let_go() -> None:
    """Close a forked child's lock descriptors, because workers that outlive a killed process would keep its locks."""
    while _held:
        _close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
