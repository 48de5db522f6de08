"""Surrogates test no claim of the paper; the report shows their tables."""

from __future__ import annotations

from experiments.evidence.verdicts import OURS_WHOLE, Part
from experiments.surrogates.analysis import tables

PARTS = (
    Part(
        title="Surrogates (ours)",
        introduction="Not in the paper: two tasks whose derivatives somebody has, a reactor's sensitivities and an "
        "option's pathwise derivatives (docs/surrogates.md). Each method chose its learning rate and activation on "
        "validation data. Errors are relative: 1 is that of a constant.",
        claims=(),
        whole=OURS_WHOLE,
        appendix=tables,
    ),
)
CHANGED = (
    "Surrogates: after trials the reactor was made milder (its reactions give off less heat and have smaller "
    "activation energies), the search's learning rates were raised, and its choice is trained for twice as long.",
    "Surrogates, the basket: networks that learn derivatives are chosen by their whole validation loss now, and before "
    "by its part of values. This was tried with other seeds and paths (16,384 of them: errors of 0.012 and 0.055), but "
    "after a look at the rows.",
)
