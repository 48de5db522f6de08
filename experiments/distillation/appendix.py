"""The report's tables below the claims of distillation: the end of training in every cell, and the cost of bfloat16.

Every game that has rows is shown, in the paper or not.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments.distillation.names import EXPERIMENT, IN_FLOAT32, title
from experiments.evidence.markdown import format_interval, format_number, markdown
from experiments.evidence.rows import finals, groups, levels, median_interval, select
from experiments.evidence.verdicts import Evidence


def appendix(evidence: Evidence) -> str:
    """All tables that there are rows for, as Markdown."""
    return "\n\n".join(filter(None, (tables(evidence), shortcut(evidence))))


def tables(evidence: Evidence) -> str:
    """The end of training in every cell: test errors, gradients, overfitting, and how the student plays."""
    rows = evidence.of(EXPERIMENT).rows
    if not len(rows):
        return ""
    lines = []
    for (game, n_train, method), cell in groups(rows, "task", "n_train", "method"):
        ends = finals(cell, "split", "metric")
        entries = [
            format_interval(median_interval(ends[measured].values())) if measured in ends else "-"
            for measured in (
                ("test", "kl"),
                ("train", "kl"),
                ("test", "action_error"),
                ("test", "gradient_error"),
                ("play", "score"),
                ("play", "kl"),
            )
        ]
        seeds, scale = cell["seed"].nunique(), cell["scale"].iloc[0]
        lines.append([title(game), f"{n_train:,}", method, *entries, str(seeds), scale])
    facts = [
        f"{title(game)}: entropy {format_number(fact['entropy'])}, nearly uniform on "
        f"{fact['nearly_uniform']:.0%} of the states, mean gradient norm {format_number(fact['gradient_norm'])}"
        for game, fact in teacher_facts(rows).items()
    ]
    head = ["game", "states", "method", "test KL", "train KL", "action error", "gradient error", "score", "KL in play"]
    return (
        "#### The end of training\n\nMedians over seeds. For 'score' and 'KL in play', the student plays; 'KL in play' "
        "compares it with the teacher on the states that it visits itself.\n\n"
        + markdown([*head, "seeds", "scale"], lines)
        + "\n\nThe teachers on the test states: "
        + "; ".join(facts)
        + "."
    )


def shortcut(evidence: Evidence) -> str:
    """Sobolev students trained in bfloat16 and the same in float32: where each seed ends."""
    rows = select(evidence.rows, split="test", metric="kl", method="sobolev")
    kl = finals(rows, "experiment", "task", "n_train")
    lines = []
    for game, n_train in sorted(key[1:] for key in kl if key[0] == IN_FLOAT32):
        bfloat16, float32 = (kl.get((name, game, n_train), {}) for name in (EXPERIMENT, IN_FLOAT32))
        if not (seeds := sorted(bfloat16.keys() & float32.keys())):
            continue
        apart = max(abs(float32[seed] - bfloat16[seed]) for seed in seeds)
        spread = max(bfloat16[seed] for seed in seeds) - min(bfloat16[seed] for seed in seeds)
        ends = (", ".join(format_number(of_seed[seed]) for seed in seeds) for of_seed in (bfloat16, float32))
        entries = (*ends, format_number(apart), format_number(spread), "yes" if apart < spread else "no")
        lines.append([title(game), f"{n_train:,}", *entries])
    if not lines:
        return ""
    head = [
        "game",
        "states",
        "KL, bfloat16",
        "KL, float32",
        "largest difference",
        "spread over seeds",
        "within the spread",
    ]
    return (
        "#### The effect of bfloat16\n\nThe final test KL of Sobolev students whose derivative passes were computed in "
        "bfloat16, as in all runs above, and in float32. For each seed, both have the same initial weights, batches "
        "and projections. The spread is the largest minus the smallest KL of these seeds in bfloat16. "
        "`python run.py -m sweep=distillation/float32` runs it.\n\n" + markdown(head, lines)
    )


def teacher_facts(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """{game: {fact: median over runs}} of the facts that runs record about their teachers."""
    rows = select(rows, split="teacher")
    return {
        game: {
            metric: float(np.median(select(rows, task=game, metric=metric)["value"]))
            for metric in ("entropy", "nearly_uniform", "gradient_norm")
        }
        for game in levels(rows, "task")
    }
