"""The settings of synthetic gradients (Section 4.3): the types against which Hydra checks `configs/`.

Settings that are wrong on any machine and with any files are refused when they are built, before PyTorch is loaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from omegaconf import MISSING

from experiments.runner.errors import BadInput, check_seed, nearest
from experiments.runner.settings import RunConfig
from sobolev.synthetic_gradients import TECHNIQUES, Technique

SIDES = {"digits": 8, "mnist": 28, "cifar10": 32}  # in pixels, of the images of each data set held in memory
RESNET_STRIDES = (2, 2, 1, 2, 2, 2)  # of the stem, its pooling and the four stages
NETWORKS = ("convnet", "resnet50", "resnet50_zero_last")
EVALUATED_ON = ("test", "validation")


@dataclass
class ImageDatasetConfig:
    """Images held in memory: digits, mnist or cifar10."""

    name: str = MISSING
    n_train: int = MISSING  # images of the publisher's train part; shown in a label
    folder: str = MISSING  # where data sets are, each in its own folder
    download: bool = MISSING  # from the publisher, if it is missing
    hold_out: int = MISSING  # training images that form the validation split instead
    padding: int = MISSING  # largest shift of an image, in pixels
    flip: bool = MISSING  # mirror half of them


@dataclass
class ImageFolderConfig:
    """Images read from disk as they are needed: <folder>/<directory>/{train,val}/<class>/*.JPEG."""

    name: str = MISSING
    n_train: int = MISSING  # images in train/; shown in a label
    folder: str = MISSING
    directory: str = MISSING
    download: bool = MISSING
    hold_out: int = MISSING
    size: int = MISSING  # side of the crops
    resize: int = MISSING  # shorter side of an image whose centre is evaluated
    min_area: float = MISSING  # of a crop, as a share of the image's area
    flip: bool = MISSING
    colour: float = MISSING  # strength of random brightness, contrast and colour, 0 for none
    workers: int = MISSING  # decoding processes


@dataclass
class PredictorConfig:
    """3 x 3 convolutions with ReLU, then a linear layer."""

    channels: list[int] = MISSING
    strides: list[int] = MISSING
    head: str = MISSING  # input of the linear layer: flatten or average


@dataclass
class DecoupledModelConfig:
    """A network, its splits, and the predictors there."""

    name: str = MISSING
    network: str = MISSING  # convnet or resnet50
    channels: list[int] = MISSING  # of a convnet
    strides: list[int] = MISSING
    head: str = MISSING  # of a convnet: average or flatten
    splits: list[int] = MISSING  # after the blocks with these numbers, from 1
    label_predictor: PredictorConfig = field(default_factory=PredictorConfig)
    direct_channels: list[int] = MISSING  # of direct SG, except the last, which are the hidden layer's


def _fields_of_a_technique() -> Iterator[tuple[str, type, Any]]:
    """A name, then the fields of the library's `Technique` with their defaults."""
    yield "name", str, MISSING
    kinds = get_type_hints(Technique)
    for entry in fields(Technique):
        yield entry.name, kinds[entry.name], MISSING if entry.default is dataclasses.MISSING else entry.default


# `Technique` itself cannot be the type: it is frozen, and OmegaConf cannot merge into a frozen dataclass.
TechniqueConfig = make_dataclass(
    "TechniqueConfig",
    _fields_of_a_technique(),
    namespace={"__module__": __name__},  # so that pickle, which sends configs to a sweep's workers, finds it
)


@dataclass
class SGDConfig:
    """SGD for the network, Adam at a constant rate for the predictors."""

    learning_rate: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING  # of kernels; not of BatchNorm and biases
    milestones: list[float] = MISSING  # where the learning rate is divided by 10, as shares of the steps
    steps: int = MISSING
    batch_size: int = MISSING  # of all processes together
    predictor_learning_rate: float = MISSING


@dataclass
class DecoupledConfig(RunConfig):
    """Section 4.3: one network, trained by one technique."""

    choices: ClassVar[dict[str, str]] = {"dataset": "{dataset.name}", "technique": "{technique.name}"}
    budget: ClassVar[tuple[str, ...]] = ("optimizer.steps", "dataset.size", "evaluations", "gradient_samples")
    several_processes: ClassVar[bool] = True
    autocasts: ClassVar[bool] = True
    fixed_shapes: ClassVar[bool] = True
    model: DecoupledModelConfig = field(default_factory=DecoupledModelConfig)
    technique: TechniqueConfig = field(default_factory=TechniqueConfig)
    optimizer: SGDConfig = field(default_factory=SGDConfig)
    evaluate_on: str = MISSING  # test; validation, with dataset.hold_out images, for tuning
    evaluations: int = MISSING  # number over training, evenly spaced
    gradient_samples: int = MISSING  # approximate number of images on which gradients are compared

    def __post_init__(self) -> None:
        """Refuse what types cannot. Inner settings are checked here, where their full names are known."""
        super().__post_init__()
        check_seed(self)
        in_memory = isinstance(self.dataset, ImageDatasetConfig)
        choices = {"dataset.name": SIDES} if in_memory else {}
        for key, known in (choices | {"model.network": NETWORKS, "evaluate_on": EVALUATED_ON}).items():
            if (value := attrgetter(key)(self)) not in known:
                raise BadInput(f"{key}={value} is unknown{nearest(value, [*known])}")
        for right, holds, keys in _ranges(self):
            for key in keys:
                value = attrgetter(key)(self)
                if value == [] or not all(map(holds, value if isinstance(value, list) else [value])):
                    raise BadInput(f"{key} must be {right}, not {value}")
        milestones = self.optimizer.milestones
        if not all(0 < milestone < 1 for milestone in milestones):
            raise BadInput(f"optimizer.milestones={milestones}: expected parts of the steps, between 0 and 1")
        if self.evaluate_on == "validation" and self.dataset.hold_out < 1:
            raise BadInput("evaluate_on=validation needs images that are not trained on: set dataset.hold_out")
        if self.optimizer.batch_size == 1 and last_side(self) == 1:
            raise BadInput(
                "optimizer.batch_size=1 is too small: this network ends in maps of 1 x 1, and BatchNorm needs two "
                "values or more of each channel"
            )
        try:
            technique = technique_of(self)
        except ValueError as error:
            raise BadInput(f"technique={self.technique.name}: {error}") from None
        if technique.crosses != "gradient" and not self.model.splits:
            raise BadInput(
                f"model.splits=[]: without a split technique={self.technique.name} would be backpropagation under "
                "another name; use technique=backprop"
            )

    @property
    def in_paper(self) -> bool:
        """Whether Table 1 has it: CIFAR-10, or ImageNet with all techniques except one."""
        return self.dataset.name == "cifar10" or (self.dataset.name == "imagenet" and self.technique.name != "direct")


@dataclass
class SyntheticGradientsConfig(DecoupledConfig):
    """Synthetic gradients on images held in memory."""

    dataset: ImageDatasetConfig = field(default_factory=ImageDatasetConfig)


@dataclass
class SyntheticGradientsFolderConfig(DecoupledConfig):
    """Synthetic gradients on images read from disk as they are needed."""

    choices: ClassVar[dict[str, str]] = DecoupledConfig.choices | {"model": "{model.name}"}
    dataset: ImageFolderConfig = field(default_factory=ImageFolderConfig)

    def data_digest(self) -> str:
        """A digest of the images' names and sizes, because two sets of a user may have equally many images.

        ImageNet is identified by its name, and its million files would take too long.
        """
        root = Path(self.dataset.folder, self.dataset.directory)
        if self.dataset.name == "imagenet" or not root.is_dir():
            return ""
        there = (path for split in ("train", "val") for path in (root / split).glob("*/*"))
        found = sorted((str(path.relative_to(root)), size_of(path)) for path in there if path.name[:1] != ".")
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def size_of(path: Path) -> int:
    """The size of a file in bytes; 0 if it cannot be read."""
    with suppress(OSError):
        return path.stat().st_size
    return 0


