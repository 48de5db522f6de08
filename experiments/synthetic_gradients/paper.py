"""The paper's numbers of Section 4.3."""

from __future__ import annotations

import re

import numpy as np

# Table 1, per cent: {(task, metric): {technique: (mean, standard deviation)}}; NaN if it gives none.
TABLE_1: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    ("cifar10", "accuracy_top1"): {
        "backprop": (94.3, np.nan),
        "noprop": (54.5, 1.15),
        "direct": (79.2, 0.01),
        "vfbn": (88.5, 2.70),
        "critic": (93.2, 0.02),
        "sobolev": (93.5, 0.01),
    },
    ("imagenet_resnet50_1", "accuracy_top1"): {
        "backprop": (75.0, np.nan),
        "noprop": (54.0, 0.29),
        "vfbn": (57.9, 2.03),
        "critic": (71.7, 0.23),
        "sobolev": (72.0, 0.05),
    },
    ("imagenet_resnet50_1", "accuracy_top5"): {
        "backprop": (92.3, np.nan),
        "noprop": (77.3, 0.06),
        "vfbn": (81.5, 1.20),
        "critic": (90.5, 0.15),
        "sobolev": (90.8, 0.01),
    },
    ("imagenet_resnet50_3", "accuracy_top1"): {
        "backprop": (75.0, np.nan),
        "noprop": (18.7, 0.18),
        "vfbn": (28.3, 5.24),
        "critic": (65.7, 0.56),
        "sobolev": (66.5, 0.22),
    },
    ("imagenet_resnet50_3", "accuracy_top5"): {
        "backprop": (92.3, np.nan),
        "noprop": (38.0, 0.34),
        "vfbn": (52.9, 6.62),
        "critic": (86.9, 0.33),
        "sobolev": (87.4, 0.11),
    },
}


def row_of_table_1(task: str) -> str:
    """The task of the paper's table with which one of ours is compared."""
    return re.sub(r"_\d+_epochs$", "", task.replace("imagenette", "imagenet"))
