"""Speed against the loop one writes by hand and against the machine's limit, in one run.

python -m scripts.bench.regression

Regression: one training step (gradients and Adam) of a 2 x 256 ReLU network, full batch, time per network.
The machine's limit is its fastest measured float32 matrix product; a step's share of it counts only the
H x H products that the step needs at least (ours: 4 for Sobolev, 3 for values; see ReLUSobolevStep).
Every candidate takes its turn in each round, and medians over rounds are compared, so a noisy machine
slows all of them alike. With JAX installed, the same step as a vmap in a scan takes part too.

A second table has an update of Figure 2's grid as `hydra/launcher=together` trains it, batches and all: half of the
networks learn from values and half from gradients too. 10 are as many as a run has, 140 those of the 14 runs of one
training size, which train together, and 420 those of all 42. It cannot take less than `floor_ms`: the products that it
needs at the machine's limit, or what it has to read and write (weights once, gradients once, and seven numbers a weight
in Adam) as fast as a large copy, whichever is longer. On a GPU an update is a CUDA graph; `eager_ms` is without.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from experiments.regression.updates import Update, batch_orders, gradient_computer
from experiments.runner.process import prepare_cpu, prepare_gpu
from scripts.bench.roofline import COPIED, copy
from sobolev.files import replacing
from sobolev.networks import MLPEnsemble, ReLUSobolevStep
from sobolev.seeding import generator

HIDDEN = 256
LEARNING_RATE = 3e-5
PRODUCT = {"cpu": 1024, "cuda": 8192}  # the side of a matrix whose product comes to the machine's limit
SEEDS = 10  # of a cell of Figure 2
GRID = {"cpu": ((20, 10), (20, 140), (100, 10), (100, 140))}  # training points and networks
GRID["cuda"] = (*GRID["cpu"], (10_000, 10), (10_000, 140), (100, 420))
BATCH = 32  # points, at most
SCAN = 10  # steps that one call of the JAX program makes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="default: 15, and 5 on a GPU, which nobody shares")
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
    """A process as a run's is, where float32 is float32 on a GPU too."""
    prepare_cpu(threads)
    prepare_gpu(fixed_shapes=True)
    return torch.device(device)


def default_out(domain: str, device: torch.device) -> Path:
    """Where the rows of a benchmark go: those of a GPU beside those of a CPU."""
    return Path("results") / domain / ("bench.csv" if device.type == "cpu" else f"bench_{device.type}.csv")


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


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
    """One row a (points, method, candidate): ms a network, ratio to the loop, share of the measured peak."""
    rows: list[dict[str, str | int]] = []
    for n in (20, 100):
        for method, gradient_weight, products in (("value", 0.0, 3), ("sobolev", 1.0, 4)):
            candidates = {
                "loop": (loop_by_hand(n, gradient_weight, device), 1),
                "ensemble": (ensemble(n, gradient_weight, networks, device), networks),
            }
            if device.type == "cpu" and (jax_step := jax_program(n, gradient_weight, networks)):
                candidates["jax"] = (jax_step, networks * SCAN)
            size = PRODUCT[device.type]
            peak = matrix_product(size, torch.float32, device)
            steps = {name: step for name, (step, _) in candidates.items()} | {"peak": peak}
            seconds = alternate(steps, rounds, device)
            limit = products * 2 * n * HIDDEN * HIDDEN / (2 * size**3 / seconds["peak"])
            per_network = {name: seconds[name] / count for name, (_, count) in candidates.items()}
            for name, time_per_network in per_network.items():
                rows.append(
                    {
                        "points": n,
                        "method": method,
                        "candidate": name,
                        "ms_per_network": f"{1e3 * time_per_network:.3f}",
                        "times_faster_than_loop": f"{per_network['loop'] / time_per_network:.1f}",
                        "share_of_peak": f"{limit / time_per_network:.2f}",
                        "peak_gflops": f"{2e-9 * size**3 / seconds['peak']:.0f}",
                        "device": device_name(device),
                        "threads": torch.get_num_threads(),
                    }
                )
    return rows


