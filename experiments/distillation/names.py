"""Titles of games, methods and metrics in figures and tables, styles of methods, and the experiments shown there.

A user's own game is shown under its name in the rows, unless its title is added to `GAMES`. It changes no verdict:
`claims.py` names the games that it judges.
"""

from __future__ import annotations

from experiments.evidence import names

# The experiments whose rows figures and tables show.
EXPERIMENT = "distill_atari"
IN_FLOAT32 = "distill_float32"
LONGER = "distill_longer"

GAMES = {"breakout": "Breakout", "space_invaders": "Space Invaders", "pong": "Pong"}
METHODS = names.METHODS | {
    "sobolev_falling": "Sobolev, alpha falling",
    "sobolev_balanced": "Sobolev, alpha balanced",
}
LOOKS = names.LOOKS | {
    "sobolev_falling": {"color": "#009E73", "marker": "^"},
    "sobolev_balanced": {"color": "#E69F00", "marker": "P"},
}
METRICS = {"action_error": "action error", "kl": "KL", "gradient_error": "gradient error"}
METRICS_IN_FULL = {"kl": "KL", "action_error": "action-prediction error"}  # in sentences
ENDS = {  # split and metric at the end of training, beside the distances of Figure 4
    ("test", "gradient_error"): METRICS["gradient_error"],
    ("play", "kl"): "KL in play",
    ("play", "score"): "score",
}


names.register("method", METHODS)


def title(game: str) -> str:
    return GAMES.get(game, game)
