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


def test_a_clients_timeout_replaces_the_configured_one() -> None:
    settings = LimitSettings(request_timeout=60, queue_timeout=1.5, first_token_timeout=7)
    assert TimeLimits.of(settings, None).request_timeout_s == 60
    limits = TimeLimits.of(settings, 90.0)
    assert (limits.request_timeout_s, limits.first_token_timeout_s, limits.queue_ms) == (90, 7, 1500)
    assert limits.engine_ms == (90 + ENGINE_GRACE_S) * 1000, "the engine's comes after ours"
    assert TimeLimits.of(settings, 1e12).request_timeout_s == LONGEST_TIMEOUT


def test_no_limits() -> None:
    settings = LimitSettings(request_timeout=None, queue_timeout=None, first_token_timeout=None)
    assert TimeLimits.of(settings, None) == TimeLimits()


@pytest.mark.parametrize(
    ("limits", "first_token", "message"),
    [
        (TimeLimits(request_timeout_s=0.01), True, "its timeout"),
        (TimeLimits(request_timeout_s=9, first_token_timeout_s=0.01), False, "The first token"),
        (TimeLimits(request_timeout_s=9, first_token_timeout_s=0.01), True, None),
        (TimeLimits(request_timeout_s=0.01, first_token_timeout_s=9), False, "its timeout"),
    ],
)
def test_timers(limits: TimeLimits, first_token: bool, message: str | None) -> None:
    async def main() -> list[ApiError]:
        errors: list[ApiError] = []
        timers = Timers(limits, time.perf_counter(), errors.append)
        if first_token:
            timers.first_token_came()
        await asyncio.sleep(0.1)
        timers.close()
        timers.close()
        return errors

    errors = asyncio.run(main())
    assert [(error.status, error.code) for error in errors] == ([(504, "timeout")] if message else [])
    assert not message or message in errors[0].message


def test_time_counts_from_the_arrival_and_closed_timers_are_silent() -> None:
    async def main() -> None:
        errors: list[ApiError] = []
        limits = TimeLimits(request_timeout_s=10)
        late = Timers(limits, time.perf_counter() - 11, errors.append)
        await asyncio.sleep(0.01)
        assert len(errors) == 1, "the time before the timers were made counts"
        late.close()
        closed = Timers(limits, time.perf_counter() - 11, errors.append)
        closed.close()
        await asyncio.sleep(0.01)
        assert len(errors) == 1

    asyncio.run(main())
