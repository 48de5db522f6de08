"""Section 4.3: networks in parts that learn from synthetic gradients, on digits, MNIST, CIFAR-10 and ImageNet folders.

A run trains one network by one technique. Rows of the split `train` are means over the updates since the last
evaluation; those of the evaluated split are of the network as it stands, in evaluation mode. Splits of the network
count from 1, from below: `gradient_cosine/1`.

Shape suffixes: B samples of a batch, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import islice, pairwise
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from experiments.runner.divergence import check_convergence
from experiments.runner.errors import BadInput, check_seed, nearest
from experiments.runner.limits import (
    A_MEASUREMENT,
    A_PROCESS,
    check_evaluations,
    check_memory,
    check_updates,
    number_bytes,
)
from experiments.runner.run import Run
from experiments.synthetic_gradients.downloads import SIDES, fetch
from experiments.synthetic_gradients.settings import DecoupledConfig, ImageDatasetConfig, ImageFolderConfig, SGDConfig
from sobolev.images import IN_MEMORY, SOURCES, ImageError, ImageFolder, ImageSet, photometric, shift_and_flip
from sobolev.networks.convnets import CIFAR_CHANNELS, CIFAR_STRIDES, conv_blocks, split
from sobolev.networks.gradient_predictors import DirectPredictor, LabelPredictor
from sobolev.networks.resnet import resnet50_blocks
from sobolev.seeding import generator
from sobolev.synthetic_gradients import TECHNIQUES, Comparison, DecoupledNetwork, ParallelStep, Step, Technique

NETWORKS = ("convnet", "resnet50", "resnet50_zero_last")
SPLITS = ("test", "validation")
EVALUATED = 100  # images at a time
# SM 4.1 and 4.2. Below any of these numbers, or with another network, other rates or crops, a run is `reduced`.
PAPER_RATES = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "predictor_learning_rate": 1e-4}
CIFAR_STEPS, CIFAR_BATCH, CIFAR_MILESTONES = 100_000, 320, [0.4, 0.6, 0.8]
CIFAR_PREDICTOR = {"channels": [128], "strides": [1], "head": "flatten"}
IMAGENET_STEPS, IMAGENET_BATCH, IMAGENET_MILESTONES = 200_000, 1088, [0.5, 0.75, 0.875]
IMAGENET_TRAIN, IMAGENET_AREA = 1_281_167, 0.08
IMAGENET_PREDICTOR = {"channels": [64, 64], "strides": [1, 2], "head": "average"}

Batch = tuple[Tensor, Tensor]  # x_BCHW, normalised; labels_B
Images = ImageSet | ImageFolder
Sums = dict[str, Tensor]


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
        first, tally = state["step"], state["tally"]
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
            relative_error = measured["loss"] / math.log(max(train.n_classes, 2))  # logits of zeros guess
            check_convergence(step, step == steps, {config.seed: relative_error}, [*seen.values(), *measured.values()])
            tally = {}
        if step < steps:
            for group in optimizers[0].param_groups:
                group["lr"] = learning_rate(config.optimizer, step)
            sums = learn(*next(batches))
            for optimizer in optimizers:
                optimizer.step()
            tally = {name: tally[name] + value for name, value in sums.items()} if tally else sums
    return {
        "objective": 1 - measured["accuracy_top1"],
        "scale": scale(config),
        "steps": steps,
        **{f"{config.evaluate_on}_{name}": value for name, value in measured.items()},
    }


def check(config: DecoupledConfig) -> None:
    """Refuse what no type can."""
    check_seed(config)
    model, optimizer, dataset = config.model, config.optimizer, config.dataset
    in_memory = isinstance(dataset, ImageDatasetConfig)
    if in_memory and dataset.name not in IN_MEMORY:
        raise BadInput(f"dataset.name={dataset.name} is unknown{nearest(dataset.name, [*IN_MEMORY])}")
    for key, value, choices in (
        ("model.network", model.network, NETWORKS),
        ("evaluate_on", config.evaluate_on, SPLITS),
    ):
        if value not in choices:
            raise BadInput(f"{key}={value} is unknown{nearest(value, [*choices])}")
    ranges = [  # what is right, how to tell, and of which settings
        ("0 or more", lambda value: value >= 0, ["optimizer.weight_decay"]),
        ("0 or more and below 1", lambda value: 0 <= value < 1, ["optimizer.momentum"]),
    ]
    positive = [
        *("dataset.n_train", "evaluations", "gradient_samples", "optimizer.steps", "optimizer.batch_size"),
        *("optimizer.learning_rate", "optimizer.predictor_learning_rate", "model.direct_channels"),
        *("model.label_predictor.channels", "model.label_predictor.strides"),
    ]
    if in_memory:
        side = SIDES[dataset.name]
        right = f"from 0 to {side - 1} for images of {side} x {side}"
        ranges.append((right, lambda value: 0 <= value < side, ["dataset.padding"]))
    else:
        positive.append("dataset.resize")
        right = f"from 1 to dataset.resize={dataset.resize}"
        ranges += [
            (right, lambda value: 1 <= value <= dataset.resize, ["dataset.size"]),
            ("above 0 and at most 1", lambda value: 0 < value <= 1, ["dataset.min_area"]),
            ("from 0 to 1", lambda value: 0 <= value <= 1, ["dataset.colour"]),
            ("0 or more", lambda value: value >= 0, ["dataset.workers"]),
        ]
    for right, holds, keys in [("positive", lambda value: value > 0, positive), *ranges]:
        for key in keys:
            value = attrgetter(key)(config)
            if value == [] or not all(map(holds, value if isinstance(value, list) else [value])):
                raise BadInput(f"{key} must be {right}, not {value}")
    if not all(0 < milestone < 1 for milestone in optimizer.milestones):
        raise BadInput(f"optimizer.milestones={optimizer.milestones}: expected parts of the steps, between 0 and 1")
    if config.evaluate_on == "validation" and dataset.hold_out < 1:
        raise BadInput("evaluate_on=validation needs images that are not trained on: set dataset.hold_out")
    try:
        technique_of(config)
    except ValueError as error:
        raise BadInput(f"technique={config.technique.name}: {error}") from None
    check_cost(config)


def check_cost(config: DecoupledConfig) -> None:
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


def kernels(channels: list[int]) -> int:
    """Weights, at the least, of 3 x 3 convolutions one above the other."""
    return 9 * sum(below * above for below, above in pairwise([1, *channels]))


def scale(config: DecoupledConfig) -> str:
    """`paper` where nothing is smaller than in the paper's rows of Table 1 and techniques and rates are the paper's,
    else `reduced`: digits and MNIST always."""
    model, optimizer, dataset = config.model, config.optimizer, config.dataset
    modules, predictor = len(model.splits), asdict(model.label_predictor)
    whole = dataset.hold_out == 0 and technique_of(config) == TECHNIQUES.get(config.technique.name)
    whole &= all(getattr(optimizer, key) == value for key, value in PAPER_RATES.items())
    if dataset.name == "cifar10":
        whole &= optimizer.steps >= CIFAR_STEPS and optimizer.batch_size >= CIFAR_BATCH
        whole &= optimizer.milestones == CIFAR_MILESTONES
        whole &= model.network == "convnet"
        whole &= (model.channels, model.strides) == (list(CIFAR_CHANNELS), list(CIFAR_STRIDES))
        whole &= modules == 3 and predictor == CIFAR_PREDICTOR and model.direct_channels == [128, 128]
    elif dataset.name == "imagenet":
        whole &= optimizer.steps >= IMAGENET_STEPS and optimizer.batch_size >= IMAGENET_BATCH
        whole &= optimizer.milestones == IMAGENET_MILESTONES
        whole &= dataset.n_train >= IMAGENET_TRAIN and dataset.size >= 224
        whole &= dataset.min_area == IMAGENET_AREA and dataset.flip and dataset.colour > 0
        whole &= model.network == "resnet50" and modules in (1, 3) and predictor == IMAGENET_PREDICTOR
        whole &= config.technique.name != "direct"  # Table 1 has none there
    else:
        whole = False
    return "paper" if whole else "reduced"


def load(config: DecoupledConfig, device: torch.device) -> tuple[Images, Images]:
    """The split that is trained on and the one that is evaluated. Sets in memory lie on the device."""
    dataset = config.dataset
    try:
        directory = Path(dataset.folder) / getattr(dataset, "directory", "")
        there = isinstance(dataset, ImageFolderConfig) and directory.exists()  # perhaps one of your own
        if dataset.download and dataset.name in SOURCES and not there:
            fetch(dataset.name, dataset.folder)
        if isinstance(dataset, ImageDatasetConfig):
            read = IN_MEMORY[dataset.name]
            sets = [read(dataset.folder, s, dataset.hold_out).to(device) for s in ("train", config.evaluate_on)]
        else:
            sets = [ImageFolder(directory, s, dataset.hold_out) for s in ("train", config.evaluate_on)]
    except (ValueError, PermissionError) as error:
        raise BadInput(f"dataset={dataset.name}: {error}") from None
    found = len(sets[0]) + dataset.hold_out
    if found != dataset.n_train:
        raise BadInput(f"dataset.n_train={dataset.n_train}, but there are {found}: set dataset.n_train={found}")
    if not config.optimizer.batch_size <= len(sets[0]):
        raise BadInput(f"optimizer.batch_size={config.optimizer.batch_size}: expected 1 to {len(sets[0])}")
    return tuple(sets)


def shape_of(images: Images, config: DecoupledConfig) -> tuple[int, int, int]:
    """(C, H, W) of a sample."""
    if isinstance(images, ImageSet):
        return tuple(images.pixels_NCHW.shape[1:])
    return (3, config.dataset.size, config.dataset.size)


def technique_of(config: DecoupledConfig) -> Technique:
    settings = asdict(config.technique)
    del settings["name"]
    return Technique(**settings)


def build(config: DecoupledConfig, n_classes: int, shape: tuple[int, int, int]) -> DecoupledNetwork:
    """The network in parts, with the predictors that its technique needs, for images of `shape` (C, H, W)."""
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
    """(C, H, W) of the hidden layer above each part but the last, from a forward pass of nothing."""
    shapes = []
    h_1CHW = torch.zeros(1, *shape)
    with torch.no_grad():
        for part in parts.eval()[:-1]:
            h_1CHW = part(h_1CHW)
            shapes.append(tuple(h_1CHW.shape[1:]))
    parts.train()
    return shapes


def make_optimizers(network: DecoupledNetwork, config: SGDConfig) -> list[torch.optim.Optimizer]:
    """SGD for the network, and Adam for the predictors if there are any. Weight decay is for kernels alone (ours)."""
    parameters = network.main_parameters()
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizers = [torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)]
    if predictors := list(network.predictors.parameters()):
        optimizers.append(torch.optim.Adam(predictors, lr=config.predictor_learning_rate, fused=True))
    return optimizers


def learning_rate(config: SGDConfig, step: int) -> float:
    """The rate of update number `step`, from 0."""
    passed = sum(step >= round(milestone * config.steps) for milestone in config.milestones)
    return config.learning_rate * 0.1**passed


def learner(network: DecoupledNetwork, run: Run) -> Callable[[Tensor, Tensor], Sums]:
    """A function of a batch that fills every `.grad`, averaged over processes, and sums up what the step saw."""
    network.train()
    if run.ranks.count == 1:

        def learn(x_BCHW: Tensor, labels_B: Tensor) -> Sums:
            with run.autocast():
                return sums_of(network.step(x_BCHW, labels_B), labels_B)

        return learn

    if run.config.optimizer.batch_size % run.ranks.count:
        raise BadInput(
            f"optimizer.batch_size={run.config.optimizer.batch_size} does not divide by {run.ranks.count} processes"
        )
    parallel = DistributedDataParallel(ParallelStep(network))

    def learn_together(x_BCHW: Tensor, labels_B: Tensor) -> Sums:
        with run.autocast():
            carrier = parallel(x_BCHW, labels_B)
        carrier.backward()
        return run.ranks.sum(sums_of(parallel.module.last, labels_B))

    return learn_together


def train_batches(images: Images, config: DecoupledConfig, first: int, run: Run) -> Iterator[Batch]:
    """Endless augmented batches from update `first` on, of which each process gets its share.

    Order and augmentation of batch k of epoch e are drawn from (seed, e, k), so it does not matter where one begins.
    """
    dataset, batch_size = config.dataset, config.optimizer.batch_size
    per_epoch = len(images) // batch_size
    for epoch in range(first // per_epoch, 2**62):
        start = first % per_epoch if epoch == first // per_epoch else 0
        if isinstance(images, ImageFolder):
            pixels = images.train(
                config.seed,
                epoch,
                batch_size,
                dataset.size,
                dataset.workers,
                first=start,
                rank=run.ranks.rank,
                ranks=run.ranks.count,
                min_area=dataset.min_area,
                flip=dataset.flip,
                pin_memory=run.device.type == "cuda",
            )
        else:
            order_N = torch.randperm(len(images), generator=generator(config.seed, "shuffle", epoch)).to(run.device)
            pixels = ((images.pixels_NCHW[chosen], images.labels_N[chosen]) for chosen in order_N.split(batch_size))
            pixels = islice(pixels, start, per_epoch)
        for k, (pixels_BCHW, labels_B) in enumerate(readable(pixels), start):
            pixels_BCHW, labels_B = (t.to(run.device, non_blocking=True) for t in (pixels_BCHW, labels_B))
            if isinstance(images, ImageFolder):
                if dataset.colour:
                    draw = generator(config.seed, "colour", epoch, k)
                    pixels_BCHW = photometric(pixels_BCHW, draw, dataset.colour, run.ranks.rank, run.ranks.count)
            else:
                draw = generator(config.seed, "augment", epoch, k)
                pixels_BCHW = shift_and_flip(pixels_BCHW, draw, dataset.padding, dataset.flip)
                pixels_BCHW, labels_B = run.ranks.share(pixels_BCHW), run.ranks.share(labels_B)
            yield images.normalise(pixels_BCHW, run.dtype), labels_B


def evaluation_batches(images: Images, config: DecoupledConfig, run: Run) -> Iterator[Batch]:
    """All of a split once, of which each process gets its share."""
    dataset = config.dataset
    if isinstance(images, ImageFolder):
        batches = images.evaluate(
            EVALUATED, dataset.size, dataset.resize, dataset.workers, rank=run.ranks.rank, ranks=run.ranks.count
        )
    else:
        batches = zip(images.pixels_NCHW.split(EVALUATED), images.labels_N.split(EVALUATED), strict=True)
        batches = ((run.ranks.share(pixels), run.ranks.share(labels)) for pixels, labels in batches)
    for pixels_BCHW, labels_B in readable(batches):
        yield images.normalise(pixels_BCHW.to(run.device), run.dtype), labels_B.to(run.device)


def readable(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches; an image that cannot be read ends the run in one line."""
    try:
        yield from batches
    except ImageError as error:
        raise BadInput(str(error)) from None


