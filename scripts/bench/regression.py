"""A regression step against a hand-written loop and against the machine's limit.

python -m scripts.bench.regression

The first table has one training step (gradients and Adam) of a 2 x 256 network with ReLU or GELU, full batch, in time
per network, for a hand-written loop, for an ensemble with SobolevLoss and autograd, and for an ensemble with the step
that uses no autograd, if there is one. The machine's limit is its fastest measured float32 matrix product. A step's
share of it counts only the H x H products that are necessary: 3 for values; for Sobolev 4 with ReLU (ReLUSobolevStep)
and 6 with GELU (SmoothSobolevStep); for differences of values 3 at each of 1 + 2 I points. `times_count` is a step's
time over the time of its products at the pace of the ensemble's value step. The candidates take turns in each round and
medians are compared, so that a noisy machine slows all of them alike. If JAX is installed, the same step as a vmap in a
scan is measured too.

The second table has one update of Figure 2's grid with `hydra/launcher=together`, including its batches: half of the
networks learn from values and half from gradients too. A run has 10 networks, the 14 runs of one training size have
140, and all 42 runs have 420. The least time `floor_ms` is that of the necessary products at the machine's limit, or of
the necessary memory traffic (weights once, gradients once, and seven numbers per weight in Adam) at the speed of a
large copy, whichever is longer. On a GPU an update is a CUDA graph; `eager_ms` is the time without one.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from experiments.regression.updates import Update, batch_orders, gradient_computer
from experiments.runner.process import prepare_cpu, prepare_gpu
from scripts.bench.roofline import COPIED, PRODUCT, copy, matrix_product
from sobolev.files import replacing
from sobolev.losses import SobolevLoss
from sobolev.networks import ACTIVATIONS, MLPEnsemble, ReLUSobolevStep, SmoothSobolevStep
from sobolev.seeding import generator

HIDDEN = 256
LEARNING_RATE = 3e-5
SEEDS = 10  # per cell of Figure 2
GRID = {"cpu": ((20, 10), (20, 140), (100, 10), (100, 140))}  # training points and networks
GRID["cuda"] = (*GRID["cpu"], (10_000, 10), (10_000, 140), (100, 420))
BATCH = 32  # points, at most
Key = TypeVar("Key")  # of a candidate
SCAN = 10  # steps per call of the JAX program
STEP = 0.05  # h of the finite differences
METHODS = ("value", "sobolev", "differences")
PRODUCTS = {  # the least number of H x H products
    "relu": {"value": 3, "sobolev": 4, "differences": 15},
    "gelu": {"value": 3, "sobolev": 6, "differences": 15},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="default: 15, or 5 on a GPU, which is not shared")
    parser.add_argument("--networks", type=int, default=10, help="networks in the ensemble")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="default: bench.csv or bench_cuda.csv in results/regression")
    arguments = parser.parse_args()
    device = prepare(arguments.threads, arguments.device)
    out = arguments.out or default_out("regression", device)
    rounds = arguments.rounds or (5 if device.type == "cuda" else 15)
    show(bench_regression(arguments.networks, rounds, device), out)
    show(bench_grid(rounds, device), out.with_stem(f"{out.stem}_grid"))


def prepare(threads: int, device: str) -> torch.device:
    """Prepare the process as for a run; float32 products are not rounded to TF32."""
    prepare_cpu(threads)
    prepare_gpu(fixed_shapes=True)
    return torch.device(device)


def default_out(domain: str, device: torch.device) -> Path:
    """The file for a benchmark's rows, a separate one for a GPU."""
    return Path("results") / domain / ("bench.csv" if device.type == "cpu" else f"bench_{device.type}.csv")


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor if the system provides it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told = Path("/proc/cpuinfo")  # of Linux
    names = re.findall(r"^model name\s*:\s*(.+)$", told.read_text(), re.MULTILINE) if told.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def show(rows: list[dict[str, str | int]], out: Path) -> None:
    """Write the rows of a benchmark as CSV, and print them as a table."""
    columns = list(rows[0])
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in [dict(zip(columns, columns, strict=True)), *rows]:
        print("  ".join(f"{row[column]!s:>{max(14, len(column))}}" for column in columns))
    print(out)


