"""W&B is a mirror of the rows: it has all of them once, and a run does not depend on it."""

import json
import os
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.runner import wandb_mirror
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of, run_id
from experiments.runner.wandb_mirror import WandbMirror, is_sent, mirror, read_groups
from scripts import wandb_sync
from tests.runner.test_run import interrupted, metrics

# In place of the package, in the mirror's own process: it notes what it is told, keeps its runs as a server does, and
# misbehaves as FAKE_WANDB says.
FAKE = """
import json, os, time
from pathlib import Path
folder, fault = os.environ["FAKE_WANDB_FOLDER"], os.environ.get("FAKE_WANDB", "")

def note(*what):
    with open(f"{folder}/notes", "a") as file:
        file.write(json.dumps(what) + "\\n")

def misbehave(where):
    if fault == f"{where} hangs":
        time.sleep(600)
    if fault == f"{where} fails":
        raise ConnectionError("the network is gone\\nsecond line")
    if fault == f"{where} dies":
        os.kill(os.getpid(), 9)

class Settings:
    def __init__(self, **options): ...

class Artifact:
    def __init__(self, name, type): self.files = []
    def add_file(self, path): self.files.append(os.path.basename(path))

class Run:
    def __init__(self, id):
        self.file = f"{folder}/{id}"
        self.step = len(Path(self.file).read_text().splitlines()) if os.path.exists(self.file) else 0
        self.summary = {}
    def log(self, values, step):
        misbehave("log")
        with open(self.file, "a") as file:
            file.write(json.dumps(values) + "\\n")
    def log_artifact(self, artifact): note("artifact", artifact.files)
    def finish(self, exit_code):
        misbehave("finish")
        note("finish", exit_code, self.summary)

def init(id, mode, resume, dir, **options):
    note("init", id, mode, resume)
    Path(f"{folder}/asked").write_text(json.dumps([options["project"], options["config"]]))
    misbehave("init")
    return Run(id)
"""

# The real package in the mirror's own process, offline, whose own process gets a signal once it has begun.
REAL = """
import os, sys
from pathlib import Path
folder = os.environ["FAKE_WANDB_FOLDER"]
sys.path.remove(folder)
del sys.modules["wandb"]
import wandb
init = wandb.init

def init_offline(**options):
    run = init(**options | {"mode": "offline"})
    (core,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    os.kill(int(core), int(os.environ["SIGNAL"]))
    Path(f"{folder}/core").write_text(core)
    return run

wandb.init = init_offline
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The folder of a fake W&B, for which a busy machine has time."""
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "wandb.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("FAKE_WANDB_FOLDER", str(folder))
    monkeypatch.setattr(WandbMirror, "left_out", False)
    monkeypatch.setattr(wandb_mirror, "PATIENCE", 200.0)
    return folder


def notes(server: Path) -> list:
    file = server / "notes"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_what_was_measured_at_a_step_is_one_of_w_and_bs(make_config):
    execute(config := make_config("networks=2"))
    first, *_, last = read_groups(folder_of(config))
    assert (first["step"], last["step"]) == (0, config.optimizer.steps)
    seeds = [last[f"seed_{seed}/test/value_mse"] for seed in (0, 1)]
    assert last["test/value_mse"] == pytest.approx(sum(seeds) / 2)
    with (folder_of(config) / "metrics.csv").open("a") as file:
        file.write("regression,styblinski_tang,sob")  # as a reader may see it while a run writes
    assert read_groups(folder_of(config))[-1] == last


def test_offline_nothing_of_w_and_bs_is_started(make_config, server):
    execute(config := make_config("recorder=offline"))
    assert notes(server) == []
    assert {path.name for path in folder_of(config).iterdir()} <= {
        *(".lock", "config.yaml", "manifest.json", "metrics.csv", "surface.npz", "curves.png", "summary.json")
    }


