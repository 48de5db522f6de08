"""The numbers of docs/recipes.md and docs/regression.md that follow from shipped rows, recomputed from these rows."""

from collections.abc import Iterable
from functools import cache

import numpy as np
import pandas as pd
import pytest

from experiments.evidence.reading import read_json
from experiments.evidence.rows import Interval, final, finals, groups, log_ratio, loss_curve, median_interval, select
from experiments.evidence.schemas import Settings
from experiments.regression import choosing
from experiments.regression.choosing import Choice, Errors, complete, errors_of, gain, mean_error, ranked, stage_1
from experiments.regression.recipe_claims import UNSEEN, UNSEEN_TASKS
from experiments.regression.rules import PAPER_TASKS, SIZES, mean_log_ratio, outcome
from experiments.regression.tables import convergence
from tests.passages import RESULTS, cell, passage, rounds_to, rows, states

FULL_SIZES = ("20", "100", "10,000")
UNSEEN_SIZES = (20, 100, 1000, 10_000)


@cache
def measured(experiment: str, split: str = "test", metric: str = "value_mse") -> pd.DataFrame:
    return select(rows("regression"), experiment=experiment, split=split, metric=metric)


@cache
def errors(experiment: str, split: str = "test", metric: str = "value_mse") -> dict:
    """{(task, n_train, method): {seed: final error}}"""
    return finals(measured(experiment, split, metric), "task", "n_train", "method")


def ratio(experiment: str, task: str, n_train: int, better: str = "sobolev", worse: str = "value", **of) -> Interval:
    """How many times smaller an error is: the median of the pairs, and its interval."""
    found = errors(experiment, **of)
    paired = log_ratio(found[task, n_train, worse], found[task, n_train, better])
    return Interval(*(10**end for end in paired[:3]), paired.n)


def won(experiment: str, tasks: Iterable[str], n_train: int) -> int:
    found = errors(experiment)
    of_tasks = [log_ratio(found[task, n_train, "value"], found[task, n_train, "sobolev"]) for task in tasks]
    return [outcome(of_task) for of_task in of_tasks].count("won")


def on_average(experiment: str, n_train: int, metric: str = "value_mse") -> float:
    """The geometric mean of the ratios, as in the report."""
    of_experiment = select(rows("regression"), experiment=experiment)
    return 10 ** median_interval(mean_log_ratio(of_experiment, n_train, metric).values()).median


def geometric_mean(numbers: Iterable[float]) -> float:
    return float(np.exp(np.mean(np.log([*numbers]))))


@cache
def trials() -> Errors:
    return errors_of(rows("regression"))


def of_the_search(task: str, n_train: int, choice: Choice) -> float:
    """How many times smaller the error of a choice is than that of the search's best value-only training."""
    value, _ = ranked(trials())
    return trials()[value[0]][task, n_train] / trials()[choice][task, n_train]


def recipes(**settings: str) -> list[Choice]:
    """The recipes of stage 2 with these settings, best first."""
    exact = [choice for choice in ranked(trials())[1] if choice.derivative == "exact"]
    return [choice for choice in exact if all(getattr(choice, name) == wanted for name, wanted in settings.items())]


def limits(method: str) -> float:
    tasks = ("branin", "six_hump_camel", "levy", "friedman")
    of = {"worse": "value_weight1.0_noise0.0", "split": "validation"}
    return geometric_mean(ratio(choosing.LIMITS, task, 100, method, **of).median for task in tasks)


# --- docs/recipes.md ---


