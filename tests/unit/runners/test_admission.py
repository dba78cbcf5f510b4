"""Bounds on what waits, the ticket's accounting, and the time to try again."""

import os
import random
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtllm_openai.config import LimitSettings
from trtllm_openai.errors import Overloaded
from trtllm_openai.runners import Admission, SharedCounters, Tenant, Ticket
from trtllm_openai.runners.shared_counters import KEYS
from trtllm_openai.runners.tenants import KeyLimits


def admission(**limits: Any) -> tuple[Admission, list[str]]:
    rejected: list[str] = []
    return Admission(LimitSettings(**limits), rejected.append, SharedCounters.alone()), rejected


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
    with pytest.raises(Overloaded, match="may have 1 concurrent requests"):
        subject.enter("a", [1])
    assert rejected == ["key_concurrency"]
    ticket.close()
    subject.enter("a", [1])


def test_counts_return_to_zero_in_any_order_of_operations(chance: random.Random) -> None:
    subject, _ = admission(max_requests_per_key=1000)
    open_tickets: list[tuple[Ticket, int]] = []
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
    assert subject._counters.totals() == (0, 0)
    slots = [subject._counters.slot(key) for key in "ab"]
    assert [subject._counters.opened(slot) for slot in slots if slot is not None] == [0, 0]


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


def test_when_too_many_keys_have_something_open_another_is_refused() -> None:
    subject, rejected = admission(max_requests_per_key=2, max_waiting_requests=2 * KEYS)
    tickets = [subject.enter(f"key {number}", [1]) for number in range(KEYS)]
    with pytest.raises(Overloaded, match="Too many API keys") as caught:
        subject.enter("another", [1])
    assert caught.value.code == "key_concurrency"
    assert rejected == ["key_concurrency"]
    assert subject.waiting == KEYS
    subject.enter("key 0", [1])
    tickets[1].close()
    subject.enter("another", [1])


def test_a_rejection_by_the_queue_takes_no_slot_of_a_key() -> None:
    subject, _ = admission(max_requests_per_key=2, max_waiting_requests=1)
    first = subject.enter("a", [1])
    for _ in range(3):
        with pytest.raises(Overloaded, match="1 sequences are waiting"):
            subject.enter("a", [1])
    first.close()
    subject.enter("a", [1])


def test_a_key_that_fills_the_queue_keeps_no_other_out() -> None:
    subject, _ = admission(max_waiting_requests=8, max_waiting_tokens=80)
    flood = [subject.enter("flood", [5]) for _ in range(8)]
    others = [subject.enter("polite", [5]) for _ in range(4)]
    for key in ("flood", "polite"):
        with pytest.raises(Overloaded, match="12 sequences are waiting"):
            subject.enter(key, [5])
    subject.enter("third", [1000])
    with pytest.raises(Overloaded):
        subject.enter("third", [1])
    for ticket in (*flood, *others):
        ticket.begun(0)
    flood += [subject.enter("flood", [5]) for _ in range(2)]
    assert subject._counters.waiting_keys() == 2


def test_a_key_with_long_prompts_keeps_no_other_out() -> None:
    subject, _ = admission(max_waiting_tokens=80)
    subject.enter("flood", [80])
    subject.enter("polite", [20])
    subject.enter("polite", [20])
    for key in ("flood", "polite"):
        with pytest.raises(Overloaded, match="120 prompt tokens are waiting"):
            subject.enter(key, [5])


def test_without_a_bound_for_keys_there_may_be_any_number() -> None:
    subject, _ = admission(max_waiting_requests=2 * KEYS)
    for number in range(KEYS + 1):
        subject.enter(f"key {number}", [1])


