"""A user's finished runs keep their names: whatever was renamed since, the same question has the same folder."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir

from experiments.runner.errors import CONFIGS
from experiments.runner.former_names import ENTRIES, KEYS, as_called_today, as_first_called
from experiments.runner.identity import run_id
from tests.conftest import composed

# The first and the last run of each shipped grid, as the first version of the code named them.
RUNS = [
    ("distillation/figure_4", 0, "breakout-value-n1000-seed0-9c32314fae"),
    ("distillation/figure_4", -1, "pong-sobolev-n50000-seed5-f418052519"),
    ("distillation/figure_4_reduced", 0, "breakout-value-n1000-seed0-fb342e4d00"),
    ("distillation/figure_4_reduced", -1, "pong-sobolev-n25000-seed5-aceeb91724"),
    ("distillation/float32", 0, "breakout-sobolev-n1000-seed0-ee6d606866"),
    ("distillation/float32", -1, "pong-sobolev-n1000-seed2-1cdc41edde"),
    ("distillation/longer", 0, "breakout-value-n25000-seed0-0b89bfe969"),
    ("distillation/longer", -1, "breakout-sobolev-n25000-seed2-cc8bd9649f"),
    ("distillation/quickstart", 0, "pong-value-n1000-seed0-63385ae690"),
    ("distillation/quickstart", -1, "pong-sobolev-n1000-seed0-4e7e8667fd"),
    ("distillation/search", 0, "breakout-sobolev_lr0.0001_alpha0.3-n5000-seed1000-c28e38c54e"),
    ("distillation/search", -1, "pong-sobolev_lr0.001_alpha10.0-n5000-seed1000-4507415ac3"),
    ("distillation/search_reduced", 0, "breakout-sobolev_lr0.0005_alpha0.3-n5000-seed1000-6b3e2cda86"),
    ("distillation/search_reduced", -1, "pong-sobolev_lr0.001_alpha10.0-n5000-seed1000-5184661b2c"),
    ("distillation/search_reduced_value", 0, "breakout-value_lr0.0002_alpha0.0-n5000-seed1000-6638c32178"),
    ("distillation/search_reduced_value", -1, "pong-value_lr0.001_alpha0.0-n5000-seed1000-2a04fa16ec"),
    ("distillation/search_value", 0, "breakout-value_lr1e-05_alpha0.0-n5000-seed1000-188bf210d7"),
    ("distillation/search_value", -1, "pong-value_lr0.001_alpha0.0-n5000-seed1000-6b7a678adc"),
    ("regression/descent", 0, "ackley-relu-n100-seed0-3db337abc8"),
    ("regression/descent", -1, "styblinski_tang-softplus-n10000-seed0-f282e33b78"),
    ("regression/figure_2", 0, "ackley-value-n20-seed0-bdd5104627"),
    ("regression/figure_2", -1, "styblinski_tang-sobolev-n10000-seed0-bc7b051153"),
    ("regression/figure_2_longer", 0, "beale-value-n100-seed0-e9fcda3352"),
    ("regression/figure_2_longer", -1, "styblinski_tang-sobolev-n10000-seed0-88aec7c71b"),
    ("regression/figure_2_normalised", 0, "ackley-value-n20-seed0-725ff68528"),
    ("regression/figure_2_normalised", -1, "styblinski_tang-sobolev-n10000-seed0-59e5f5f5d3"),
    ("regression/quickstart", 0, "ackley-value-n20-seed0-806186b654"),
    ("regression/quickstart", -1, "styblinski_tang-sobolev-n100-seed0-e07d1be439"),
    ("regression/second_order", 0, "ackley-value-n20-seed0-5120b499d4"),
    ("regression/second_order", -1, "styblinski_tang-sobolev_2-n100-seed0-719e1eef00"),
    ("regression/steep", 0, "bukin-value-n100-seed0-f7d077b8c2"),
    ("regression/steep", -1, "ackley-sobolev_norm_light-n10000-seed0-e27861ea23"),
    ("synthetic_gradients/cifar10", 0, "cifar10-backprop-n50000-seed0-3c2bcf8df5"),
    ("synthetic_gradients/cifar10", -1, "cifar10-sobolev-n50000-seed2-8158d8089a"),
    ("synthetic_gradients/cifar10_60_epochs", 0, "cifar10_60_epochs-backprop-n50000-seed0-88bce34672"),
    ("synthetic_gradients/cifar10_60_epochs", -1, "cifar10_60_epochs-sobolev-n50000-seed2-e6620adb89"),
    ("synthetic_gradients/cifar10_reduced", 0, "cifar10-backprop-n50000-seed0-b0a7ca364e"),
    ("synthetic_gradients/cifar10_reduced", -1, "cifar10-sobolev_label-n50000-seed2-6785b80c94"),
    ("synthetic_gradients/digits", 0, "digits-backprop-n1437-seed0-dfc3591d7d"),
    ("synthetic_gradients/digits", -1, "digits-sobolev_label-n1437-seed9-5154db2d7f"),
    ("synthetic_gradients/imagenet", 0, "imagenet_resnet50_1-backprop-n1281167-seed0-f0f4da085b"),
    ("synthetic_gradients/imagenet", -1, "imagenet_resnet50_3-sobolev-n1281167-seed2-b6cf6b520f"),
    ("synthetic_gradients/imagenette_reduced", 0, "imagenette_resnet50_1-backprop-n9469-seed0-a9b6aabdf7"),
    ("synthetic_gradients/imagenette_reduced", -1, "imagenette_resnet50_3-sobolev-n9469-seed0-51c68838f2"),
    ("synthetic_gradients/mnist", 0, "mnist-backprop-n60000-seed0-c6ad8d7a25"),
    ("synthetic_gradients/mnist", -1, "mnist-sobolev_label-n60000-seed2-aac359ed74"),
    ("synthetic_gradients/search", 0, "digits-direct_rate0.0001-n1437-seed1000-2a00b6a3c2"),
    ("synthetic_gradients/search", -1, "digits-sobolev_label_rate0.01-n1437-seed1002-41a0dd5258"),
    ("theory/approximation", 0, "d1_w8-value_relu-n4096-seed100-57383cfadd"),
    ("theory/approximation", -1, "d2_w256-differences_tanh-n4096-seed100-6e82c76bc4"),
    ("theory/construction", 0, "d1_w64-construction-n3000-seed0-d00cc77bad"),
    ("theory/construction", -1, "d3_w16384-construction-n3000-seed0-46eef6c189"),
    ("theory/exact", 0, "proposition_1-exact-n0-seed0-addfa858b3"),
    ("theory/exact", -1, "hypotheses-exact-n0-seed0-dfa4acb0cb"),
    ("theory/mismatch", 0, "interval_delta0.0-sobolev-n256-seed100-00f363c275"),
    ("theory/mismatch", -1, "disc_delta2.0-sobolev-n256-seed100-fc1f35a06c"),
    ("theory/points", 0, "d1-value_relu-n2-seed100-eee79e6d24"),
    ("theory/points", -1, "d20-sobolev_tanh-n4096-seed100-faa2b55e4f"),
]


@pytest.mark.parametrize(("sweep", "at", "name"), RUNS)
def test_the_runs_of_a_grid_are_named_as_before(sweep, at, name):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        params = compose("config", [f"sweep={sweep}"], return_hydra_config=True).hydra.sweeper.params
    precision = ["compute_dtype=bfloat16"] if sweep == "distillation/quickstart" else []  # elsewhere the machine's
    chosen = (f"{key}={str(choices).split(',')[at]}" for key, choices in params.items())
    assert run_id(composed(f"sweep={sweep}", *chosen, *precision)) == name


def test_every_shipped_grid_is_among_them():
    grids = {path.relative_to(CONFIGS / "sweep").with_suffix("").as_posix() for path in CONFIGS.glob("sweep/*/*.yaml")}
    assert grids == {sweep for sweep, _, _ in RUNS}


def test_names_of_today_and_first_names_map_onto_each_other():
    today = {"entry": next(iter(ENTRIES)), "n_train": 3, "group": {"n_train": 4}}
    for key in KEYS:
        group, _, name = key.rpartition(".")
        (today.setdefault(group, {}) if group else today)[name] = 5
    first = as_first_called(today)
    assert first["entry"] == ENTRIES[today["entry"]]
    assert as_called_today(first) == today
    assert as_called_today(today) == today  # a run of today


def test_settings_by_dotted_keys_are_renamed_too():
    first = {key: 1 for key in KEYS.values()}
    assert as_called_today(first) == {key: 1 for key in KEYS}
