"""Restarts: their delays, and when a process is given up."""

import asyncio
from collections.abc import Iterable

import pytest

from trtllm_openai.processes.keep_running import BACKOFF, MAX_FAILURES, Backoff, Ended, keep_running

CRASH = Ended("it crashed")


def keep(
    ends: Iterable[Ended | None], max_failures: int = MAX_FAILURES, may_give_up: Iterable[bool] = ()
) -> tuple[Ended | None, int, list[int]]:
    """What `keep_running` returns, how often it started, and the delays in units of the first."""
    remaining, allowed = iter(ends), iter(may_give_up)
    starts = 0
    delays: list[int] = []

    async def start() -> Ended | None:
        nonlocal starts
        starts += 1
        return next(remaining)

    ended = asyncio.run(
        keep_running(
            start,
            Backoff(1e-6, 8e-6),
            max_failures,
            on_failure=lambda _, delay: delays.append(round(delay * 1e6)),
            may_give_up=lambda: next(allowed, True),
        )
    )
    return ended, starts, delays


def test_it_is_given_up_after_failures_in_a_row() -> None:
    assert keep([CRASH] * 9, 6) == (CRASH, 6, [1, 2, 4, 8, 8])


def test_a_final_failure_is_not_tried_again() -> None:
    final = Ended("a bad checkpoint", final=True)
    assert keep([CRASH, final]) == (final, 2, [1])


def test_a_healthy_run_begins_the_count_again() -> None:
    healthy = Ended("it crashed later", healthy=True)
    # crash 1, crash 2, healthy (counts as 1), crash 2, crash 3
    assert keep([CRASH, CRASH, healthy, CRASH, CRASH], 3) == (CRASH, 5, [1, 2, 0, 2])


@pytest.mark.parametrize(
    "worked", [Ended("a kill", healthy=True), Ended("a kill", started=True)], ids=["healthy", "started"]
)
def test_the_first_failure_of_one_that_worked_delays_nothing(worked: Ended) -> None:
    assert keep([worked, CRASH, None]) == (None, 3, [0, 2])


def test_only_failures_in_a_row_delay_one_that_works_for_long() -> None:
    healthy = Ended("a kill", healthy=True)
    started = Ended("a request ended it", started=True)
    assert keep([healthy, healthy, started, started, healthy, None]) == (None, 6, [0, 0, 2, 4, 0])


def test_a_run_that_had_started_does_not_count_but_delays() -> None:
    started = Ended("a request ended it", started=True)
    assert keep([CRASH, started, started, CRASH, CRASH], 2) == (CRASH, 5, [1, 2, 4, 8])


def test_one_that_was_asked_to_end_is_not_started_again() -> None:
    assert keep([CRASH, None]) == (None, 2, [1])


def test_one_failure_can_be_too_many() -> None:
    assert keep([CRASH], max_failures=1) == (CRASH, 1, [])


def test_giving_up_waits_for_permission() -> None:
    final = Ended("a bad checkpoint", final=True)
    assert keep([final, final, CRASH], 3, may_give_up=[False, False, True]) == (CRASH, 3, [1, 2])


@pytest.mark.parametrize(("failures", "delay"), [(1, 0.5), (2, 1.0), (5, 8.0), (6, 10.0), (5000, 10.0)])
def test_delays(failures: int, delay: float) -> None:
    assert BACKOFF.delay(failures) == delay
