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
from trtllm_openai.runners import Admission, SharedCounters, Ticket
from trtllm_openai.runners.shared_counters import KEYS


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
    with pytest.raises(Overloaded, match="may have 1 requests open"):
        subject.enter("a", [1])
    assert rejected == ["key_concurrency"]
    ticket.close()
    subject.enter("a", [1])


def test_nothing_is_left_whatever_the_order() -> None:
    subject, _ = admission(max_requests_per_key=1000)
    seed = time.time_ns()
    print(f"random.Random({seed})")  # pytest shows it when the test fails
    chance = random.Random(seed)
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
    assert subject._board.totals() == (0, 0)
    places = [subject._board.place(key) for key in "ab"]
    assert [subject._board.opened(place) for place in places if place is not None] == [0, 0]


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


def test_a_refusal_at_the_queue_takes_no_place_of_a_key() -> None:
    subject, _ = admission(max_requests_per_key=1, max_waiting_requests=1)
    first = subject.enter("a", [1])
    with pytest.raises(Overloaded, match="1 sequences are waiting"):
        subject.enter("b", [1])
    first.close()
    subject.enter("b", [1])


def test_without_a_bound_for_keys_there_may_be_any_number() -> None:
    subject, _ = admission(max_waiting_requests=2 * KEYS)
    for number in range(KEYS + 1):
        subject.enter(f"key {number}", [1])


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
    if sum(one.key == key for one in tickets) >= 2:
        return "key_concurrency"
    if waiting and (len(waiting) + len(prompts) > 4 or sum(waiting) + sum(prompts) > 40):
        return "queue_full"
    return None


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_processes_count_together_as_one_would(data: st.DataObject) -> None:
    board = SharedCounters.create(ROWS)
    assert board.fd is not None
    boards = [SharedCounters.attach(board.fd, ROWS, row) for row in range(ROWS)]
    subjects = [Admission(LIMITS, lambda _: None, one) for one in boards]
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
            board.clear(row)
            boards[row] = SharedCounters.attach(board.fd, ROWS, row)
            subjects[row] = Admission(LIMITS, lambda _: None, boards[row])
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
        assert board.totals() == (len(waiting), sum(waiting))
        for row, subject in enumerate(subjects):
            assert subject.waiting == sum(len(one.waiting) for one in tickets if one.row == row)
        for key in "abc":
            place = board.place(key)
            assert place is not None
            assert board.opened(place) == sum(one.key == key for one in tickets)
    os.close(board.fd)
