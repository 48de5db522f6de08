"""The run: identity, skipping, resuming, recording."""

import csv
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import experiments.regression.train
from experiments.runner.curves import read_panels
from experiments.runner.errors import BadInput
from experiments.runner.execute import execute, open_run
from experiments.runner.identity import COLUMNS, is_complete, run_id
from experiments.runner.run import Run
from tests import front_door
from tests.conftest import CONFIGS, ROOT, TINY
from tests.front_door import FrontDoor


def folder(config) -> Path:
    return Path(config.runs_dir) / config.name / run_id(config)


def metrics(config) -> str:
    return (folder(config) / "metrics.csv").read_text()


def test_same_seed_same_rows_and_another_seed_other_rows(make_config):
    first, again, other = make_config(), make_config(runs="again"), make_config("seed=5")
    for config in (first, again, other):
        execute(config)
    assert metrics(first) == metrics(again)
    values = [{row.rpartition(",")[2] for row in metrics(c).splitlines()[1:]} for c in (first, other)]
    assert not values[0] & values[1]


def test_a_network_is_the_same_in_any_ensemble(make_config):
    """Seed 1 as the second of two networks, and alone."""
    exact = "compute.precision=float64"  # rounding depends on the shapes of products, and grows in training
    two, one = make_config("networks=2", exact), make_config("networks=1", "seed=1", exact)
    execute(two), execute(one)
    values = []
    for config in (two, one):
        rows = [row.split(",") for row in metrics(config).splitlines()[1:]]
        values.append({tuple(row[5:8]): float(row[8]) for row in rows if row[4] == "1"})
    assert values[0].keys() == values[1].keys()
    for key, value in values[0].items():
        assert value == pytest.approx(values[1][key], rel=1e-8), key


def test_rows_are_tidy(make_config):
    config = make_config("dataset=booth", "loss=value", "n_train=30")
    execute(config)
    header, *rows = [line.split(",") for line in metrics(config).splitlines()]
    assert tuple(header) == COLUMNS
    assert {tuple(row[:4]) for row in rows} == {("regression", "booth", "value", "30")}
    assert {row[4] for row in rows} == {"0", "1"}
    assert {int(row[5]) for row in rows} >= {0, 40}
    assert {tuple(row[6:8]) for row in rows} == {
        (s, m) for s in ("train", "test") for m in ("value_mse", "gradient_mse")
    }
    assert len({tuple(row[:8]) for row in rows}) == len(rows)


def test_identity_is_what_is_asked(make_config):
    base = run_id(make_config())
    for same in ("compute.threads=2", "recorder=offline", "compute.checkpoint_seconds=1"):
        assert run_id(make_config(same)) == base
    assert run_id(make_config(runs="elsewhere")) == base
    for other in (
        "seed=1",
        "n_train=99",
        "loss=value",
        "dataset=booth",
        "optimizer.learning_rate=0.1",
        "normalise=true",
        "compute.precision=float64",
    ):
        assert run_id(make_config(other)) != base


def test_where_data_lies_and_who_reads_it_is_not_asked(make_config):
    images = "experiment=synthetic_gradients_imagenet"
    base = run_id(make_config(images))
    for same in ("dataset.folder=elsewhere", "dataset.download=true", "dataset.workers=3"):
        assert run_id(make_config(images, same)) == base
    assert run_id(make_config(images, "dataset.size=33")) != base


@pytest.mark.parametrize(
    ("domain", "overrides", "cell"),
    [
        ("regression", ["n_train=20"], "styblinski_tang,sobolev,20"),
        ("regression", ["optimizer=paper_long"], "styblinski_tang,sobolev,100"),
        ("regression", ["experiment=regression_normalised", "loss=value"], "styblinski_tang,value,100"),
        ("distillation", ["sweep=distillation/figure_4_reduced", "dataset=atari/breakout"], "breakout,sobolev,1000"),
        ("theory", ["experiment=theory_points", "n_inputs=3", "seed=100"], "d3,sobolev_relu,64"),
        ("theory", ["experiment=theory_mismatch", "delta=0.5", "seed=100"], "interval_delta0.5,sobolev,256"),
    ],
)
def test_shipped_runs_are_found_by_the_command_that_made_them(domain, overrides, cell):
    """Otherwise a reader's run of the same question would not take the place of the shipped one."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", overrides))
    with (ROOT / "results" / domain / "runs.csv").open(newline="") as file:
        (shipped,) = (
            row["run_id"]
            for row in csv.DictReader(file)
            if (row["experiment"], f"{row['task']},{row['method']},{row['n_train']}") == (config.name, cell)
            and str(config.seed) in row["seeds"].split()
        )
    assert run_id(config) == shipped
    if hasattr(config, "loss"):
        config.loss.distances = ["squared_l2", "l1", "l1"]
        assert run_id(config) != shipped


def test_a_complete_run_is_skipped(make_config, monkeypatch):
    config = make_config()
    objective = execute(config)
    monkeypatch.setattr(experiments.regression.train, "check", lambda _: pytest.fail("trained again"))
    assert execute(config) == objective


def interrupted(config, monkeypatch, after: int, module=experiments.regression.train) -> None:
    """Run until `after` updates, then fail as an error in the middle would. The module is the experiment's."""
    updates = 0
    true_rate = module.learning_rate

    def failing_rate(optimizer, step):
        nonlocal updates
        updates += 1
        if updates > after:
            raise RuntimeError("pulled the plug")
        return true_rate(optimizer, step)

    with monkeypatch.context() as patch:
        patch.setattr(module, "learning_rate", failing_rate)
        with pytest.raises(RuntimeError, match="pulled the plug"):
            execute(config)


