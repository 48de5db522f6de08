"""Runs that train together: each has the rows that it has alone, and ends, stops and goes on by itself."""

import json
import signal

import pytest

import experiments.regression.train as train
from experiments.runner.checkpoints import Checkpoint
from experiments.runner.errors import BadInput, RunBusy
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of, is_complete
from experiments.runner.together import execute_together
from sobolev.files import locked
from tests.runner.test_run import interrupted, metrics
from tests.runner.test_sweep import sweep

EACH_STEP = "compute.checkpoint_seconds=0"
TOGETHER = "hydra/launcher=together"


def configs_of(
    make_config, *options: str, runs: str = "runs", losses=("value", "sobolev"), functions=("booth",)
) -> list:
    return [
        make_config(f"dataset={function}", f"loss={loss}", *options, runs=runs)
        for function in functions
        for loss in losses
    ]


def manifest(config) -> dict:
    return json.loads((folder_of(config) / "manifest.json").read_text())


@pytest.fixture
def sizes_of_updates(monkeypatch) -> list[int]:
    """The networks of each update."""
    sizes = []
    true_call = train.Update.__call__

    def call(self, *arguments):
        sizes.append(sum(len(data[0]) for _, data in self._steps))
        true_call(self, *arguments)

    monkeypatch.setattr(train.Update, "__call__", call)
    return sizes


@pytest.mark.parametrize(
    ("losses", "options"),
    [
        (("value", "sobolev"), ("n_train=20",)),
        (("value", "sobolev"), ("n_train=100", "model.hidden=[256,256]")),
        (("sobolev", "sobolev_norm"), ("experiment=regression_normalised", "n_train=70")),
        (("sobolev", "sobolev_2"), ("experiment=regression_second_order",)),
    ],
    ids=["full batch", "width of the paper", "autograd", "second order"],
)
def test_rows_are_those_of_each_run_alone_bit_for_bit(make_config, sizes_of_updates, losses, options):
    together, alone = (
        configs_of(make_config, *options, runs=runs, losses=losses, functions=("booth", "ackley"))
        for runs in ("together", "alone")
    )
    objectives = execute_together(together)
    assert set(sizes_of_updates) == {2 * 4}
    assert objectives == [execute(config) for config in alone]
    for one, other in zip(together, alone, strict=True):
        assert is_complete(folder_of(one))
        assert metrics(one) == metrics(other)
        assert manifest(one)["runs_together"] == 4
        assert "runs_together" not in manifest(other)
        assert {path.name for path in folder_of(one).iterdir()} == {path.name for path in folder_of(other).iterdir()}


def test_runs_of_other_shapes_or_settings_train_one_group_after_another(make_config, sizes_of_updates):
    asked = [
        *configs_of(make_config, "n_train=20"),
        *configs_of(make_config, "n_train=30"),
        *configs_of(make_config, "n_train=30", "optimizer.learning_rate=0.001", losses=("value",)),
        *configs_of(make_config, "n_train=30", functions=("hartmann_6",), losses=("value",)),
    ]
    execute_together(asked)
    assert sizes_of_updates == [4] * 80 + [2] * 80
    assert all(is_complete(folder_of(config)) for config in asked)


def test_one_that_diverges_does_not_stop_the_others(make_config, capsys):
    """The error of `ackley`, whose values are small, passes the limit at a rate that others bear."""
    options = ("optimizer.learning_rate=30", "n_train=100")
    together, alone = (
        configs_of(make_config, *options, runs=runs, functions=("ackley", "rosenbrock"), losses=("value",))
        for runs in ("together", "alone")
    )
    failed, objective = execute_together(together)
    with pytest.raises(BadInput, match=r"training diverged: at step \d+") as caught:
        execute(alone[0])
    assert str(failed) == str(caught.value)
    assert str(failed) in capsys.readouterr().err
    assert "training diverged" in (folder_of(together[0]) / "error.txt").read_text()
    assert not is_complete(folder_of(together[0]))
    assert objective == execute(alone[1])
    for one, other in zip(together, alone, strict=True):
        assert metrics(one) == metrics(other)


