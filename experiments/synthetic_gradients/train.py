"""Section 4.3: networks in parts that learn from synthetic gradients, on digits, MNIST, CIFAR-10 and ImageNet folders.

A run trains one network with one technique. Rows of the split `train` are means over the updates since the last
evaluation; those of the evaluated split measure the current network in evaluation mode.

Shape suffixes: B samples of a batch, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from experiments.runner.divergence import check_convergence
from experiments.runner.errors import BadInput
from experiments.runner.limits import (
    A_MEASUREMENT,
    A_PROCESS,
    check_evaluations,
    check_memory,
    check_updates,
    number_bytes,
)
from experiments.runner.run import Run
from experiments.synthetic_gradients.data import check_folder, load, shape_of, train_batches
from experiments.synthetic_gradients.metrics import Sums, added, averages, evaluate, sums_of
from experiments.synthetic_gradients.settings import (
    SIDES,
    DecoupledConfig,
    ImageDatasetConfig,
    SGDConfig,
    technique_of,
)
from sobolev.cuda_graphs import CapturedStep
from sobolev.networks.convnets import conv_blocks, split
from sobolev.networks.gradient_predictors import DirectPredictor, LabelPredictor
from sobolev.networks.resnet import resnet50_blocks
from sobolev.seeding import generator
from sobolev.synthetic_gradients import DecoupledNetwork, ParallelStep


def main(config: DecoupledConfig, run: Run) -> dict:
    """Train and evaluate one network; the objective is its error, 1 - top-1 accuracy."""
    steps = config.optimizer.steps

    # Data
    train, evaluated = load(config, run.device)

    # Model
    network = build(config, train.n_classes, shape_of(train, config)).to(run.device, run.dtype)
    network.to(memory_format=torch.channels_last)
    optimizers = make_optimizers(network, config.optimizer)
    learn = learner(network, run)

    # Loop
    first, tally = 0, {}
    if state := run.resume():
        first = state["step"]
        tally = {name: value.to(run.device) for name, value in state["tally"].items()}
        network.load_state_dict(state["network"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    evaluate_at = {round(i * steps / config.evaluations) for i in range(config.evaluations + 1)}
    batches = train_batches(train, config, first, run)
    for step in run.progress(first, steps + 1):
        run.checkpoint(lambda step=step, tally=tally: state_of(step, network, optimizers, tally))
        if step in evaluate_at:
            measured = evaluate(network, evaluated, config, run)
            seen = averages(tally) if tally else {}
            run.record(step, rows(config.seed, {"train": seen, config.evaluate_on: measured}))
            relative_error = measured["loss"] / math.log(max(train.n_classes, 2))  # zero logits have log K
            check_convergence(step, step == steps, {config.seed: relative_error}, [*seen.values(), *measured.values()])
            tally = {}
        if step < steps:
            for group in optimizers[0].param_groups:
                group["lr"] = learning_rate(config.optimizer, step)
            sums = learn(*next(batches))
            for optimizer in optimizers:
                optimizer.step()
            tally = added(tally, sums)
    return {
        "objective": 1 - measured["accuracy_top1"],
        "steps": steps,
        **{f"{config.evaluate_on}_{name}": value for name, value in measured.items()},
    }


def check(config: DecoupledConfig) -> None:
    """Refuse what would take this machine more than a year, or more memory than it has, and folders without images."""
    model, optimizer, dataset = config.model, config.optimizer, config.dataset
    in_memory = isinstance(dataset, ImageDatasetConfig)
    side = SIDES[dataset.name] if in_memory else dataset.size
    check_updates(**{"optimizer.steps": optimizer.steps})
    check_evaluations(config.evaluations, optimizer.steps)
    weight = 3 * number_bytes(config)  # with its gradient and its momentum
    predictors = (model.label_predictor.channels, model.direct_channels)
    check_memory(
        {
            "model.channels": weight * kernels(model.channels if model.network == "convnet" else []),
            "model.label_predictor.channels and model.direct_channels": weight * min(map(kernels, predictors)),
            "optimizer.batch_size and dataset.size": optimizer.batch_size * side**2,
            "dataset.resize": 0 if in_memory else dataset.resize**2,
            "dataset.workers": 0 if in_memory else A_PROCESS * dataset.workers,
            "evaluations": A_MEASUREMENT * config.evaluations,
        }
    )
    check_folder(dataset)


def kernels(channels: list[int]) -> int:
    """A lower bound on the number of weights of stacked 3 x 3 convolutions."""
    return 9 * sum(below * above for below, above in pairwise([1, *channels]))


def build(config: DecoupledConfig, n_classes: int, shape: tuple[int, int, int]) -> DecoupledNetwork:
    """The network in parts, with the predictors that its technique needs, for images of shape (C, H, W)."""
    model, technique = config.model, technique_of(config)
    draw = generator(config.seed, "init")
    try:
        if model.network == "convnet":
            blocks = conv_blocks(
                model.channels, model.strides, n_classes, shape[0], model.head, size=shape[1], generator=draw
            )
        else:
            zero_last = model.network == "resnet50_zero_last"
            blocks = resnet50_blocks(n_classes, shape[0], zero_last=zero_last, generator=draw)
        parts = split(blocks, model.splits)
        predictors = []
        for k, hidden in enumerate(shapes_at_splits(parts, shape)):
            draw = generator(config.seed, "init predictor", k)
            if technique.crosses == "derivative":
                predictors.append(LabelPredictor(hidden, n_classes, **asdict(model.label_predictor), generator=draw))
            elif technique.crosses == "output":
                predictors.append(DirectPredictor(hidden, n_classes, model.direct_channels, generator=draw))
        return DecoupledNetwork(parts, predictors, technique)
    except ValueError as error:
        raise BadInput(f"model={model.name}: {error}") from None


def shapes_at_splits(parts: nn.ModuleList, shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """(C, H, W) of the hidden layer above each part except the last, from a forward pass of an empty batch."""
    shapes = []
    h_1CHW = torch.zeros(1, *shape)
    with torch.no_grad():
        for part in parts.eval()[:-1]:
            h_1CHW = part(h_1CHW)
            shapes.append(tuple(h_1CHW.shape[1:]))
    parts.train()
    return shapes


def make_optimizers(network: DecoupledNetwork, config: SGDConfig) -> list[torch.optim.Optimizer]:
    """SGD for the network, and Adam for the predictors if there are any. Only kernels have weight decay (ours)."""
    parameters = network.main_parameters()
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    on_gpu = parameters[0].is_cuda  # there one kernel is faster than ten; on a CPU updates must not change
    optimizers = [torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=on_gpu)]
    if predictors := list(network.predictors.parameters()):
        optimizers.append(torch.optim.Adam(predictors, lr=config.predictor_learning_rate, fused=True))
    return optimizers


def learning_rate(config: SGDConfig, step: int) -> float:
    """The learning rate of update number `step`, counted from 0."""
    passed = sum(step >= round(milestone * config.steps) for milestone in config.milestones)
    return config.learning_rate * 0.1**passed


def learner(network: DecoupledNetwork, run: Run) -> Callable[[Tensor, Tensor], Sums]:
    """A function of a batch that fills every `.grad`, averaged over processes, and returns the step's sums."""
    network.train()
    if run.ranks.count == 1:

        def learn(x_BCHW: Tensor, labels_B: Tensor) -> Sums:
            with run.autocast():
                return sums_of(network.step(x_BCHW, labels_B), labels_B)

        return captured(learn, network) if run.device.type == "cuda" else learn

    if run.config.optimizer.batch_size % run.ranks.count:
        raise BadInput(
            f"optimizer.batch_size={run.config.optimizer.batch_size} does not divide by {run.ranks.count} processes"
        )
    parallel = DistributedDataParallel(ParallelStep(network))

    def learn_together(x_BCHW: Tensor, labels_B: Tensor) -> Sums:
        with run.autocast():
            carrier = parallel(x_BCHW, labels_B)
        carrier.backward()
        return run.ranks.all_reduce_sum(sums_of(parallel.module.last, labels_B))

    return learn_together


def captured(learn: Callable[[Tensor, Tensor], Sums], network: DecoupledNetwork) -> Callable[[Tensor, Tensor], Sums]:
    """The same function as a CUDA graph: besides its convolutions a step has some hundred small kernels."""
    step = CapturedStep(learn, state=network.buffers())

    def replay(x_BCHW: Tensor, labels_B: Tensor) -> Sums:
        sums = step(x_BCHW, labels_B)
        return dict(zip(sums, torch.stack([*sums.values()]).unbind(), strict=True))  # out of the graph's memory

    return replay


def rows(seed: int, measured: dict[str, dict[str, float]]) -> Iterator[tuple[int, str, str, float]]:
    """(seed, split, metric, value)."""
    for part, metrics in measured.items():
        for metric, value in metrics.items():
            yield seed, part, metric, value


def state_of(step: int, network: DecoupledNetwork, optimizers: list[torch.optim.Optimizer], tally: Sums) -> dict:
    return {
        "step": step,
        "network": network.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "tally": tally,
    }
