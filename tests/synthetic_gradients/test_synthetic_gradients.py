"""The synthetic-gradients experiment: its data, recipe, metrics, resuming, and two processes as one."""

import csv
import errno
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from experiments.runner.errors import BadInput
from experiments.runner.execute import checked_entry, execute
from experiments.runner.identity import folder_of, run_id
from experiments.runner.operations import operations_of
from experiments.runner.scale import scale_of
from experiments.synthetic_gradients import train as experiment
from experiments.synthetic_gradients.metrics import averages, comparison_sums, sums_of
from experiments.synthetic_gradients.settings import DecoupledConfig, technique_of
from sobolev.images import IN_MEMORY
from sobolev.losses import DISTANCES
from sobolev.networks.gradient_predictors import LabelPredictor
from sobolev.networks.resnet import resnet50_blocks
from sobolev.synthetic_gradients import TECHNIQUES, Comparison, DecoupledNetwork, Technique
from tests.conftest import ROOT, TINY, composed
from tests.fake_images import CLASSES, write_folder
from tests.front_door import FrontDoor

SGD = "experiment=synthetic_gradients"


def read(config) -> list[dict[str, str]]:
    (path,) = Path(config.runs_dir).glob("*/*/metrics.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_technique_runs_and_its_config_is_the_librarys(make_config, name):
    config = make_config(SGD, f"technique={name}")
    assert technique_of(config) == TECHNIQUES[name]
    assert 0 <= execute(config) <= 1
    rows = read(config)
    metrics = {row["metric"] for row in rows if row["split"] == "test"}
    assert {"loss", "accuracy_top1", "accuracy_top5", "gradient_cosine/1", "gradient_relative_error/3"} <= metrics
    assert ("predicted_loss/2" in metrics) == (TECHNIQUES[name].crosses == "derivative")
    assert {row["split"] for row in rows} == {"train", "test"}
    assert {row["method"] for row in rows} == {name}
    assert {row["n_train"] for row in rows} == {"1437"}


def test_a_technique_knows_every_distance_of_the_library():
    """It cannot ask `sobolev.losses`, because that imports PyTorch."""
    for name in DISTANCES:
        Technique("derivative", value=1, distance=name)
    with pytest.raises(ValueError, match=f"distance must be one of {', '.join(DISTANCES)}, not 'l3'"):
        Technique("derivative", value=1, distance="l3")


def test_settings_and_techniques_do_not_wait_for_pytorch():
    code = "import sys, experiments.registry as r; r.settings_types(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def shipped(*overrides: str):
    """A config as it ships, at full size."""
    return composed(*overrides)


CIFAR = (SGD, "dataset=cifar10")
IMAGENET = ("experiment=synthetic_gradients_imagenet",)


def kernels_of(module: torch.nn.Module) -> list[tuple[int, tuple[int, int], tuple[int, int]]]:
    """(kernels, their size, their stride) of each convolution."""
    convolutions = [layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)]
    return [(layer.out_channels, layer.kernel_size, layer.stride) for layer in convolutions]


@pytest.mark.parametrize(
    ("names", "batch_size", "falls"),
    [(CIFAR, 320, (40_000, 60_000, 80_000)), (IMAGENET, 34 * 32, (100_000, 150_000, 175_000))],
)
def test_the_papers_rates_batches_and_schedules(names, batch_size, falls):
    """SM 4.1 and 4.2."""
    settings = shipped(*names).optimizer
    assert (settings.learning_rate, settings.momentum, settings.weight_decay) == (0.1, 0.9, 1e-4)
    assert (settings.predictor_learning_rate, settings.batch_size) == (1e-4, batch_size)
    for power, fall in enumerate(falls):
        assert experiment.learning_rate(settings, fall - 1) == pytest.approx(0.1 * 10**-power)
        assert experiment.learning_rate(settings, fall) == pytest.approx(0.01 * 10**-power)