@pytest.mark.curves
def test_an_interrupted_run_goes_on_as_the_same_and_nothing_is_sent_twice(make_config, monkeypatch, server):
    config = make_config("recorder=online", "compute.checkpoint_seconds=0", "networks=1")
    interrupted(config, monkeypatch, 11)
    execute(config)
    name = run_id(config)
    said = notes(server)
    assert [note[:2] for note in said if note[0] != "artifact"] == [
        *(["init", name], ["finish", 1], ["init", name], ["finish", 0])
    ]
    assert all(note[3] == "allow" for note in said if note[0] == "init")
    assert said[-1][2]["objective"] == pytest.approx(execute(config))
    assert ["artifact", ["surface.npz", "curves.png"]] in said
    assert [json.loads(line) for line in (server / name).read_text().splitlines()] == read_groups(folder_of(config))
    assert is_sent(folder_of(config))


@pytest.mark.parametrize("fault", ["init fails", "init hangs", "log fails", "log dies", "finish hangs"])
def test_whatever_happens_to_w_and_b_the_run_ends_soon_and_says_it_once(make_config, monkeypatch, capfd, server, fault):
    if fault.endswith("hangs"):
        monkeypatch.setattr(wandb_mirror, "PATIENCE", 5.0)
    monkeypatch.setenv("FAKE_WANDB", fault)
    plain, first, second = (make_config(*more, runs=runs) for more, runs in (
        ([], "plain"), (["recorder=online"], "first"), (["recorder=online"], "second"))
    )  # fmt: skip
    execute(plain)
    began = time.monotonic()
    execute(first), execute(second)
    assert time.monotonic() - began < 300, "it sleeps for 600 s"
    said = capfd.readouterr().err
    assert said.count("W&B is skipped from here on (`make wandb-sync` sends the rows): ") == 1
    assert "Traceback" not in said
    if fault.endswith("fails"):
        assert "the network is gone\n" in said
    assert len([note for note in notes(server) if note[0] == "init"]) <= 1, "the second run does not wait for it again"
    assert metrics(plain) == metrics(first) == metrics(second)


