"""Section 4.3 of the paper, synthetic gradients: its claims and our rules.

The rules were written down before techniques were compared on any test images. There are 3 to 10 seeds, too few for a
bootstrap: intervals of means and of differences of means are Student's, those of ratios of standard deviations come
from the F distribution. All are 95% intervals, and suppose that seeds scatter normally. A comparison is open where its
interval contains the threshold, where there are fewer than 3 seeds, and where seeds do not differ at all. Accuracies
are top-1, per cent, on the test set at the end of training. Every task and scale is judged by itself; scales are never
compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from experiments.evidence.markdown import format_interval, format_number, format_spread, markdown
from experiments.evidence.rows import BySeed, Estimate, final, finals, groups, levels, mean_estimate, select
from experiments.evidence.verdicts import Claim, Evidence, Finding, Part, Statement, every, find, negation
from experiments.synthetic_gradients.tables import (
    IMAGES,
    TABLE_1,
    TECHNIQUES,
    accuracies,
    row_of_table_1,
    table_1,
    where,
)

FEWEST = 3  # seeds
RANKING = ("sobolev", "critic", "vfbn", "direct", "noprop")  # S1, from the best
WITH_LOSS, WITHOUT_LOSS = ("sobolev", "critic"), ("vfbn", "direct")
BASELINE, TOLERANCE = 94.0, 0.5  # of backpropagation on CIFAR-10, per cent


class Setting(NamedTuple):
    """A task at a scale, what makes its rows (of `python run.py -m`), and what differs from the paper."""

    task: str
    scale: str
    sweep: str
    differs: str

    @property
    def name(self) -> str:
        return f"{IMAGES[self.task]}, {self.scale}"

    @property
    def paper(self) -> str:
        """The paper's numbers in the order of `ranking`, in words."""
        task = row_of_table_1(self.task)
        if (task, "accuracy_top1") not in TABLE_1:
            return "no number of this task"
        numbers = [format_spread(*TABLE_1[task, "accuracy_top1"][technique]) for technique in self.ranking]
        where = "" if self.scale == "paper" else f", of {IMAGES[task]} at full scale"
        return f"{', '.join(numbers)} (Table 1{where})"

    @property
    def ranking(self) -> tuple[str, ...]:
        """The techniques of the paper's row of Table 1, from the best; on ImageNet there is no direct SG."""
        return tuple(t for t in RANKING if t != "direct" or not self.task.startswith("imagenet"))


OPEN = "where the splits lie, the number of updates, the augmentation and the initialisation are ours"
OF_IMAGENETTE = (
    *("reduced", "synthetic_gradients/imagenette_reduced technique=backprop,noprop,vfbn,critic,sobolev seed=0,1,2"),
    "10 of ImageNet's classes at 64 pixels, crops of a quarter of an image or more, 500 updates of 32 images at rate "
    "0.02, residual branches that begin at zero; alone, the sweep makes one seed of "
    "backpropagation, Critic and Sobolev",
)
DIGITS = Setting(
    *("digits", "reduced", "synthetic_gradients"),
    "8 x 8 digits, a network of 4 convolutions with 3 modules, predictors' rates chosen by technique: not in the paper",
)
MNIST = Setting(
    *("mnist", "reduced", "synthetic_gradients/mnist"),
    "a network of 4 convolutions with 3 modules, predictors at 1e-3: the paper mentions toy runs on MNIST, no more",
)
CIFAR = Setting("cifar10", "paper", "synthetic_gradients/cifar10", OPEN)
CIFAR_REDUCED = Setting(
    *("cifar10", "reduced", "synthetic_gradients/cifar10_reduced"),
    "the paper's 11 layers and predictors at a quarter of the channels, fewer and smaller batches; bfloat16",
)
CIFAR_60 = Setting(
    *("cifar10_60_epochs", "reduced", "synthetic_gradients/cifar10_60_epochs"),
    "9,375 updates for the 100,000 of ours at paper scale; the network, batches and rates are the paper's; bfloat16",
)
IMAGENET_1 = Setting("imagenet_resnet50_1", "paper", "synthetic_gradients/imagenet", f"{OPEN}; bfloat16")
IMAGENET_3 = Setting("imagenet_resnet50_3", "paper", "synthetic_gradients/imagenet", f"{OPEN}; bfloat16")
IMAGENETTE_1 = Setting("imagenette_resnet50_1", *OF_IMAGENETTE)
IMAGENETTE_3 = Setting("imagenette_resnet50_3", *OF_IMAGENETTE)
SETTINGS = (DIGITS, MNIST, CIFAR_REDUCED, CIFAR_60, CIFAR, IMAGENETTE_1, IMAGENETTE_3, IMAGENET_1, IMAGENET_3)
DEEPER = (  # from fewer modules or a shallower network to more or a deeper one
    (CIFAR, IMAGENET_3),
    (IMAGENET_1, IMAGENET_3),
    (IMAGENETTE_1, IMAGENETTE_3),
    (DIGITS, CIFAR_REDUCED),
)

