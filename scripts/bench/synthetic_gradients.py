"""A step of each technique against backpropagation, in time and in operations.

python -m scripts.bench.synthetic_gradients

The network is the paper's with 11 layers for CIFAR-10 and three synthetic-gradient modules. Operations are those of
products and convolutions in a real step, counted with PyTorch's formulas; elementwise work is not counted. `overhead`
is the ratio of times over the ratio of operations: the cost of a technique beyond its own arithmetic. `share_of_peak`
is the time of the operations at the speed of one large matrix product in the same precision, over the measured time.
`floor_ms` includes memory traffic (see `roofline`), and `times_floor` is the measured time over it. On a GPU the step
is a CUDA graph, as in a run, and `eager_ms` is the time without one. The techniques take turns in each round and
medians are compared, so that a noisy machine slows all of them alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from experiments.runner.operations import operations_of
from scripts.bench.regression import alternate, default_out, device_name, prepare, show
from scripts.bench.roofline import COPIED, PRODUCT, copy, matrix_product
from sobolev.cuda_graphs import CapturedStep
from sobolev.networks.convnets import CIFAR_CHANNELS, CIFAR_STRIDES, conv_blocks, split
from sobolev.networks.gradient_predictors import DirectPredictor, LabelPredictor
from sobolev.synthetic_gradients import TECHNIQUES, DecoupledNetwork, Step

SPLITS = (2, 5, 8)  # of configs/model/convnet_cifar10.yaml, where the resolution halves
SHAPES = ((64, 32, 32), (128, 16, 16), (256, 8, 8))  # at the splits
PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="default: bench.csv or bench_cuda.csv in results/synthetic_gradients")
    arguments = parser.parse_args()
    device = prepare(arguments.threads, arguments.device)
    rows = bench(arguments.batch, arguments.rounds, device)
    show(rows, arguments.out or default_out("synthetic_gradients", device))


def bench(batch: int, rounds: int, device: torch.device) -> list[dict[str, str | int]]:
    """One row per (precision, technique)."""
    rows: list[dict[str, str | int]] = []
    for precision in PRECISIONS:
        steps = {name: step_of(name, batch, precision, device) for name in TECHNIQUES}
        counted = {name: operations_of(step) for name, step in steps.items()}
        size = PRODUCT[device.type]
        products = {each: matrix_product(getattr(torch, each), device) for each in PRECISIONS}
        captured = {}
        if device.type == "cuda":
            captured = {f"captured {name}": step_of(name, batch, precision, device, True) for name in TECHNIQUES}
        seconds = alternate(steps | captured | products | {"copy": copy(device)}, rounds, device)
        peaks = {getattr(torch, each): 2 * size**3 / seconds[each] for each in PRECISIONS}
        peak, bandwidth = peaks[getattr(torch, precision)], 2 * COPIED / seconds["copy"]
        best = {name: seconds.get(f"captured {name}", seconds[name]) for name in TECHNIQUES}
        for name in TECHNIQUES:
            slower = best[name] / best["backprop"]
            more = counted[name].total / counted["backprop"].total
            floor = counted[name].floor(peaks, bandwidth)
            rows.append(
                {
                    "precision": precision,
                    "technique": name,
                    "batch": batch,
                    "ms_per_step": f"{1e3 * best[name]:.1f}",
                    "eager_ms": f"{1e3 * seconds[name]:.1f}",
                    "floor_ms": f"{1e3 * floor:.1f}",
                    "times_floor": f"{best[name] / floor:.2f}",
                    "images_per_s": f"{batch / best[name]:.0f}",
                    "times_backprop": f"{slower:.2f}",
                    "operations": f"{more:.2f}",
                    "overhead": f"{slower / more:.2f}",
                    "share_of_peak": f"{counted[name].total / best[name] / peak:.2f}",
                    "peak_gflops": f"{peak / 1e9:.0f}",
                    "copy_gb_per_s": f"{bandwidth / 1e9:.0f}",
                    "device": device_name(device),
                    "threads": torch.get_num_threads(),
                }
            )
    return rows


def step_of(name: str, batch: int, precision: str, device: torch.device, captured: bool = False) -> Callable[[], None]:
    """A step with gradients and both optimisers, as in experiments/synthetic_gradients/train.py."""
    technique, n_classes = TECHNIQUES[name], 10
    parts = split(conv_blocks(CIFAR_CHANNELS, CIFAR_STRIDES, n_classes), SPLITS)
    kind = {"derivative": LabelPredictor, "output": DirectPredictor}.get(technique.crosses)
    predictors = [kind(shape, n_classes) for shape in SHAPES] if kind else []
    network = DecoupledNetwork(parts, predictors, technique).to(device, memory_format=torch.channels_last)
    on_gpu = device.type == "cuda"
    options = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
    optimizers = [torch.optim.SGD(network.main_parameters(), **options, fused=on_gpu)]
    if predictors:
        optimizers.append(torch.optim.Adam(network.predictors.parameters(), lr=1e-4, fused=True))
    x_BCHW = torch.randn(batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels_B = torch.randint(n_classes, (batch,), device=device)
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def learn(x_BCHW: Tensor, labels_B: Tensor) -> Step:
        with autocast():
            return network.step(x_BCHW, labels_B)

    replayed = CapturedStep(learn, network.buffers()) if captured else learn

    def step() -> None:
        replayed(x_BCHW, labels_B)
        for optimizer in optimizers:
            optimizer.step()

    return step


if __name__ == "__main__":
    main()
