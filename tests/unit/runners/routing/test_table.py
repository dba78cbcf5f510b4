"""The table of prefixes: who holds what, and what is forgotten."""

import pytest

from trtllm_openai.runners.routing import table
from trtllm_openai.runners.routing.names import DEPTHS
from trtllm_openai.runners.routing.table import PrefixTable


def test_holders_are_a_mask_of_runners() -> None:
    subject = PrefixTable()
    for index in (0, 3):
        subject.add_runner(index, 10_000)
    subject.add(0, [11, 12])
    subject.add(3, [11])
    assert subject.holders == {11: 0b1001, 12: 0b1}
    subject.forget(0)
    assert subject.holders == {11: 0b1000}
    subject.add(0, [13])
    assert subject.holders == {11: 0b1000}, "a runner that is not there holds nothing"
    subject.add_runner(3, 10_000)
    assert subject.holders == {}, "one that begins anew holds nothing"


def test_what_was_not_used_for_two_caches_of_tokens_is_forgotten() -> None:
    subject = PrefixTable()
    subject.add_runner(1, 10 * DEPTHS[0])
    subject.add(1, [1])
    for name in range(2, 42):
        subject.add(1, [1], 0)  # used all the time
        subject.add(1, [name], 0)
        assert len(subject.holders) <= 2 * 11
    assert 1 in subject.holders
    assert 41 in subject.holders
    assert 2 not in subject.holders


def test_deeper_names_cover_more_tokens() -> None:
    subject = PrefixTable()
    subject.add_runner(0, DEPTHS[20])
    subject.add(0, list(range(100, 121)))
    assert len(subject.holders) == 21
    subject.add(0, [500], 0)  # one more than the cache: the young names become old
    subject.add(0, list(range(200, 222)))
    assert 100 not in subject.holders
    assert 500 not in subject.holders


def test_the_names_of_all_runners_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_NAMES", 400)
    subject = PrefixTable()
    for index in range(4):
        subject.add_runner(index, 1 << 40)
    for number in range(2000):
        subject.add(number % 4, [number])
        assert len(subject.holders) <= 400 + 8


def test_sessions_cover_no_tokens() -> None:
    subject = PrefixTable()
    subject.add_runner(0, 64)
    for name in range(50):
        subject.add(0, [name], -1)
    assert len(subject.holders) == 50
