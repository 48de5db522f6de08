"""The precision that `auto` stands for: bfloat16 where the processor or the GPU computes in it, else float32.

Elsewhere bfloat16 is emulated, several times slower than float32. A config is settled as soon as it is composed (see
`RunConfig`), so that a run's identity and files, and the grid of a sweep, name the precision that is computed in.
"""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from operator import attrgetter

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

CHOICES = ("compute.precision", "compute_dtype", "teacher.compute_dtype")  # settings that may be `auto`


@cache  # said once
def chosen(key: str, device: str) -> str:
    """What `<key>=auto` is on a device, and a line that says so."""
    import torch  # slow to import, and not needed where precisions are named

    from experiments.runner.ranks import torchrun_ranks

    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    native = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else processor_has_bfloat16()
    precision, has = ("bfloat16", "has") if native else ("float32", "has no")
    if not torchrun_ranks()[0]:
        said = f"{key}=auto: {precision}, for this {'GPU' if on_gpu else 'processor'} {has} bfloat16 instructions"
        tqdm.write(said, file=sys.stderr)
    return precision


def processor_has_bfloat16() -> bool:
    """Whether products in bfloat16 are instructions of the processor that oneDNN, which computes them, may use.

    oneDNN alone does not tell: it takes bfloat16 wherever there is AVX-512, and widens it to float32 there.
    """
    import torch

    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # not with less than AVX-512, or a lower ONEDNN_MAX_CPU_ISA
        return False
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    at_most = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    if at_most in ("AVX512_CORE", "AVX512_CORE_VNNI"):
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def settled(composed: DictConfig, config: object) -> list[str]:
    """Overrides that say what each `auto` of a composed config became.

    A sweep hands them to its runs: they then ask what the sweep looks for, on whatever machine they are launched.
    """
    auto = [key for key in CHOICES if getattr(OmegaConf.select(composed, key), "name", None) == "auto"]
    return [f"{key}={attrgetter(key)(config).name}" for key in auto]