@pytest.mark.parametrize("experiment", ["regression", "regression_normalised", "regression_second_order"])
def test_resumed_equals_uninterrupted_bit_for_bit(make_config, monkeypatch, capsys, experiment):
    options = (f"experiment={experiment}", "n_train=100", "compute.checkpoint_seconds=0")
    whole, parts = make_config(*options), make_config(*options, runs="parts")
    execute(whole)
    for updates in (3, 11, 17):
        interrupted(parts, monkeypatch, updates)
        assert (folder(parts) / "checkpoint.pt").exists()
        assert "pulled the plug" in (folder(parts) / "error.txt").read_text()
        assert not (folder(parts) / "summary.json").exists()
    execute(parts)
    assert "starts again" not in capsys.readouterr().err
    assert metrics(whole) == metrics(parts)
    assert not (folder(parts) / "checkpoint.pt").exists()
    assert not (folder(parts) / "error.txt").exists()


@pytest.mark.parametrize(("number", "end"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_asked_to_stop_after_its_last_checkpoint_a_run_is_complete_and_none_follows(
    make_config, monkeypatch, number, end
):
    monkeypatch.setattr(Run, "_draw", lambda *_: signal.raise_signal(number))
    with pytest.raises(end):
        execute(config := make_config())
    assert is_complete(folder(config))


@pytest.mark.parametrize(("number", "end"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_asked_to_stop_where_it_cannot_save_it_says_so_and_none_follows(make_config, monkeypatch, capsys, number, end):
    def full(*_):
        signal.raise_signal(number)
        raise OSError(errno.ENOSPC, "No space left on device", "checkpoint.pt")

    monkeypatch.setattr(Run, "save", full)
    with pytest.raises(end):
        execute(config := make_config("compute.checkpoint_seconds=0"))
    assert "error: the disk is full" in capsys.readouterr().err
    assert "No space left" in (folder(config) / "error.txt").read_text()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "rows lost"])
def test_a_damaged_run_begins_again(make_config, monkeypatch, capsys, damage):
    whole, damaged = make_config(), make_config("compute.checkpoint_seconds=0", runs="damaged")
    execute(whole)
    interrupted(damaged, monkeypatch, 20)
    checkpoint = folder(damaged) / "checkpoint.pt"
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    elif damage == "flipped":
        content = bytearray(checkpoint.read_bytes())
        weights = torch.load(checkpoint, weights_only=True)["state"]["ensemble"].values()
        content[content.index(max(weights, key=torch.numel).numpy().tobytes())] ^= 1  # loads as well as before
        checkpoint.write_bytes(content)
    else:
        (folder(damaged) / "metrics.csv").write_text("")
    execute(damaged)
    assert "starts again" in capsys.readouterr().err
    assert metrics(whole) == metrics(damaged)


def test_a_checkpoint_that_cannot_be_read_for_a_moment_is_kept(make_config, monkeypatch):
    whole, config = make_config(), make_config("compute.checkpoint_seconds=0", runs="stale")
    execute(whole)
    interrupted(config, monkeypatch, 20)
    before = (folder(config) / "checkpoint.pt").read_bytes()
    true_open = io.open

    def stale(file, *arguments, **options):
        if Path(str(file)).name == "checkpoint.pt":
            raise OSError(errno.ESTALE, "Stale file handle", str(file))
        return true_open(file, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", stale)
        with pytest.raises(OSError, match="Stale file handle"):
            execute(config)
    assert (folder(config) / "checkpoint.pt").read_bytes() == before
    execute(config)
    assert metrics(config) == metrics(whole)


def test_a_run_whose_summary_is_damaged_is_not_complete(make_config, capsys):
    execute(config := make_config())
    rows = metrics(config)
    (folder(config) / "summary.json").write_text('{"objective": 1')
    assert not is_complete(folder(config))
    execute(config)
    assert "summary.json is damaged" in capsys.readouterr().err
    assert is_complete(folder(config))
    assert metrics(config) == rows


def test_a_run_that_is_refused_on_its_way_keeps_what_it_measured(make_config):
    config = make_config("optimizer.learning_rate=1e30")
    with pytest.raises(BadInput, match="training diverged"):
        execute(config)
    assert metrics(config).count("\n") > 1
    assert "training diverged" in (folder(config) / "error.txt").read_text()


@pytest.mark.curves
def test_a_run_leaves_a_figure_of_what_it_measured_over_training(make_config):
    execute(config := make_config("networks=2"))
    panels = read_panels(folder(config) / "metrics.csv")
    assert {"value_mse", "gradient_mse"} <= panels.keys()
    (first, *_), last = panels["value_mse"]["test", ""], max(panels["value_mse"]["test", ""])
    assert (first, last) == (0, config.optimizer.steps)
    assert all(len(values) == 2 for values in panels["value_mse"]["test", ""].values()), "a value a seed"
    assert (folder(config) / "curves.png").read_bytes().startswith(b"\x89PNG")
    execute(once := make_config("experiment=theory_exact"))
    assert not (folder(once) / "curves.png").exists()


def test_one_process_a_run(make_config):
    config = make_config()
    with open_run(config), pytest.raises(BadInput, match="another process"), open_run(config):
        pass


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_made_is_refused_in_one_line(make_config, tmp_path, where):
    (tmp_path / "file").touch()
    config = make_config(runs=where)
    assert not is_complete(folder(config))  # what a sweep asks first
    with pytest.raises(BadInput, match=r"cannot be used \(.*\): name another folder") as error:
        execute(config)
    assert "\n" not in str(error.value)


def test_denormal_numbers_count_as_zero(make_config):
    """Adam's moments of dead ReLUs would decay into them and slow every step."""
    execute(make_config())
    assert (torch.full((8,), 1e-38) * 1e-3).eq(0).all()


def test_manifest_says_what_ran_it_and_leaks_nothing(make_config, monkeypatch):
    monkeypatch.setenv("A_SECRET_KEY", "hunter2")
    config = make_config()
    execute(config)
    manifest = json.loads((folder(config) / "manifest.json").read_text())
    assert {"revision", "dirty", "torch", "device", "threads", "precision", "wall_seconds"} <= manifest.keys()
    assert 0.05 < manifest["peak_memory_gib"] < 64
    for path in folder(config).iterdir():
        assert b"hunter2" not in path.read_bytes()


def command(*overrides: str, runs: Path) -> list[str]:
    """What follows `run.py`."""
    tiny = TINY["regression"]
    base = ["recorder=disabled", "compute.threads=1", "compute.checkpoint_seconds=0.05", f"runs_dir={runs}"]
    flags = [argument for argument in overrides if argument.startswith("-")]
    return [*flags, *tiny, *base, *(o for o in overrides if o not in flags)]


@pytest.mark.slow
def test_killed_by_sigkill_and_typed_again(tmp_path):
    """The process is killed up to three times in the middle of its work, wherever that happens to be."""
    for steps in (2_000, 20_000, 200_000):  # a fast machine's run is over before it can be killed
        overrides, killed = ("n_train=100", f"optimizer.steps={steps}", "evaluations=8"), 0
        for _ in range(3):
            process = FrontDoor(*command(*overrides, runs=tmp_path / "killed"))
            before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/*/*/checkpoint.pt")}
            while process.poll() is None:
                new = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/*/*/checkpoint.pt")}
                if new != before:
                    time.sleep(0.1)
                    break
                time.sleep(0.02)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
        if killed:
            break
        shutil.rmtree(tmp_path / "killed")
    assert killed
    for name in ("killed", "whole"):
        assert front_door.run(*command(*overrides, runs=tmp_path / name)).returncode == 0
    (whole,), (parts,) = (tmp_path.glob(f"{name}/*/*/metrics.csv") for name in ("whole", "killed"))
    assert whole.read_bytes() == parts.read_bytes()


def test_float32_is_float32_on_a_gpu_too(make_config):
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    for backend in backends:
        backend.allow_tf32 = True
    with open_run(make_config()):
        assert not any(backend.allow_tf32 for backend in backends)


def test_threads_that_wait_sleep_unless_one_says_otherwise():
    """libgomp reads it when torch is loaded, so it must be there before, in runs and in benchmarks."""
    said = "import os, sys, {module}; print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    unset = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    for module, given, expected in (
        *(("experiments", {}, "False 1000"), ("scripts", {}, "False 1000")),
        ("experiments", {"GOMP_SPINCOUNT": "7"}, "False 7"),
    ):
        command = [sys.executable, "-c", said.format(module=module)]
        found = subprocess.run(command, env=unset | given, cwd=ROOT, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == expected
