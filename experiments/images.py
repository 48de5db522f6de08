"""Fetching data sets where someone watches: the library's download with a progress bar."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from sobolev.images import download


def fetch(name: str, folder: Path | str) -> Path:
    """Download a data set unless it is there; the bar is silent where stderr is not a terminal.

    Raises:
        ImageError: as `sobolev.images.download` does.
    """
    with tqdm(unit="B", unit_scale=True, disable=None) as bar:

        def progress(file: str, done: int, total: int) -> None:
            bar.set_description(file, refresh=False)
            bar.total = total or None
            bar.update(done - bar.n)

        return download(name, folder, progress)