def bench_grid(rounds: int, device: torch.device) -> list[dict[str, str | int]]:
    """One row a (training points, networks): ms an update, and the least that it could take."""
    size = PRODUCT[device.type]
    rows: list[dict[str, str | int]] = []
    for n, networks in GRID[device.type]:
        update, count = grid_update(n, networks, device)
        steps = {"update": update, "product": matrix_product(size, torch.float32, device), "copy": copy(device)}
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
    """An update of networks on `n` points each, as a run learns, and how many weights they have."""
    ensembles, gradients, data = [], [], []
    for weights in ([1.0], [1.0, 1.0]):  # of the loss of values, and of values and gradients
        seeds = range(networks // 2)
        ensemble = MLPEnsemble((2, HIDDEN, HIDDEN, 1), [generator(seed, "init") for seed in seeds]).to(device)
        ensembles.append(ensemble)
        gradients.append(gradient_computer(ensemble, min(n, BATCH), weights, ["squared_l2"] * len(weights)))
        data.append(batch(networks // 2, n, device))
    update = Update(ensembles, gradients, data, record)
    orders = batch_orders(n, min(n, BATCH), range(min(SEEDS, networks // 2)), 0, device)
    count = sum(parameter.numel() for ensemble in ensembles for parameter in ensemble.parameters())
    return lambda: update(LEARNING_RATE, next(orders)), count


def alternate(candidates: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds a call; each candidate runs for about 50 ms in each round. A GPU's queue is empty by its end."""

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
    measured: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            measured[name].append(seconds(call, calls[name]))
    return {name: statistics.median(values) for name, values in measured.items()}


def matrix_product(size: int, dtype: torch.dtype, device: torch.device) -> Callable[[], None]:
    a, out = (make(size, size, device=device).to(dtype) for make in (torch.randn, torch.empty))
    return lambda: torch.mm(a, a, out=out)


def batch(networks: int, n: int, device: torch.device) -> list[torch.Tensor]:
    return [torch.randn(networks, n, width, generator=generator(0, "bench")).to(device) for width in (2, 1, 2)]


def loop_by_hand(n: int, gradient_weight: float, device: torch.device) -> Callable[[], None]:
    """What one writes first: one nn.Sequential, double backpropagation, Adam."""
    network = nn.Sequential(nn.Linear(2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    optimizer = torch.optim.Adam(network.to(device).parameters(), lr=LEARNING_RATE)
    x, value, gradient = (tensor[0] for tensor in batch(1, n, device))

    def step() -> None:
        x.requires_grad_(gradient_weight != 0)
        y = network(x)
        loss = ((y - value) ** 2).sum(1).mean()
        if gradient_weight:
            (dy,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            loss = loss + gradient_weight * ((dy - gradient) ** 2).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def ensemble(n: int, gradient_weight: float, networks: int, device: torch.device) -> Callable[[], None]:
    """Ours, as experiments/regression/train.py trains."""
    model = MLPEnsemble((2, HIDDEN, HIDDEN, 1), [generator(seed, "init") for seed in range(networks)]).to(device)
    compute_gradients = ReLUSobolevStep(model, n, 1.0, gradient_weight)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    data = batch(networks, n, device)

    def step() -> None:
        compute_gradients(*data)
        optimizer.step()

    return step


def jax_program(n: int, gradient_weight: float, networks: int) -> Callable[[], None] | None:
    """The same step compiled by JAX, vmapped over networks, SCAN steps a call; None where JAX is not installed."""
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        print("JAX is not installed: left out (pip install jax)", file=sys.stderr)
        return None
    model = MLPEnsemble((2, HIDDEN, HIDDEN, 1), [generator(seed, "init") for seed in range(networks)])
    parameters = [jnp.asarray(parameter.detach().numpy()) for parameter in model.parameters()]
    x, value, gradient = (jnp.asarray(tensor.numpy()) for tensor in batch(networks, n, torch.device("cpu")))

    def predict(parameters, x_I):
        w1, w2, w3, b1, b2, b3 = parameters
        h = jax.nn.relu(x_I @ w1 + b1[0])
        return (jax.nn.relu(h @ w2 + b2[0]) @ w3 + b3[0])[0]

    def loss(parameters, x, value, gradient):
        y = jax.vmap(predict, (None, 0))(parameters, x)
        total = jnp.mean((y - value[:, 0]) ** 2)
        if gradient_weight:
            dy = jax.vmap(jax.grad(predict, 1), (None, 0))(parameters, x)
            total += gradient_weight * jnp.mean(jnp.sum((dy - gradient) ** 2, 1))
        return total

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
