"""The numbers of the other pages of docs/ that follow from shipped files: distillation, surrogates, speed, searches."""

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
import yaml

from experiments.evidence.rows import finals, log_ratio, mean_estimate, select
from experiments.surrogates.analysis import Errors, errors_of, label_costs, worth
from tests.conftest import CONFIGS
from tests.passages import RESULTS, cell, passage, rows, states

GAMES = ("breakout", "pong", "space_invaders")
SIZES = (1000, 5000, 25_000)
IN_TEXT = ("1,000", "5,000", "25,000")


@cache
def table(name: str) -> pd.DataFrame:
    return pd.read_csv(RESULTS / name)


# --- docs/distillation.md, and its row in docs/recipes.md ---


@cache
def students(metric: str = "kl", split: str = "test") -> dict:
    """{(experiment, game, states, method): {seed: final value}}"""
    measured = select(rows("distillation"), split=split, metric=metric)
    return finals(measured, "experiment", "task", "n_train", "method")


def ratios(game: str, states: int, method: str) -> list[float]:
    """By how much the KL divergence after 10,000 updates is smaller than with values alone, by seed."""
    value, other = (students()["distill_longer", game, states, of] for of in ("value", method))
    return [value[seed] / other[seed] for seed in sorted(value.keys() & other.keys())]


def medians(states: int, method: str = "sobolev_falling") -> list[float]:
    return [float(np.median(ratios(game, states, method))) for game in GAMES]


FALLING, BALANCED = "sobolev_falling", "sobolev_balanced"


@pytest.mark.parametrize(
    ("method", "begins", "ends"),
    [
        (
            FALLING,
            "With a falling alpha, students end closer to the teacher than with values alone in each of the",
            "Student",
        ),
        (
            BALANCED,
            "With this one alpha, students end closer to the teacher than with values alone in each of the",
            "The intervals",
        ),
    ],
)
def test_students_of_longer_training_are_closer(method, begins, ends):
    pairs = [pair for game in GAMES for n in SIZES for pair in ratios(game, n, method)]
    assert {len(ratios(game, n, method)) for game in GAMES for n in SIZES} == {3}
    assert min(pairs) > 1
    said = passage("distillation", begins, f" {ends}").replace("(3 seeds)", "").partition("The median")[2]
    states(said, [number for n, shown in zip(SIZES, IN_TEXT, strict=True) for number in (*medians(n, method), shown)])
    assert str(len(pairs)) in passage("distillation", begins, "pairs")


def test_the_recipe_for_a_policy():
    row = cell("recipes", "a policy to distil").partition("(`reduced`")[0]
    balanced = [number for n, shown in zip(SIZES, IN_TEXT, strict=True) for number in (*medians(n, BALANCED), shown)]
    falling = [number for n in SIZES for number in medians(n, FALLING)]
    pairs = sum(len(ratios(game, n, method)) for game in GAMES for n in SIZES for method in (FALLING, BALANCED))
    constant = [*medians(1000, "sobolev"), "1,000", *medians(25_000, "sobolev"), "25,000"]
    states(row, ["10,000", *balanced, *falling, pairs, *constant])
    alpha = yaml.safe_load((CONFIGS / "objective" / "sobolev_balanced.yaml").read_text())["gradient_weight"]
    assert f"one alpha, {alpha:.0f}, serves all games" in cell("recipes", "a policy to distil", 1)


def test_where_the_intervals_of_longer_training_include_1():
    intervals = {
        (method, game, n): [10**end for end in mean_estimate(np.log10(ratios(game, n, method)))[:3]]
        for method in (FALLING, BALANCED)
        for game in GAMES
        for n in SIZES
    }
    open_ones = {cell_: interval for cell_, interval in intervals.items() if interval[1] < 1 < interval[2]}
    pong, *of_balanced = (FALLING, "pong", 25_000), (BALANCED, "breakout", 1000), (BALANCED, "pong", 1000)
    assert open_ones.keys() == {pong, *of_balanced}
    states(
        passage("distillation", "exclude 1 in all cells but Pong from", "), so the rule's"),
        ["25,000", *open_ones[pong]],
    )
    said = passage("distillation", "exclude 1 in all cells but two from", "). So the verdict")
    states(said, ["1,000", *(number for cell_ in of_balanced for number in open_ones[cell_])])


