"""Learning rates, and when a training is measured."""

import pytest

from experiments.runner.schedules import evaluation_steps, learning_rate
from experiments.runner.settings import OptimizerConfig, Schedule


def test_the_cosine_goes_from_the_rate_to_nothing_and_a_constant_stays():
    cosine, constant = (OptimizerConfig(0.1, schedule, steps=100) for schedule in (Schedule.cosine, Schedule.constant))
    assert [learning_rate(cosine, step) for step in (0, 50, 100)] == pytest.approx([0.1, 0.05, 0])
    assert learning_rate(cosine, 25) == pytest.approx(0.1 * (2 + 2**0.5) / 4)
    assert {learning_rate(constant, step) for step in range(100)} == {0.1}


def test_a_tail_is_constant_until_its_last_quarter_falls():
    tail = OptimizerConfig(0.1, Schedule.tail, steps=101)
    assert {learning_rate(tail, step) for step in range(77)} == {0.1}
    assert [learning_rate(tail, step) for step in (76, 88.5, 101)] == pytest.approx([0.1, 0.05, 0])
    assert learning_rate(OptimizerConfig(0.1, Schedule.tail, steps=3), 2) == 0.1  # no quarter to fall over


def test_measurements_are_even_in_the_logarithm_and_take_both_ends():
    assert evaluation_steps(100_000, 4) == [0, 100, 1000, 10_000, 100_000]
    assert evaluation_steps(10, 4) == [0, 1, 2, 5, 10]
    assert evaluation_steps(3, 20) == [0, 1, 2, 3]
    assert evaluation_steps(3, 1) == [0, 1, 3]