def test_the_papers_cifar10_networks():
    network = experiment.build(shipped(*CIFAR), n_classes=10, shape=(3, 32, 32))
    widths = [64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512]
    strides = [1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1]
    assert kernels_of(network.parts) == [(n, (3, 3), (s, s)) for n, s in zip(widths, strides, strict=True)]
    assert [kernels_of(predictor) for predictor in network.predictors] == [[(128, (3, 3), (1, 1))]] * 3
    assert [predictor.linear.in_features for predictor in network.predictors] == [128 * s * s for s in (32, 16, 8)]
    direct = experiment.build(shipped(*CIFAR, "technique=direct"), n_classes=10, shape=(3, 32, 32)).predictors
    assert [[kernels for kernels, *_ in kernels_of(predictor)] for predictor in direct] == [
        [128, 128, of_hidden] for of_hidden in (64, 128, 256)
    ]
    assert all(shape == [(3, 3), (1, 1)] for predictor in direct for _, *shape in kernels_of(predictor))


@pytest.mark.parametrize(("model", "splits"), [("resnet50_1", 1), ("resnet50_3", 3)])
def test_the_papers_imagenet_networks(model, splits):
    network = experiment.build(shipped(*IMAGENET, f"model={model}"), n_classes=1000, shape=(3, 64, 64))
    assert [kernels_of(predictor) for predictor in network.predictors] == [
        [(64, (3, 3), (1, 1)), (64, (3, 3), (2, 2))]
    ] * splits
    assert [predictor.linear.in_features for predictor in network.predictors] == [64] * splits, "an average first"


@pytest.mark.parametrize("names", [CIFAR, IMAGENET, (*IMAGENET, "model=resnet50_3")])
def test_what_is_not_the_papers_is_not_called_so(names):
    assert scale_of(shipped(*names)) == "paper"
    for override in (
        *("dataset.hold_out=25000", "model.splits=[8,9]", "model.label_predictor.channels=[1]"),
        *("technique.targets=bootstrapped", "technique.reduction=mean"),
        *("optimizer.steps=99999", "optimizer.batch_size=640", "optimizer.milestones=[]", "optimizer.momentum=0.8"),
        *("optimizer.learning_rate=0.2", "optimizer.predictor_learning_rate=1e-3", "optimizer.weight_decay=0"),
    ):
        assert scale_of(shipped(*names, override)) == "reduced", override


def test_less_than_the_papers_network_or_images_is_reduced():
    assert scale_of(shipped(*CIFAR, "model=convnet_cifar10_quarter")) == "reduced"
    assert scale_of(shipped(*CIFAR, "optimizer=sgd_cifar10_60_epochs")) == "reduced"
    assert scale_of(shipped(*CIFAR, "model.network=resnet50")) == "reduced"
    assert scale_of(shipped(*IMAGENET, "technique=direct")) == "reduced"
    for override in ("n_train=1000", "size=128", "min_area=0.5", "colour=0", "flip=false"):
        assert scale_of(shipped(*IMAGENET, f"dataset.{override}")) == "reduced", override


def test_weight_decay_is_for_kernels(make_config):
    config = make_config(SGD)
    network = experiment.build(config, 10, (1, 8, 8))
    decayed, other = experiment.make_optimizers(network, config.optimizer)[0].param_groups
    assert all(parameter.dim() > 1 for parameter in decayed["params"])
    assert decayed["weight_decay"] == 1e-4
    assert other["weight_decay"] == 0
    assert len(decayed["params"]) + len(other["params"]) == len(list(network.parts.parameters()))


def test_metrics_of_gradients_are_those_of_one_long_vector():
    torch.manual_seed(0)
    parts = [
        Comparison(torch.rand(4), torch.randn(4, 10), [torch.rand(4)], [torch.randn(4, 3)], [torch.randn(4, 3)])
        for _ in range(2)
    ]
    labels = torch.arange(4)
    sums = [sums_of(part, labels) | comparison_sums(part) for part in parts]
    total = {name: sums[0][name] + sums[1][name] for name in sums[0]}
    metrics = averages(total)
    synthetic, true = (
        torch.cat([getattr(part, name)[0].flatten() for part in parts]) for name in ("synthetic_B", "true_B")
    )
    logits, loss = (torch.cat([getattr(part, name) for part in parts]) for name in ("logits_BK", "loss_B"))
    predicted = torch.cat([part.predicted_losses_B[0] for part in parts])
    ranks_of_label = (logits > logits.gather(1, labels.repeat(2)[:, None])).sum(1)
    expected = {
        "loss": loss.mean(),
        "accuracy_top1": (ranks_of_label < 1).float().mean(),
        "accuracy_top5": (ranks_of_label < 5).float().mean(),
        "predicted_loss/1": predicted.mean(),
        "predicted_loss_error/1": (predicted - loss).abs().mean(),
        "gradient_cosine/1": torch.cosine_similarity(synthetic, true, dim=0),
        "gradient_relative_error/1": (synthetic - true).norm() / true.norm(),
    }
    assert metrics == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-5)