@pytest.mark.parametrize(("number", "end"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_asked_to_stop_all_save_at_one_step_and_go_on_together_or_alone(make_config, monkeypatch, number, end):
    whole, parts = (
        configs_of(make_config, "n_train=100", runs=runs, functions=("booth", "ackley")) for runs in ("whole", "parts")
    )
    execute_together(whole)
    true_rate = train.learning_rate

    def rate(optimizer, step):
        if step == 17:
            signal.raise_signal(number)
        return true_rate(optimizer, step)

    with monkeypatch.context() as patch:
        patch.setattr(train, "learning_rate", rate)
        with pytest.raises(end):
            execute_together(parts)
    saved = [Checkpoint.read(folder_of(config) / "checkpoint.pt") for config in parts]
    assert [one.state["step"] for one in saved] == [18] * 4
    assert {len(one.state["ensemble"]["weights.0"].untyped_storage()) for one in saved} == {2 * 2 * 16 * 4}  # its own
    execute(parts[0])
    execute_together(parts)
    assert [metrics(config) for config in parts] == [metrics(config) for config in whole]


def test_what_stopped_at_several_steps_goes_on_in_one_command(make_config, monkeypatch, sizes_of_updates):
    whole, parts = (configs_of(make_config, "n_train=100", EACH_STEP, runs=runs) for runs in ("whole", "parts"))
    execute_together(whole)
    for config, updates in zip(parts, (7, 11), strict=True):
        interrupted(config, monkeypatch, updates)
    sizes_of_updates.clear()
    execute_together(parts)
    assert sizes_of_updates == [2] * (40 - 7 + 40 - 11)
    assert [metrics(config) for config in parts] == [metrics(config) for config in whole]


def test_a_checkpoint_that_does_not_fit_stops_its_own_run_alone(make_config, monkeypatch):
    parts = configs_of(make_config, "n_train=100", EACH_STEP)
    for config in parts:
        interrupted(config, monkeypatch, 7)
    path = folder_of(parts[0]) / "checkpoint.pt"
    saved = Checkpoint.read(path)
    del saved.state["ensemble"]["weights.1"]
    saved.write(path)
    before = path.read_bytes()
    refused, objective = execute_together(parts)
    assert isinstance(objective, float)
    assert f"{path} does not fit this run" in str(refused)
    assert path.read_bytes() == before


def test_what_another_process_runs_what_is_complete_and_what_is_refused_are_passed_over(make_config):
    busy, free, done, unknown = configs_of(make_config, functions=("booth", "beale"))
    unknown.dataset.name = "boot"
    objective = execute(done)
    folder_of(busy).mkdir(parents=True)
    with locked(folder_of(busy) / ".lock", wait=False):
        outcomes = execute_together([busy, free, done, unknown])
    assert isinstance(outcomes[0], RunBusy)
    assert outcomes[2] == objective
    assert str(outcomes[3]).startswith("dataset.name=boot is unknown")
    assert is_complete(folder_of(free))
    assert manifest(free).get("runs_together") is None  # nobody was left to train with


def test_what_stops_the_training_is_said_of_all_that_did_not_end(make_config, monkeypatch):
    configs = configs_of(make_config)
    interrupted_by = RuntimeError("pulled the plug")

    def fail(*_):
        raise interrupted_by

    monkeypatch.setattr(train, "learning_rate", fail)
    assert execute_together(configs) == [interrupted_by, interrupted_by]
    assert all("pulled the plug" in (folder_of(config) / "error.txt").read_text() for config in configs)


def test_a_grid_is_launched_together_and_goes_on(tmp_path):
    grid = ["dataset=booth", "loss=value,sobolev", "n_train=20,30"]
    first = sweep(tmp_path, *grid, TOGETHER)
    assert first.returncode == 0, first.stderr
    assert "4 of 4 runs done" in first.stderr
    runs = sorted(tmp_path.glob("regression/*/"))
    assert {json.loads((run / "manifest.json").read_text())["runs_together"] for run in runs} == {2}
    (runs[0] / "summary.json").unlink()
    again = sweep(tmp_path, *grid, TOGETHER)
    assert "3 of 4 runs done, 0 running, 1 to come" in again.stderr
    assert again.stderr.count("is complete") == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["experiment=regression_descent"], f"{TOGETHER}: regression_descent trains its runs one by one: leave it out"),
        (["limit.seconds=100"], "limit.seconds needs the time of each run, but these are trained together: "),
    ],
)
def test_what_is_not_trained_together_is_refused(tmp_path, overrides, said):
    done = sweep(tmp_path, "seed=0,1", TOGETHER, *overrides)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {said}")
    assert not [*tmp_path.glob("*/*")]