def bench_regression(networks: int, rounds: int, device: torch.device) -> list[dict[str, str | int]]:
    """One row per (activation, points, method, candidate): ms per network, ratio to the loop, share of the peak."""
    rows: list[dict[str, str | int]] = []
    for activation, n in itertools.product(PRODUCTS, (20, 100)):
        size = PRODUCT[device.type]
        steps = {("peak", ""): (matrix_product(torch.float32, device), 1)}
        for method in METHODS:
            steps["loop", method] = loop_by_hand(n, method, activation, device), 1
            steps["autograd", method] = ensemble_by_autograd(n, method, activation, networks, device), networks
            if method != "differences":
                steps["ensemble", method] = ensemble(n, method, activation, networks, device), networks
            if device.type == "cpu" and (jax_step := jax_program(n, method, activation, networks)):
                steps["jax", method] = jax_step, networks * SCAN
        seconds = alternate({key: step for key, (step, _) in steps.items()}, rounds, device)
        per_network = {key: seconds[key] / count for key, (_, count) in steps.items()}
        peak = 2 * size**3 / per_network.pop(("peak", ""))
        for (candidate, method), time_per_network in per_network.items():
            products = PRODUCTS[activation][method]
            at_pace_of_values = per_network["ensemble", "value"] * products / PRODUCTS[activation]["value"]
            rows.append(
                {
                    "activation": activation,
                    "points": n,
                    "method": method,
                    "candidate": candidate,
                    "ms_per_network": f"{1e3 * time_per_network:.3f}",
                    "times_faster_than_loop": f"{per_network['loop', method] / time_per_network:.1f}",
                    "times_count": f"{time_per_network / at_pace_of_values:.2f}",
                    "share_of_peak": f"{products * 2 * n * HIDDEN * HIDDEN / peak / time_per_network:.2f}",
                    "peak_gflops": f"{peak / 1e9:.0f}",
                    "device": device_name(device),
                    "threads": torch.get_num_threads(),
                }
            )
    return rows


def bench_grid(rounds: int, device: torch.device) -> list[dict[str, str | int]]:
    """One row per (training points, networks): ms per update, and its least possible time."""
    size = PRODUCT[device.type]
    rows: list[dict[str, str | int]] = []
    for n, networks in GRID[device.type]:
        update, count = grid_update(n, networks, device)
        steps = {"update": update, "product": matrix_product(torch.float32, device), "copy": copy(device)}
        if device.type == "cuda":
            steps["eager"] = grid_update(n, networks, device, record=False)[0]
        seconds = alternate(steps, rounds, device)
        peak, bandwidth = 2 * size**3 / seconds["product"], 2 * COPIED / seconds["copy"]
        operations = (3 + 4) / 2 * networks * 2 * min(n, BATCH) * HIDDEN * HIDDEN
        bytes_moved = (2 + 7) * 4 * count
        floor = max(operations / peak, bytes_moved / bandwidth)
        rows.append(
            {
                "points": n,
                "networks": networks,
                "ms_per_step": f"{1e3 * seconds['update']:.3f}",
                "eager_ms": f"{1e3 * seconds.get('eager', seconds['update']):.3f}",
                "floor_ms": f"{1e3 * floor:.3f}",
                "times_floor": f"{seconds['update'] / floor:.2f}",
                "us_per_network": f"{1e6 * seconds['update'] / networks:.2f}",
                "peak_gflops": f"{peak / 1e9:.0f}",
                "copy_gb_per_s": f"{bandwidth / 1e9:.0f}",
                "device": device_name(device),
                "threads": torch.get_num_threads(),
            }
        )
    return rows


