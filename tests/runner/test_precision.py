"""`auto` is bfloat16 where it is an instruction, and no run is named after it."""

import platform
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import get_type_hints

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.registry import settings_types
from experiments.runner import precision
from experiments.runner import settings as types
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of, run_id
from tests.conftest import CONFIGS

ISA = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
AVX2 = {"onednn": False, "architecture": "x86_64"}
AVX512 = AVX2 | {"onednn": True}  # oneDNN takes bfloat16, and widens it
AVX512_BF16, AMX = AVX512 | {"avx512_bf16": True}, AVX512 | {"amx": True}


def has_bfloat16(monkeypatch, onednn, architecture, avx512_bf16=False, amx=False, **environment) -> bool:
    """What is said of such a processor."""
    for name in ISA:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    return precision.processor_has_bfloat16()


@pytest.mark.parametrize(
    ("processor", "expected"),
    [(AVX2, False), (AVX512, False), (AVX512_BF16, True), (AMX, True)]
    + [({"onednn": arm, "architecture": "aarch64"}, arm) for arm in (False, True)],
)
def test_bfloat16_is_an_instruction_or_is_not(monkeypatch, processor, expected):
    assert has_bfloat16(monkeypatch, **processor) is expected


@pytest.mark.parametrize("name", ISA)
@pytest.mark.parametrize(
    ("limit", "expected"),
    [("avx512_core", False), ("AVX512_CORE_VNNI", False), ("AVX512_CORE_BF16", True), ("ALL", True)],
)
def test_instructions_that_onednn_may_not_use_do_not_count(monkeypatch, name, limit, expected):
    assert has_bfloat16(monkeypatch, **AVX512_BF16, **{name: limit}) is expected


@pytest.fixture(params=[False, True], ids=["emulated", "native"])
def native(request, monkeypatch):
    """A processor with or without bfloat16."""
    monkeypatch.setattr(precision, "processor_has_bfloat16", lambda: request.param)
    precision.chosen.cache_clear()
    yield request.param
    precision.chosen.cache_clear()


@pytest.mark.parametrize(
    ("experiment", "key"),
    [
        *(("distill_atari", "compute_dtype"), ("train_teacher", "teacher.compute_dtype")),
        ("synthetic_gradients_imagenet", "compute.precision"),
    ],
)
def test_auto_asks_what_its_name_asks(make_config, capsys, native, experiment, key):
    asked = [f"experiment={experiment}", f"{key}=auto"]
    name = "bfloat16" if native else "float32"
    auto, again, named = make_config(*asked), make_config(*asked, "seed=1"), make_config(asked[0], f"{key}={name}")
    has = "has" if native else "has no"
    assert capsys.readouterr().err == f"{key}=auto: {name}, because this processor {has} bfloat16 instructions\n"
    assert OmegaConf.to_yaml(auto) == OmegaConf.to_yaml(named)
    assert run_id(auto) == run_id(named) != run_id(again)


def test_auto_is_float32_where_an_experiment_does_not_compute_in_bfloat16(make_config, native):
    config = make_config("compute.precision=auto")
    execute(config)
    assert run_id(config) == run_id(make_config())
    assert "precision: float32" in (folder_of(config) / "config.yaml").read_text()


def test_runs_of_a_sweep_are_told_what_auto_is(native):
    """They may be launched where it would be something else."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        auto, named = (
            compose("config", [f"sweep={name}"]) for name in ("distillation/quickstart", "distillation/figure_4")
        )
    told = precision.settled(auto, OmegaConf.to_object(auto))
    assert told == [f"compute_dtype={'bfloat16' if native else 'float32'}"]
    assert precision.settled(named, OmegaConf.to_object(named)) == []


def settings_of_precision(config: type, prefix: str = "") -> Iterator[str]:
    for name, kind in get_type_hints(config).items():
        if kind in (types.Precision, types.ComputeDtype):
            yield prefix + name
        elif is_dataclass(kind):
            yield from settings_of_precision(kind, f"{name}.")


def test_a_sweep_passes_on_whatever_may_be_auto():
    assert {key for config in settings_types().values() for key in settings_of_precision(config)} == set(
        precision.CHOICES
    )
