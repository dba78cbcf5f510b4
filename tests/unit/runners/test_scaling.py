"""The number of runners under a load that is made up, on a clock that is turned by hand."""

from collections.abc import Iterable
from typing import Any

import pytest

from trtllm_openai.runners.scaling import Load, Scaler


class Clock:
    """A scaler that is shown a load every second."""

    def __init__(self, least: int = 1, most: int = 8, down_after_s: float = 10.0) -> None:
        self.scaler = Scaler(least, most, queue_s=2.0, kv_use=0.9, down_after_s=down_after_s)
        self.now = 1000.0

    def show(self, seconds: int = 1, **load: Any) -> list[int]:
        """What is wanted after each second of this load."""
        found = []
        for _ in range(seconds):
            self.now += 1.0
            found.append(self.scaler.observe(Load(**{"batch": 8, **load}), self.now))
        return found


def changes(wanted: Iterable[int]) -> list[int]:
    """The numbers, each once for as long as it stays."""
    found: list[int] = []
    for one in wanted:
        if found[-1:] != [one]:
            found.append(one)
    return found


QUEUE: dict[str, Any] = {"running": 8, "waiting": 4, "oldest_s": 2.1}
"""A queue that is one runner's work too long."""


def test_a_queue_below_the_target_changes_nothing() -> None:
    assert set(Clock().show(60, ready=1, running=8, waiting=100, oldest_s=1.9)) == {1}


def test_up_at_once_and_not_twice_while_one_is_being_started() -> None:
    clock = Clock()
    assert clock.show(ready=1, **QUEUE) == [2]
    assert set(clock.show(60, ready=1, coming=1, **QUEUE | {"oldest_s": 60.0})) == {2}
    assert clock.show(ready=2, **QUEUE | {"running": 16}) == [3]


@pytest.mark.parametrize(
    ("ready", "running", "waiting", "wanted"),
    [(1, 8, 1, 2), (1, 8, 100, 2), (2, 16, 1, 3), (2, 16, 100, 4), (3, 24, 17, 6), (5, 40, 400, 8)],
)
def test_up_by_what_the_backlog_keeps_busy_at_most_twice_as_many(
    ready: int, running: int, waiting: int, wanted: int
) -> None:
    clock = Clock(least=ready)
    assert clock.show(ready=ready, running=running, waiting=waiting, oldest_s=3.0) == [wanted]


def test_a_full_cache_adds_one() -> None:
    clock = Clock()
    assert clock.show(3, ready=1, running=4, kv_use=0.9) == [1, 1, 1]
    assert clock.show(3, ready=1, running=4, kv_use=0.91) == [2, 2, 2]


def test_never_more_than_the_greatest_number() -> None:
    clock = Clock(most=2)
    assert set(clock.show(5, ready=2, running=16, waiting=500, oldest_s=90.0, kv_use=1.0)) == {2}


def test_down_one_at_a_time_after_quiet() -> None:
    clock = Clock(least=1, most=4)
    clock.scaler.wanted = 4
    wanted = clock.show(45, ready=4)
    assert changes(wanted) == [4, 3, 2, 1]
    assert [wanted.count(number) for number in (4, 3, 2)] == [10, 10, 10]


def test_quiet_is_without_a_break() -> None:
    clock = Clock(most=4)
    clock.scaler.wanted = 2
    for _ in range(5):
        assert set(clock.show(9, ready=2)) == {2}
        assert clock.show(ready=2, running=8, waiting=1) == [2]


def test_after_an_addition_the_quiet_begins_anew() -> None:
    clock = Clock(most=4)
    clock.scaler.wanted = 2
    clock.show(9, ready=2)
    assert clock.show(ready=2, running=16, waiting=1, oldest_s=5.0) == [3]
    assert clock.show(11, ready=3)[-2:] == [3, 2]


@pytest.mark.parametrize(
    "load",
    [
        {"running": 6},  # of the 8 places that would be left
        {"kv_use": 0.4},  # twice of that on one
        {"coming": 1},
        {"waiting": 1},
        {"ready": 0},
    ],
)
def test_none_is_taken_that_would_be_missed(load: dict[str, Any]) -> None:
    clock = Clock()
    clock.scaler.wanted = 2
    assert set(clock.show(60, **{"ready": 2, **load})) == {2}


def test_little_work_is_no_reason_to_keep_one() -> None:
    clock = Clock()
    clock.scaler.wanted = 2
    assert changes(clock.show(20, ready=2, running=5, kv_use=0.3)) == [2, 1]