def test_the_balanced_alpha_beside_the_falling_one():
    of_size = [
        [a > b for game in GAMES for a, b in zip(ratios(game, n, BALANCED), ratios(game, n, FALLING), strict=True)]
        for n in SIZES
    ]
    closer = [sum(leads) for leads in of_size]
    said = passage("distillation", "the student with the balanced alpha is closer in", ".")
    states(said, [closer[0], len(of_size[0]), "1,000", closer[1], "5,000", closer[2], "25,000"])


def test_the_scores_of_longer_training():
    scores = students("score", "play")
    of = {
        (game, n): [scores["distill_longer", game, n, method] for method in ("sobolev_falling", "value")]
        for game in GAMES
        for n in SIZES
    }
    few = [float(np.median([*by_seed.values()])) for game in GAMES for by_seed in of[game, 1000]]
    said = passage("distillation", "play better: the median scores from 1,000 are", "From 25,000")
    states(said.replace("-", ""), [abs(score) for score in few])
    lower = [value[seed] > falling[seed] for game in GAMES for falling, value in [of[game, 25_000]] for seed in value]
    states(passage("distillation", "scores consistently higher (values alone in", "pairs)"), [sum(lower), len(lower)])


def test_bfloat16_against_float32():
    differences = {
        game: [short[seed] - of[seed] for seed in of]
        for game in GAMES
        for short, of in [
            (students()["distill_atari", game, 1000, "sobolev"], students()["distill_float32", game, 1000, "sobolev"])
        ]
    }
    every = [each for of_game in differences.values() for each in of_game]
    largest = [max(differences[game]) for game in ("pong", "breakout", "space_invaders")]
    said = passage("distillation", "students end with a lower KL in float32 in", "in Space Invaders")
    states(said, [sum(each > 0 for each in every), len(every), *largest])


def test_the_teachers():
    cards = {game: json.loads((RESULTS / "teachers" / f"{game}.json").read_text()) for game in GAMES}
    order = ("pong", "breakout", "space_invaders")
    said = [n for game in order for n in (cards[game]["score"]["mean"], cards[game]["training"]["steps"] / 1e6)]
    assert {card["score"]["episodes"] for card in cards.values()} == {32}
    states(passage("distillation", "sampled from the policy, are", "Those of Pong"), said)


def trials(game: str, **equal) -> pd.DataFrame:
    """The searches with the shipped teacher of a game."""
    found, card = table("distillation/tuning.csv"), json.loads((RESULTS / "teachers" / f"{game}.json").read_text())
    found = found[(found.task == game) & (found.teacher_sha256 == card["sha256"])]
    return select(found, **equal)


def test_the_longer_searches():
    found = {
        (method, game): trials(game, method=method, updates=10_000).set_index(by).validation_kl
        for method, by in (("value", "learning_rate"), ("sobolev_balanced", "gradient_weight"))
        for game in GAMES
    }
    value, balanced = ([found[method, game] for game in GAMES] for method in ("value", "sobolev_balanced"))
    (choices,) = {len(of_game) for of_game in value + balanced}
    assert {of_game.idxmin() for of_game in value} == {1e-3}
    over_games = np.mean([np.log(of_game.sort_index()) for of_game in balanced], axis=0)
    weights = sorted(balanced[0].index)
    best = weights[int(over_games.argmin())]
    states(passage("distillation", "and `search_longer_value`,", "choices for either"), [choices])
    states(
        passage("distillation", "training keeps 1e-3 in all games: the KL divergence is", "in Breakout"),
        [of_game.min() for of_game in value],
    )
    said = passage("distillation", "Of balanced alphas from", "; 30 is hardly worse")
    states(said, [weights[0], f"{weights[-1]:,.0f}", best, *(of_game[best] for of_game in balanced)])
    ends = [of_game[end] / of_game[best] for of_game in balanced for end in (weights[0], weights[-1])]
    said = passage("distillation", "at both ends of the grid the KL is", "times larger")
    states(said, [min(ends), max(ends)])
    norms = students("gradient_norm", "teacher")
    sizes = [norms["distill_longer", game, 5000, "value"][0] for game in GAMES]
    states(passage("distillation", "This is an alpha of about", ", far below"), [best / size for size in sizes])


