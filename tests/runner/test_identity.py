"""A run's own files: whose they are, whether they are whole, and what the system says of them."""

import errno
import fcntl
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from submitit.core.utils import UncompletedJobError

from experiments.runner.checkpoints import Trial
from experiments.runner.command_line import explain
from experiments.runner.errors import BadInput, RunBusy
from experiments.runner.execute import execute, open_run
from experiments.runner.identity import folder_of, is_complete, read_summary
from sobolev.files import locked
from tests.runner.test_run import interrupted, metrics

STOPPED = ("compute.checkpoint_seconds=0", "networks=1")


@pytest.fixture
def stopped(make_config, monkeypatch):
    """The config of a run that was stopped on its way."""
    interrupted(config := make_config(*STOPPED), monkeypatch, 20)
    return config


def change(config, **changed) -> None:
    path = folder_of(config) / "checkpoint.pt"
    torch.save(torch.load(path, weights_only=True) | changed, path)


def test_another_run_s_state_is_not_gone_on_with(make_config, monkeypatch, stopped, capsys):
    whole, other = make_config(*STOPPED, runs="whole"), make_config(*STOPPED, "seed=1", runs="other")
    execute(whole)
    interrupted(other, monkeypatch, 20)
    for name in ("checkpoint.pt", "metrics.csv"):
        shutil.copy(folder_of(other) / name, folder_of(stopped) / name)
    execute(stopped)
    assert f"(it belongs to run {folder_of(other).name}); the run starts again" in capsys.readouterr().err
    assert metrics(stopped) == metrics(whole)


def test_a_checkpoint_of_before_they_named_their_run_is_gone_on_with(stopped, capsys):
    path = folder_of(stopped) / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    del saved["run_id"]
    torch.save(saved, path)
    execute(stopped)
    assert "starts again" not in capsys.readouterr().err


@pytest.mark.parametrize("content", [[], {}, {"state": 3}, "text", torch.zeros(3)], ids=str)
def test_what_is_no_checkpoint_is_one_line_and_the_run_begins_again(make_config, stopped, capsys, content):
    torch.save(content, folder_of(stopped) / "checkpoint.pt")
    execute(stopped)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "checkpoint.pt" in line]
    assert "is damaged" in said
    assert said.endswith("; the run starts again")
    execute(whole := make_config(*STOPPED, runs="whole"))
    assert metrics(stopped) == metrics(whole)


def test_a_checkpoint_without_a_state_doubles_no_rows(make_config, stopped, capsys):
    change(stopped, state={})
    execute(stopped)
    assert "checkpoint.pt is damaged (state: " in capsys.readouterr().err
    execute(whole := make_config(*STOPPED, runs="whole"))
    assert metrics(stopped) == metrics(whole)


def broken_states(state: dict) -> dict[str, dict]:
    ensemble, optimizer = state["ensemble"], state["optimizer"]
    other_shapes = {key: torch.zeros(7) for key in ensemble}
    moments = {k: each | {"exp_avg": torch.zeros(7)} for k, each in optimizer["state"].items()}
    return {
        "key": {key: value for key, value in state.items() if key != "step"},
        "shapes": state | {"ensemble": other_shapes},
        "moments": state | {"optimizer": optimizer | {"state": moments}},
        "list": state | {"ensemble": []},
        "beyond": state | {"step": 41},
        "negative": state | {"step": -1},
        "text": state | {"step": "20"},
    }


@pytest.mark.parametrize("how", broken_states({"ensemble": {}, "optimizer": {"state": {}}}))
def test_a_state_that_does_not_fit_is_refused_and_kept(stopped, how):
    """Code may have changed under it: what took hours is not thrown away without a word."""
    path = folder_of(stopped) / "checkpoint.pt"
    change(stopped, state=broken_states(torch.load(path, weights_only=True)["state"])[how])
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"checkpoint\.pt does not fit this run \(.*remove it") as caught:
        execute(stopped)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    path.unlink()
    execute(stopped)


def test_an_error_of_later_steps_is_not_the_checkpoint_s(stopped, monkeypatch):
    interrupted(stopped, monkeypatch, 3)  # it goes on from step 20, and fails as itself


def test_the_end_of_a_slurm_job_is_not_the_checkpoint_s(tmp_path):
    trial = Trial(tmp_path / "checkpoint.pt")
    try:
        trial.refuse(UncompletedJobError("Job not requeued because: timed-out too many times."))
        with pytest.raises(BadInput, match="does not fit this run"):
            trial.refuse(ValueError("of another shape"))
    finally:
        trial.end()


@pytest.mark.parametrize("objective", ["NaN", "Infinity", "null", '"low"', "[]"])
def test_a_summary_without_a_finite_objective_completes_nothing(make_config, capsys, objective):
    execute(config := make_config())
    (folder_of(config) / "summary.json").write_text(f'{{"objective": {objective}}}')
    assert not is_complete(folder_of(config))
    execute(config)
    assert "summary.json is damaged" in capsys.readouterr().err
    assert is_complete(folder_of(config))


@pytest.mark.parametrize("content", ["[]", "null", "5", "[" * 100_000, "\ufeff{}"], ids=lambda text: text[:5])
def test_what_is_no_summary_completes_nothing(make_config, content):
    execute(config := make_config())
    for name in ("summary.json", "manifest.json"):
        true = (folder_of(config) / name).read_text()
        (folder_of(config) / name).write_text(content)
        assert not is_complete(folder_of(config))
        (folder_of(config) / name).write_text(true)
    assert is_complete(folder_of(config))


