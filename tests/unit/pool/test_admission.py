"""Bounds on what waits, the ticket's accounting, and the time to try again."""

import random
import time

import pytest

from app.config import LimitSettings
from app.pool import Admission, Overloaded


def admission(**limits: object) -> tuple[Admission, list[str]]:
    rejected: list[str] = []
    return Admission(LimitSettings(**limits), rejected.append), rejected  # type: ignore[arg-type]


def test_waiting_sequences_are_bounded_until_they_begin() -> None:
    subject, rejected = admission(max_waiting_requests=2)
    first = subject.enter("", [10])
    subject.enter("", [10])
    with pytest.raises(Overloaded) as caught:
        subject.enter("", [10])
    assert caught.value.code == "queue_full"
    assert caught.value.retry_after_ms >= 1000
    assert rejected == ["queue_full"]
    first.begun(0)
    subject.enter("", [10])


def test_waiting_prompt_tokens_are_bounded() -> None:
    subject, _ = admission(max_waiting_tokens=100)
    ticket = subject.enter("", [90])
    with pytest.raises(Overloaded, match="90 prompt tokens"):
        subject.enter("", [11])
    ticket.close()
    subject.enter("", [11])


def test_what_fits_an_empty_queue_is_never_refused() -> None:
    subject, _ = admission(max_waiting_requests=2, max_waiting_tokens=10)
    subject.enter("", [100] * 8)


def test_each_key_has_its_own_concurrency() -> None:
    subject, rejected = admission(max_requests_per_key=1)
    ticket = subject.enter("a", [1])
    subject.enter("b", [1])
    ticket.begun(0)  # it counts until it is over, not until it begins
    with pytest.raises(Overloaded, match="may have 1 requests open"):
        subject.enter("a", [1])
    assert rejected == ["key_concurrency"]
    ticket.close()
    subject.enter("a", [1])


def test_nothing_is_left_whatever_the_order() -> None:
    subject, _ = admission()
    chance = random.Random(time.time_ns())
    open_tickets = []
    for _ in range(500):
        if open_tickets and chance.random() < 0.5:
            ticket, count = open_tickets.pop(chance.randrange(len(open_tickets)))
            for index in range(count):
                if chance.random() < 0.7:
                    ticket.begun(index)
                    ticket.begun(index)
            ticket.close()
            ticket.close()
        else:
            count = chance.randint(1, 4)
            open_tickets.append((subject.enter(chance.choice("ab"), [chance.randint(1, 9)] * count), count))
    for ticket, _ in open_tickets:
        ticket.close()
    assert subject.waiting == 0
    assert subject._waiting_tokens == 0
    assert not subject._open


def test_retry_after_follows_the_rate_at_which_sequences_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    subject, _ = admission()
    assert subject.retry_after_ms() == 1000  # nothing is known yet
    for _ in range(10):
        ticket = subject.enter("", [1])
        now += 0.5
        ticket.begun(0)
    for _ in range(40):
        subject.enter("", [1])
    # 2 a second begin; half of the 40 that wait will have begun in about 10 s.
    assert 8000 <= subject.retry_after_ms() <= 11000
    now += 1000
    assert subject.retry_after_ms() == 60_000