def test_the_searches():
    least = {
        method: {game: trials(game, method=method, updates=1000).validation_kl.min() for game in GAMES}
        for method in ("sobolev", "sobolev_falling")
    }
    falling, constant = least["sobolev_falling"], least["sobolev"]
    said = passage("distillation", "over three quarters in Breakout and Pong", "So the choices")
    states(said, [*falling.values(), *constant.values()])
    best = {game: trials(game, method="sobolev", updates=1000).nsmallest(1, "validation_kl").iloc[0] for game in GAMES}
    states(passage("distillation", "The best alphas are", ", inside"), [best[game].gradient_weight for game in GAMES])
    values = {game: trials(game, method="value", updates=1000).nsmallest(1, "validation_kl").iloc[0] for game in GAMES}
    assert {choice.learning_rate for of in (best, values) for choice in of.values()} == {1e-3}
    many = trials("breakout", updates=2000).sort_values("gradient_weight").validation_kl.tolist()
    said = (
        passage("distillation", "the KL rises with alpha from", ". Nor do").replace("(none)", "").replace("(0.03)", "")
    )
    states(said, [*many, "3"])
    assert many == sorted(many)
    two = [
        np.median([of[seed] for seed in (0, 1)])
        for of in (students()["distill_longer", "breakout", 25_000, method] for method in ("value", "sobolev"))
    ]
    states(passage("distillation", "with 2 seeds, value-only training is at", ", and Sobolev Training also"), two)
    first = table("distillation/tuning.csv").query("task == 'breakout' and method == 'value' and updates == 1000")
    said = [
        number
        for weights in ("orthogonal", "uniform_fan_in")
        for rate in (5e-4, 1e-3)
        for number in select(first, initialisation=weights, learning_rate=rate).validation_kl
    ]
    words = passage("distillation", "ended with a validation KL of", ". With that").replace("(rate 5e-4)", "")
    states(words.replace("(1e-3)", ""), said)


# --- docs/surrogates.md, and its row in docs/recipes.md ---


@cache
def surrogate(task: str, method: str, metric: str = "value_error") -> Errors:
    return errors_of(rows("surrogates"), f"surrogate_{task}", task, method, metric)


@cache
def error(task: str, method: str, n_train: int, metric: str = "value_error") -> float:
    return surrogate(task, method, metric).medians()[n_train].median


def needed(task: str, metric: str = "value_error") -> dict[int, float]:
    """How many times the samples value-only training needs, where it reaches the error."""
    found = worth(surrogate(task, "sobolev", metric), surrogate(task, "value", metric))
    return {n: times for n, (times, only_bound) in found.items() if not only_bound}


