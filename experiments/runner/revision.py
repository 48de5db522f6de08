"""The project's revision, from git or, in a copy without git, from a file.

A copy without `.git` carries its revision in one of two files in its root:

    .git_archival.txt    `git archive`, which GitHub's downloads use too, writes the revision into it
    REVISION             `make revision` writes it before the tree is copied: the revision, then a line for each file
                         that has been changed since
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from experiments.runner.settings import ROOT


class Revision(NamedTuple):
    """A commit, and whether files have been changed since; None if unknown."""

    name: str | None
    dirty: bool | None


def revision(root: Path = ROOT) -> Revision:
    """The revision of the project in `root`."""
    # A copy may lie inside another repository, whose revision is not the project's.
    if _git(root, "ls-files", "--error-unmatch", "run.py") and (name := _git(root, "rev-parse", "HEAD")):
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")  # None if it takes too long
        return Revision(name, None if changes is None else bool(changes))
    for carried in ("REVISION", ".git_archival.txt"):
        try:
            first, *changed = (root / carried).read_text().strip().splitlines()
        except (OSError, ValueError):
            continue
        if found := re.fullmatch(r"(?:node: )?([0-9a-f]{40})", first):
            return Revision(found[1], bool(changed))
    return Revision(None, None)


def _git(root: Path, *arguments: str) -> str | None:
    """Git's answer about this project. The environment must not redirect it or name a program for it to start."""
    here = ["git", "-C", str(root), "-c", "core.fsmonitor=false", *arguments]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(here, capture_output=True, text=True, timeout=20, env=plain)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
