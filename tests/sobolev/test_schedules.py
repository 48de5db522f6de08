"""Factors over training: their ends, and the names that configs use."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sobolev import Derivatives, SobolevLoss, schedules
from tests.conftest import ROOT

share = st.floats(0.01, 1)
factor = st.floats(0, 10)


@given(until=share, start=factor, end=factor, t=st.floats(0, 1))
def test_each_goes_from_its_start_to_its_end_and_stays_between(until, start, end, t):
    made = {
        "linear": schedules.linear(end, until, start),
        "cosine": schedules.cosine(end, until, start),
        "switch": schedules.switch(until, end, start),
    }
    for schedule in made.values():
        assert schedule(0.0) == pytest.approx(start)
        assert schedule(until) == schedule(1.0) == end
        assert min(start, end) - 1e-9 <= schedule(t) <= max(start, end) + 1e-9


def test_the_middle():
    assert schedules.linear(until=0.5)(0.125) == 0.75
    assert schedules.cosine(until=0.5)(0.125) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert [schedules.switch(0.5)(t) for t in (0.49, 0.5)] == [1, 0]
    assert schedules.constant(0.3)(0.7) == 0.3
    assert schedules.learning_rate(lambda t: 0.2 * (1 - t))(0.25) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("match", "make"),
    [
        ("until is a share of training", lambda: schedules.cosine(until=0)),
        ("until is a share of training", lambda: schedules.linear(until=1.5)),
        ("at is a share of training", lambda: schedules.switch(at=float("nan"))),
        ("end is a factor of weights", lambda: schedules.cosine(end=-1)),
        ("start is a factor of weights", lambda: schedules.linear(start=float("inf"))),
        ("value is a factor of weights", lambda: schedules.constant("1")),
        ("learning rate at the beginning must be positive", lambda: schedules.learning_rate(lambda t: 0.0)),
        ("one of constant, linear, cosine, switch, learning_rate, not 'cos'", lambda: SobolevLoss(schedule="cos")),
        ("progress is step / steps", lambda: setattr(SobolevLoss(schedule="cosine"), "progress", 2)),
    ],
)
def test_what_is_refused(match, make):
    with pytest.raises(ValueError, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_schedules_need_no_torch():
    program = "import sys, sobolev.schedules; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- in the loss ----------------------------------------------------------------------------------------------------

X = torch.rand(5, 2, generator=torch.Generator().manual_seed(0))


def teacher(x):
    return (x * x).sum(-1, keepdim=True)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_schedule_multiplies_the_weights_of_derivatives_and_drops_them_at_0(monkeypatch, wrapped):
    student = network()
    f = Derivatives(student) if wrapped else student
    loss = SobolevLoss(1, weights=(2, 3), schedule=schedules.linear(end=0.0, until=0.5))
    terms = SobolevLoss(1)(student, X, teacher).by_order
    with pytest.raises(ValueError, match=r"set loss\.progress = step / steps"):
        loss(f, X, teacher)
    for t, w in ((0.0, 3), (0.25, 1.5)):
        loss.progress = t
        torch.testing.assert_close(loss(f, X, teacher).total, 2 * terms[0] + w * terms[1])
    loss.progress = 0.5

    def refuse(*args, **options):
        raise AssertionError("a derivative was taken")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    found = loss(f, X, teacher)
    assert found.by_order.keys() == {0}
    assert loss.order == 0
    torch.testing.assert_close(found.total, 2 * terms[0])


def test_a_schedule_of_each_order():
    loss = SobolevLoss(2, schedule={1: "cosine", 2: schedules.switch(0.5, start=0, end=1)})
    loss.progress = 0.25
    terms = loss(network(), X, teacher)
    assert terms.by_order.keys() == {0, 1}
    factor = (1 + math.cos(math.pi / 4)) / 2
    torch.testing.assert_close(terms.total, terms.by_order[0] + factor * terms.by_order[1])
    loss.progress = 1.0
    assert loss(network(), X, teacher).by_order.keys() == {0, 2}