def test_backpropagation_has_perfect_gradients_and_noprop_none(make_config):
    for name, cosine, error in (("backprop", 1, 0), ("noprop", 0, 1)):
        config = make_config(SGD, f"technique={name}", runs=name)
        execute(config)
        rows = {row["metric"]: float(row["value"]) for row in read(config) if row["split"] == "test"}
        assert [rows[f"gradient_cosine/{k}"] for k in (1, 2, 3)] == pytest.approx([cosine] * 3)
        assert [rows[f"gradient_relative_error/{k}"] for k in (1, 2, 3)] == pytest.approx([error] * 3, abs=1e-6)


class Interrupted(Exception):
    pass


def interrupted(config, monkeypatch, at: int) -> None:
    learning_rate = experiment.learning_rate

    def interrupt(config, step):
        if step == at:
            raise Interrupted
        return learning_rate(config, step)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "learning_rate", interrupt)
        with pytest.raises(Interrupted):
            execute(config)


@pytest.mark.parametrize("name", ["sobolev", "direct"])
def test_an_interrupted_run_ends_as_one_that_never_was(make_config, monkeypatch, name):
    options = (SGD, f"technique={name}", "compute.checkpoint_seconds=0", "dataset.padding=1", "dataset.flip=true")
    whole, broken = make_config(*options, runs="whole"), make_config(*options, runs="broken")
    assert run_id(whole) == run_id(broken)
    execute(whole)
    interrupted(broken, monkeypatch, 9)
    execute(broken)
    assert read(broken) == read(whole)


def test_where_a_data_set_lies_is_not_what_a_run_asks(make_config):
    assert run_id(make_config(SGD, "dataset.folder=elsewhere")) == run_id(make_config(SGD))
    assert run_id(make_config(SGD, "dataset.flip=true")) != run_id(make_config(SGD))


def test_other_images_of_the_same_number_are_told_from_those_of_a_run(make_config, tmp_path, monkeypatch, capsys):
    def config_of(folder: Path, *overrides: str) -> DecoupledConfig:
        mine = (f"dataset.folder={folder}", "dataset.directory=mine", "dataset.name=mine", *overrides)
        return make_config("experiment=synthetic_gradients_imagenet", *mine)

    root = write_folder(tmp_path / "mine", train=2, val=1)
    shutil.copytree(root, tmp_path / "copied" / "mine")
    interrupted(config_of(tmp_path, "compute.checkpoint_seconds=0"), monkeypatch, 1)
    image = next((root / "train" / CLASSES[0]).iterdir())
    image.rename(root / "train" / CLASSES[1] / "moved.JPEG")
    config = config_of(tmp_path)
    execute(config)
    assert "resumes with different data: remove the folder to start again" in capsys.readouterr().err
    shutil.rmtree(folder_of(config))
    execute(config)
    for same in (config, config_of(tmp_path / "gone")):
        capsys.readouterr()
        execute(same)
        assert capsys.readouterr().err.endswith("is complete: skipped\n")
    execute(config_of(tmp_path / "copied"))
    assert "skipped, but computed from different data: remove the folder to run it again" in capsys.readouterr().err


def test_folders_that_are_no_data_set_are_refused_before_a_run_is_opened(make_config, tmp_path):
    mine = (f"dataset.folder={tmp_path}", "dataset.directory=mine", "dataset.name=mine")
    config = make_config("experiment=synthetic_gradients_imagenet", *mine)
    with pytest.raises(BadInput, match=r"dataset=mine: .*mine/train is missing or empty"):
        checked_entry(config)
    root = write_folder(tmp_path / "mine", train=2, val=1)
    checked_entry(config)
    (root / "val" / "n09999999").mkdir()
    with pytest.raises(BadInput, match=r"dataset=mine: .*n09999999 is only in val"):
        checked_entry(config)


