"""The settings of synthetic gradients (Section 4.3): which types Hydra holds `configs/` against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from experiments.runner.settings import RunConfig


@dataclass
class ImageDatasetConfig:
    """Images that are held in memory: digits, mnist or cifar10."""

    name: str = MISSING
    n_train: int = MISSING  # images of the publisher's train part; a label shows it
    folder: str = MISSING  # where data sets lie, each in a folder of its own
    download: bool = MISSING  # from the publisher, if it is not there
    hold_out: int = MISSING  # training images that make the validation split instead
    padding: int = MISSING  # pixels by which images are moved at most
    flip: bool = MISSING  # mirror half of them


@dataclass
class ImageFolderConfig:
    """Images that are read as they are needed: <folder>/<directory>/{train,val}/<class>/*.JPEG."""

    name: str = MISSING
    n_train: int = MISSING  # images in train/; a label shows it
    folder: str = MISSING
    directory: str = MISSING
    download: bool = MISSING
    hold_out: int = MISSING
    size: int = MISSING  # side of the crops
    resize: int = MISSING  # shorter side of an image whose centre is evaluated
    min_area: float = MISSING  # of a crop, as a part of the image's
    flip: bool = MISSING
    colour: float = MISSING  # strength of random brightness, contrast and colour, 0 for none
    workers: int = MISSING  # processes that decode


@dataclass
class PredictorConfig:
    """3 x 3 convolutions with ReLU, then a linear layer."""

    channels: list[int] = MISSING
    strides: list[int] = MISSING
    head: str = MISSING  # what the linear layer sees: flatten or average


@dataclass
class DecoupledModelConfig:
    """A network, where it is split, and what stands at the splits."""

    name: str = MISSING
    network: str = MISSING  # convnet or resnet50
    channels: list[int] = MISSING  # of a convnet
    strides: list[int] = MISSING
    head: str = MISSING  # of a convnet: average or flatten
    splits: list[int] = MISSING  # after blocks of these numbers, from 1
    label_predictor: PredictorConfig = field(default_factory=PredictorConfig)
    direct_channels: list[int] = MISSING  # of direct SG, but for the last, which are the hidden layer's


@dataclass
class TechniqueConfig:
    """What crosses a split and what its predictor learns from: see sobolev/synthetic_gradients/technique.py."""

    name: str = MISSING
    crosses: str = MISSING
    value: float = MISSING
    gradient: float = MISSING
    label: float = MISSING
    distance: str = MISSING
    reduction: str = MISSING
    targets: str = MISSING


@dataclass
class SGDConfig:
    """SGD for the network, Adam at a constant rate for the predictors."""

    learning_rate: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING  # of kernels; not of BatchNorm and biases
    milestones: list[float] = MISSING  # where the learning rate falls to a tenth, as parts of the steps
    steps: int = MISSING
    batch_size: int = MISSING  # of all processes together
    predictor_learning_rate: float = MISSING


@dataclass
class DecoupledConfig(RunConfig):
    """Section 4.3: one network, trained by one technique."""

    choices: ClassVar[dict[str, str]] = {"dataset": "{dataset.name}", "technique": "{technique.name}"}
    budget: ClassVar[tuple[str, ...]] = (
        *("optimizer.steps", "optimizer.batch_size", "dataset.size", "evaluations", "gradient_samples"),
    )
    several_processes: ClassVar[bool] = True
    autocasts: ClassVar[bool] = True
    model: DecoupledModelConfig = field(default_factory=DecoupledModelConfig)
    technique: TechniqueConfig = field(default_factory=TechniqueConfig)
    optimizer: SGDConfig = field(default_factory=SGDConfig)
    evaluate_on: str = MISSING  # test, or validation with dataset.hold_out images: tuning
    evaluations: int = MISSING  # how often over training, evenly
    gradient_samples: int = MISSING  # images, about, on which synthetic and true gradients are compared

    @property
    def in_paper(self) -> bool:
        """Whether Table 1 has it: CIFAR-10, and ImageNet with all techniques but one."""
        return self.dataset.name == "cifar10" or (self.dataset.name == "imagenet" and self.technique.name != "direct")


@dataclass
class SyntheticGradientsConfig(DecoupledConfig):
    """On images that fit into memory."""

    dataset: ImageDatasetConfig = field(default_factory=ImageDatasetConfig)


@dataclass
class SyntheticGradientsFolderConfig(DecoupledConfig):
    """On images that are read as they are needed."""

    choices: ClassVar[dict[str, str]] = DecoupledConfig.choices | {"model": "{model.name}"}
    dataset: ImageFolderConfig = field(default_factory=ImageFolderConfig)


TYPES = {
    "synthetic_gradients_types": SyntheticGradientsConfig,
    "synthetic_gradients_folder_types": SyntheticGradientsFolderConfig,
}