@pytest.mark.parametrize("more", [(), ("manifest.json",)])
def test_a_summary_laid_onto_a_half_done_run_does_not_complete_it(make_config, stopped, capsys, more):
    execute(whole := make_config(*STOPPED, runs="whole"))
    for name in ("summary.json", *more):
        shutil.copy(folder_of(whole) / name, folder_of(stopped) / name)
    assert not is_complete(folder_of(stopped))
    execute(stopped)
    assert "summary.json was not written for this run and these rows" in capsys.readouterr().err
    assert metrics(stopped) == metrics(whole)


def test_a_summary_of_another_run_or_other_numbers_completes_nothing(make_config):
    execute(config := make_config())
    execute(other := make_config("seed=1"))
    path = folder_of(config) / "summary.json"
    for content in (
        (folder_of(other) / "summary.json").read_text(),
        json.dumps(json.loads(path.read_text()) | {"objective": 0.0}),
    ):
        path.write_text(content)
        assert not is_complete(folder_of(config))


def test_a_run_whose_objective_is_not_finite_is_not_complete(make_config):
    with open_run(config := make_config()) as run:
        run.resume()
        with pytest.raises(BadInput, match="training diverged"):
            run.finish({"objective": float("nan")})
    assert not is_complete(folder_of(config))


def test_a_complete_run_is_skipped_without_a_write(make_config, monkeypatch):
    execute(config := make_config())
    (folder_of(config) / ".lock").unlink()
    before = {path: path.stat().st_mtime_ns for path in [folder_of(config), *folder_of(config).iterdir()]}
    execute(config)
    assert {path: path.stat().st_mtime_ns for path in [folder_of(config), *folder_of(config).iterdir()]} == before


def test_a_run_that_was_killed_before_it_could_clean_up_is_cleaned_up(make_config):
    execute(config := make_config())
    left = [folder_of(config) / name for name in ("checkpoint.pt", "error.txt", ".metrics.csv.7.partial")]
    for path in left:
        path.write_text("left")
    execute(config)
    assert not any(path.exists() for path in left)


def test_a_refused_run_removes_no_folder_that_was_there(make_config):
    config = make_config("dataset.name=nowhere")
    folder_of(config).mkdir(parents=True)
    (folder_of(config) / "notes").write_text("mine")
    with pytest.raises(BadInput):
        execute(config)
    assert (folder_of(config) / "notes").read_text() == "mine"


@pytest.mark.parametrize(
    "name", [".lock", "metrics.csv", "checkpoint.pt", "config.yaml", "manifest.json", "summary.json"]
)
def test_a_folder_in_a_file_s_place_is_one_line_that_names_it(make_config, name):
    config = make_config()
    (folder_of(config) / name).mkdir(parents=True)
    with pytest.raises((OSError, BadInput)) as caught:
        execute(config)
    assert f"{folder_of(config) / name}" in explain(caught.value)
    assert "Is a directory" in explain(caught.value) or "cannot be used" in explain(caught.value)


def test_a_folder_removed_on_the_way_is_one_line_that_names_a_file(make_config):
    with pytest.raises(FileNotFoundError) as caught, open_run(config := make_config(*STOPPED)) as run:  # noqa: PT012
        run.resume()
        shutil.rmtree(folder_of(config))
        run.checkpoint(lambda: {})
    assert explain(caught.value).startswith(f"{folder_of(config)}/metrics.csv: No such file or directory; once")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_rows_that_cannot_be_written_are_named(make_config, number):
    class Failing(io.StringIO):
        def flush(self):
            raise OSError(number, os.strerror(number))

    with open_run(config := make_config()) as run:
        run.resume()
        run._rows.close()
        run._rows = Failing()
        with pytest.raises(OSError, match=r"metrics\.csv") as caught:
            run.record(0, [(0, "test", "value_mse", 1.0)])
        assert str(folder_of(config) / "metrics.csv") in explain(caught.value)
        run._rows = None


def test_a_run_that_is_busy_is_refused_and_its_rows_are_left(stopped):
    before = metrics(stopped)
    with locked(folder_of(stopped) / ".lock"), pytest.raises(RunBusy, match="another process"):
        execute(stopped)
    assert metrics(stopped) == before


@pytest.mark.parametrize("name", ["..", ".", "a/b", "two words", ""])
def test_names_are_no_paths(make_config, name):
    config = make_config()
    for change in (lambda: setattr(config, "name", name), lambda: setattr(config.labels, "task", name)):
        change()
        with pytest.raises(BadInput, match="one word"):
            execute(config)
    assert not Path(config.runs_dir).exists()


def test_a_summary_may_say_of_other_numbers_that_they_are_none(make_config):
    with open_run(config := make_config()) as run:
        run.resume()
        run.finish({"objective": 1.0, "steepest": float("nan")})
    assert read_summary(folder_of(config)).keys() == {"objective", "steepest"}


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EACCES])
def test_a_lock_that_cannot_be_had_is_refused_in_one_line(make_config, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with pytest.raises(BadInput, match=r"\.lock cannot be used \(.*\): name another folder as runs_dir"):
        execute(make_config())


def test_a_run_can_do_without_locks_of_the_file_system(make_config, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOSYS))
    config = make_config()
    with open_run(config), pytest.raises(RunBusy), open_run(config):
        pass
    execute(config)
    assert not (folder_of(config) / ".lock.held").exists()


def failing(number: int):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("name", ["checkpoint.pt", "metrics.csv", "summary.json", ".lock"])
def test_a_pipe_in_a_run_s_folder_is_not_waited_for(make_config, stopped, name):
    path = folder_of(stopped) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    if name == ".lock":
        execute(stopped)
    else:
        with pytest.raises(OSError, match="no regular file") as caught:
            execute(stopped)
        assert explain(caught.value).startswith(f"{path}: no regular file")
