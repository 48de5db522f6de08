"""The shipped tasks and scales of Section 4.3: the sweeps that make their rows, and the differences from the paper."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.evidence.markdown import format_spread
from experiments.synthetic_gradients.names import TASKS, Line
from experiments.synthetic_gradients.paper import TABLE_1, row_of_table_1

RANKING = ("sobolev", "critic", "vfbn", "direct", "noprop")  # in Table 1, from the best


@dataclass(frozen=True)
class Setting:
    """A task at a scale.

    Attributes:
        line: selects its rows.
        sweep: makes them: `python run.py -m sweep=<sweep>`.
        differs: what differs from the paper, in words.
    """

    line: Line
    sweep: str
    differs: str

    @property
    def name(self) -> str:
        return f"{self.line.title}, {self.line.scale}"

    @property
    def paper(self) -> str:
        """The paper's numbers in the order of `ranking`, in words."""
        task = row_of_table_1(self.line.task)
        if (task, "accuracy_top1") not in TABLE_1:
            return "no number of this task"
        numbers = [format_spread(*TABLE_1[task, "accuracy_top1"][technique]) for technique in self.ranking]
        where = "" if self.line.scale == "paper" else f", of {TASKS[task]} at full scale"
        return f"{', '.join(numbers)} (Table 1{where})"

    @property
    def ranking(self) -> tuple[str, ...]:
        """The techniques of the paper's row of Table 1, from the best; on ImageNet there is no direct SG."""
        return tuple(t for t in RANKING if t != "direct" or not self.line.of_imagenet)


OPEN = "where the splits lie, the number of updates, the augmentation and the initialisation are ours"
OF_IMAGENETTE = (
    "synthetic_gradients/imagenette_reduced technique=backprop,noprop,vfbn,critic,sobolev seed=0,1,2",
    "10 of ImageNet's classes at 64 pixels, crops of a quarter of an image or more, 500 updates of 32 images at rate "
    "0.02, residual branches that begin at zero; alone, the sweep makes one seed of "
    "backpropagation, Critic and Sobolev",
)
DIGITS = Setting(
    Line("synthetic_gradients", "digits", "reduced"),
    "synthetic_gradients/digits",
    "8 x 8 digits, 4 convolutions in 3 modules, predictors' learning rates chosen by technique; not in the paper",
)
MNIST = Setting(
    Line("synthetic_gradients", "mnist", "reduced"),
    "synthetic_gradients/mnist",
    "4 convolutions in 3 modules, predictors' learning rate 1e-3; the paper only mentions toy runs on MNIST",
)
CIFAR = Setting(Line("synthetic_gradients", "cifar10", "paper"), "synthetic_gradients/cifar10", OPEN)
CIFAR_REDUCED = Setting(
    Line("synthetic_gradients", "cifar10", "reduced"),
    "synthetic_gradients/cifar10_reduced",
    "the paper's 11 layers and predictors at a quarter of the channels, fewer and smaller batches; bfloat16",
)
CIFAR_30 = Setting(
    Line("synthetic_gradients", "cifar10_30_epochs", "reduced"),
    "synthetic_gradients/cifar10_30_epochs",
    "4,688 updates instead of our 100,000 at paper scale; network, batches and rates are the paper's; bfloat16",
)
CIFAR_60 = Setting(
    Line("synthetic_gradients", "cifar10_60_epochs", "reduced"),
    "synthetic_gradients/cifar10_60_epochs",
    "9,375 updates instead of our 100,000 at paper scale; network, batches and rates are the paper's; bfloat16",
)
IMAGENET_1, IMAGENET_3 = (
    Setting(
        Line("synthetic_gradients_imagenet", f"imagenet_resnet50_{modules}", "paper"),
        "synthetic_gradients/imagenet",
        f"{OPEN}; bfloat16",
    )
    for modules in (1, 3)
)
IMAGENETTE_1, IMAGENETTE_3 = (
    Setting(
        Line("synthetic_gradients_imagenet", f"imagenette_resnet50_{modules}", "reduced"),
        *OF_IMAGENETTE,
    )
    for modules in (1, 3)
)
SETTINGS = (DIGITS, MNIST, CIFAR_REDUCED, CIFAR_30, CIFAR_60, CIFAR, IMAGENETTE_1, IMAGENETTE_3, IMAGENET_1, IMAGENET_3)