def test_a_keys_own_concurrency_replaces_the_general_one() -> None:
    subject, _ = admission(max_requests_per_key=1)
    for _ in range(3):
        subject.enter("a", [1], KeyLimits(concurrent=3))
    with pytest.raises(Overloaded, match="may have 3 concurrent requests"):
        subject.enter("a", [1], KeyLimits(concurrent=3))
    subject.enter("b", [1])
    without, _ = admission()
    without.enter("a", [1], KeyLimits(concurrent=1))
    with pytest.raises(Overloaded, match="may have 1 concurrent requests"):
        without.enter("a", [1], KeyLimits(concurrent=1))


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def two_workers(**limits: Any) -> list[Admission]:
    counters = SharedCounters.create(2)
    assert counters.fd is not None
    views = [SharedCounters.attach(counters.fd, 2, row) for row in range(2)]
    return [Admission(LimitSettings(**limits), lambda _: None, one) for one in views]


def told(subject: Admission, tenant: Tenant) -> dict[str, str]:
    headers = subject.rate_headers(tenant)
    return {name.decode().removeprefix("x-ratelimit-"): value.decode() for name, value in headers}


def test_requests_a_minute_are_those_of_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, workers = Clock(monkeypatch), two_workers()
    tenant = Tenant("a", "a", KeyLimits(requests_per_minute=6))
    assert told(workers[0], tenant) == {
        "limit-requests": "6",
        "remaining-requests": "6",
        "reset-requests": "0ms",
    }
    for number in range(6):
        assert workers[number % 2].arrive(tenant) is None
    for worker in workers:
        assert told(worker, tenant)["remaining-requests"] == "0"
        assert told(worker, tenant)["reset-requests"] == "1m0s"
        refusal = worker.arrive(tenant)
        assert refusal is not None
        assert (refusal.code, refusal.retry_after_ms) == ("rate_limit_exceeded", 10_000)
    assert workers[0].arrive(Tenant("b", "b", KeyLimits(requests_per_minute=6))) is None
    clock.now += 9.99
    assert workers[0].arrive(tenant) is not None
    clock.now += 0.02
    assert workers[1].arrive(tenant) is None, "refused requests take nothing"
    assert workers[0].arrive(tenant) is not None
    clock.now += 60
    assert told(workers[1], tenant)["remaining-requests"] == "6"


def test_tokens_a_minute_are_taken_when_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, workers = Clock(monkeypatch), two_workers()
    limits = KeyLimits(tokens_per_minute=600)
    tenant = Tenant("a", "a", limits)
    ticket = workers[0].enter("a", [100, 100], limits, charged=100)
    assert told(workers[1], tenant) == {
        "limit-tokens": "600",
        "remaining-tokens": "500",
        "reset-tokens": "10s",
    }
    with pytest.raises(Overloaded, match="600 tokens a minute") as caught:
        workers[1].enter("a", [550], limits, charged=550)
    assert (caught.value.code, caught.value.retry_after_ms) == ("rate_limit_exceeded", 5000)
    ticket.generated(800)
    ticket.close()
    assert told(workers[1], tenant)["remaining-tokens"] == "0"
    with pytest.raises(Overloaded) as caught:
        workers[1].enter("a", [1], limits, charged=1)
    assert caught.value.retry_after_ms == 30_100, "it owes 300, and one more is wanted"
    clock.now += 30.1
    workers[1].enter("a", [1], limits, charged=1).close()


def test_a_full_bucket_admits_what_it_can_never_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, limits = Clock(monkeypatch), KeyLimits(tokens_per_minute=60)
    subject, _ = admission()
    subject.enter("a", [120], limits, charged=120).close()
    with pytest.raises(Overloaded) as caught:
        subject.enter("a", [500], limits, charged=500)
    assert caught.value.retry_after_ms == 120_000
    clock.now += 120
    subject.enter("a", [500], limits, charged=500)


def test_what_a_dead_worker_spent_stays_spent() -> None:
    counters = SharedCounters.create(1)
    assert counters.fd is not None
    tenant = Tenant("a", "a", KeyLimits(requests_per_minute=1))
    for refused in (False, True):
        subject = Admission(LimitSettings(), lambda _: None, SharedCounters.attach(counters.fd, 1, 0))
        assert (subject.arrive(tenant) is not None) is refused
        counters.clear(0)


