"""The titles and looks of regression's functions, methods and protocols in figures and tables.

A user's own function is shown under its name in the rows, unless its title is added to `TASKS`.
"""

from __future__ import annotations

from experiments.evidence import names

TASKS = {
    # The paper's functions, in the order of its table.
    "ackley": "Ackley",
    "beale": "Beale",
    "booth": "Booth",
    "bukin": "Bukin N. 6",
    "mccormick": "McCormick",
    "rosenbrock": "Rosenbrock",
    "styblinski_tang": "Styblinski-Tang",
    # The functions on which the recipe was chosen.
    "branin": "Branin",
    "six_hump_camel": "six-hump camel",
    "levy": "Levy",
    "eggholder": "eggholder",
    "friedman": "Friedman",
    "hartmann_6": "Hartmann, 6 inputs",
    # Engineering models.
    "borehole": "borehole",
    "otl_circuit": "OTL circuit",
    "piston": "piston",
    "robot_arm": "robot arm",
    "wing_weight": "wing weight",
}
METHODS = names.METHODS | {
    "sobolev_2": "Sobolev, 2nd order",
    "sobolev_light": "Sobolev, a tenth of the weight",
    "sobolev_norm": "Sobolev, norm not squared",
    "sobolev_norm_light": "Sobolev, norm not squared, a tenth of the weight",
    "relu": "ReLU",
    "softplus": "softplus",
}
LOOKS = names.LOOKS | {
    "sobolev_2": {"color": "#009E73", "marker": "^"},
    "relu": {"color": "#E69F00", "marker": "P"},
    "softplus": {"color": "#56B4E9", "marker": "v"},
}
SIZE_LOOKS = [
    {"color": "#009E73", "marker": "o"},
    {"color": "#E69F00", "marker": "s"},
    {"color": "#56B4E9", "marker": "^"},
    {"color": "#CC79A7", "marker": "D"},
]
METRICS = {"value_mse": "values", "gradient_mse": "gradients", "hessian_mse": "Hessians"}
PROTOCOLS = {
    "regression": "paper's protocol",
    "regression_surfaces": "paper's protocol",
    "regression_normalised": "normalised protocol",
    "regression_second_order": "normalised protocol, smooth activation",
    "regression_steep": "normalised protocol",
    "regression_descent": "normalised protocol",
    "regression_decayed": "paper's protocol, learning rate falling in the end",
    "regression_recipe": "normalised protocol, each method's best choice",
    "regression_recipe_unseen": "normalised protocol, each method's best choice",
}
REDUCED = "REDUCED: not the paper's scale"  # the mark of a figure

names.register("task", TASKS)
names.register("method", METHODS)