def test_the_recipe_on_the_papers_functions():
    wins = [won("regression_recipe", PAPER_TASKS, n) for n in SIZES]
    means = [on_average("regression_recipe", n) for n in SIZES]
    said = passage("recipes", "against the best value-only training of the same search. Its error is", "It loses")
    states(said, [wins[0], "7", "20", wins[1], "100", wins[2], "10,000", *means])
    assert "on all 7 from 10,000" in said
    searched = [gain(trials()[best], trials()[choice]) for best, choice in [(ranked(trials())[0][0], recipes()[0])]]
    seeds = len(errors(choosing.SEARCH, "validation")["levy", 100, "-".join(recipes()[0])])
    row = cell("recipes", "exact; you are free to choose the network")
    states(row, [*means, *FULL_SIZES, "10", *searched, choosing.MOST, seeds])
    clearly = [task for task in PAPER_TASKS if ratio("regression_recipe", task, 100).low > 10]
    assert passage("recipes", "not reached: the error of only", "of the seven").strip() == "one"
    assert len(clearly) == 1


def test_what_the_baseline_gains_already():
    networks = complete(trials(), choosing.CELLS_OF_NETWORKS)
    (value, *_), (recipe, *_) = ranked(trials())
    relu = ranked({c: of for c, of in networks.items() if c.activation == "relu"}, choosing.CELLS_OF_NETWORKS)[0][0]
    from_100 = {c: [error for (_, n), error in networks[c].items() if n == 100] for c in (relu, value, recipe)}
    relu, best, recipe = (geometric_mean(of_choice) for of_choice in from_100.values())
    states(passage("recipes", "The baseline explains a part of it: on", "times."), ["100", relu / best, best / recipe])


def test_the_recipe_on_unseen_functions():
    values, gradients = ([on_average(UNSEEN, n, of) for n in UNSEEN_SIZES] for of in ("value_mse", "gradient_mse"))
    wins = [won(UNSEEN, UNSEEN_TASKS, n) for n in UNSEEN_SIZES]
    arm = {n: ratio(UNSEEN, "robot_arm", n) for n in UNSEEN_SIZES}
    assert wins[1:] == [5, 5, 5]
    said = passage("recipes", "before any training on them, and nothing was tuned for either method.", "The robot arm")
    states(said, [wins[0], "5", "20", "100", "1,000", "10,000", *values, *gradients])
    said = passage("recipes", "tell neither method anything", "times smaller")
    states(said, [*arm[20][:3], "10,000", arm[10_000].median])
    others = [ratio(UNSEEN, t, n).median for t in UNSEEN_TASKS if t != "robot_arm" for n in UNSEEN_SIZES[1:]]
    of_arm = [arm[n].median for n in UNSEEN_SIZES[1:]]
    row = cell("recipes", "the same, with 6 to 10 inputs")
    states(row, [*values, "20", "100", "1,000", "10,000", "10", min(others), "100", min(of_arm), max(of_arm)])


def test_one_change_alone():
    networks = complete(stage_1(trials()), choosing.CELLS_OF_NETWORKS)
    choices = ranked(stage_1(trials()), choosing.CELLS_OF_NETWORKS)

    def gained(activation: str, against: str) -> float:
        """The best choice with gradients, by its gain, against an activation's best choice without."""
        alone, both = (
            next(c for c in of if c.activation == a) for of, a in zip(choices, (against, activation), strict=True)
        )
        return mean_error(networks[alone]) / mean_error(networks[both])

    smooth = [gained(activation, activation) for activation in ("gelu", "tanh", "silu", "softplus")]
    states(cell("recipes", "exact and smooth; you want to change only one thing"), [*smooth, "100", "10,000", "1"])

    whole = complete(trials(), choosing.CELLS_OF_NETWORKS)
    (differences,) = [choice for choice in whole if choice.derivative == "finite"]
    printed = next(choice for choice in choices[1] if choice.activation == "relu")
    best = {
        activation: min(mean_error(whole[c]) for c in whole if c.activation == activation and not c.learns_gradients)
        for activation in ("relu", "gelu")
    }
    against = [best[a] / mean_error(whole[choice]) for choice in (differences, printed) for a in ("relu", "gelu")]
    row = cell("recipes", "exact; the network must be ReLU")
    states(row, [*against, "100", "10,000"])
    slow = min(
        mean_error(whole[c])
        for c in whole
        if c.activation == "relu" and c.learning_rate == "0.001" and not c.learns_gradients
    )
    states(passage("recipes", "Value-only training with ReLU at", "times"), ["0.001", slow / best["relu"]])


