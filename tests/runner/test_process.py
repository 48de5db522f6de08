"""The process of a run: its device, and what float32 means on it."""

import json

import pytest
import torch

from experiments.runner import precision, process
from experiments.runner.errors import BadInput
from experiments.runner.execute import execute, open_run
from experiments.runner.identity import folder_of, run_id
from experiments.runner.process import prepare_process

TF32 = "compute.precision=tf32"
CONVOLUTIONAL = "experiment=synthetic_gradients"


@pytest.fixture
def gpu(monkeypatch):
    """A process that believes in one GPU."""
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    cached = process.say_once, precision.chosen
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.fixture(autouse=True)
def backends():
    """What cuDNN and cuBLAS may do, put back after each test."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    yield cudnn, matmul
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


def test_tf32_is_a_precision_of_its_own(make_config, gpu, backends):
    ids = [run_id(make_config(CONVOLUTIONAL, f"compute.precision={name}")) for name in ("float32", "bfloat16", "tf32")]
    assert len(set(ids)) == 3
    config = make_config(CONVOLUTIONAL, TF32, "compute.device=cuda")
    assert prepare_process(config).type == "cuda"
    assert all(backend.allow_tf32 for backend in backends)
    prepare_process(make_config(CONVOLUTIONAL, "compute.device=cuda"))
    assert not any(backend.allow_tf32 for backend in backends), "a sweep's next run is in float32 again"


@pytest.mark.parametrize("experiment", ["synthetic_gradients", "distill_atari", "train_teacher", "regression"])
def test_tf32_on_a_cpu_is_refused_in_one_line(make_config, experiment):
    config = make_config(f"experiment={experiment}", TF32)
    with pytest.raises(BadInput, match=r"cpu does not compute in TF32.*; use compute\.precision=float32") as caught:
        execute(config)
    assert "\n" not in str(caught.value)
    assert not folder_of(config).exists()


@pytest.mark.parametrize(
    ("capability", "override", "match"),
    [((7, 5), None, "compute capability 8.0"), ((9, 0), "0", "NVIDIA_TF32_OVERRIDE")],
)
def test_tf32_that_would_be_float32_is_refused(make_config, monkeypatch, gpu, capability, override, match):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    if override:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    with pytest.raises(BadInput, match=match):
        prepare_process(make_config(CONVOLUTIONAL, TF32, "compute.device=cuda"))


def test_theory_in_float64_is_not_rounded_to_tf32(make_config):
    with pytest.raises(BadInput, match="theory_exact computes in float64"):
        make_config("experiment=theory_exact", TF32)


@pytest.mark.parametrize(
    ("name", "tensors", "products"),
    [
        ("float32", torch.float32, torch.float32),
        ("float64", torch.float64, torch.float32),
        ("bfloat16", torch.float32, torch.bfloat16),
        ("tf32", torch.float32, torch.float32),
    ],
)
def test_tensors_are_float32_unless_a_run_asks_for_float64(make_config, monkeypatch, name, tensors, products):
    monkeypatch.setattr(process, "check_tf32", lambda device: None)
    with open_run(make_config(CONVOLUTIONAL, f"compute.precision={name}")) as run:
        assert run.dtype is tensors
        with run.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is products
    assert json.loads((folder_of(run.config) / "manifest.json").read_text())["precision"] == name


@pytest.mark.parametrize(
    ("experiment", "device"),
    [("regression", "cpu"), ("theory_points", "cpu"), ("theory_exact", "cpu")]
    + [(name, "cuda") for name in ("synthetic_gradients", "distill_atari", "train_teacher")],
)
def test_auto_is_the_gpu_where_an_experiment_gains_by_it(make_config, gpu, capsys, experiment, device):
    config = make_config(f"experiment={experiment}", "compute.device=auto")
    capsys.readouterr()  # of precisions
    for _ in range(2):
        assert prepare_process(config).type == device
    said = f"compute.device=auto: cpu, because {config.name} is small (compute.device=cuda uses the GPU)\n"
    assert capsys.readouterr().err == (said if device == "cpu" else "")
    assert prepare_process(make_config(f"experiment={experiment}", "compute.device=cuda")).type == "cuda"


def test_cudnn_looks_for_the_fastest_where_shapes_stay(make_config, backends):
    for experiment, fixed in (("synthetic_gradients", True), ("train_teacher", False)):
        prepare_process(make_config(f"experiment={experiment}"))
        assert backends[0].benchmark is fixed