# --- Measures ---


def accuracy(rows: pd.DataFrame, setting: Setting, technique: str) -> BySeed:
    """Top-1 test accuracy at the end of training, per cent."""
    cell = where(setting.task, setting.scale) | {"method": technique, "split": "test", "metric": "accuracy_top1"}
    return {seed: 100 * value for seed, value in final(rows, **cell).items()}


def mean_error(rows: pd.DataFrame, setting: Setting, technique: str) -> BySeed:
    """Top-1 test error in per cent, averaged over training: the area under its curve by the trapezoidal rule."""
    cell = where(setting.task, setting.scale) | {"method": technique, "split": "test", "metric": "accuracy_top1"}
    rows = select(rows, **cell)
    errors = {}
    for (seed,), of_seed in groups(rows, "seed"):
        step, value = (of_seed.sort_values("step")[column].to_numpy() for column in ("step", "value"))
        if len(step) > 1:
            errors[seed] = float(np.trapezoid(100 * (1 - value), step) / np.ptp(step))
    return errors


def difference(a: BySeed, b: BySeed) -> Estimate:
    """The mean of a - b, paired by seed."""
    return mean_estimate(a[seed] - b[seed] for seed in sorted(a.keys() & b.keys()))


def unpaired_difference(a: BySeed, b: BySeed) -> Estimate:
    """mean(a) - mean(b) of independent samples with Welch's interval."""
    x, y = (np.array(list(values.values())) for values in (a, b))
    n = min(len(x), len(y))
    middle = float(x.mean() - y.mean()) if n else np.nan
    if n < 2 or x.var() + y.var() == 0:
        return Estimate(middle, np.nan, np.nan, n)
    interval = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    return Estimate(middle, float(interval.low), float(interval.high), n)


def ratio_of_deviations(a: BySeed, b: BySeed) -> Estimate:
    """std(a) / std(b). Where both scatter normally, its square over that of the true ratio has an F distribution."""
    n = min(len(a), len(b))
    x, y = (np.std(list(values.values()), ddof=1) if n > 1 else 0.0 for values in (a, b))
    if min(x, y) == 0:  # of few test images, a few seeds may have the same number right
        return Estimate(np.nan, np.nan, np.nan, n)
    reach = stats.f.ppf([0.975, 0.025], len(a) - 1, len(b) - 1)
    return Estimate(float(x / y), *(float(x / y / np.sqrt(f)) for f in reach), n)


def gap(rows: pd.DataFrame, setting: Setting, without_loss: Sequence[str]) -> BySeed:
    """For each seed, mean accuracy of the techniques that match the loss, less that of those that do not."""
    groups = [[accuracy(rows, setting, t) for t in group] for group in (WITH_LOSS, without_loss)]
    seeds = set.intersection(*(set(of_technique) for group in groups for of_technique in group))
    means = [{s: np.mean([of_technique[s] for of_technique in group]) for s in seeds} for group in groups]
    return {seed: float(means[0][seed] - means[1][seed]) for seed in sorted(seeds)}


def exceeds(estimate: Estimate, threshold: float = 0.0) -> Statement:
    """True if the whole interval lies above the threshold, false if below; else open, as where there is none."""
    if estimate.n < FEWEST or not estimate.low < estimate.high or estimate.low <= threshold <= estimate.high:
        return None
    return estimate.low > threshold