def test_where_the_recipe_helps_little():
    squares = {
        activation: [
            of_the_search("eggholder", n, c) for n in SIZES for c in recipes(activation=activation, distance="square")
        ]
        for activation in ("gelu", "tanh")
    }
    steep = [of_the_search("eggholder", n, recipes()[0]) for n in SIZES]
    ends = [end(of_activation) for of_activation in squares.values() for end in (min, max)]
    states(cell("recipes", "steep in places, or unbounded"), [*steep, *FULL_SIZES, *ends])

    ackley = [1 / ratio("regression_recipe", "ackley", n).median for n in (20, 100)]
    printed = {
        activation: [1 / of_the_search("levy", 20, c) for c in recipes(activation=activation, weight="unit")]
        for activation in ("gelu", "tanh")
    }
    levy = 1 / of_the_search("levy", 20, recipes()[0])
    said = [ackley[0], "20", ackley[1], "100", "20", levy, min(printed["gelu"]), max(printed["gelu"])]
    assert np.ptp(printed["tanh"]) < 0.05
    states(cell("recipes", "too few points to resolve the waves of f"), [*said, max(printed["tanh"])])


def test_weights_and_noise():
    weights = [limits(f"sobolev_weight{weight}_noise0.0") for weight in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)]
    hundredth = limits("sobolev_weight0.01_noise0.0")
    states(cell("recipes", "unsure of the weight"), [min(weights), max(weights), hundredth])
    noisy = [limits(f"sobolev_weight1.0_noise{noise}") for noise in (0.01, 0.03, 0.1, 0.3, 1.0)]
    larger = [1 / gained for gained in noisy[2:]]
    states(cell("recipes", "noisy gradients"), [*noisy[:2], "1", "3", *larger, "10", "30", "100", "4", "100"])


def test_projections():
    tasks, of = ("hartmann_6", "piston", "wing_weight"), {"split": "validation"}
    kinds = ("sphere", "gaussian", "rademacher", "coordinate")

    def gained(method: str) -> float:
        found = (ratio(choosing.PROJECTIONS, t, 100, f"sobolev_{method}", "value_full1", **of) for t in tasks)
        return geometric_mean(each.median for each in found)

    costs = errors(choosing.PROJECTIONS, "cost", "mflop_per_update")
    share = [100 * costs[t, 100, "sobolev_sphere1"][2000] / costs[t, 100, "sobolev_full1"][2000] for t in tasks]
    ones = [gained(f"{kind}1") for kind in kinds]
    row = cell("recipes", "many outputs, whose Jacobian is expensive")
    spheres = [gained(f"sphere{vectors}") for vectors in (1, 2, 4)]
    ends = [*share, min(ones), max(ones)]
    states(row, ["6", "7", "10", "100", *spheres, "1", "2", "4", gained("full1"), *ends])

    one = {
        t: [ratio(choosing.PROJECTIONS, t, 100, f"sobolev_{kind}1", "sobolev_full1", **of).median for kind in kinds]
        for t in tasks
    }
    ten = [1 / each for each in one["wing_weight"]]
    said = passage("recipes", "one vector makes the error", ", depending on its kind")
    states(said, [min(ten), max(ten), "10", min(one["piston"]), max(one["piston"]), "7"])


def test_the_papers_protocol_with_a_rate_that_falls():
    fallen = [ratio("regression_decayed", task, 10_000)[:3] for task in ("rosenbrock", "styblinski_tang")]
    constant = [at(task, 10_000, 100_000) for task in ("rosenbrock", "styblinski_tang")]
    said = [*fallen[0], *fallen[1], *constant]
    row = cell("recipes", "the paper's protocol (ReLU, 1:1), 10,000 points")
    states(row, ["100,000", *said, "300,000"])
    assert all(ratio("regression", task, 10_000).high < 1 for task in ("rosenbrock", "styblinski_tang"))


