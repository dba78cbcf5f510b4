"""Time limits: which hold for a request, and the timers that end it."""

import asyncio
import time

import pytest
from starlette.requests import Request

from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.time_limits import ENGINE_GRACE_S, TimeLimits, Timers, requested_timeout
from trtllm_openai.config import LONGEST_TIMEOUT, LimitSettings
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.completions import CompletionRequest


def asked(header: bytes | None = None, **fields: float) -> float | None:
    headers = [] if header is None else [(b"x-request-timeout", header)]
    body = CompletionRequest(prompt="x", **fields)  # type: ignore[arg-type]
    return requested_timeout(Request({"type": "http", "headers": headers}), body)


def test_the_field_wins_over_the_header() -> None:
    assert asked() is None
    assert asked(b"2.5") == 2.5
    assert asked(b"2.5", timeout=4.0) == 4.0


@pytest.mark.parametrize("value", [b"0", b"-1", b"nan", b"inf", b"soon", b""])
def test_a_header_that_is_no_duration(value: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(value)
    assert caught.value.param == "x-request-timeout"


def test_a_clients_timeout_can_only_shorten_the_configured_one() -> None:
    settings = LimitSettings(request_timeout=60, queue_timeout=1.5, first_token_timeout=7)
    assert TimeLimits.of(settings, None).request_timeout_s == 60
    assert TimeLimits.of(settings, 90.0).request_timeout_s == 60
    limits = TimeLimits.of(settings, 30.0)
    assert (limits.request_timeout_s, limits.first_token_timeout_s, limits.queue_timeout_s) == (30, 7, 1.5)
    assert limits.engine_ms == (30 + ENGINE_GRACE_S) * 1000, "the engine's comes after ours"
    unlimited = LimitSettings(request_timeout=None)
    assert TimeLimits.of(unlimited, 90.0).request_timeout_s == 90
    assert TimeLimits.of(unlimited, 1e12).request_timeout_s == LONGEST_TIMEOUT


def test_no_limits() -> None:
    settings = LimitSettings(request_timeout=None, queue_timeout=None, first_token_timeout=None)
    assert TimeLimits.of(settings, None) == TimeLimits()


QUEUED = "in the queue"


def queued_too_long() -> Exception:
    return ApiError(429, QUEUED)


@pytest.mark.parametrize(
    ("limits", "seen", "status", "message"),
    [
        (TimeLimits(request_timeout_s=0.01), "token", 504, "its timeout"),
        (TimeLimits(request_timeout_s=9, first_token_timeout_s=0.01), "", 504, "The first token"),
        (TimeLimits(request_timeout_s=9, first_token_timeout_s=0.01), "begun", 504, "The first token"),
        (TimeLimits(request_timeout_s=9, first_token_timeout_s=0.01), "token", 0, ""),
        (TimeLimits(request_timeout_s=0.01, first_token_timeout_s=9), "", 504, "its timeout"),
        (TimeLimits(queue_timeout_s=0.01, first_token_timeout_s=9), "", 429, QUEUED),
        (TimeLimits(queue_timeout_s=0.01, first_token_timeout_s=9), "begun", 0, ""),
        (TimeLimits(queue_timeout_s=9, request_timeout_s=0.01), "", 504, "its timeout"),
    ],
)
def test_timers(limits: TimeLimits, seen: str, status: int, message: str) -> None:
    async def main() -> list[Exception]:
        errors: list[Exception] = []
        timers = Timers(limits, time.perf_counter(), errors.append, queued_too_long)
        if seen:
            timers.begun()
        if seen == "token":
            timers.first_token_came()
        await asyncio.sleep(0.1)
        timers.close()
        timers.close()
        return errors

    errors = [error for error in asyncio.run(main()) if isinstance(error, ApiError)]
    assert [error.status for error in errors] == ([status] if status else [])
    assert all(message in error.message for error in errors)


def test_time_counts_from_the_arrival_and_closed_timers_are_silent() -> None:
    async def main() -> None:
        errors: list[Exception] = []
        limits = TimeLimits(request_timeout_s=10, queue_timeout_s=10)
        late = Timers(limits, time.perf_counter() - 11, errors.append, queued_too_long)
        await asyncio.sleep(0.01)
        assert len(errors) == 1, "the time before the timers were made counts"
        late.close()
        closed = Timers(limits, time.perf_counter() - 11, errors.append, queued_too_long)
        closed.close()
        await asyncio.sleep(0.01)
        assert len(errors) == 1

    asyncio.run(main())