# --- Words ---


def part(evidence: Evidence, *settings: Setting) -> Evidence:
    """The evidence of some tasks at their scales."""
    rows = [select(evidence.rows, **where(setting.task, setting.scale)) for setting in settings]
    return Evidence(pd.concat(rows, ignore_index=True), {})


def missing(rows: pd.DataFrame, setting: Setting, techniques: Sequence[str]) -> str:
    """Which techniques were not run, in words; empty if all were."""
    lacking = [TECHNIQUES[t] for t in techniques if not accuracy(rows, setting, t)]
    return f"{', '.join(lacking)} on {setting.name}" if lacking else ""


def points(estimate: Estimate) -> str:
    """A difference of accuracies, in percentage points."""
    interval = "" if np.isnan(estimate.low) else f" [{estimate.low:+.2f}, {estimate.high:+.2f}]"
    return f"{estimate.value:+.2f}{interval}"


def times(estimate: Estimate) -> str:
    return "-" if np.isnan(estimate.value) else format_interval(estimate)


def remake(*settings: Setting) -> str:
    sweeps = dict.fromkeys(setting.sweep for setting in settings)
    return "; ".join([*(f"python run.py -m sweep={sweep}" for sweep in sweeps), "make report"])


# --- The rules ---


def ranked(evidence: Evidence, setting: Setting) -> Finding:
    """S1."""
    evidence = part(evidence, setting)
    found = {t: accuracy(evidence.rows, setting, t) for t in setting.ranking}
    steps = {(a, b): difference(found[a], found[b]) for a, b in pairwise(t for t in found if found[t])}
    words = [f"{TECHNIQUES[a]} - {TECHNIQUES[b]} {points(step)}" for (a, b), step in steps.items()]
    return find(
        evidence,
        lambda: every(exceeds(step) for step in steps.values()),
        missing(evidence.rows, setting, setting.ranking),
        f"percentage points: {'; '.join(words)}" if words else "",
    )


def most_reliable(evidence: Evidence, setting: Setting) -> Finding:
    """S2."""
    evidence = part(evidence, setting)
    found = {t: accuracy(evidence.rows, setting, t) for t in setting.ranking}
    ratios = {t: ratio_of_deviations(found[t], found["sobolev"]) for t in setting.ranking[1:] if found[t]}
    words = [f"{TECHNIQUES[t]} {times(ratio)}" for t, ratio in ratios.items()]
    return find(
        evidence,
        lambda: every(exceeds(ratio, 1) for ratio in ratios.values()),
        missing(evidence.rows, setting, setting.ranking),
        f"standard deviation over that of Sobolev: {'; '.join(words)}" if words and found["sobolev"] else "",
    )


def gap_grows(evidence: Evidence, shallow: Setting, deep: Setting) -> Finding:
    """S3."""
    evidence = part(evidence, shallow, deep)
    without_loss = [t for t in WITHOUT_LOSS if t in shallow.ranking and t in deep.ranking]
    gaps = [gap(evidence.rows, setting, without_loss) for setting in (shallow, deep)]
    lacking = [missing(evidence.rows, setting, [*WITH_LOSS, *without_loss]) for setting in (shallow, deep)]
    growth = unpaired_difference(gaps[1], gaps[0])
    whose = f"mean of Sobolev and Critic less {' and '.join(TECHNIQUES[t] for t in without_loss)}, percentage points"
    words = [f"{s.name} {points(mean_estimate(g.values()))}" for s, g in zip((shallow, deep), gaps, strict=True) if g]
    words += [f"growth {points(growth)}"] * all(gaps)
    return find(
        evidence,
        lambda: exceeds(growth),
        "; ".join(filter(None, lacking)),
        f"{whose}: {'; '.join(words)}" if words else "",
    )


def baseline(evidence: Evidence, setting: Setting) -> Finding:
    """Whether backpropagation comes to its known accuracy."""
    evidence = part(evidence, setting)
    estimate = mean_estimate(accuracy(evidence.rows, setting, "backprop").values())
    return find(
        evidence,
        lambda: every((exceeds(estimate, BASELINE - TOLERANCE), negation(exceeds(estimate, BASELINE + TOLERANCE)))),
        missing(evidence.rows, setting, ["backprop"]),
        f"{format_interval(estimate)} %" if estimate.n else "",
    )


