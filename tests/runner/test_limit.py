"""A command that has so many seconds: what it runs, in which order, and that nothing is lost at its end."""

import json
import re
import signal
import time
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest

import experiments.regression.train as train
from experiments.runner import limit
from experiments.runner.bundle import unpacked
from experiments.runner.errors import OutOfTime
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of, is_complete
from experiments.runner.limit import PACE, Pace, Timetable, wall_seconds
from tests import front_door
from tests.conftest import TINY


def metrics(config) -> str:
    return (folder_of(config) / "metrics.csv").read_text()


def grid(make_config, seconds: float, monkeypatch, **options) -> dict[Path, object]:
    """Two seeds of two losses, as a sweep has them whose last parameter is the seed, on a clock that stands still."""
    now = time.monotonic()
    monkeypatch.setattr(limit, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(limit, "began", now)
    configs = [
        make_config(f"loss={loss}", f"seed={seed}", f"limit.seconds={seconds}", **options)
        for loss in ("value", "sobolev")
        for seed in (0, 10)
    ]
    return {folder_of(config): config for config in configs}


def test_a_first_seed_of_the_whole_grid_comes_before_a_second_one(make_config, monkeypatch):
    configs = grid(make_config, 100, monkeypatch)
    order = [configs[folder] for folder in Timetable(configs, 1).in_order(configs)]
    assert [(config.seed, config.loss.name) for config in order] == [
        *((0, "value"), (0, "sobolev")),
        *((10, "value"), (10, "sobolev")),
    ]


def test_one_run_of_each_kind_is_tried_and_tells_what_the_others_cost(make_config, monkeypatch):
    configs = grid(make_config, 100, monkeypatch)
    table = Timetable(configs, 1)
    tried, seconds = table.trials(configs)
    assert [(configs[folder].seed, configs[folder].loss.name) for folder in tried] == [(0, "value"), (0, "sobolev")]
    assert len(tried) * seconds == pytest.approx(0.25 * (100 - limit.SAVING))
    assert "how long a run takes is not known yet" in table.outlook([*configs])
    for folder, per_update in zip(tried, (0.5, 1.0), strict=True):
        folder.mkdir(parents=True)
        Pace(2, per_update, updates=40, updated=10, per_evaluation=0.5, evaluations=4, evaluated=2).write(folder)
    order = table.in_order(configs)  # what is left of each: 2 + 15 + 1 and 2 + 30 + 1; of a new seed 2 + 20 + 2, 44
    assert table._spans(order) == [(0, 18), (18, 51), (51, 75), (75, 119)]
    assert Timetable(configs, 2)._spans(order) == [(0, 18), (0, 33), (18, 42), (33, 77)]
    assert "enough for about 3 of 4 runs" in table.outlook(order)
    assert "enough for about 4 of 4 runs" in Timetable(configs, 2).outlook(order)
    assert table.trials(configs)[0] == []
    assert table.begun_in_time(order) == order  # estimates are rough: what would begin at 75 of 92 s is begun


def test_there_are_no_more_trials_than_a_quarter_of_the_time_has_room_for(make_config, monkeypatch):
    tried, seconds = Timetable(configs := grid(make_config, 22, monkeypatch), 1).trials(configs)
    assert (len(tried), seconds) == (1, limit.TRIAL)


def _note_seconds(folder: Path, seconds: float) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"wall_seconds": seconds}))


@pytest.mark.parametrize("seconds", [0.0, 0.01, 60.0])
def test_a_complete_run_tells_the_cost_of_its_kind_however_short_it_was(make_config, monkeypatch, seconds):
    configs = grid(make_config, 100, monkeypatch)
    first, *_ = configs
    execute(configs[first])
    _note_seconds(first, seconds)
    tried, _ = Timetable(configs, 1).trials(folder for folder in configs if folder != first)
    assert [configs[folder].loss.name for folder in tried] == ["sobolev"]