@pytest.mark.skipif(not any(Path("/proc/self/task").glob("*/children")), reason="looks for W&B's process in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_the_run_ends_where_w_and_bs_own_process_is_killed_or_hangs(make_config, monkeypatch, capfd, server, number):
    pytest.importorskip("wandb")
    (server / "wandb.py").write_text(REAL)
    monkeypatch.setenv("SIGNAL", str(int(number)))
    if number == signal.SIGSTOP:
        monkeypatch.setattr(wandb_mirror, "PATIENCE", 3.0)
    core, finish = server / "core", WandbMirror.finish

    def finish_without_it(mirror: WandbMirror) -> None:
        deadline = time.monotonic() + 200
        while mirror._process and not core.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        finish(mirror)

    monkeypatch.setattr(WandbMirror, "finish", finish_without_it)
    plain, disturbed = make_config("networks=1"), make_config("networks=1", "recorder=online", runs="disturbed")
    execute(plain)
    execute(disturbed)
    said = capfd.readouterr().err
    assert said.count("W&B is skipped from here on (`make wandb-sync` sends the rows): ") == 1
    assert "Traceback" not in said
    assert metrics(plain) == metrics(disturbed)
    status = Path(f"/proc/{core.read_text()}/stat")
    if number == signal.SIGSTOP:
        os.kill(int(core.read_text()), signal.SIGCONT)  # it then sees that who started it has gone
    deadline = time.monotonic() + 200
    while is_running(status):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_running(status: Path) -> bool:
    """A process that has ended stays a zombie where nobody waits for those that have lost their parents."""
    try:
        return status.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_w_and_bs_process_ends_with_a_killed_run(make_config, server, tmp_path):
    execute(config := make_config("networks=1"))
    config.recorder.wandb = wandb_mirror.WandbMode.online
    child = os.fork()
    if not child:
        WandbMirror(config, folder_of(config))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 200
    while not any(note[0] == "finish" for note in notes(server)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_is_not_sent_yet_is_sent_from_the_rows(make_config, monkeypatch, server, capsys):
    offline, disabled = make_config("recorder=offline", "compute.checkpoint_seconds=0"), make_config("seed=7")
    monkeypatch.syspath_prepend(str(server))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(wandb_mirror, "POLL_SECONDS", 0.0)
    runs = ["--runs", offline.runs_dir]
    interrupted(offline, monkeypatch, 11)
    assert wandb_sync.main(runs) == 0
    before = (server / run_id(offline)).read_text()
    execute(offline), execute(disabled)
    assert wandb_sync.main(runs) == 0
    after = (server / run_id(offline)).read_text()
    assert after.startswith(before)
    assert [json.loads(line) for line in after.splitlines()] == read_groups(folder_of(offline))
    capsys.readouterr()
    assert wandb_sync.main(runs) == 0
    assert capsys.readouterr().err == "0 runs sent\n"
    assert not (server / run_id(disabled)).exists()
    sys.modules.pop("wandb")


def test_a_run_of_others_sends_no_secret(make_config, monkeypatch, server, tmp_path):
    """Neither of the environment, by an interpolation in its config, nor of another folder, by a link."""
    execute(config := make_config("recorder=offline"))
    folder = folder_of(config)
    monkeypatch.setenv("SECRET", "hunter2")
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("project: sobolev-training", "project: ${oc.env:SECRET}"))
    (secret := tmp_path / "id_rsa").write_text("hunter2")
    (folder / "key.png").symlink_to(secret)
    monkeypatch.syspath_prepend(str(server))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    wandb_sync.main(["--runs", config.runs_dir])
    sys.modules.pop("wandb")
    said = (server / "notes").read_text() + (server / "asked").read_text()
    assert "surface.npz" in said
    assert "${oc.env:SECRET}" in said
    assert "hunter2" not in said
    assert "key.png" not in said


def test_sending_says_in_one_line_what_could_not_be_sent(make_config, monkeypatch, capsys):
    execute(config := make_config("recorder=offline"))

    def fail(*_):
        raise ConnectionError("no route\nand more")

    monkeypatch.setattr(wandb_sync, "mirror", fail)
    assert wandb_sync.main(["--runs", config.runs_dir]) == 1
    assert capsys.readouterr().err.endswith("not sent (no route)\n0 runs sent, 1 not sent\n")
    with pytest.raises(SystemExit, match="there is no folder"):
        wandb_sync.main(["--runs", str(folder_of(config) / "nowhere")])


def test_the_real_package_takes_what_it_is_given(make_config):
    """Offline, which writes what it would send."""
    wandb = pytest.importorskip("wandb")
    execute(config := make_config("recorder=offline", "networks=1"))
    ended = threading.Event()
    ended.set()
    with tempfile.TemporaryDirectory() as own:
        mirror(folder_of(config), Path(own), ended, "offline")
        (file,) = Path(own).glob("wandb/offline-run-*/*.wandb")
        wandb.teardown()  # its own process writes at its end
        content = file.read_bytes()
    assert str(Path.home()).encode() not in content
    history = []
    for record in wandb_records(content):
        assert not record.HasField("environment"), "the machine, its user and the command line"
        assert not record.HasField("run") or record.run.host == "hidden"
        if record.HasField("history"):
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            history.append({key: value for key, value in items.items() if not key.startswith("_")})
    assert history == read_groups(folder_of(config))


def wandb_records(content: bytes) -> Iterator[Any]:
    """What W&B's own file holds: LevelDB's log format, whose blocks of 32 KiB hold parts of records."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, data = 7, b""
    while at + 7 <= len(content):
        length, kind = struct.unpack_from("<HB", content, at + 4)
        data += content[at + 7 : at + 7 + length]
        at += 7 + length
        at += -at % 32768 if -at % 32768 < 7 else 0  # no header fits there
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(data)
            data = b""