def labels_are_faster(evidence: Evidence, setting: Setting) -> Finding:
    """SM 4.1, first half."""
    evidence = part(evidence, setting)
    without, with_labels = (mean_error(evidence.rows, setting, t) for t in ("sobolev", "sobolev_label"))
    gain = difference(without, with_labels)
    ours = (
        f"mean error over training {mean_estimate(without.values()).value:.2f}% without labels, "
        f"{mean_estimate(with_labels.values()).value:.2f}% with them; less by {points(gain)} percentage points"
    )
    lacking = missing(evidence.rows, setting, ["sobolev", "sobolev_label"])
    return find(evidence, lambda: exceeds(gain), lacking, "" if lacking else ours)


def labels_are_more_stable(evidence: Evidence, setting: Setting) -> Finding:
    """SM 4.1, second half."""
    evidence = part(evidence, setting)
    without, with_labels = (accuracy(evidence.rows, setting, t) for t in ("sobolev", "sobolev_label"))
    ratio = ratio_of_deviations(without, with_labels)
    lacking = missing(evidence.rows, setting, ["sobolev", "sobolev_label"])
    ours = f"standard deviation of the accuracy without labels over that with them: {times(ratio)}"
    return find(evidence, lambda: exceeds(ratio, 1), lacking, "" if lacking else ours)


def claims_of(setting: Setting) -> list[Claim]:
    """S1 and S2, on one task at one scale."""
    order = " > ".join(TECHNIQUES[t] for t in setting.ranking)
    return [
        Claim(
            key=f"S1, {setting.name}",
            sentence=f"Accuracy: {order}.",
            paper=setting.paper,
            rule="For each technique and the next, the interval of the mean difference of their accuracies, paired by "
            "seed, lies above 0; not reproduced if one lies below. No correction for their number.",
            command=remake(setting),
            judge=lambda evidence: ranked(evidence, setting),
        ),
        Claim(
            key=f"S2, {setting.name}",
            sentence="Sobolev Training is the most reliable: its accuracy has the smallest standard deviation.",
            paper=setting.paper,
            rule="For each of the others the interval of the ratio (its standard deviation over seeds / Sobolev's) "
            "lies above 1; not reproduced if one lies below. With 3 seeds that takes a ratio above 6.2, with 10 one "
            "above 2.",
            command=remake(setting),
            judge=lambda evidence: most_reliable(evidence, setting),
        ),
    ]


def claim_of_depth(shallow: Setting, deep: Setting) -> Claim:
    return Claim(
        key=f"S3, {IMAGES[shallow.task]} to {deep.name}",
        sentence="The gap between methods with and without loss supervision grows on the deeper network.",
        paper="Sobolev - VFBN: 5.0 on CIFAR-10, 14.1 on ImageNet with 1 module, 38.2 with 3",
        rule="The gap is the mean accuracy of Sobolev and Critic less that of VFBN (and of Direct SG, where both tasks "
        "have it). Welch's interval of the difference of the gaps' means lies above 0. Between data sets, as in the "
        "paper, the task changes with the depth.",
        command=remake(shallow, deep),
        judge=lambda evidence: gap_grows(evidence, shallow, deep),
    )


def claim_of_recipe(setting: Setting) -> Claim:
    """That backpropagation does what it is known to do."""
    return Claim(
        key=f"Recipe check, {setting.name}",
        sentence="Backpropagation, for which the recipe was tuned, comes to 94.3% on CIFAR-10.",
        paper="94.3 (Table 1)",
        rule=f"The interval of the mean accuracy lies within {BASELINE:.0f} ± {TOLERANCE}%. With the paper's network "
        "and batches alone: if it fails, the other rows are of another recipe.",
        command=remake(setting),
        judge=lambda evidence: baseline(evidence, setting),
    )