def test_a_run_that_is_tried_stops_in_training_and_goes_on_to_the_same_rows(make_config):
    whole, parts = make_config(), make_config("limit.seconds=1e-6", runs="parts")
    execute(whole)
    for _ in range(3):
        with pytest.raises(OutOfTime, match="the same command continues"):
            execute(parts)
        assert not is_complete(folder_of(parts))
    pace = Pace.read(folder_of(parts))
    assert (pace.updates, pace.evaluations) == (41, 4)
    assert 0 < pace.updated < 41
    parts.limit.seconds = 0.0
    execute(parts)
    assert metrics(parts) == metrics(whole)
    assert not (folder_of(parts) / limit.PACE).exists()


def test_an_update_counts_once_it_has_ended(monkeypatch):
    """Between the beginning of the updates and that of the first there is none, however fast a clock ticks."""
    now = [0.0]
    monkeypatch.setattr(limit, "time", SimpleNamespace(monotonic=lambda: now[0]))
    watch = limit.Stopwatch()
    now[0] = 5.0
    watch.begin(10, 50)
    for seconds in (0.001, 2.0, 2.0):
        now[0] += seconds
        watch.tick()
    pace = watch.pace(evaluations=4)
    assert (pace.starting, pace.per_update, pace.updated) == (5.0, pytest.approx(2.0), 12)


def test_at_the_deadline_a_run_stops_wherever_it_is(make_config, monkeypatch):
    """In an evaluation that does not end."""
    monkeypatch.setattr(limit, "SAVING", 0.2)
    monkeypatch.setattr("experiments.runner.run.SAVING", 0.2)
    monkeypatch.setattr("experiments.runner.execute.SAVING", 0.2)
    reached = []

    def evaluate(*_):
        reached.append(time.monotonic())
        time.sleep(600)

    monkeypatch.setattr(train.Normalizer, "errors", evaluate)
    config = make_config()
    for seconds in (0.5, 5, 50):  # a busy machine may need longer to get there
        config.limit.deadline = time.monotonic() + seconds
        with pytest.raises(OutOfTime):
            execute(config)
        if reached:
            break
    assert time.monotonic() - reached[0] < 300
    with pytest.raises(OutOfTime, match="not started"):
        execute(make_config("limit.deadline=1", runs="later"))
    assert not (folder_of(config).parents[2] / "later").exists()


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_while_a_command_runs_neither_stretches_nor_ends_its_time(make_config, monkeypatch, hours):
    now = time.time()
    monkeypatch.setattr(limit, "began", time.monotonic())
    configs = {folder_of(config): config for config in [make_config("limit.seconds=600")]}
    table = Timetable(configs, 1)
    monkeypatch.setattr(time, "time", lambda: now + hours * 3600)
    assert 0 < table._left() <= 600
    (config,) = configs.values()
    config.limit.seconds, config.limit.deadline = 0.0, time.monotonic() - 1
    with pytest.raises(OutOfTime, match="not started"):
        execute(config)
    config.limit.deadline = table.deadline
    execute(config)
    with limit.ringing(table.deadline):
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 600


def test_what_is_complete_needs_no_time(make_config):
    config = make_config()
    execute(config)
    config.limit.deadline = 1.0
    execute(config)


