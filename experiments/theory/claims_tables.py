"""The tables of the theory in the report, which show every cell."""

from __future__ import annotations

import itertools

from experiments.evidence.markdown import format_factor, format_interval, markdown
from experiments.evidence.rows import levels, log_ratio, median_interval, scale_of
from experiments.evidence.verdicts import Evidence
from experiments.theory.analysis import LEARNED, by_width, k_table, of_experiment, points_needed, present, rates
from experiments.theory.names import ACTIVATIONS, DIFFERENCES, METHODS


def tables(evidence: Evidence) -> str:
    """K_reg and K_sob of every family, the points needed in practice, and errors against width."""
    table_of = {
        "theory_exact": determination_table,
        "theory_points": points_table,
        "theory_approximation": width_table,
    }
    parts = {name: of_experiment(evidence, name) for name in table_of}
    return "\n\n".join(table_of[name](part) for name, part in parts.items() if len(part.rows))


def determination_table(evidence: Evidence) -> str:
    """K_reg and K_sob of every family."""
    lines = [[name, f"{k_reg:.0f}", f"{k_sob:.0f}"] for name, k_reg, k_sob in k_table(evidence)]
    title = f"Points that determine a function{_marked(evidence)}"
    return f"#### {title}\n\n" + markdown(["family", "K_reg", "K_sob"], lines)


def points_table(evidence: Evidence) -> str:
    """Points needed in practice, by number of inputs."""
    rows, lines = evidence.rows, []
    for activation, n_inputs in itertools.product(present(rows, "activation", ACTIVATIONS), levels(rows, "n_inputs")):
        value, sobolev = (points_needed(rows, n_inputs, matched, activation) for matched in METHODS)
        if value and sobolev:
            counts = [format_interval(median_interval(needed.values())) for needed in (value, sobolev)]
            lines.append(
                [activation, str(n_inputs), *counts, format_factor(log_ratio(value, sobolev)), str(n_inputs + 1)]
            )
    title = f"Points until less than {LEARNED:.0%} of a teacher's variance is unexplained{_marked(evidence)}"
    titles = [title_of for title_of, _ in METHODS.values()]
    return f"#### {title}\n\n" + markdown(["activation", "inputs", *titles, "ratio", "numbers a point"], lines)


def width_table(evidence: Evidence) -> str:
    """How the errors of trained networks fall with width, and the errors at the largest width."""
    rows, lines = evidence.rows, []
    activations, methods = present(rows, "activation", ACTIVATIONS), (*METHODS, *DIFFERENCES)
    trained = itertools.product(levels(rows, "n_inputs"), activations, methods)
    for n_inputs, activation, matched in trained:
        cell = {"n_inputs": n_inputs, "activation": activation, "matched": matched}
        both = [by_width(rows, metric, **cell) for metric in ("value_l2", "gradient_l2")]
        if all(both):
            widest = max(both[0])
            fitted = [format_interval(rates(errors)) for errors in both]
            last = [format_interval(median_interval(errors[widest].values())) for errors in both]
            lines.append([str(n_inputs), activation, matched, *fitted, str(widest), *last])
    return (
        "#### Error against width by training: exponents r of width^-r, and root mean square errors at the widest"
        f"{_marked(evidence)}\n\n"
        + markdown(
            ["inputs", "activation", "method", "r, values", "r, gradients", "width", "values", "gradients"], lines
        )
        + "\n\nFor ReLU networks, the gradients' error depends on where the kinks lie, but autograd passes none of it "
        "to the biases: the gradient is constant between kinks, so its derivative with respect to a hidden bias is 0. "
        "`differences` matches difference quotients of values, which move the kinks, instead of derivatives."
    )


def _marked(evidence: Evidence) -> str:
    return " (reduced)" if scale_of(evidence.rows) == "reduced" else ""