def test_bfloat16_means_autocast_and_float32_weights(make_config, monkeypatch):
    """The first update's gradient, and the loss before it: by the end of a training rounding has grown."""
    gradients, losses, true_learner = [], [], experiment.learner

    def watched(network, run):
        learn = true_learner(network, run)

        def step(*batch):
            sums = learn(*batch)
            assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
            gradients.append(torch.cat([parameter.grad.flatten() for parameter in network.main_parameters()]))
            return sums

        return step

    monkeypatch.setattr(experiment, "learner", watched)
    for precision in ("float32", "bfloat16"):
        config = make_config(
            SGD, f"compute.precision={precision}", "optimizer.steps=1", "optimizer.batch_size=50", runs=precision
        )
        execute(config)
        losses.append(float(next(row["value"] for row in read(config) if row["metric"] == "loss")))
    exact, reduced = gradients
    # Several per cent, for values are rounded too, and ReLUs close to their kink change sides.
    assert 0 < (reduced - exact).norm() / exact.norm() < 0.15
    assert losses[0] == pytest.approx(losses[1], rel=4 * 2**-9)
    assert losses[0] != losses[1]


REFUSALS = {  # of settings that are wrong in themselves
    "technique.crosses=everything": "technique=sobolev: crosses must be one of gradient, nothing, output, derivative",
    "technique.value=-1": "technique=sobolev: weights must be 0 or more, and finite, not value=-1",
    "model.network=vgg": "model.network=vgg is unknown",
    "dataset.name=minst": "dataset.name=minst is unknown .did you mean mnist",
    "evaluate_on=validation": "set dataset.hold_out",
    "evaluate_on=train": "evaluate_on=train is unknown",
    "optimizer.milestones=[40000]": "between 0 and 1",
    "optimizer.steps=0": "optimizer.steps must be positive and finite, not 0",
    "seed=-1": "seed must be 0 or more",
    "dataset.padding=8": "dataset.padding must be from 0 to 7 for images of 8 x 8, not 8",
    "dataset.padding=-1": "dataset.padding must be from 0 to 7 for images of 8 x 8, not -1",
    "optimizer.momentum=-1": "optimizer.momentum must be 0 or more and below 1, not -1",
    "optimizer.momentum=1": "optimizer.momentum must be 0 or more and below 1, not 1",
    "optimizer.weight_decay=-1": "optimizer.weight_decay must be 0 or more, and finite, not -1",
    "optimizer.weight_decay=inf": "optimizer.weight_decay must be 0 or more, and finite, not inf",
    "optimizer.learning_rate=nan": "optimizer.learning_rate must be positive and finite, not nan",
    "optimizer.learning_rate=inf": "optimizer.learning_rate must be positive and finite, not inf",
    "optimizer.predictor_learning_rate=inf": "predictor_learning_rate must be positive and finite, not inf",
    "model.splits=[]": "without a split technique=sobolev would be backpropagation under another name",
    "dataset.hold_out=-1": "dataset.hold_out must be 0 or more, not -1",
    "model.label_predictor.strides=[0]": r"model.label_predictor.strides must be positive and finite, not \[0\]",
    "model.label_predictor.channels=[]": r"model.label_predictor.channels must be positive and finite, not \[\]",
}
REFUSALS_OF_FOLDERS = {
    "dataset.size=0": "dataset.size must be from 1 to dataset.resize=40, not 0",
    "dataset.size=41": "dataset.size must be from 1 to dataset.resize=40, not 41",
    "dataset.resize=0": "dataset.resize must be positive, not 0",
    "dataset.min_area=0": "dataset.min_area must be above 0 and at most 1, not 0",
    "dataset.min_area=2": "dataset.min_area must be above 0 and at most 1, not 2",
    "dataset.colour=2": "dataset.colour must be from 0 to 1, not 2",
    "dataset.workers=-1": "dataset.workers must be 0 or more, not -1",
}
REFUSALS_OF_DATA = {  # of settings that do not fit the images that are there, or the network that is built
    "model.splits=[9]": "cannot split 5 blocks",
    "model.label_predictor.head=maximum": "head=maximum is unknown|'maximum' is unknown",
    "dataset.n_train=100": "there are 1437: set dataset.n_train=1437",
    "dataset=cifar10": "cifar-10-batches-bin.* is missing",
    "optimizer.batch_size=2000": "expected 1 to 1437",
}


