"""Build the documentation as a site: python -m scripts.site [--to site]

The front page is README.md. The report, its figures, the guides and every table keep their paths from the repository,
so that links work in both. The reference is generated from the library's docstrings. Nothing is fetched: the site opens
from a folder, without a network.
"""

from __future__ import annotations

import argparse
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sobolev

ROOT = Path(__file__).resolve().parents[1]
# The files and folders that pages link to.
SHOWN = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "docs", "results", "notebooks")
LEFT_OUT = shutil.ignore_patterns("*.gz", "*.npz", "*.safetensors", "pending", ".*")


def main(arguments: list[str] | None = None) -> int:
    """Build the site and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.site", description=__doc__.split("\n\n")[1])
    parser.add_argument("--to", type=Path, default=ROOT / "site", help="folder for the site (default: site)")
    to = parser.parse_args(arguments).to.resolve()
    if to.exists() and not (to / "sitemap.xml").exists() and any(to.iterdir()):
        print(f"error: {to} has other files in it: name another folder", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder)
        gather(pages)
        write_reference(pages / "reference")
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file"]
        settings = os.environ | {"SITE_PAGES": str(pages), "NO_MKDOCS_2_WARNING": "1"}
        built = subprocess.run([*command, str(ROOT / "mkdocs.yml"), "--site-dir", str(to)], cwd=ROOT, env=settings)
    if not built.returncode:
        print(to / "index.html")
    return built.returncode


def gather(pages: Path) -> None:
    """Copy the pages. README.md becomes the front page, index.md."""
    for name in SHOWN:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, pages / name, ignore=LEFT_OUT)
        elif source.is_file():
            shutil.copy(source, pages / name)
    # Hide the side columns of the front page, so that the table of answers is on the first screen.
    (pages / "index.md").write_text(f"---\nhide: [navigation, toc]\n---\n\n{(pages / 'README.md').read_text()}")
    (pages / "README.md").unlink()
    figures = sorted((pages / "results" / "figures").glob("*.*"))
    named = [(path.stem.replace("_", " ").capitalize(), path.name) for path in figures]
    listed = "\n\n".join(f"## {name}\n\n![{name}]({file})" for name, file in named)
    (pages / "results" / "figures" / "index.md").write_text(f"# Figures\n\n{listed}\n")


def write_reference(folder: Path) -> None:
    """Write one page per package of the library, with its modules' docstrings, and an index of `sobolev`'s names."""
    folder.mkdir(parents=True)
    modules = [found.name for found in pkgutil.walk_packages(sobolev.__path__, "sobolev.") if not found.ispkg]
    # The modules of the public names come first on their page.
    first = {f"sobolev.{place.partition('.')[0]}" for _, place, _ in public_names()}
    pages: dict[str, list[str]] = {"sobolev": []}
    for module in modules:
        pages.setdefault(module.rpartition(".")[0], []).append(module)
    for package, of_package in pages.items():
        of_package.sort(key=lambda module: module not in first)
        entries = "\n".join(f"::: {module}\n" for module in of_package)
        (folder / f"{package}.md").write_text(f"# {package}\n\n{entries}")
    names = [f"- [`sobolev.{name}`](sobolev.md#sobolev.{place}): {summary}" for name, place, summary in public_names()]
    packages = [f"- [{package}]({package}.md)" for package in pages]
    parts = ("# Reference", *("\n".join(part) for part in (names, ["The whole library, by package:"], packages)))
    (folder / "index.md").write_text("\n\n".join(parts) + "\n")


def public_names() -> Iterator[tuple[str, str, str]]:
    """Each public name of `sobolev` with its place in the reference and the first sentence of its docstring."""
    for name in sobolev.__all__:
        found = getattr(sobolev, name)
        place = name if inspect.ismodule(found) else f"{found.__module__.removeprefix('sobolev.')}.{name}"
        paragraph = " ".join(found.__doc__.split("\n\n")[0].split())
        sentence = re.split(r"\. (?=[A-Z])", paragraph)[0].rstrip(".:")  # "Eq. 1" does not end a sentence
        yield name, place, sentence


if __name__ == "__main__":
    sys.exit(main())