@torch.no_grad()
def evaluate(network: DecoupledNetwork, images: Images, config: DecoupledConfig, run: Run) -> dict[str, float]:
    """Every metric, in evaluation mode; gradients are compared on batches spread over the split."""
    network.eval()
    run.ranks.level(network.buffers())  # statistics of BatchNorm are each process's own
    n_batches = -(-len(images) // EVALUATED)
    every = max(1, n_batches // -(-config.gradient_samples // EVALUATED))
    total: Sums = {}
    for number, (x_BCHW, labels_B) in enumerate(evaluation_batches(images, config, run)):
        with run.autocast():
            if number % every == 0:
                comparison = network.compare(x_BCHW, labels_B)
                sums = sums_of(comparison, labels_B) | comparison_sums(comparison)
            else:
                logits_BK = network(x_BCHW).to(run.dtype)
                loss_B = functional.cross_entropy(logits_BK, labels_B, reduction="none")
                sums = sums_of(Step(loss_B, logits_BK, [], []), labels_B)
        total = {name: total.get(name, 0) + sums.get(name, 0) for name in total | sums}
    network.train()
    return averages(run.ranks.sum(total))


def sums_of(seen: Step | Comparison, labels_B: Tensor) -> Sums:
    """Over the samples of a batch. What a label predictor says of a batch counts `compared` samples."""
    top_B5 = seen.logits_BK.topk(min(5, seen.logits_BK.shape[1])).indices
    hits_B5 = top_B5 == labels_B[:, None]
    sums = {
        "samples": torch.ones_like(seen.loss_B).sum(),
        "loss": seen.loss_B.sum(),
        "accuracy_top1": hits_B5[:, 0].sum(),
        "accuracy_top5": hits_B5.sum(),
    }
    for k, predicted_B in enumerate(seen.predicted_losses_B, 1):
        sums["compared"] = sums["samples"]
        sums[f"predicted_loss/{k}"] = predicted_B.sum()
        sums[f"predicted_loss_error/{k}"] = (predicted_B - seen.loss_B).abs().sum()
    if isinstance(seen, Step):
        for k, loss in enumerate(seen.predictor_losses, 1):
            sums[f"predictor_loss/{k}"] = loss * len(labels_B)
    return {name: value.double() for name, value in sums.items()}


def comparison_sums(comparison: Comparison) -> Sums:
    """Products of synthetic and true gradients at each split."""
    sums = {}
    for k, (synthetic, true) in enumerate(zip(comparison.synthetic_B, comparison.true_B, strict=True), 1):
        synthetic, true = synthetic.double(), true.double()
        sums[f"synthetic_true/{k}"] = (synthetic * true).sum()
        sums[f"synthetic_squared/{k}"] = synthetic.square().sum()
        sums[f"true_squared/{k}"] = true.square().sum()
        sums[f"difference_squared/{k}"] = (synthetic - true).square().sum()
    return sums


def averages(sums: Sums) -> dict[str, float]:
    """Metrics from sums over samples.

    Of the gradients of all samples compared, as one vector: the cosine between synthetic and true, 0 where there is
    none, and |synthetic - true| / |true|.
    """
    total = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
    samples, compared = total.pop("samples"), total.pop("compared", 0)
    metrics = {}
    for name, value in total.items():
        metric, _, k = name.partition("/")
        if metric == "true_squared":
            product, own = total[f"synthetic_true/{k}"], total[f"synthetic_squared/{k}"]
            metrics[f"gradient_cosine/{k}"] = product / math.sqrt(own * value) if own * value > 0 else 0.0
            if value > 0:
                metrics[f"gradient_relative_error/{k}"] = math.sqrt(total[f"difference_squared/{k}"] / value)
        elif metric.startswith("predicted_loss"):
            metrics[name] = value / compared
        elif not metric.endswith(("_true", "_squared")):
            metrics[name] = value / samples
    return metrics


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