@pytest.mark.parametrize(
    ("experiment", "override", "message"),
    [
        *((SGD, *refusal) for refusal in REFUSALS.items()),
        *((f"{SGD}_imagenet", *refusal) for refusal in REFUSALS_OF_FOLDERS.items()),
    ],
)
def test_what_is_wrong_in_itself_is_refused_where_settings_are_built(make_config, experiment, override, message):
    with pytest.raises(BadInput, match=message) as caught:
        make_config(experiment, override)
    assert "\n" not in str(caught.value)


def test_a_refusal_does_not_wait_for_pytorch(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('PyTorch was imported')")
    command = [sys.executable, "run.py", SGD, "optimizer.momentum=2", f"runs_dir={tmp_path}"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.stderr == "error: optimizer.momentum must be 0 or more and below 1, not 2.0\n"
    assert done.returncode == 1


@pytest.mark.parametrize(("size", "refused"), [(16, True), (32, True), (33, False)])
def test_a_batch_of_one_image_is_refused_where_batchnorm_would_see_one_value(make_config, size, refused):
    overrides = (f"dataset.size={size}", "optimizer.batch_size=1")
    if refused:
        with pytest.raises(BadInput, match=r"optimizer.batch_size=1 is too small: .* maps of 1 x 1"):
            make_config(f"{SGD}_imagenet", *overrides)
    else:
        make_config(f"{SGD}_imagenet", *overrides)
    blocks = resnet50_blocks(10)[:-1]
    with torch.no_grad():
        last = nn.Sequential(*blocks).eval()(torch.zeros(1, 3, size, size))
    assert (last.shape[-1] == 1) is refused
    make_config(SGD, "optimizer.batch_size=1")  # its last maps are larger


def test_backpropagation_needs_no_split(make_config):
    assert make_config(SGD, "technique=backprop", "model.splits=[]").model.splits == []


@pytest.mark.parametrize("override", REFUSALS_OF_DATA)
def test_what_does_not_fit_the_images_is_refused_before_training(make_config, tmp_path, override):
    config = make_config(SGD, override)
    config.dataset.folder, config.dataset.download = str(tmp_path), False
    with pytest.raises(BadInput, match=REFUSALS_OF_DATA[override]) as caught:
        execute(config)
    assert "\n" not in str(caught.value)
    assert not any(Path(config.runs_dir).glob("*/*")), "a refused run leaves no folder"


def test_images_that_may_not_be_read_are_refused(make_config, monkeypatch):
    def forbidden(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied", "data/digits")

    monkeypatch.setitem(IN_MEMORY, "digits", forbidden)
    with pytest.raises(BadInput, match=r"dataset=digits: .*Permission denied: 'data/digits'"):
        execute(make_config(SGD))


def test_a_folder_that_cannot_hold_data_is_refused_before_training(make_config, tmp_path):
    (tmp_path / "file").write_text("no folder")
    config = make_config(SGD, "dataset=cifar10", f"dataset.folder={tmp_path / 'file' / 'data'}")
    with pytest.raises(BadInput, match=r"dataset=cifar10: .*file/data cannot be used \(Not a directory\)"):
        execute(config)
    assert not any(Path(config.runs_dir).glob("*/*")), "a refused run leaves no folder"


def test_an_image_that_cannot_be_read_is_named(make_config, tmp_path):
    config = make_config("experiment=synthetic_gradients_imagenet")
    damaged = next((tmp_path / "data" / "imagenet" / "val").glob("*/*.JPEG"))
    damaged.write_bytes(b"no image")
    with pytest.raises(BadInput, match=f"{damaged.name} cannot be read"):
        execute(config)


def torchrun(*arguments: str) -> subprocess.Popen:
    """Two processes on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += ["--local-addr=127.0.0.1", "run.py"]  # the machine's name may lead nowhere
    base = ["recorder=disabled", "compute.device=cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *base, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)


def two_processes(*arguments: str) -> list[str]:
    """What those have said that torchrun would start here, told what it tells them and with a store that is its own."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    told |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "0"}
    base = ["recorder=disabled", "compute.device=cpu"]
    started = [FrontDoor(*base, *arguments, **told, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
    return [ended(process) for process in started]


def ended(process: subprocess.Popen | FrontDoor) -> str:
    """What a process that succeeded has said."""
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 0, said
    return said


def has_rows(metrics: Path) -> bool:
    """Of both processes, which by then are at their first update: one alone has made a heading."""
    return metrics.read_text().count("\n") > 1


needs_torchrun = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed"
)


@pytest.mark.slow
@needs_torchrun
def test_two_processes_that_are_stopped_and_started_again_end_in_the_same_rows(tmp_path):
    """Their only checkpoint is the one that they save when asked, at the same step."""
    for steps in (100, 1_000, 10_000):  # a fast machine's run is over before it can be stopped
        options = [SGD, *TINY["synthetic_gradients"], f"optimizer.steps={steps}", "compute.checkpoint_seconds=1000"]
        stopped = torchrun(*options, f"runs_dir={tmp_path / 'stopped'}")
        while not any(map(has_rows, tmp_path.glob("stopped/*/*/metrics.csv"))) and stopped.poll() is None:
            time.sleep(0.05)
        stopped.terminate()  # torchrun passes it on
        said = stopped.communicate(timeout=600)[1]
        if not any(tmp_path.glob("stopped/*/*/summary.json")):
            break
        shutil.rmtree(tmp_path / "stopped")
    assert any(tmp_path.glob("stopped/*/*/checkpoint.pt")), said
    two_processes(*options, f"runs_dir={tmp_path / 'whole'}")
    assert "starts again" not in "".join(two_processes(*options, f"runs_dir={tmp_path / 'stopped'}"))
    whole, again = (next(tmp_path.glob(f"{name}/*/*/metrics.csv")) for name in ("whole", "stopped"))
    assert whole.read_bytes() == again.read_bytes()


@needs_torchrun
def test_two_processes_under_torchrun_evaluate_as_one(make_config, tmp_path):
    """Before training, that is: each process's BatchNorm then goes by its own half of the batch."""
    options = [SGD, *TINY["synthetic_gradients"], "compute.precision=float64"]
    ended(torchrun(*options, f"runs_dir={tmp_path / 'two'}"))
    config = make_config(SGD, "compute.precision=float64", runs="one")
    execute(config)
    one, (path,) = read(config), (tmp_path / "two").glob("*/*/metrics.csv")
    with path.open(newline="") as file:
        two = list(csv.DictReader(file))
    assert [row["metric"] for row in two] == [row["metric"] for row in one]
    for a, b in zip(one, two, strict=True):
        if a["step"] == "0":
            assert float(a["value"]) == pytest.approx(float(b["value"]), rel=1e-9)
    (manifest,) = (tmp_path / "two").glob("*/*/manifest.json")
    assert yaml.safe_load(manifest.read_text())["processes"] == 2
    losses = [float(row["value"]) for row in two if row["metric"] == "loss"]
    assert all(map(math.isfinite, losses))


def test_experiments_of_one_process_refuse_torchrun(make_config, monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match="regression trains in one process: start it without torchrun"):
        execute(make_config())


def test_operations_of_a_sobolev_step_are_counted_as_on_paper():
    """Products: 3 a layer by backpropagation, 2 in the first; 5 in a predictor's convolution, 7 in its linear layer."""
    torch.manual_seed(0)
    batch, side, n_classes = 2, 4, 10
    parts = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 4, 3, padding=1)]
    parts[1] = torch.nn.Sequential(parts[1], torch.nn.Flatten(), torch.nn.Linear(4 * side**2, n_classes))
    predictor = LabelPredictor((8, side, side), n_classes, [6], [1])
    network = DecoupledNetwork(parts, [predictor], TECHNIQUES["sobolev"])
    x, labels = torch.randn(batch, 3, side, side), torch.randint(n_classes, (batch,))
    one = {"below": 3 * 8 * 9 * side**2, "above": 8 * 4 * 9 * side**2, "head": 4 * side**2 * n_classes}
    one |= {"convolution": 8 * 6 * 9 * side**2, "linear": 6 * side**2 * n_classes}
    products = {"below": 2, "above": 3, "head": 3, "convolution": 5, "linear": 7}
    expected = 2 * batch * sum(products[layer] * one[layer] for layer in one)
    assert operations_of(lambda: network.step(x, labels)).total == expected
