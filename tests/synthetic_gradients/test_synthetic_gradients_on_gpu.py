"""A step of synthetic gradients on a GPU that is not there: it is queued, and nobody waits for it."""

import pytest
import torch

from experiments.synthetic_gradients import data, train
from experiments.synthetic_gradients.metrics import added, sums_of
from sobolev.images import ImageSet
from sobolev.synthetic_gradients import TECHNIQUES, Step
from tests.conftest import composed
from tests.fake_images import write_folder
from tests.fakecuda import FakeGPU, FakeRun

SMALL = ("optimizer.steps=3", "optimizer.batch_size=20", "evaluations=1", "gradient_samples=100", "recorder=disabled")
CIFAR = ("experiment=synthetic_gradients", "dataset=cifar10", *SMALL, "dataset.n_train=40")
NARROW = "model.channels=[4,4,4,4,4,4,4,4,4,4,4]"
FOLDER = ("experiment=synthetic_gradients_imagenet", "model=resnet50_3", *SMALL, "optimizer.batch_size=4")


def trained(tmp_path, monkeypatch, *overrides: str) -> tuple[FakeRun, FakeGPU]:
    """A run of a few updates, all of them of CIFAR-10 or of a folder."""
    config = composed(*overrides, "compute.precision=float32")
    if config.dataset.name == "cifar10":
        pixels, labels = torch.zeros(40, 3, 32, 32, dtype=torch.uint8), torch.arange(40) % 10
        images = ImageSet(pixels, labels, 10, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        monkeypatch.setitem(data.IN_MEMORY, "cifar10", lambda *_: images)
        config.dataset.download = False
    with FakeGPU() as gpu:
        train.main(config, run := FakeRun(config, gpu, tmp_path))
    return run, gpu


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_step_of_cifar10_waits_for_nothing(tmp_path, monkeypatch, technique):
    run, _ = trained(tmp_path, monkeypatch, *CIFAR, NARROW, f"technique={technique}")
    assert (len(run.steps), run.recorded) == (4, {0, 3})
    # One copy: places and mirrors. At an epoch's beginning also its order.
    assert run.between_measurements() == [{"pageable": 0, "pinned": pinned, "waits": 0} for pinned in (1, 2)]


def test_a_step_of_a_folder_waits_for_nothing(tmp_path, monkeypatch):
    write_folder(tmp_path / "imagenet", train=2, val=1)
    options = ["dataset.workers=0", "dataset.size=32", "dataset.resize=40", "dataset.n_train=6"]
    options += [f"dataset.folder={tmp_path}", "optimizer.learning_rate=0.001"]
    run, _ = trained(tmp_path, monkeypatch, *FOLDER, "technique=noprop", *options)
    # Pixels, labels, and two of colour.
    assert run.between_measurements() == [{"pageable": 0, "pinned": 4, "waits": 0}] * 2


def test_a_copy_that_is_waited_for_is_seen(tmp_path, monkeypatch):
    """So that the tests above can fail."""
    true = data.shift_and_flip
    monkeypatch.setattr(data, "shift_and_flip", lambda pixels, *a: true(pixels, *a) + torch.ones(32).to(pixels.device))
    monkeypatch.setattr(ImageSet, "normalise", lambda self, pixels, dtype: pixels.to(dtype))
    run, _ = trained(tmp_path, monkeypatch, *CIFAR, NARROW, "technique=noprop")
    assert [step["pageable"] for step in run.between_measurements()] == [1, 1]


def test_metrics_of_a_step_are_few_kernels():
    """They are summed on the GPU, and read where rows are recorded."""
    with FakeGPU() as gpu:
        loss, logits, labels = (torch.zeros(*shape).to(gpu.device) for shape in ((8,), (8, 10), (8,)))
        step, labels = Step(loss, logits, [loss] * 3, [loss.sum()] * 3), labels.long()
        total = sums_of(step, labels)
        gpu.begin()
        added(total, sums_of(step, labels))
    assert gpu.launches.total() <= 24, gpu.launches
    assert not gpu.waits
    assert not gpu.pageable


def test_sums_of_what_only_one_has_are_its_own():
    one, other = {"loss": torch.tensor(1.0)}, {"loss": torch.tensor(2.0), "compared": torch.tensor(3.0)}
    for sums in (added(one, other), added(other, one)):
        assert {name: value.item() for name, value in sums.items()} == {"loss": 3, "compared": 3}
    assert added({}, one) == one
