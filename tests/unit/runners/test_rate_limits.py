"""Token buckets and the headers that tell of them; `test_admission` has what they admit."""

import pytest

from trtllm_openai.runners.rate_limits import REQUESTS, TOKENS, duration, rate_headers
from trtllm_openai.runners.shared_counters import SharedCounters
from trtllm_openai.runners.tenants import NO_LIMITS, KeyLimits


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (-1, "0ms"),
        (0.0195, "20ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (8.64, "8.64s"),
        (59.9991, "1m0s"),
        (60, "1m0s"),
        (61.5, "1m2s"),
        (3600, "60m0s"),
    ],
)
def test_durations_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_buckets_are_apart_and_refill() -> None:
    counters = SharedCounters.alone()
    slot, other = counters.slot("a", 100.0), 5
    assert slot is not None
    counters.take(slot, REQUESTS.index, 3, 60, 100.0)
    counters.take(slot, TOKENS.index, 500, 1000, 100.0)
    assert [counters.missing(slot, bucket.index, 1000, 100.0) for bucket in (REQUESTS, TOKENS)] == [50, 500]
    assert counters.missing(other, TOKENS.index, 1000, 100.0) == 0
    assert counters.missing(slot, REQUESTS.index, 60, 101.0) == pytest.approx(2)
    assert counters.missing(slot, REQUESTS.index, 60, 109.0) == 0
    counters.take(slot, REQUESTS.index, 1, 60, 109.0)
    assert counters.missing(slot, REQUESTS.index, 60, 109.0) == pytest.approx(1), "nothing is saved up"
    assert TOKENS.wait_s(counters, slot, 1000, 500, 100.0) == 0
    assert TOKENS.wait_s(counters, slot, 1000, 501, 100.0) == pytest.approx(0.06, abs=1e-4)


def test_headers_of_the_limits_that_are_set() -> None:
    counters = SharedCounters.alone()
    counters.take(0, TOKENS.index, 1, 1000, 100.0)
    assert dict(rate_headers(counters, 0, KeyLimits(tokens_per_minute=1000), 100.0)) == {
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"999",
        b"x-ratelimit-reset-tokens": b"60ms",
    }
    assert list(rate_headers(counters, 0, NO_LIMITS, 100.0)) == []
    both = rate_headers(counters, 0, KeyLimits(requests_per_minute=1, tokens_per_minute=1), 100.0)
    assert len(dict(both)) == 6
