"""A Sobolev step of distillation against a value-only step: python -m scripts.bench.distillation

One update (gradients and Adam) of the paper's student with batches of 200, the paper's size, and the paper's teacher,
in milliseconds. Each candidate is measured with and without gradients:

    sketch      a straightforward implementation: float32 modules, autograd, double backpropagation
    float32     the fused step, which computes the teacher's gradient
    bfloat16    the same with derivative passes in bfloat16: used by the experiment if recorded gradients do not fit
    recorded    bfloat16, with the teacher's gradients recorded beforehand: used by the experiment
    captured    the same as a CUDA graph: used by the experiment on a GPU

The ratio of times is shown beside the ratio of the operations needed, counted layer by layer. Values need 3 products
per layer (2 for the first, which needs no derivative by the states). Gradients need 6 (5), and 2 per layer of the
teacher. A teacher's log-probabilities do not change, so value-only training does not run the teacher. `floor_ms` is the
least time for the operations of a step, including memory traffic (see `roofline`), and `times_floor` the measured time
over it. The candidates take turns in each round and medians are compared, so that a noisy machine slows all of them
alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from experiments.distillation.updates import Update
from experiments.runner.operations import operations_of
from scripts.bench.regression import alternate, default_out, device_name, prepare, show
from scripts.bench.roofline import COPIED, PRODUCT, copy, matrix_product
from sobolev import projections
from sobolev.devices import to_device
from sobolev.distillation import ComputedGradients, DistillationStep, RecordedGradients, distillation_loss
from sobolev.networks.atari_policies import ARCHITECTURES, FRAME, AtariPolicy, teacher
from sobolev.networks.relu_passes import ReLUPasses
from sobolev.seeding import generator

BATCH, ACTIONS, STATES = 200, 4, 2_000
LEARNING_RATE, ALPHA = 3e-4, 0.1
RECORDED = ("recorded", "captured")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="default: bench.csv or bench_cuda.csv in results/distillation")
    arguments = parser.parse_args()
    device = prepare(arguments.threads, arguments.device)
    rows = bench(arguments.rounds, device)
    show(rows, arguments.out or default_out("distillation", device))


def bench(rounds: int, device: torch.device) -> list[dict[str, str | int]]:
    """One row per candidate: ms per value-only and Sobolev step, the ratios of times and operations, share of peak."""
    steps: dict[str, Callable[[], None]] = {}
    candidates = {name: make for name, make in CANDIDATES.items() if name != "captured" or device.type == "cuda"}
    for name, make in candidates.items():
        for method, alpha in (("value", 0.0), ("sobolev", ALPHA)):
            steps[f"{name} {method}"] = make(alpha, device)
    counted = {name: operations_of(step) for name, step in steps.items() if not name.startswith("captured")}
    size = PRODUCT[device.type]
    products = {f"peak {dtype}": matrix_product(getattr(torch, dtype), device) for dtype in ("float32", "bfloat16")}
    seconds = alternate(steps | products | {"copy": copy(device)}, rounds, device)
    bandwidth = 2 * COPIED / seconds["copy"]
    peaks = {name.removeprefix("peak "): 2 * size**3 / seconds[name] for name in products}
    by_dtype = {getattr(torch, dtype): peak for dtype, peak in peaks.items()}
    rows = []
    for name in candidates:
        value, sobolev = (seconds[f"{name} {method}"] for method in ("value", "sobolev"))
        counts = [operations(method, recorded=name in RECORDED) for method in ("value", "sobolev")]
        precision = "bfloat16" if name in ("bfloat16", *RECORDED) else "float32"
        of_graph = name.replace("captured", "recorded")  # a graph has the same operations
        floors = [counted[f"{of_graph} {method}"].floor(by_dtype, bandwidth) for method in ("value", "sobolev")]
        rows.append(
            {
                "candidate": name,
                "value_ms": f"{1e3 * value:.3f}",
                "sobolev_ms": f"{1e3 * sobolev:.3f}",
                "value_floor_ms": f"{1e3 * floors[0]:.3f}",
                "sobolev_floor_ms": f"{1e3 * floors[1]:.3f}",
                "value_times_floor": f"{value / floors[0]:.1f}",
                "sobolev_times_floor": f"{sobolev / floors[1]:.1f}",
                "ratio": f"{sobolev / value:.2f}",
                "operations": f"{counts[1] / counts[0]:.2f}",
                "of_sketch": f"{sobolev / seconds['sketch sobolev']:.2f}",
                "share_of_peak": f"{counts[1] / sobolev / peaks[precision]:.2f}",
                "peak_gflops": f"{peaks[precision] / 1e9:.0f}",
                "device": device_name(device),
                "threads": torch.get_num_threads(),
            }
        )
    return rows


def operations(method: str, recorded: bool) -> float:
    """The least floating-point operations of a step; a multiplication with an addition counts as two."""
    pupil, master = layer_products(student()), layer_products(teacher(ACTIONS))
    if method == "value":
        return 2 * BATCH * (2 * pupil[0] + 3 * sum(pupil[1:]))
    of_teacher = 0 if recorded else 2 * sum(master)
    return 2 * BATCH * (5 * pupil[0] + 6 * sum(pupil[1:]) + of_teacher)


def layer_products(policy: AtariPolicy) -> list[int]:
    """Multiplications per state in each layer."""
    counts, side = [], FRAME
    for convolution in policy.convolutions:
        side = (side - convolution.kernel_size[0]) // convolution.stride[0] + 1
        counts.append(convolution.weight.numel() * side**2)
    return [*counts, policy.hidden.weight.numel(), policy.actions.weight.numel()]


def states() -> torch.Tensor:
    return torch.randint(0, 256, (STATES, 4, FRAME, FRAME), dtype=torch.uint8, generator=generator(0, "states"))


def student() -> AtariPolicy:
    return AtariPolicy(ACTIONS, ARCHITECTURES["student"])


def batches(device: torch.device) -> Callable[[], torch.Tensor]:
    rng = generator(0, "batches")
    return lambda: to_device(torch.randint(STATES, (BATCH,), generator=rng), device)


def sketch(alpha: float, device: torch.device) -> Callable[[], None]:
    pupil, master, raw, draw = student().to(device), teacher(ACTIONS).to(device), states().to(device), batches(device)
    with torch.no_grad():
        log_q = torch.cat([master(part) for part in raw.split(BATCH)])
    loss = distillation_loss(1.0, alpha, projection=projections.Sphere())
    optimizer = torch.optim.Adam(pupil.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        index = draw()
        optimizer.zero_grad()
        loss(pupil, raw[index].float() / 255, master if alpha else log_q[index]).total.backward()
        optimizer.step()

    return step


def fused(
    alpha: float, device: torch.device, compute_dtype: torch.dtype, recorded: bool, captured: bool = False
) -> Callable[[], None]:
    pupil, master = (ReLUPasses(policy, compute_dtype).to(device) for policy in (student(), teacher(ACTIONS)))
    raw, draw, projection = pupil.flat_patches(states().to(device)), batches(device), projections.Sphere()
    log_q = torch.cat([master.values(part)[1].log_softmax(-1) for part in raw.split(BATCH)])
    gradients = None
    if alpha:
        gradients = RecordedGradients(master, raw, compute_dtype) if recorded else ComputedGradients(master)
    compute_gradients = DistillationStep(pupil, 1.0, alpha, teacher_gradients=gradients)
    update = Update(pupil, compute_gradients, raw, log_q, record=captured)
    like = torch.empty(BATCH, ACTIONS)

    def step() -> None:
        update(LEARNING_RATE, alpha, draw(), to_device(projection.draw(like), device) if alpha else None)

    return step


CANDIDATES: dict[str, Callable[[float, torch.device], Callable[[], None]]] = {
    "sketch": sketch,
    "float32": partial(fused, compute_dtype=torch.float32, recorded=False),
    "bfloat16": partial(fused, compute_dtype=torch.bfloat16, recorded=False),
    "recorded": partial(fused, compute_dtype=torch.bfloat16, recorded=True),
    "captured": partial(fused, compute_dtype=torch.bfloat16, recorded=True, captured=True),
}


if __name__ == "__main__":
    main()