def test_the_reactor():
    smaller = [
        10 ** log_ratio(value[n], sobolev[n]).median
        for metric in ("value_error", "gradient_error")
        for value, sobolev in [[surrogate("reactor", m, metric).by_size for m in ("value", "sobolev")]]
        for n in value
    ]
    values, derivatives = smaller[: len(smaller) // 2], smaller[len(smaller) // 2 :]
    sizes = surrogate("reactor", "sobolev").by_size
    seeds = {len(of_size) for of_size in sizes.values()}
    more = [[*needed("reactor", metric).values()] for metric in ("value_error", "gradient_error")]
    said = passage("surrogates", "surrogate_reactor_errors.png) From", "), wherever")
    of_256 = [100 * error("reactor", method, 256) for method in ("sobolev", "value")]
    ends = [end(of) for of in more for end in (min, max)]
    smaller = [min(values), max(values), min(derivatives), max(derivatives)]
    states(said, [min(sizes), max(sizes), *seeds, *smaller, "256", *of_256, *ends])
    costs = label_costs(rows("surrogates"), "surrogate_reactor", "reactor")
    states(passage("surrogates", "With one-sided differences a sample costs", "solves. The"), [costs["differences"]])
    states(passage("surrogates", "which the figure counts as", "solves"), [costs["sensitivities"]])


def test_the_basket():
    few, most = error("basket", "sobolev", 256), error("basket", "value", 16_384)
    assert few < most
    deltas = needed("basket", "gradient_error")
    said = passage("surrogates", "From 256 paths with derivatives the error of prices is", ", because of")
    later = [error("basket", "sobolev", n) for n in (1024, 4096, 16_384)]
    of_deltas = [error("basket", "sobolev", n, "gradient_error") for n in (1024, 4096, 16_384)]
    norm = [error("basket", "sobolev_norm", n, "gradient_error") for n in (256, 1024, 4096, 16_384)]
    cheap = ["64", error("basket", "sobolev", 64), needed("basket")[64], deltas[64], deltas[256], "1,024"]
    ends = [min(later), max(later), of_deltas[0], of_deltas[-1]]
    states(said, [few, most, "16,384", 16_384 / 256, *cheap, *ends])
    said = passage("surrogates", "stays at errors of deltas from", ". - *Early")
    states(said, [norm[0], norm[-1], of_deltas[-1]])
    row = cell("recipes", "noisy values with unbiased derivatives, such as those of single Monte Carlo paths")
    states(row, ["7", "256", "16,384", few, most, deltas[256], norm[-1], of_deltas[-1]])


def test_how_long_surrogates_train():
    minutes = table("surrogates/runs.csv").groupby("task").wall_seconds.agg(["count", "sum"])
    runs = minutes["count"]
    states(passage("surrogates", "python run.py -m sweep=surrogates/basket` (", " runs"), [runs["basket"]])
    said = passage("surrogates", "reproduces what follows. The", "core-minutes")
    states(said, [runs["reactor"], round(minutes["sum"]["reactor"] / 60, -1)])


# --- docs/synthetic_gradients.md ---


def test_what_was_tuned():
    tuning = table("synthetic_gradients/tuning.csv")

    def accuracies(**equal) -> list[float]:
        return (100 * select(tuning, **equal).validation_accuracy_top1).tolist()

    errors = [100 - a for method in ("sobolev", "critic") for a in accuracies(task="imagenette", method=method)]
    cosines = select(tuning, task="imagenette", method="sobolev").validation_gradient_cosine_1.tolist()
    said = passage("synthetic_gradients", "The validation errors were", "points of sampling error")
    share = 1 - np.mean(errors) / 100
    deviation = 100 * np.sqrt(share * (1 - share) / 1000)
    states(said, [*errors, "1,000", deviation])
    states(passage("synthetic_gradients", "Sobolev's gradients had a cosine of", "to the true"), cosines)
    both = {"task": "digits", "method": "sobolev", "predictor_learning_rate": 1e-3, "hold_out": 300}
    first = tuning[tuning.revision != select(tuning, task="digits", seed=1002).revision.iloc[0]]
    of = [
        100 * a
        for reduction in ("sum", "mean")
        for a in select(first, **both, reduction=reduction).sort_values("seed").validation_accuracy_top1
    ]
    states(passage("synthetic_gradients", "at the seeds 1000 and 1001:", ". So we"), of)
    cifar = [
        a
        for rate in (1e-4, 1e-3)
        for a in accuracies(task="cifar10", method="sobolev", reduction="sum", predictor_learning_rate=rate)
    ]
    said = passage("synthetic_gradients", "500 updates with Sobolev gave", ", on 2,000")
    states(said.replace("at 1e-4", "").replace("at 1e-3", ""), cifar)


# --- Speed: docs/library.md, docs/gpu.md and docs/sweeps.md ---


def bench(**equal) -> pd.Series:
    return select(table("regression/bench.csv"), **equal).iloc[0]


@pytest.mark.parametrize(
    ("row", "method", "candidate"),
    [
        ("gradients, `ReLUSobolevStep` and `SmoothSobolevStep`", "sobolev", "ensemble"),
        ("gradients, `SobolevLoss` by autograd", "sobolev", "autograd"),
        ("differences of values, `SobolevLoss` by autograd", "differences", "autograd"),
    ],
)
def test_what_derivatives_cost_a_step(row, method, candidate):
    for column, activation in ((2, "relu"), (3, "gelu")):
        of = {"activation": activation, "method": method, "candidate": candidate}
        states(cell("library", row, column), [bench(**of, points=points).times_count for points in (20, 100)])


def test_steps_without_autograd_against_a_loop_and_jax():
    of = [{"activation": a, "points": p, "method": "sobolev"} for a in ("relu", "gelu") for p in (20, 100)]
    ours = [bench(**each, candidate="ensemble") for each in of]
    said = passage("library", "The steps without autograd are", "with GELU.")
    states(said, [each.times_faster_than_loop for each in ours])
    jax = [bench(**each, candidate="jax").ms_per_network for each in of]
    said = passage("library", "compiled and over all networks at once, took", "on this AMD")
    states(said, [theirs / each.ms_per_network for theirs, each in zip(jax, ours, strict=True)])


def gpu_updates() -> dict[str, pd.Series]:
    """The rows of docs/gpu.md's table: an update's times."""
    cifar, grid = table("synthetic_gradients/bench_cuda.csv"), table("regression/bench_cuda_grid.csv")
    return {
        "CIFAR-10, 320 images, backpropagation, bfloat16": select(cifar, precision="bfloat16", technique="backprop"),
        "the same, Sobolev": select(cifar, precision="bfloat16", technique="sobolev"),
        "CIFAR-10, backpropagation, float32": select(cifar, precision="float32", technique="backprop"),
        "regression, 10 networks, half of them with Sobolev Training": select(grid, points=100, networks=10),
        "regression, 140 networks: one training size of Figure 2": select(grid, points=100, networks=140),
        "regression, 420 networks": select(grid, networks=420),
    }


@pytest.mark.parametrize("row", gpu_updates())
def test_an_update_on_a_gpu(row):
    found = gpu_updates()[row].iloc[0]
    for column, expected in enumerate((found.eager_ms, found.ms_per_step, found.floor_ms, found.times_floor), 1):
        states(cell("gpu", row, column), [expected])


def test_an_update_of_distillation_on_a_gpu():
    of = table("distillation/bench_cuda.csv").set_index("candidate")
    for row, name in (
        ("distillation, value only", "value"),
        ("distillation, Sobolev, teacher's gradients recorded", "sobolev"),
    ):
        graph = of.loc["captured"]
        expected = of.loc["recorded"][f"{name}_ms"], graph[f"{name}_ms"], graph[f"{name}_floor_ms"]
        for column, number in enumerate((*expected, graph[f"{name}_times_floor"]), 1):
            states(cell("gpu", row, column), [number])


def test_the_grid_on_a_gpu():
    grid = table("regression/bench_cuda_grid.csv")
    together, alone = (select(grid, networks=networks).set_index("points") for networks in (140, 10))
    runs = 14  # of each training size of Figure 2
    seconds = 100 * together.ms_per_step.sum()
    minutes = [100 / 60 * runs * alone[column].sum() for column in ("ms_per_step", "eager_ms")]
    said = passage("gpu", "140 networks each, take", "without. Of our goals")
    states(said, [seconds, "42", *minutes])
    longer = together.ms_per_step / alone.ms_per_step
    said = passage("sweeps", "A GPU takes only", "for 140 small")
    states(said, [longer.min(), longer.max()])
    said = passage("sweeps", "100,000 updates each at", "ms, two minutes")
    states(said, [together.ms_per_step.min(), together.ms_per_step.max()])
    assert 100 < seconds < 140
    cifar = table("synthetic_gradients/bench_cuda.csv").iloc[7]
    said = passage("gpu", "with products at", "TB/s")
    of_float32 = select(grid, networks=10).peak_gflops.max() / 1000
    states(
        said.replace("bfloat16", "").replace("float32", ""),
        [cifar.peak_gflops / 1000, of_float32, cifar.copy_gb_per_s / 1000],
    )


def test_the_runs_on_a_gpu():
    runs = table("synthetic_gradients/runs.csv").query("task == 'cifar10_30_epochs'")
    states(passage("gpu", "30 epochs were computed on a GPU:", "runs in"), [len(runs)])
    assert set(runs.device) == {"NVIDIA H200"}
