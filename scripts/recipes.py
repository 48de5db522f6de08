"""Choose the recipe from rows:  python -m scripts.recipes [--results results] [--configs configs]

From the rows of `experiment=regression_recipes` this writes configs/recipe: the networks for stage 2 of the search and,
once stage 2 has rows, the recipe and the value-only training that it is judged against. The rule is in
`experiments.regression.choosing`. The compared choices are printed, the best first. Choices with different numbers of
updates are refused, and what reduced rows choose says so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
import yaml

from experiments.evidence.reading import EvidenceError, rows_path
from experiments.evidence.rows import read_rows, scale_of, select
from experiments.regression.choosing import (
    CELLS,
    CELLS_OF_NETWORKS,
    SEARCH,
    Choice,
    complete,
    errors_of,
    gain,
    mean_error,
    ranked,
    stage_1,
    two_activations,
)
from experiments.runner.command_line import one_line_errors
from sobolev.files import replacing

SHOWN = 12  # how many choices are printed


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison, write the chosen settings, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.recipes", description=__doc__.split("\n\n")[1])
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that holds regression/")
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="folder that holds recipe/")
    options = parser.parse_args(arguments)
    try:
        rows = of_one_budget(read_rows(rows_path(options.results / "regression")))
    except EvidenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    tried = errors_of(rows)
    scale = " in reduced runs" if len(rows) and scale_of(rows) == "reduced" else ""
    for stage, errors, cells in (("stage 1", stage_1(tried), CELLS_OF_NETWORKS), ("stage 2", tried, CELLS)):
        value, recipes = ranked(errors, cells)
        if not value or not recipes:
            print(f"{stage}: an approach has no choice with all {len(cells)} cells: `make recipes`", file=sys.stderr)
            return int(stage == "stage 1")
        whole = complete(errors, cells)
        print(f"{stage}{scale}: {len(value)} value-only choices by geometric mean, {len(recipes)} recipes by gain")
        for choice in value[:SHOWN]:
            print(f"  {mean_error(whole[choice]):10.4g}  {'-'.join(choice)}")
        for choice in recipes[:SHOWN]:
            print(f"  {gain(whole[value[0]], whole[choice]):10.4g}  {'-'.join(choice)}")
        folder = options.configs / "recipe"
        if stage == "stage 1":
            said = f"stage 1 of the search chose these settings{scale}"
            for approach, choices in (("value", value), ("sobolev", recipes)):
                for place, choice in enumerate(two_activations(choices), 1):
                    write(folder / f"{approach}_{place}.yaml", choice, said)
            for relu in [choice for choice in recipes if choice.activation == "relu"][:1]:
                write(folder / "sobolev_relu.yaml", relu, said)
        else:
            for approach, choices in (("value", value), ("sobolev", recipes)):
                write(folder / f"{approach}.yaml", choices[0], f"the search chose these settings{scale}", approach)
    return 0


def of_one_budget(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the search.

    Raises:
        EvidenceError: if its runs differ in their number of updates, because more updates would look like a better
            choice.
    """
    searched = select(rows, experiment=SEARCH)
    updates = sorted(searched.groupby(["method", "task", "n_train", "seed"], observed=True)["step"].max().unique())
    if len(updates) > 1:
        numbers = " and ".join(f"{number:,}" for number in updates)
        raise EvidenceError(
            f"experiment={SEARCH} has runs of {numbers} updates, which cannot be compared; collect one of these budgets"
        )
    return searched


def write(path: Path, choice: Choice, said: str, approach: str = "") -> None:
    """Write one choice as a config."""
    config: dict = {"approach": approach} if approach else {}
    for key, word in choice.settings.items():
        group, _, name = key.rpartition(".")
        (config.setdefault(group, {}) if group else config)[name] = yaml.safe_load(word)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(
            f"# @package _global_\n# Written by scripts.recipes: {said}.\n" + yaml.safe_dump(config, sort_keys=False)
        )
    print(path)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
