"""The titles, colours, lines and markers in figures and tables of the theory."""

from __future__ import annotations

BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#999999", "#000000"
PURPLE, SKY = "#CC79A7", "#56B4E9"

# What networks are trained to match: title and colour.
METHODS = {"value": ("value only", BLUE), "sobolev": ("Sobolev", ORANGE)}
DIFFERENCES = {"differences": ("difference quotients", GREEN)}
# Activations: title, line and marker.
ACTIVATIONS = {
    "relu": ("ReLU", "-", "o"),
    "leaky_relu": ("leaky ReLU", "--", "s"),
    "tanh": ("tanh", ":", "^"),
    "softplus": ("softplus", "-.", "v"),
    "silu": ("SiLU", (0, (5, 1)), "D"),
}
ERRORS = {
    "value_l2": "values, rms",
    "value_sup": "values, sup",
    "gradient_l2": "gradients, rms",
    "gradient_sup": "gradients, sup",
}
# Norms of errors over test points: title and line.
NORMS = {"sup": ("largest", "-"), "l2": ("root mean square", ":")}
# Domains of Theorem 2: title, colour and marker.
DOMAINS = {"interval": ("interval, constant mismatch", BLUE, "o"), "disc": ("disc, rotation", ORANGE, "s")}
JOINT_ERRORS = {
    "joint_mse": r"mean of $|h - f|^2 + |\nabla h - g|^2$",
    "joint_sup": r"max(sup $|h - f|$, sup $|\nabla h - g|$)",
}
# Numbers of points that determine a polynomial: title, colour, marker and line.
COUNTS = {
    "reg": ("values: K_reg", BLUE, "o", "-"),
    "sob": ("values and gradients: K_sob", ORANGE, "s", "-"),
    "sob_counted": ("counting equations", GREEN, "x", "none"),
    "sob_printed": ("as printed: ceil(n / 2)", BLACK, "_", "none"),
}
# For 1, 2, ... inputs; repeats after the last.
OF_DIMENSIONS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "v"), (SKY, "D"))


def of_dimension(n_inputs: int) -> tuple[str, str]:
    """The colour and marker for a number of inputs."""
    return OF_DIMENSIONS[(n_inputs - 1) % len(OF_DIMENSIONS)]


def plural(number: int, word: str) -> str:
    """``1 input``, ``2 inputs``."""
    return f"{number} {word}{'s' * (number > 1)}"
