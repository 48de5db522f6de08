"""The titles of surrogate tasks and their outputs in figures and tables.

A user's own file is shown under its name, and its outputs as y1, y2, ...
"""

from __future__ import annotations

from experiments.evidence import names

TASKS = {"reactor": "plug-flow reactor", "basket": "basket option, one path a sample"}
METHODS = {name: names.METHODS[name] for name in ("value", "sobolev")}
METHODS |= {"sobolev_norm": "Sobolev, norm not squared"}
LOOKS = names.LOOKS | {"sobolev_norm": {"color": "#009E73", "marker": "^"}}
METRICS = {"value_error": "values", "gradient_error": "derivatives"}
SAMPLES = {"reactor": "solves", "basket": "paths"}
OUTPUTS = {
    "reactor": ("conversion", "yield", "peak temperature (K)", "cooling duty (K)"),
    "basket": ("price",),
}

names.register("task", TASKS)


def title_of(task: str) -> str:
    return TASKS.get(task, task)


def outputs_of(task: str, count: int) -> tuple[str, ...]:
    """A name for each output."""
    known = OUTPUTS.get(task, ())
    return known if len(known) == count else tuple(f"y{k}" for k in range(1, count + 1)) if count > 1 else ("y",)