def claims_of_labels(setting: Setting) -> list[Claim]:
    where = "" if setting is MNIST else " (The paper's is of MNIST.)"
    return [
        Claim(
            key=f"SM 4.1, faster, {setting.name}",
            sentence=f"Matching the derivative by the labels too makes training faster.{where}",
            paper="no number (toy runs on MNIST)",
            rule="The test error averaged over training (the area under its curve) is smaller with labels: the "
            "interval of the mean difference, paired by seed, lies above 0.",
            command=remake(setting),
            judge=lambda evidence: labels_are_faster(evidence, setting),
        ),
        Claim(
            key=f"SM 4.1, more stable, {setting.name}",
            sentence=f"Matching the derivative by the labels too makes training more stable.{where}",
            paper="no number (toy runs on MNIST)",
            rule="The interval of the ratio (standard deviation of the accuracy over seeds without labels / with "
            "them) lies above 1.",
            command=remake(setting),
            judge=lambda evidence: labels_are_more_stable(evidence, setting),
        ),
    ]


# --- What follows the verdicts ---


def appendix(evidence: Evidence) -> str:
    """Table 1, what was run, and how good the synthetic gradients were at the end of training."""
    ours = accuracies(evidence.rows)
    if not ours:
        return ""
    return (
        "#### Table 1: test accuracy\n\nMean ± standard deviation over seeds, and the 95% interval of the mean.\n\n"
        f"{table_1(ours)}\n\n#### What was run, and what differs from the paper\n\n{runs_table(evidence.rows)}\n\n"
        "#### Gradients at the end of training\n\nCosine between synthetic and true gradient, and |synthetic - true| / "
        "|true|, at each split from below; test images, means over seeds. Backpropagation has the true gradients, "
        f"Noprop none.\n\n{gradients_table(evidence.rows)}"
    )


def runs_table(rows: pd.DataFrame) -> str:
    lines = []
    for setting in SETTINGS:
        found = select(rows, **where(setting.task, setting.scale))
        if len(found):
            sizes = "/".join(f"{n:,}" for n in levels(found, "n_train"))
            updates = f"{found['step'].max():,}"
            remade = f"`python run.py -m sweep={setting.sweep}`"
            lines.append([IMAGES[setting.task], setting.scale, sizes, updates, setting.differs, remade])
    return markdown(["task", "scale", "training images", "updates", "what differs", "remake"], lines)


def gradients_table(rows: pd.DataFrame) -> str:
    lines = []
    for setting in SETTINGS:
        ends = finals(select(rows, **where(setting.task, setting.scale), split="test"), "method", "metric")
        for technique, title in TECHNIQUES.items():
            columns = [
                ends.get((technique, f"{metric}/{k}"))
                for metric in ("gradient_cosine", "gradient_relative_error")
                for k in (1, 2, 3)
            ]
            if technique in ("backprop", "noprop") or not any(columns):
                continue
            numbers = [format_number(float(np.mean(list(c.values())))) if c else "-" for c in columns]
            lines.append([IMAGES[setting.task], title, *numbers, setting.scale])
    head = [f"{word}, split {k}" for word in ("cosine", "error") for k in (1, 2, 3)]
    return markdown(["task", "technique", *head, "scale"], lines)


SYNTHETIC_GRADIENTS = Part(
    title="Synthetic gradients (Section 4.3)",
    introduction="The paper's techniques, L1 distances, optimisers and schedules. It leaves open where the splits lie, "
    "the number of updates and of runs, the augmentation and how direct SG sees the labels; its modules learned "
    "asynchronously (Hogwild), ours with the network. What else differs is listed by task below. Few seeds: intervals "
    f"here are of means, Student's, over seeds on one fixed test set, and from {FEWEST} seeds on.",
    claims=(
        *(claim for setting in SETTINGS for claim in claims_of(setting)),
        *(claim_of_depth(shallow, deep) for shallow, deep in DEEPER),
        *(claim_of_recipe(setting) for setting in (CIFAR, CIFAR_60)),
        *(claim for setting in (MNIST, DIGITS, CIFAR_REDUCED) for claim in claims_of_labels(setting)),
    ),
    appendix=appendix,
)

PARTS = (SYNTHETIC_GRADIENTS,)  # of the report