def technique_of(config: DecoupledConfig) -> Technique:
    """The technique of a run's config.

    Raises:
        ValueError: as from `Technique`.
    """
    settings = asdict(config.technique)
    del settings["name"]
    return Technique(**settings)


def last_side(config: DecoupledConfig) -> int:
    """The side of the network's last feature maps, in pixels; each stride s reduces a side to ceil(side / s)."""
    dataset, model = config.dataset, config.model
    side = SIDES[dataset.name] if isinstance(dataset, ImageDatasetConfig) else dataset.size
    strides = model.strides if model.network == "convnet" else RESNET_STRIDES
    for stride in strides:
        side = -(-side // max(1, stride))
    return side


def _ranges(config: DecoupledConfig) -> Iterator[tuple[str, Callable[[Any], bool], list[str]]]:
    """Allowed ranges: (in words, a test, the settings); for a list, the range of each entry."""
    dataset = config.dataset
    positive = [
        *("dataset.n_train", "evaluations", "gradient_samples", "optimizer.steps", "optimizer.batch_size"),
        *("optimizer.learning_rate", "optimizer.predictor_learning_rate", "model.direct_channels"),
        *("model.label_predictor.channels", "model.label_predictor.strides"),
    ]
    yield "positive and finite", lambda value: 0 < value < math.inf, positive
    yield "0 or more, and finite", lambda value: 0 <= value < math.inf, ["optimizer.weight_decay"]
    yield "0 or more", lambda value: value >= 0, ["dataset.hold_out"]
    yield "0 or more and below 1", lambda value: 0 <= value < 1, ["optimizer.momentum"]
    if isinstance(dataset, ImageDatasetConfig):
        side = SIDES[dataset.name]
        right = f"from 0 to {side - 1} for images of {side} x {side}"
        yield right, lambda value: 0 <= value < side, ["dataset.padding"]
        return
    yield "positive", lambda value: value > 0, ["dataset.resize"]
    right = f"from 1 to dataset.resize={dataset.resize}"
    yield right, lambda value: 1 <= value <= dataset.resize, ["dataset.size"]
    yield "above 0 and at most 1", lambda value: 0 < value <= 1, ["dataset.min_area"]
    yield "from 0 to 1", lambda value: 0 <= value <= 1, ["dataset.colour"]
    yield "0 or more", lambda value: value >= 0, ["dataset.workers"]


TYPES = {
    "synthetic_gradients_types": SyntheticGradientsConfig,
    "synthetic_gradients_folder_types": SyntheticGradientsFolderConfig,
}

# The library's techniques as choices on the command line: technique=sobolev. Your own technique is a file
# technique/<name>.yaml in a folder given as --config-dir.
CHOICES = {"technique": {name: {"name": name, **asdict(technique)} for name, technique in TECHNIQUES.items()}}