def grid_update(n: int, networks: int, device: torch.device, record: bool = True) -> tuple[Callable[[], None], int]:
    """An update of networks on `n` points each, as in a run, and their number of weights."""
    ensembles, gradients, data = [], [], []
    for weights in ([1.0], [1.0, 1.0]):  # loss weights: values only, and values with gradients
        seeds = range(networks // 2)
        ensemble = MLPEnsemble((2, HIDDEN, HIDDEN, 1), [generator(seed, "init") for seed in seeds]).to(device)
        ensembles.append(ensemble)
        gradients.append(gradient_computer(ensemble, min(n, BATCH), weights, ["squared_l2"] * len(weights)))
        data.append(batch(networks // 2, n, device))
    update = Update(ensembles, gradients, data, record)
    orders = batch_orders(n, min(n, BATCH), range(min(SEEDS, networks // 2)), 0, device)
    count = sum(parameter.numel() for ensemble in ensembles for parameter in ensemble.parameters())
    return lambda: update(LEARNING_RATE, next(orders)), count


def alternate(candidates: dict[Key, Callable[[], None]], rounds: int, device: torch.device) -> dict[Key, float]:
    """Median seconds per call; each candidate runs for about 50 ms per round and then waits for the GPU."""

    def seconds(call: Callable[[], None], times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - started) / times

    calls = {}
    for name, call in candidates.items():
        seconds(call, 1)
        calls[name] = max(1, round(0.05 / seconds(call, 1)))
    measured: dict[Key, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            measured[name].append(seconds(call, calls[name]))
    return {name: statistics.median(values) for name, values in measured.items()}


def batch(networks: int, n: int, device: torch.device) -> list[torch.Tensor]:
    return [torch.randn(networks, n, width, generator=generator(0, "bench")).to(device) for width in (2, 1, 2)]


def loop_by_hand(n: int, method: str, activation: str, device: torch.device) -> Callable[[], None]:
    """A straightforward step: one nn.Sequential, double backpropagation or one call per shifted input, and Adam."""
    act = ACTIVATIONS[activation]
    network = nn.Sequential(nn.Linear(2, HIDDEN), act(), nn.Linear(HIDDEN, HIDDEN), act(), nn.Linear(HIDDEN, 1))
    optimizer = torch.optim.Adam(network.to(device).parameters(), lr=LEARNING_RATE)
    x, value, gradient = (tensor[0] for tensor in batch(1, n, device))

    shifts = STEP * torch.eye(2, device=device)

    def step() -> None:
        x.requires_grad_(method == "sobolev")
        y = network(x)
        loss = ((y - value) ** 2).sum(1).mean()
        if method == "sobolev":
            (dy,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            loss = loss + ((dy - gradient) ** 2).sum(1).mean()
        elif method == "differences":
            dy = torch.cat([(network(x + shift) - network(x - shift)) / (2 * STEP) for shift in shifts], 1)
            loss = loss + ((dy - gradient) ** 2).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def new_ensemble(activation: str, networks: int) -> MLPEnsemble:
    return MLPEnsemble((2, HIDDEN, HIDDEN, 1), [generator(seed, "init") for seed in range(networks)], activation)


def ensemble_by_autograd(
    n: int, method: str, activation: str, networks: int, device: torch.device
) -> Callable[[], None]:
    """The ensemble with a general loss and autograd."""
    model = new_ensemble(activation, networks).to(device)
    weights, way = (1.0, float(method != "value")), {}
    if method == "differences":
        way = {"mode": "differences", "step": STEP}
    loss = SobolevLoss(1, weights=weights, reduction="none", batch_dims=2, **way)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    x, value, gradient = batch(networks, n, device)

    def step() -> None:
        optimizer.zero_grad()
        loss(model, x, (value, gradient.unsqueeze(2))).total.mean(1).sum().backward()
        optimizer.step()

    return step


def ensemble(n: int, method: str, activation: str, networks: int, device: torch.device) -> Callable[[], None]:
    """The ensemble as experiments/regression trains it on values and on exact derivatives."""
    gradient_weight = float(method == "sobolev")
    model = new_ensemble(activation, networks).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    data = batch(networks, n, device)
    if activation == "relu":
        compute_gradients = ReLUSobolevStep(model, n, 1.0, gradient_weight)
    else:
        compute_gradients, data = SmoothSobolevStep(model), [*data, gradient_weight]

    def step() -> None:
        compute_gradients(*data)
        optimizer.step()

    return step


def jax_program(n: int, method: str, activation: str, networks: int) -> Callable[[], None] | None:
    """The same step compiled by JAX, vmapped over networks, SCAN steps per call; None if JAX is not installed."""
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        print("JAX is not installed: left out (pip install jax)", file=sys.stderr)
        return None
    model = new_ensemble(activation, networks)
    act = {"relu": jax.nn.relu, "gelu": partial(jax.nn.gelu, approximate=False)}[activation]
    parameters = [jnp.asarray(parameter.detach().numpy()) for parameter in model.parameters()]
    x, value, gradient = (jnp.asarray(tensor.numpy()) for tensor in batch(networks, n, torch.device("cpu")))

    def predict(parameters, x_I):
        w1, w2, w3, b1, b2, b3 = parameters
        h = act(x_I @ w1 + b1[0])
        return (act(h @ w2 + b2[0]) @ w3 + b3[0])[0]

    def quotients(parameters, x_I):
        shifted = x_I + STEP * jnp.concatenate([jnp.eye(2), -jnp.eye(2)])
        above, below = jnp.split(jax.vmap(predict, (None, 0))(parameters, shifted), 2)
        return (above - below) / (2 * STEP)

    def loss(parameters, x, value, gradient):
        y = jax.vmap(predict, (None, 0))(parameters, x)
        total = jnp.mean((y - value[:, 0]) ** 2)
        if method == "value":
            return total
        dy = jax.vmap(jax.grad(predict, 1) if method == "sobolev" else quotients, (None, 0))(parameters, x)
        return total + jnp.mean(jnp.sum((dy - gradient) ** 2, 1))

    def adam(carry, _):
        parameters, first, second, count = carry
        gradients = jax.vmap(jax.grad(loss))(parameters, x, value, gradient)
        count = count + 1
        first = [0.9 * m + 0.1 * g for m, g in zip(first, gradients, strict=True)]
        second = [0.999 * v + 0.001 * g * g for v, g in zip(second, gradients, strict=True)]
        rate = LEARNING_RATE * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        parameters = [p - rate * m / (jnp.sqrt(v) + 1e-8) for p, m, v in zip(parameters, first, second, strict=True)]
        return (parameters, first, second, count), None

    scan = jax.jit(lambda carry: jax.lax.scan(adam, carry, None, length=SCAN)[0])
    zeros = [jnp.zeros_like(parameter) for parameter in parameters]
    state = [(parameters, zeros, zeros, jnp.zeros(()))]

    def step() -> None:
        state[0] = jax.block_until_ready(scan(state[0]))

    return step


if __name__ == "__main__":
    main()
