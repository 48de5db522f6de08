"""Speed against the loop one writes by hand and against the machine's limit, in one run.

python -m scripts.bench.regression

Regression: one training step (gradients and Adam) of a 2 x 256 network of ReLU or GELU, full batch, time per network:
of a loop by hand, of an ensemble with SobolevLoss by autograd, and of an ensemble with the step that takes none, where
there is one. The machine's limit is its fastest measured float32 matrix product; a step's share of it counts only the
H x H products that the step needs at least: 3 for values; for Sobolev 4 with ReLU (see ReLUSobolevStep) and 6 with GELU
(see SmoothSobolevStep); with differences of values for derivatives 3 at each of 1 + 2 I points. `times_count` is a
step's time over what its count of products would take at the pace of the ensemble's step for values. Every candidate
takes its turn in each round, and medians over rounds are compared, so a noisy machine slows all of them alike. With JAX
installed, the same step as a vmap in a scan takes part too.

A second table has an update of Figure 2's grid as `hydra/launcher=together` trains it, batches and all: half of the
networks learn from values and half from gradients too. 10 are as many as a run has, 140 those of the 14 runs of one
training size, which train together, and 420 those of all 42. It cannot take less than `floor_ms`: the products that it
needs at the machine's limit, or what it has to read and write (weights once, gradients once, and seven numbers a weight
in Adam) as fast as a large copy, whichever is longer. On a GPU an update is a CUDA graph; `eager_ms` is without.
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
SEEDS = 10  # of a cell of Figure 2
GRID = {"cpu": ((20, 10), (20, 140), (100, 10), (100, 140))}  # training points and networks
GRID["cuda"] = (*GRID["cpu"], (10_000, 10), (10_000, 140), (100, 420))
BATCH = 32  # points, at most
Key = TypeVar("Key")  # what names a candidate
SCAN = 10  # steps that one call of the JAX program makes
STEP = 0.05  # h of differences
METHODS = ("value", "sobolev", "differences")
PRODUCTS = {  # H x H, at least
    "relu": {"value": 3, "sobolev": 4, "differences": 15},
    "gelu": {"value": 3, "sobolev": 6, "differences": 15},
}


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
    """The name of a GPU, or a processor's where the system tells it."""
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
    """One row a (activation, points, method, candidate): ms a network, ratio to the loop, share of the peak."""
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
    """One row a (training points, networks): ms an update, and the least that it could take."""
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


def alternate(candidates: dict[Key, Callable[[], None]], rounds: int, device: torch.device) -> dict[Key, float]:
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
    measured: dict[Key, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            measured[name].append(seconds(call, calls[name]))
    return {name: statistics.median(values) for name, values in measured.items()}


def batch(networks: int, n: int, device: torch.device) -> list[torch.Tensor]:
    return [torch.randn(networks, n, width, generator=generator(0, "bench")).to(device) for width in (2, 1, 2)]


def loop_by_hand(n: int, method: str, activation: str, device: torch.device) -> Callable[[], None]:
    """What one writes first: one nn.Sequential, double backpropagation or a call for each shifted input, Adam."""
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
    """The ensemble as it learns from any loss."""
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
    """Ours, as experiments/regression trains on values and on exact derivatives."""
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
    """The same step compiled by JAX, vmapped over networks, SCAN steps a call; None where JAX is not installed."""
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
