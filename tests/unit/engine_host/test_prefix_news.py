"""What frontends tell each other through their runner."""

import socket
from collections.abc import Iterator

import pytest

from trtllm_openai.engine_host.messages import Held
from trtllm_openai.engine_host.prefix_news import KEPT, PrefixNews
from trtllm_openai.processes.framing import FramedSocket


@pytest.fixture
def frontends() -> Iterator[list[FramedSocket]]:
    pairs = [socket.socketpair() for _ in range(3)]
    ends = [FramedSocket(end) for end, _ in pairs]
    yield ends
    for end, (_, other) in zip(ends, pairs, strict=True):
        end.close()
        other.close()


def test_each_hears_what_the_others_sent_once(frontends: list[FramedSocket]) -> None:
    news, (a, b, c) = PrefixNews(), frontends
    one, two = Held(0, [1, 2]), Held(-1, [3])
    news.add(a, [one])
    news.add(b, [two])
    assert dict(news.take(frontends)) == {a: [two], b: [one], c: [one, two]}
    assert list(news.take(frontends)) == []


def test_one_that_comes_later_hears_what_was_kept(frontends: list[FramedSocket]) -> None:
    news = PrefixNews()
    for number in range(KEPT + 10):
        news.add(frontends[0], [Held(0, [number])])
    assert list(news.take(frontends[:1])) == [], "a single frontend has sent it itself"
    kept = news.kept()
    assert (len(kept), kept[-1].names) == (KEPT, [KEPT + 9])


def test_what_one_sent_that_is_gone_still_counts(frontends: list[FramedSocket]) -> None:
    news, (a, b, c) = PrefixNews(), frontends
    news.add(a, [Held(0, [1])])
    news.forget(a)
    assert dict(news.take([b, c])) == {b: [Held(0, [1])], c: [Held(0, [1])]}
    assert news.kept() == [Held(0, [1])]
