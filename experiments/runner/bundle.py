"""The rows of a grid, or of one run, in a single file, to copy off a machine that will not be used again.

A bundle is a .tgz of run folders, `<experiment>/<run_id>/`, complete or not, without checkpoints and weights.
`python -m scripts.collect --runs runs.tgz` accepts it in place of a folder.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from experiments.runner.errors import BadInput
from experiments.runner.identity import folder_of
from experiments.runner.ranks import torchrun_ranks
from experiments.runner.settings import RunConfig
from sobolev.files import replacing

# The summary comes first: a run writes it last, so if it is there, all the other files are complete.
CARRIED = (
    *("summary.json", "config.yaml", "manifest.json", "metrics.csv", "error.txt", "curves.png"),
    *("surface.npz", "saliency.npz", "predictions.npz"),
)
MOST_FILES, MOST_BYTES = 200_000, 8 * 2**30  # limits on what a bundle unpacks to


def pack(folders: Sequence[Path], path: Path) -> None:
    """Write the rows of these runs, and what `scripts.collect` needs besides, replacing an earlier bundle.

    A run may still write while it is packed: the bundle then holds what was there, as an incomplete run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, tarfile.open(partial, "w:gz", compresslevel=6) as tar:
        for folder in folders:
            for name in CARRIED:
                try:
                    content, changed = (folder / name).read_bytes(), (folder / name).stat().st_mtime
                except OSError:
                    continue
                entry = tarfile.TarInfo(f"{folder.parent.name}/{folder.name}/{name}")
                entry.size, entry.mtime = len(content), changed  # of two runs, `scripts.collect` takes the later one
                tar.addfile(entry, io.BytesIO(content))


@contextmanager
def packing(config: RunConfig) -> Iterator[None]:
    """Pack the rows of one run when it ends, even with an error, if `recorder.bundle` is set.

    With several processes only rank 0 packs. A run that was refused leaves nothing to pack.
    """
    try:
        yield
    finally:
        if config.recorder.bundle and not torchrun_ranks()[0] and (folder := folder_of(config)).is_dir():
            pack([folder], Path(config.recorder.bundle))


@contextmanager
def unpacked(sources: Sequence[Path]) -> Iterator[list[Path]]:
    """Folders of runs, with each bundle among them unpacked into a temporary folder.

    Raises:
        BadInput: a file is not a bundle.
    """
    with ExitStack() as stack:
        folders = []
        for source in sources:
            if source.is_file():
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runs-")))
                _unpack(source, folder)
                source = folder
            folders.append(source)
        yield folders


def _unpack(bundle: Path, folder: Path) -> None:
    """Unpack only what `pack` writes: regular files with known names, two folders deep."""
    n_bytes = 0
    try:
        with tarfile.open(bundle, "r:gz") as tar:
            for number, entry in enumerate(tar):
                parts = PurePosixPath(entry.name).parts
                if not entry.isfile() or len(parts) != 3 or parts[-1] not in CARRIED or {"..", "/"} & {*parts}:
                    raise BadInput(f"{bundle} holds {entry.name!r}, which is not a file of a run")
                n_bytes += entry.size
                if number >= MOST_FILES or n_bytes > MOST_BYTES:
                    raise BadInput(f"{bundle} unpacks to more than {MOST_FILES:,} files or {MOST_BYTES / 2**30:g} GiB")
                tar.extract(entry, folder, filter="data")
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise BadInput(f"{bundle} is not a bundle of runs ({error}): recorder.bundle writes one") from None