def test_how_many_cells_of_the_recipe_had_not_converged():
    cells = groups(measured("regression_recipe"), "task", "n_train", "method")
    moved = [abs(convergence(of_cell).change) > 0.1 for _, of_cell in cells]
    states(passage("recipes", "the errors of", "over the second half"), [sum(moved), len(moved), "10"])


# --- docs/regression.md ---


def median_at(task: str, n_train: int, method: str) -> dict[int, float]:
    """The median test error at each evaluation but the first."""
    of_cell = select(measured("regression"), task=task, n_train=n_train, method=method)
    return of_cell[of_cell.step > 0].groupby("step").value.median().to_dict()


def at(task: str, n_train: int, updates: int) -> float:
    """The ratio of test errors at the evaluation nearest to a number of updates."""
    of_cell = select(measured("regression"), task=task, n_train=n_train)
    step = min(of_cell.step.unique(), key=lambda found: abs(found - updates))
    return 10 ** log_ratio(*(final(of_cell, method=method, step=step) for method in ("value", "sobolev"))).median


def test_how_much_depends_on_when_training_stops():
    rosenbrock, styblinski = (at(task, 10_000, 100_000) for task in ("rosenbrock", "styblinski_tang"))
    said = passage("regression", "learns faster on five functions. At", "on Rosenbrock. -")
    last = 1 / ratio("regression", "rosenbrock", 10_000).median
    states(said, ["100,000", rosenbrock, styblinski, "300,000", last])

    passed = {}
    for task in ("rosenbrock", "styblinski_tang"):
        medians = median_at(task, 100, "sobolev")
        least = min(medians, key=medians.get)
        passed[task] = least, medians[max(medians)] / medians[least]
    booth = ratio("regression", "booth", 100).median
    said = passage("regression", "From 100 points Sobolev Training reaches a ratio of", "times larger at")
    found = [round(least, -4) for least, _ in passed.values()], [times for _, times in passed.values()]
    states(said, [booth, *found[0], min(found[1]), max(found[1])])

    won_by_then = sum(
        log_ratio(*(final(of_cell, method=m, step=step) for m in ("value", "sobolev"))).low > 0
        for (_, n), of_cell in groups(measured("regression"), "task", "n_train")
        if n == 10_000
        for step in [min(of_cell.step.unique(), key=lambda found: abs(found - 100_000))]
    )
    numbers = [won_by_then, "7", "100,000", won("regression", PAPER_TASKS, 10_000), "300,000"]
    states(passage("regression", "more of the paper's claim would hold: at 10,000 points", ". - So"), numbers)
    answer = cell("regression", "[How long to train?](#how-much-depends-on-when-training-stops)", 1)
    states(answer, [*numbers[:2], "10,000", *numbers[2:]])


def test_which_cells_still_improve():
    longer = [
        (t, n) for (t, n), of_cell in groups(measured("regression"), "task", "n_train") if of_cell.step.max() > 2e5
    ]
    change = {
        (t, n): -convergence(select(measured("regression"), task=t, n_train=n, method="value")).change
        for t, n in longer
    }
    assert {t for t, n in longer if n == 10_000} == {*PAPER_TASKS} - {"ackley"}
    assert "five at 100." in passage("regression", "They are all cells at 10,000 points except", "(The sweep")
    assert len([n for _, n in longer if n == 100]) == 5
    many = [of_cell for (_, n), of_cell in change.items() if n == 10_000]
    said = passage("regression", "value-only training still improves in all those at 10,000 points", ")")
    assert said.startswith(" (by a third to nine tenths")
    assert rounds_to(3 * min(many), "1")
    assert rounds_to(10 * max(many), "9")


