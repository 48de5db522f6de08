"""Downloading data sets with a progress bar."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from experiments.runner.errors import FULL
from sobolev.images import ImageError, download


def fetch(name: str, folder: Path | str) -> Path:
    """Download a data set unless it is present. The progress bar is hidden if stderr is not a terminal.

    Raises:
        ImageError: as from `sobolev.images.download`, or the folder cannot be used.
        OSError: the disk is full.
    """
    with tqdm(unit="B", unit_scale=True, disable=None) as bar:

        def progress(file: str, done: int, total: int) -> None:
            bar.set_description(file, refresh=False)
            bar.total = total
            bar.update(done - bar.n)

        try:
            return download(name, folder, progress)
        except OSError as error:
            if error.errno in FULL:
                raise  # `one_line_errors` has its own message for it
            cause = error.strerror or error
            raise ImageError(
                f"{folder} cannot be used ({cause}): name a folder that can be written, or that holds the set"
            ) from None