def test_a_key_that_owes_keeps_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, limits = Clock(monkeypatch), KeyLimits(requests_per_minute=1)
    subject, _ = admission()
    for number in range(KEYS):
        assert subject.arrive(Tenant(f"key {number}", "", limits)) is None
    another = Tenant("another", "", limits)
    refusal = subject.arrive(another)
    assert refusal is not None
    assert refusal.code == "key_concurrency"
    assert subject.rate_headers(another) == []
    clock.now += 60
    assert subject.arrive(another) is None


LIMITS = LimitSettings(max_requests_per_key=2, max_waiting_requests=4, max_waiting_tokens=40)
ROWS = 3


@dataclass
class Open:
    """What the model knows of a ticket."""

    ticket: Ticket
    row: int
    key: str
    waiting: dict[int, int] = field(default_factory=dict)


def expected(tickets: list[Open], key: str, prompts: list[int]) -> str | None:
    """The code of the refusal, in the words of the definition."""
    waiting = [tokens for one in tickets for tokens in one.waiting.values()]
    own = [tokens for one in tickets for tokens in one.waiting.values() if one.key == key]
    keys = len({one.key for one in tickets if one.waiting})
    if sum(one.key == key for one in tickets) >= 2:
        return "key_concurrency"
    if waiting and (len(waiting) + len(prompts) > 4 or sum(waiting) + sum(prompts) > 40):
        has_share = not own or (
            len(own) + len(prompts) <= 4 // keys and sum(own) + sum(prompts) <= 40 // keys
        )
        return None if has_share else "queue_full"
    return None


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_processes_count_together_as_one_would(data: st.DataObject) -> None:
    counters = SharedCounters.create(ROWS)
    assert counters.fd is not None
    views = [SharedCounters.attach(counters.fd, ROWS, row) for row in range(ROWS)]
    subjects = [Admission(LIMITS, lambda _: None, one) for one in views]
    tickets: list[Open] = []
    for _ in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["enter", "enter", "begun", "close", "die"]))
        row = data.draw(st.integers(0, ROWS - 1))
        if action == "enter":
            key = data.draw(st.sampled_from("abc"))
            prompts = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=5))
            refusal = expected(tickets, key, prompts)
            if refusal is None:
                ticket = subjects[row].enter(key, prompts)
                tickets.append(Open(ticket, row, key, dict(enumerate(prompts))))
            else:
                with pytest.raises(Overloaded) as caught:
                    subjects[row].enter(key, prompts)
                assert caught.value.code == refusal
        elif action == "die":
            counters.clear(row)
            views[row] = SharedCounters.attach(counters.fd, ROWS, row)
            subjects[row] = Admission(LIMITS, lambda _: None, views[row])
            tickets = [one for one in tickets if one.row != row]
        elif tickets:
            one = data.draw(st.sampled_from(tickets))
            if action == "begun":
                index = data.draw(st.integers(0, 4))
                one.ticket.begun(index)
                one.waiting.pop(index, None)
            else:
                one.ticket.close()
                one.ticket.close()
                tickets.remove(one)
        waiting = [tokens for one in tickets for tokens in one.waiting.values()]
        assert counters.totals() == (len(waiting), sum(waiting))
        for row, subject in enumerate(subjects):
            assert subject.waiting == sum(len(one.waiting) for one in tickets if one.row == row)
        for key in "abc":
            slot = counters.slot(key)
            assert slot is not None
            assert counters.opened(slot) == sum(one.key == key for one in tickets)
            own = [tokens for one in tickets if one.key == key for tokens in one.waiting.values()]
            assert counters.waiting_of(slot) == (len(own), sum(own))
    os.close(counters.fd)