def test_what_longer_training_took():
    taken = pd.read_csv(RESULTS / "regression" / "runs.csv").query("experiment == 'regression'")
    settings = read_json(RESULTS / "regression" / "settings.json", Settings)
    steps = [settings[f"{r.experiment} {r.task} {r.method} {r.n_train}"]["optimizer.steps"] for r in taken.itertuples()]
    minutes = (taken.wall_seconds / 60 * 100_000 / np.array(steps)).groupby(taken.n_train).median()
    said = passage("regression", "100,000 updates of 10 networks took", ", on a quieter machine")
    states(said, [minutes[20], "20", minutes[100], "100", minutes[10_000], "10,000"])


def test_why_it_stops_improving():
    train = errors("regression", "train", "gradient_mse")
    of_value, of_both = (np.median([*train["rosenbrock", 10_000, m].values()]) for m in ("value", "sobolev"))
    states(passage("regression", "(a mean squared error of", ")"), [of_value, of_both])
    medians = select(
        measured("regression", "train", "gradient_mse"), task="styblinski_tang", n_train=100, method="sobolev"
    )
    of_step = medians.groupby("step").value.median()
    states(passage("regression", "rises during training, from", "."), [of_step.min(), of_step[of_step.index.max()]])

    def loss(task: str, activation: str, n_train: int) -> np.ndarray:
        """The median of the loss relative to its initial value."""
        descent = select(rows("regression"), experiment="regression_descent")
        return np.median(loss_curve(descent, task=task, method=activation, n_train=n_train)[1], axis=1)

    three = ("booth", "rosenbrock", "styblinski_tang")
    fallen = [100 * loss(task, "softplus", n)[-1] for task in three for n in (100, 10_000)]
    states(passage("regression", "the loss falls on every function, to", "on Booth"), [min(fallen), max(fallen)])
    many = [loss(task, "relu", 10_000) for task in PAPER_TASKS]
    said = passage("regression", "With ReLU it rises on Bukin,", "of its initial value")
    states(said, [loss("bukin", "relu", 100)[-1], "100", "10,000", min(each[-1] for each in many)])
    assert all(loss(task, "softplus", n)[-1] < 1 for task in PAPER_TASKS for n in (100, 10_000))


@pytest.mark.parametrize("n_train", [20, 100])
def test_what_hessians_add(n_train):
    helped = {20: ("booth", "mccormick", "rosenbrock", "styblinski_tang")}
    helped[100] = ("beale", *helped[20])
    smooth = "regression_second_order"
    alone = {n: [ratio(smooth, t, n).median for t in of] for n, of in helped.items()}
    said = passage("regression", "With this activation gradients alone make that error", ", as medians")
    states(
        said,
        [
            f"{min(alone[20]):.0f}",
            f"{max(alone[20]):.0f}",
            "20",
            f"{min(alone[100]):.0f}",
            f"{max(alone[100]):.0f}",
            "100",
        ],
    )
    relu = max(ratio("regression_normalised", t, n).median for t in PAPER_TASKS for n in (20, 100))
    states(passage("regression", "they make it at most", "smaller"), [relu])

    def median(experiment: str, task: str, method: str) -> float:
        return float(np.median([*errors(experiment)[task, n_train, method].values()]))

    best = [
        min(median(e, t, "value") for e in (smooth, "regression_normalised"))
        / min(median(e, t, "sobolev") for e in (smooth, "regression_normalised"))
        for t in helped[n_train]
    ]
    begins, ends = {
        20: ("as ratios of the medians:", "on the same four"),
        100: ("Styblinski-Tang), and", "on five at"),
    }[n_train]
    states(passage("regression", begins, ends), [min(best), max(best)])

    second = {(t, n): ratio(smooth, t, n, "sobolev_2", "sobolev").median for t in PAPER_TASKS for n in (20, 100)}
    further = [second[t, n] for t in helped[100] for n in (20, 100)]
    larger = [1 / second[t, n] for t in ("ackley", "bukin") for n in (20, 100)]
    states(
        passage("regression", "Hessians reduce the test error of values further, by", "(McCormick"),
        [min(further), "20", max(further)],
    )
    states(passage("regression", "Where gradients do not help, Hessians make it", "larger"), [min(larger), max(larger)])