@pytest.mark.slow
def test_a_sweep_ends_in_time_without_an_error_and_goes_on(tmp_path):
    tiny = [*TINY["regression"], "recorder=disabled", "compute.threads=1", f"runs_dir={tmp_path / 'runs'}"]
    sweep = ("-m", "experiment=regression", "loss=value,sobolev", "seed=0,10", *tiny)
    for seconds in (20, 80):  # a busy machine may need longer to save a run
        done = front_door.run(*sweep, "optimizer.steps=100000000", f"limit.seconds={seconds}")  # takes hours
        assert done.returncode == 0, done.stderr
        assert re.search("s are left(, enough for about 0 of 4 runs| for 4 runs)", done.stderr)
        assert "0 of 4 runs done" in done.stderr.splitlines()[-1]
        if saved := list((tmp_path / "runs").glob("*/*/checkpoint.pt")):
            break
    assert saved
    done = front_door.run(*sweep, "limit.seconds=600", f"recorder.bundle={tmp_path / 'runs.tgz'}")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").glob("*/*/summary.json"))) == 4
    assert (tmp_path / "runs.tgz").stat().st_size > 0


def test_a_run_that_fails_in_its_trial_fails_once(tmp_path):
    tiny = [*TINY["regression"], "recorder=disabled", "compute.threads=1", f"runs_dir={tmp_path / 'runs'}"]
    rates = "optimizer.learning_rate=1e30,0.001"
    done = front_door.run("-m", "experiment=regression", rates, *tiny, "limit.seconds=1200")
    assert done.returncode == 1
    assert done.stdout.count("optimizer.learning_rate=1e+30") == 1
    assert "1 of 2 runs failed; the first: training diverged" in done.stderr.splitlines()[-1]


def stopped_in_time(*command: str) -> CompletedProcess[str]:
    """A run that would take hours, stopped once it had begun: on a busy machine that takes longer."""
    for seconds in (11, 20, 80):
        done = front_door.run(*command, "optimizer.steps=100000000", f"limit.seconds={seconds}")
        if "was not started" not in done.stderr:
            break
    return done


def test_a_single_run_ends_in_time_without_an_error(tmp_path):
    tiny = [*TINY["regression"], "recorder=disabled", "compute.threads=1", f"runs_dir={tmp_path}"]
    done = stopped_in_time("experiment=regression", *tiny)
    assert done.returncode == 0, done.stderr
    assert "the time limit was reached; the same command continues" in done.stderr


@pytest.mark.slow
def test_a_single_run_is_packed_when_it_ends_and_when_it_is_stopped(tmp_path):
    tiny = [*TINY["regression"], "recorder=disabled", "compute.threads=1", f"runs_dir={tmp_path / 'runs'}"]
    single = ("experiment=regression", *tiny, f"recorder.bundle={tmp_path / 'runs.tgz'}")

    def packed() -> dict[str, bytes]:
        with unpacked([tmp_path / "runs.tgz"]) as (folder,):
            (run,) = folder.glob("regression/*")
            return {path.name: path.read_bytes() for path in run.iterdir()}

    assert front_door.run(*single, "limit.seconds=nan").returncode == 1
    assert not (tmp_path / "runs.tgz").exists()
    stopped = stopped_in_time(*single)
    assert stopped.returncode == 0, stopped.stderr
    assert packed().keys() >= {"config.yaml", "metrics.csv", "manifest.json"}
    assert "summary.json" not in packed()
    assert front_door.run(*single).returncode == 0
    (rows,) = (path.with_name("metrics.csv") for path in (tmp_path / "runs").glob("*/*/summary.json"))
    assert packed()["metrics.csv"] == rows.read_bytes()


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "1e300"])
@pytest.mark.parametrize("many", [(), ("-m",)])
def test_a_time_that_no_command_has_is_refused(tmp_path, seconds, many):
    done = front_door.run(*many, "experiment=regression", f"runs_dir={tmp_path / 'runs'}", f"limit.seconds={seconds}")
    assert done.returncode == 1
    assert re.fullmatch(r"error: limit.seconds=\S+: expected 0 \(no limit\), or up to .*\n", done.stderr)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("several", ["limit.seconds=10,20", "recorder.bundle=a.tgz,b.tgz"])
def test_a_grid_has_one_limit(several):
    done = front_door.run("-m", "experiment=regression", several)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {several}: a grid has one ")


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "{", "[" * 10**5, '{"wall_seconds": null}', '{"wall_seconds": NaN}', "\xff", "1e999"]
)
def test_what_a_run_took_is_not_known_where_its_notes_are_damaged(tmp_path, content):
    """A sweep that shows its progress, or counts its time, goes on."""
    (tmp_path / "summary.json").write_text("{}")
    for name in ("manifest.json", PACE):
        (tmp_path / name).write_text(content, encoding="latin-1")
    assert wall_seconds(tmp_path) is None
    assert Pace.read(tmp_path) is None
    pace = Pace(2, 0.5, updates=40, updated=10, per_evaluation=0.5, evaluations=4, evaluated=2)
    pace.write(tmp_path)
    assert Pace.read(tmp_path) == pace
    text = (tmp_path / PACE).read_text()
    for was, becomes in (("0.5", '"a"'), ("0.5", "Infinity"), ("40", "null"), ('"starting"', '"begins"')):
        (tmp_path / PACE).write_text(text.replace(was, becomes))
        assert Pace.read(tmp_path) is None
