"""Two processes that share a batch train exactly as one process with the whole batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from sobolev import Derivatives, SobolevLoss, projections
from sobolev.distillation import distillation_loss
from sobolev.networks import MLPEnsemble
from sobolev.networks.atari_policies import ARCHITECTURES, AtariPolicy
from sobolev.seeding import generator

STEPS = 3
LOSSES = {
    "value and derivative": SobolevLoss(1),
    "differences": SobolevLoss(1, mode="differences", step=0.1),
    "balanced": SobolevLoss(1, weights="balanced"),
    "derivative only": SobolevLoss(1, weights=(0, 1)),
    # With one output v is a sign, which the distance does not see, so every process may draw its own.
    "projected": SobolevLoss(1, projection=projections.Sphere()),
}


def teacher(x, c=1.0):
    return (c * x).sin().sum(-1, keepdim=True)


def train(model: nn.Module, loss: SobolevLoss, x: torch.Tensor, **options) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(model, x, teacher, **options).total.backward()
        optimizer.step()


def problem() -> tuple[Derivatives, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    return Derivatives(model), torch.rand(8, 2, dtype=torch.float64)


class Conditioned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = problem()[0].model

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return self.network(x * c)


def conditioned() -> tuple[Derivatives, torch.Tensor, torch.Tensor]:
    return Derivatives(Conditioned()), *torch.rand(2, 8, 2, generator=generator(0, "data"), dtype=torch.float64)


def regression() -> tuple[nn.Module, Callable[[nn.Module, int, int], torch.Tensor]]:
    """The ensemble of Section 4.1, each of its networks with its own points."""
    ensemble = MLPEnsemble((2, 8, 1), [generator(seed, "init") for seed in range(3)], "relu").double()
    x_EN2 = torch.rand(3, 8, 2, generator=generator(0, "data"), dtype=torch.float64)
    loss = SobolevLoss(1, reduction="none", batch_dims=2)

    def objective(model: nn.Module, rank: int, ranks: int) -> torch.Tensor:
        x = x_EN2[:, rank::ranks]
        return loss(model, x, (x.square().sum(-1, keepdim=True), 2 * x[:, :, None])).total.mean(1).sum()

    return Derivatives(ensemble, batch_dims=2), objective


def distillation() -> tuple[nn.Module, Callable[[nn.Module, int, int], torch.Tensor]]:
    """The objective of Section 4.2 on the paper's networks, with every action in place of random projections."""
    student, master = (
        AtariPolicy(3, ARCHITECTURES[name], generator=generator(0, name)).double() for name in ("student", "teacher")
    )
    states_BCHW = torch.rand(4, 4, 84, 84, generator=generator(0, "data"), dtype=torch.float64)
    loss = distillation_loss()

    def objective(model: nn.Module, rank: int, ranks: int) -> torch.Tensor:
        return loss(model, states_BCHW[rank::ranks], master).total

    return Derivatives(student), objective


# Synthetic gradients have theirs in tests/sobolev/test_decoupled_network.py.
EXPERIMENTS = {
    "regression": regression,
    "distillation": distillation,
}


def descend(model: nn.Module, objective: Callable, rank: int, ranks: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        objective(model, rank, ranks).backward()
        optimizer.step()


def one_of_two(rank: int, store: str, results: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    trained = {}
    for name, experiment in EXPERIMENTS.items():
        model, objective = experiment()
        descend(DistributedDataParallel(model), objective, rank, 2)
        trained[name] = model.state_dict()
    for name, loss in LOSSES.items():
        model, x = problem()
        if loss.balanced:
            with pytest.raises(ValueError, match=r"call loss\.balance on the same data in each"):
                loss(model, x[rank::2], teacher)
            loss.balance(teacher, x)
        parallel = DistributedDataParallel(model, find_unused_parameters=name == "derivative only")
        train(parallel, loss, x[rank::2])
        trained[name] = model.state_dict()
    model, x, c = conditioned()
    for each in (SobolevLoss(1), SobolevLoss(1, mode="differences", step=0.1)):
        train(DistributedDataParallel(model), each, x[rank::2], condition={"c": c[rank::2]})
    trained["conditioned"] = model.state_dict()
    model, x = problem()
    by_values = DistributedDataParallel(model.model)  # of values alone nothing is missed outside
    train(by_values, SobolevLoss(1, mode="differences", step=0.1), x[rank::2])
    trained["differences outside"] = {f"model.{name}": tensor for name, tensor in model.model.state_dict().items()}
    model, x = problem()
    plain = DistributedDataParallel(model.model, static_graph=True)
    hidden = nn.Sequential(plain)
    for inside_out in (plain, hidden, Derivatives(plain), lambda x: plain(x), hidden.forward):
        with pytest.raises(ValueError, match=r"other way round, DistributedDataParallel\(Derivatives\(model\)\)"):
            SobolevLoss(1)(inside_out, x, teacher)
    SobolevLoss(0)(plain, x, teacher).total.backward()  # of values alone it is right
    model, x = problem()
    fully_shard(model)
    train(model, SobolevLoss(1), x[rank::2])
    trained["sharded"] = {name: tensor.full_tensor() for name, tensor in model.state_dict().items()}
    inside, _ = problem()
    fully_shard(inside.model[0])
    for inside_out in (inside, inside.model, lambda x: inside.model(x)):
        with pytest.raises(ValueError, match=r"other way round, fully_shard\(Derivatives\(model\)\)"):
            SobolevLoss(1)(inside_out, x, teacher)
    torch.save(trained, f"{results}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_equal_one(tmp_path):
    multiprocessing.spawn(one_of_two, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    trained = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, loss in LOSSES.items():
        model, x = problem()
        if loss.balanced:
            loss.balance(teacher, x)
        train(model, loss, x)
        for rank in range(2):
            torch.testing.assert_close(trained[rank][name], model.state_dict(), msg=lambda m, name=name: f"{name}: {m}")
            if name == "value and derivative":
                torch.testing.assert_close(trained[rank]["sharded"], model.state_dict())
    model, x, c = conditioned()
    for each in (SobolevLoss(1), SobolevLoss(1, mode="differences", step=0.1)):
        train(model, each, x, condition={"c": c})
    torch.testing.assert_close(trained[0]["conditioned"], model.state_dict())
    torch.testing.assert_close(trained[0]["differences outside"], trained[0]["differences"])
    for name, experiment in EXPERIMENTS.items():
        model, objective = experiment()
        descend(model, objective, 0, 1)
        for rank in range(2):
            torch.testing.assert_close(trained[rank][name], model.state_dict(), msg=lambda m, name=name: f"{name}: {m}")
