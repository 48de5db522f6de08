"""A domain's results folder: it has one writer at a time, changes as a whole, and holds checksums of its files.

New files are first written to a staging folder. Renaming that folder is the commit: before it nothing has changed, and
after it the next process moves the files into place if this one is killed. A full disk is noticed before the commit.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from experiments.evidence.reading import ROWS_FILE, ROWS_FILE_BEFORE, SUMS, read_sums
from sobolev.files import locked, replacing

LOCK, STAGED, DECIDED = ".lock", ".staged", ".decided"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the results in `folder`, and complete what an interrupted writer had committed."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK):
        _put_in_place(folder)
        yield


def replace_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, {name: content}, and their checksums, all or none. The caller holds the lock.

    Raises:
        OSError: a folder lies in place of a file, or a file in place of a folder; nothing has changed.
    """
    for name in files:
        path = folder / name
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder, where a file goes", str(path))
        if path.parent.exists() and not path.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file, where a folder goes", str(path.parent))
    shutil.rmtree(folder / STAGED, ignore_errors=True)
    kept = {name: digest for name, digest in read_sums(folder).items() if (folder / name).is_file()}
    if ROWS_FILE in files:  # it replaces the uncompressed file of older results
        kept.pop(ROWS_FILE_BEFORE, None)
    sums = kept | {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    listed = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    for name, content in {**files, SUMS: listed.encode()}.items():
        path = folder / name
        if path.is_file() and path.read_bytes() == content:
            continue
        staged = folder / STAGED / name
        staged.parent.mkdir(parents=True, exist_ok=True)
        with replacing(staged) as temporary:
            temporary.write_bytes(content)
    if (folder / STAGED).exists():
        (folder / STAGED).rename(folder / DECIDED)
        _put_in_place(folder)


def _put_in_place(folder: Path) -> None:
    """Finish a committed change: move each file into place."""
    decided = folder / DECIDED
    for path in sorted(path for path in decided.rglob("*") if path.is_file()):
        target = folder / path.relative_to(decided)
        target.parent.mkdir(exist_ok=True)
        path.replace(target)
    if decided.exists() and (folder / ROWS_FILE).exists():
        (folder / ROWS_FILE_BEFORE).unlink(missing_ok=True)
    shutil.rmtree(decided, ignore_errors=True)
