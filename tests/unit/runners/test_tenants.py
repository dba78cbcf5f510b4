"""Limits as the keys file has them."""

import pytest

from trtllm_openai.runners.tenants import MOST, NO_LIMITS, KeyLimits


def test_every_limit_can_be_said() -> None:
    words = "concurrent=2 requests_per_minute=60 priority=0.25 tokens_per_minute=1000 max_tokens=7"
    assert KeyLimits.parse(words.split()) == KeyLimits(
        requests_per_minute=60, tokens_per_minute=1000, concurrent=2, max_tokens=7, priority=0.25
    )
    assert KeyLimits.parse([]) == NO_LIMITS
    assert [limits.rated for limits in (NO_LIMITS, KeyLimits(concurrent=1))] == [False, False]
    assert [KeyLimits.parse([word]).rated for word in words.split()] == [False, True, False, True, False]


@pytest.mark.parametrize(
    "word",
    [
        "rpm=5",
        "concurrent",
        "concurrent=",
        "concurrent=0",
        "concurrent=-1",
        "concurrent=1.5",
        "concurrent=٣",
        f"max_tokens={MOST + 1}",
        "priority=2",
        "priority=-0.1",
        "priority=nan",
        "priority=high",
        "=5",
        "5",
    ],
)
def test_what_is_no_limit_is_named(word: str) -> None:
    with pytest.raises(ValueError, match=word.partition("=")[0] or "=5"):
        KeyLimits.parse([word])


def test_none_is_said_twice() -> None:
    with pytest.raises(ValueError, match="concurrent=2"):
        KeyLimits.parse(["concurrent=1", "concurrent=2"])
