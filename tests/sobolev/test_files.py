"""Files that several processes share: replaced whole, locked by one at a time, errors that name them."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sobolev.files import Busy, locked, naming, replacing, sha256
from tests.conftest import ROOT


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(UnicodeEncodeError), replacing(path) as temporary:
        temporary.write_text("half \udcff")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "first"


def test_errors_name_the_file_and_not_its_temporary_one(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "gone" / "file") as temporary:
        temporary.write_text("")
    assert caught.value.filename == str(tmp_path / "gone" / "file")
    with pytest.raises(OSError, match="full") as caught, naming(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "full")
    assert caught.value.filename == str(tmp_path / "file")


def test_a_file_and_its_folder_are_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    synced, true_fsync = [], os.fsync

    def fsync(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        true_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("whole")
    assert synced == [f".file.{os.getpid()}.partial", tmp_path.name]


def test_a_lock_is_one_process_s_until_it_lets_go(tmp_path):
    with locked(tmp_path / ".lock"), pytest.raises(Busy), locked(tmp_path / ".lock", wait=False):
        pass
    with locked(tmp_path / ".lock", wait=False):
        pass


def test_what_was_done_under_a_lock_stays_done_where_its_file_cannot_be_closed(tmp_path, monkeypatch):
    """Of a network's file system, or of a disk that is full: nothing was written to it."""
    true_close = os.close

    def close(descriptor):
        true_close(descriptor)
        raise OSError(errno.ENOSPC, "full")

    with locked(tmp_path / ".lock"):
        monkeypatch.setattr(os, "close", close)
    monkeypatch.undo()
    with locked(tmp_path / ".lock", wait=False):
        pass


def test_a_lock_whose_file_was_removed_and_made_anew_is_not_held_twice(tmp_path, monkeypatch):
    """One that waited gets the removed file's lock, while another may hold that of the new one."""
    path, true_flock = tmp_path / ".lock", fcntl.flock

    def flock(descriptor, operation):
        monkeypatch.setattr(fcntl, "flock", true_flock)
        path.unlink()
        true_flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(path), pytest.raises(Busy), locked(path, wait=False):
        pass


def test_workers_that_outlive_a_killed_process_do_not_keep_its_lock(tmp_path):
    program = f"""
import os, pathlib, signal, time
from sobolev.files import locked
with locked(pathlib.Path({str(tmp_path / ".lock")!r})):
    if os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    print("forked", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, process_group=0, stdout=subprocess.PIPE)
    assert process.wait() < 0
    with process.stdout:
        process.stdout.readline()  # until then the child may not have let go yet
    try:
        with locked(tmp_path / ".lock", wait=False):
            pass
    finally:
        os.killpg(process.pid, 9)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_the_file_system_has_no_locks_a_file_is_one(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    path, held = tmp_path / ".lock", tmp_path / ".lock.held"
    with locked(path):
        assert held.exists()
        with pytest.raises(Busy, match="remove it"), locked(path, wait=False):
            pass
    assert not held.exists()
    ended = subprocess.Popen(["true"])
    ended.wait()
    held.write_text(f"{ended.pid}\n{socket.gethostname()}\n")
    os.utime(held, (time.time() - 60,) * 2)
    with locked(path, wait=False):  # its process is dead
        pass
    held.write_text("1\nanother-machine\n")
    with pytest.raises(Busy, match=r"\.lock\.held .*remove it"), locked(path, wait=False):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EACCES, errno.EIO])
def test_a_lock_that_the_system_cannot_give_is_an_error_that_names_it(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    for wait in (True, False):
        with pytest.raises(OSError, match=r"\.lock") as caught, locked(tmp_path / ".lock", wait):
            pass
        assert caught.value.errno == number


def test_a_digest_of_a_beginning(tmp_path):
    (tmp_path / "file").write_bytes(b"abcdef")
    (tmp_path / "beginning").write_bytes(b"abc")
    assert sha256(tmp_path / "file", 3) == sha256(tmp_path / "beginning") != sha256(tmp_path / "file")
