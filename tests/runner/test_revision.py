"""The revision that a manifest names: git's, or the one that a copy without git carries."""

import json
import os
import shutil
import subprocess

import pytest

from experiments.evidence.collect import collect, gaps
from experiments.runner import process
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of
from experiments.runner.revision import Revision, _git, revision
from tests.conftest import ROOT

SHA = "0123456789abcdef0123456789abcdef01234567"


def git(folder, *arguments: str) -> str:
    """What git says, whatever the user's settings and those of a command within which tests run."""
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    plain |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=plain).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with what a revision goes by."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "run.py").write_text("")
    for name in (".gitattributes", ".git_archival.txt", "Makefile"):
        shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


@pytest.mark.parametrize(
    ("carried", "expected"),
    [
        ({"REVISION": f"{SHA}\n"}, Revision(SHA, False)),
        ({"REVISION": f"{SHA}\n M experiments/runner/run.py\n"}, Revision(SHA, True)),
        ({".git_archival.txt": f"node: {SHA}\n"}, Revision(SHA, False)),
        ({".git_archival.txt": "node: $Format:%H$\n"}, Revision(None, None)),
        ({"REVISION": "", ".git_archival.txt": f"node: {SHA}\n"}, Revision(SHA, False)),
        ({"REVISION": b"\xff\n"}, Revision(None, None)),
        ({}, Revision(None, None)),
    ],
)
def test_a_copy_without_git_carries_its_revision(tmp_path, carried, expected):
    for name, content in carried.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert revision(tmp_path) == expected


def test_git_is_asked_first(repository):
    (repository / "REVISION").write_text(SHA)
    head = git(repository, "rev-parse", "HEAD")
    assert revision(repository) == Revision(head, False)
    (repository / "run.py").write_text("changed")
    assert revision(repository) == Revision(head, True)


def test_a_tree_that_git_does_not_get_through_in_time_is_not_called_clean(repository, monkeypatch):
    answer = _git
    silent = lambda root, command, *more: None if command == "status" else answer(root, command, *more)  # noqa: E731
    monkeypatch.setattr("experiments.runner.revision._git", silent)
    assert revision(repository) == Revision(git(repository, "rev-parse", "HEAD"), None)


def test_a_copy_within_another_repository_is_not_of_its_revision(repository):
    (copy := repository / "copy").mkdir()
    (copy / "run.py").write_text("")
    assert revision(copy) == Revision(None, None)


def test_an_archive_and_a_noted_copy_know_where_they_are_from(repository, tmp_path):
    head = git(repository, "rev-parse", "HEAD")
    archive, copy = tmp_path / "archive", tmp_path / "copy"
    archive.mkdir()
    packed = subprocess.run(["git", "-C", str(repository), "archive", "HEAD"], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(archive)], input=packed, check=True)
    assert revision(archive) == Revision(head, False)
    (repository / "run.py").write_text("changed")
    subprocess.run(["make", "-s", "-C", str(repository), "revision"], check=True)
    shutil.copytree(repository, copy, ignore=shutil.ignore_patterns(".git"))
    assert revision(copy) == Revision(head, True)


def test_rows_of_an_unknown_revision_are_collected_and_it_is_said(make_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(process, "revision", lambda: revision(tmp_path))
    execute(config := make_config())
    manifest = json.loads((folder_of(config) / "manifest.json").read_text())
    assert (manifest["revision"], manifest["dirty"]) == (None, None)
    for _ in range(2):  # into an empty folder, and into one with such rows
        assert collect([folder_of(config)], tmp_path / "results")
        assert "regression: 1 of its runs is of unknown revision; `make revision`" in capsys.readouterr().err


def test_an_unknown_revision_is_one_of_several():
    run = {"experiment": "regression", "task": "a", "method": "value", "n_train": "20", "dirty": "False"}
    said = gaps([run | {"revision": SHA}, run | {"revision": "", "dirty": ""}])
    assert said[-1] == "regression is from 2 revisions: 0123456, unknown"
