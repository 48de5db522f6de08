"""A user's finished runs keep their names: whatever was renamed since, the same question has the same folder."""

from __future__ import annotations

import math

import pytest
from hydra import compose, initialize_config_dir

from experiments.runner.errors import CONFIGS
from experiments.runner.former_names import ENTRIES, KEYS, as_called_today, as_first_called
from experiments.runner.identity import run_id
from tests.conftest import composed

# How many runs each shipped grid has, and its first and its last one as the first version of the code named them.
RUNS = """
distillation/figure_4 180
  breakout-value-n1000-seed0-9c32314fae
  pong-sobolev-n50000-seed5-f418052519
distillation/figure_4_reduced 108
  breakout-value-n1000-seed0-fb342e4d00
  pong-sobolev-n25000-seed5-aceeb91724
distillation/float32 9
  breakout-sobolev-n1000-seed0-ee6d606866
  pong-sobolev-n1000-seed2-1cdc41edde
distillation/longer 108
  breakout-value-n1000-seed0-b2692dfa0e
  pong-sobolev_balanced-n25000-seed2-dc11ad44cb
distillation/quickstart 2
  pong-value-n1000-seed0-63385ae690
  pong-sobolev-n1000-seed0-4e7e8667fd
distillation/search 36
  breakout-sobolev_lr0.0001_alpha0.3-n5000-seed1000-c28e38c54e
  pong-sobolev_lr0.001_alpha10.0-n5000-seed1000-4507415ac3
distillation/search_falling 36
  breakout-sobolev_falling_lr0.0003_alpha3.0_until0.25-n5000-seed1000-ab18094cb3
  pong-sobolev_falling_lr0.001_alpha10.0_until1.0-n5000-seed1000-9cc49dbbb3
distillation/search_longer 12
  breakout-sobolev_falling_lr0.001_alpha3.0_until0.25-n5000-seed1000-249c80dbab
  pong-sobolev_falling_lr0.001_alpha10.0_until1.0-n5000-seed1000-a933936a90
distillation/search_longer_balanced 18
  breakout-sobolev_balanced_lr0.001_alpha3.0_until0.5-n5000-seed1000-a6846c2805
  pong-sobolev_balanced_lr0.001_alpha1000.0_until0.5-n5000-seed1000-c0a2398973
distillation/search_longer_value 18
  breakout-value_lr0.00025_alpha0.0_until0.0-n5000-seed1000-ded501e2d3
  pong-value_lr0.001_alpha0.0_until0.0-n5000-seed1000-7308ef326c
distillation/search_reduced 24
  breakout-sobolev_lr0.0005_alpha0.3-n5000-seed1000-6b3e2cda86
  pong-sobolev_lr0.001_alpha10.0-n5000-seed1000-5184661b2c
distillation/search_reduced_falling 24
  breakout-sobolev_falling_lr0.001_alpha3.0_until0.25-n5000-seed1000-607f4c5b26
  pong-sobolev_falling_lr0.001_alpha10.0_until1.0-n5000-seed1000-de0cad9f98
distillation/search_reduced_value 24
  breakout-value_lr0.0002_alpha0.0-n5000-seed1000-6638c32178
  pong-value_lr0.001_alpha0.0-n5000-seed1000-2a04fa16ec
distillation/search_value 36
  breakout-value_lr1e-05_alpha0.0-n5000-seed1000-188bf210d7
  pong-value_lr0.001_alpha0.0-n5000-seed1000-6b7a678adc
regression/decayed 4
  rosenbrock-value-n10000-seed0-a987b6e445
  styblinski_tang-sobolev-n10000-seed0-cdad7b512a
regression/descent 28
  ackley-relu-n100-seed0-3db337abc8
  styblinski_tang-softplus-n10000-seed0-f282e33b78
regression/figure_2 42
  ackley-value-n20-seed0-bdd5104627
  styblinski_tang-sobolev-n10000-seed0-bc7b051153
regression/figure_2_longer 24
  beale-value-n100-seed0-e9fcda3352
  styblinski_tang-sobolev-n10000-seed0-88aec7c71b
regression/figure_2_normalised 42
  ackley-value-n20-seed0-725ff68528
  styblinski_tang-sobolev-n10000-seed0-59e5f5f5d3
regression/projections 36
  hartmann_6-sobolev_sphere1-n100-seed2000-6c51482f38
  wing_weight-sobolev_coordinate4-n100-seed2000-ba5ca4f33f
regression/projections_full 6
  hartmann_6-value_full1-n100-seed2000-625f4e7bed
  wing_weight-sobolev_full1-n100-seed2000-02f89e3c5a
regression/quickstart 28
  ackley-value-n20-seed0-806186b654
  styblinski_tang-sobolev-n100-seed0-e07d1be439
regression/recipe 42
  ackley-value-n20-seed0-66dec4528b
  styblinski_tang-sobolev-n10000-seed0-1420e4bbb2
regression/recipe_limits_value 4
  branin-value_weight1.0_noise0.0-n100-seed2000-2225416b83
  friedman-value_weight1.0_noise0.0-n100-seed2000-94ce01edf2
regression/recipe_noise 20
  branin-sobolev_weight1.0_noise0.01-n100-seed2000-f2fbee2fb5
  friedman-sobolev_weight1.0_noise1.0-n100-seed2000-6401ae8c55
regression/recipe_weights 36
  branin-sobolev_weight0.01_noise0.0-n100-seed2000-db0a020e90
  friedman-sobolev_weight100.0_noise0.0-n100-seed2000-7af215f64d
regression/recipe_unseen 40
  borehole-value-n20-seed0-8a8715547b
  wing_weight-sobolev-n10000-seed0-1aefc5cfd0
regression/recipes_differences 18
  branin-relu-uniform_fan_in-0.003-32-balanced-late-square-finite-n100-seed1000-e5728d4896
  six_hump_camel-relu-uniform_fan_in-0.003-32-balanced-late-square-finite-n20-seed1000-fe1e868105
regression/recipes_networks 480
  branin-relu-uniform_fan_in-0.001-32-none-flat-square-exact-n100-seed1000-5343905899
  levy-tanh-he_spread-0.01-32-unit-flat-square-exact-n10000-seed1000-abe0f21866
regression/recipes_norms 36
  branin-tanh-uniform_fan_in-0.003-32-balanced-late-norm-exact-n100-seed1000-5691266fda
  six_hump_camel-gelu-uniform_fan_in-0.01-32-balanced-late-norm-exact-n20-seed1000-9f6715eae6
regression/recipes_terms 144
  branin-tanh-uniform_fan_in-0.003-32-unit-flat-square-exact-n100-seed1000-ab2beca4c2
  six_hump_camel-gelu-uniform_fan_in-0.01-32-balanced-late-square-exact-n20-seed1000-0771f6638a
regression/recipes_value 144
  branin-gelu-uniform_fan_in-0.01-32-none-flat-square-exact-n100-seed1000-70be01806a
  six_hump_camel-silu-uniform_fan_in-0.02-64-none-flat-square-exact-n20-seed1000-55795c0e8f
regression/recipes_value_rate 36
  branin-gelu-uniform_fan_in-0.006-32-none-flat-square-exact-n100-seed1000-6ea942a5f2
  six_hump_camel-gelu-uniform_fan_in-0.006-64-none-flat-square-exact-n20-seed1000-5347a69850
regression/second_order 42
  ackley-value-n20-seed0-5120b499d4
  styblinski_tang-sobolev_2-n100-seed0-719e1eef00
regression/surfaces 42
  ackley-value-n20-seed0-f20b4dbf9f
  styblinski_tang-sobolev-n10000-seed0-74163df6f8
regression/steep 20
  bukin-value-n100-seed0-f7d077b8c2
  ackley-sobolev_norm_light-n10000-seed0-e27861ea23
synthetic_gradients/cifar10 18
  cifar10-backprop-n50000-seed0-3c2bcf8df5
  cifar10-sobolev-n50000-seed2-8158d8089a
synthetic_gradients/cifar10_30_epochs 18
  cifar10_30_epochs-backprop-n50000-seed0-9d907b8d51
  cifar10_30_epochs-sobolev-n50000-seed2-01ccd49567
synthetic_gradients/cifar10_60_epochs 18
  cifar10_60_epochs-backprop-n50000-seed0-88bce34672
  cifar10_60_epochs-sobolev-n50000-seed2-e6620adb89
synthetic_gradients/cifar10_reduced 21
  cifar10-backprop-n50000-seed0-b0a7ca364e
  cifar10-sobolev_label-n50000-seed2-6785b80c94
synthetic_gradients/digits 70
  digits-backprop-n1437-seed0-dfc3591d7d
  digits-sobolev_label-n1437-seed9-5154db2d7f
synthetic_gradients/imagenet 30
  imagenet_resnet50_1-backprop-n1281167-seed0-f0f4da085b
  imagenet_resnet50_3-sobolev-n1281167-seed2-b6cf6b520f
synthetic_gradients/imagenette_reduced 6
  imagenette_resnet50_1-backprop-n9469-seed0-a9b6aabdf7
  imagenette_resnet50_3-sobolev-n9469-seed0-51c68838f2
synthetic_gradients/mnist 21
  mnist-backprop-n60000-seed0-c6ad8d7a25
  mnist-sobolev_label-n60000-seed2-aac359ed74
synthetic_gradients/search 75
  digits-direct_rate0.0001-n1437-seed1000-2a00b6a3c2
  digits-sobolev_label_rate0.01-n1437-seed1002-41a0dd5258
surrogates/basket 15
  basket-value-n64-seed0-20932f43e3
  basket-sobolev_norm-n16384-seed0-3a0048739e
surrogates/own 8
  own-value-n0-seed0-eb66328823
  own-sobolev-n0-seed0-d63ebe7754
surrogates/reactor 12
  reactor-value-n16-seed0-1eb26b3049
  reactor-sobolev-n512-seed0-63b7f89ec5
theory/approximation 108
  d1_w8-value_relu-n4096-seed100-57383cfadd
  d2_w256-differences_tanh-n4096-seed100-6e82c76bc4
theory/construction 27
  d1_w64-construction-n3000-seed0-d00cc77bad
  d3_w16384-construction-n3000-seed0-46eef6c189
theory/exact 5
  proposition_1-exact-n0-seed0-addfa858b3
  hypotheses-exact-n0-seed0-dfa4acb0cb
theory/mismatch 12
  interval_delta0.0-sobolev-n256-seed100-00f363c275
  disc_delta2.0-sobolev-n256-seed100-fc1f35a06c
theory/points 336
  d1-value_relu-n2-seed100-eee79e6d24
  d20-sobolev_tanh-n4096-seed100-faa2b55e4f
"""
WORDS = RUNS.split()
GRIDS = [WORDS[at : at + 4] for at in range(0, len(WORDS), 4)]


@pytest.mark.parametrize(("sweep", "size", "first", "last"), GRIDS)
def test_the_runs_of_a_grid_are_named_as_before(sweep, size, first, last):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", [f"sweep={sweep}"], return_hydra_config=True)
    params = {key: str(choices).split(",") for key, choices in config.hydra.sweeper.params.items()}
    assert math.prod(map(len, params.values())) == int(size)
    precision = ["compute_dtype=bfloat16"] if sweep == "distillation/quickstart" else []  # elsewhere the machine's
    for at, name in ((0, first), (-1, last)):
        chosen = (f"{key}={choices[at]}" for key, choices in params.items())
        assert run_id(composed(f"sweep={sweep}", *chosen, *precision)) == name


def test_every_shipped_grid_is_among_them():
    grids = {path.relative_to(CONFIGS / "sweep").with_suffix("").as_posix() for path in CONFIGS.glob("sweep/*/*.yaml")}
    assert grids == {sweep for sweep, *_ in GRIDS}


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
