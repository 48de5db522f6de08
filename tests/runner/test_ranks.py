"""How several processes agree to stop."""

import pytest

from experiments.runner import ranks
from experiments.runner.ranks import MOST_STEPS, Meetings, Ranks


class Two(Ranks):
    """One of two processes; the other wants to meet after `others` steps and says what `said` holds."""

    others, said = MOST_STEPS, 0

    def all_reduce_max(self, *numbers):
        self.asked.append(numbers)
        return [max(numbers[0], self.said), max(numbers[1], -self.others)]


@pytest.fixture
def two(monkeypatch):
    made = Two(count=2)
    object.__setattr__(made, "asked", [])
    return made


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set."""
    now = [0.0]
    monkeypatch.setattr(ranks.time, "monotonic", lambda: now[0])
    return now


def steps(meetings, clock, n: int, seconds: float, asked: int = 0) -> list[int]:
    answers = []
    for _ in range(n):
        clock[0] += seconds
        answers.append(meetings.stop(asked))
    return answers


def test_processes_do_not_wait_for_each_other_at_every_step(two, clock):
    assert not any(steps(Meetings(two), clock, 10 * MOST_STEPS, seconds=0.001))
    assert len(two.asked) <= 11


@pytest.mark.parametrize("seconds", [0.001, 0.1, 3.0])
def test_a_process_that_is_asked_stops_soon_and_all_at_one_step(two, clock, seconds):
    meetings = Meetings(two)
    steps(meetings, clock, 3 * MOST_STEPS, seconds)
    answers = steps(meetings, clock, MOST_STEPS, seconds, asked=15)
    assert 15 in answers
    waited = (answers.index(15) + 1) * seconds
    assert waited <= max(seconds, 2 * ranks.BETWEEN_MEETINGS)
    met = len(two.asked)
    object.__setattr__(two, "said", 2)  # the other was
    assert 2 in steps(meetings, clock, MOST_STEPS, seconds)
    assert len(two.asked) > met


def test_the_slowest_says_when_they_meet_again(two, clock):
    object.__setattr__(two, "others", 3)
    steps(Meetings(two), clock, 13, seconds=0.001)
    assert len(two.asked) == 5  # at steps 1, 4, 7, 10, 13


def test_a_process_alone_asks_itself_at_every_step():
    meetings = Meetings(Ranks())
    assert [meetings.stop(asked) for asked in (0, 15, 2)] == [0, 15, 2]
