"""The precision that `auto` stands for: bfloat16 if the processor or GPU has instructions for it, else float32.

Emulated bfloat16 is several times slower than float32. `auto` is resolved as soon as a config is composed (see
`RunConfig`), so that a run's identity and files, and the grid of a sweep, name the actual precision.
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


@cache  # so that the message appears once
def chosen(key: str, device: str) -> str:
    """The precision of `<key>=auto` on a device; also prints it."""
    import torch  # slow to import, and only needed for `auto`

    from experiments.runner.ranks import torchrun_ranks

    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    native = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else processor_has_bfloat16()
    precision, has = ("bfloat16", "has") if native else ("float32", "has no")
    if not torchrun_ranks()[0]:
        said = f"{key}=auto: {precision}, because this {'GPU' if on_gpu else 'processor'} {has} bfloat16 instructions"
        tqdm.write(said, file=sys.stderr)
    return precision


def processor_has_bfloat16() -> bool:
    """Whether oneDNN can compute bfloat16 products with instructions of the processor.

    Asking oneDNN is not enough: it accepts bfloat16 wherever there is AVX-512, but then computes in float32.
    """
    import torch

    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # no AVX-512, or a lower ONEDNN_MAX_CPU_ISA
        return False
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    at_most = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    if at_most in ("AVX512_CORE", "AVX512_CORE_VNNI"):
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def settled(composed: DictConfig, config: object) -> list[str]:
    """Overrides that state what each `auto` of a composed config became.

    A sweep passes them to its runs, so that they keep the identity that the sweep expects on whatever machine they run.
    """
    auto = [key for key in CHOICES if getattr(OmegaConf.select(composed, key), "name", None) == "auto"]
    return [f"{key}={attrgetter(key)(config).name}" for key in auto]
