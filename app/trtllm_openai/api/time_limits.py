"""Time limits of a request, and the timers that enforce them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.headers import header
from trtllm_openai.config import LONGEST_TIMEOUT, LimitSettings
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.common import SamplingFields

TIMEOUT_HEADER = "x-request-timeout"
ENGINE_GRACE_S = 1.0
"""Seconds added to the engine's own time limit, so that ours, with the better error message, comes first."""


def requested_timeout(request: Request, body: SamplingFields) -> float | None:
    """The timeout in seconds that the client asks for, by `timeout` or the header `x-request-timeout`.

    Raises `InvalidRequest` when the header is not a positive number.
    """
    if body.timeout is not None:
        return body.timeout
    value = header(request.scope, TIMEOUT_HEADER.encode())
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequest(f"{TIMEOUT_HEADER} must be a number of seconds above 0.", TIMEOUT_HEADER)
    return seconds


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The limits of one request, counted from its arrival; None means no limit."""

    request_timeout_s: float | None = None
    first_token_timeout_s: float | None = None
    engine_ms: int | None = None
    """Milliseconds after which the engine itself gives up on a sequence."""
    queue_timeout_s: float | None = None
    """Until the engine reports that it has begun with the request's first sequence."""

    @classmethod
    def of(cls, settings: LimitSettings, requested_s: float | None) -> TimeLimits:
        """The configured limits; `requested_s`, the client's own timeout, can only shorten them."""
        timeout = settings.request_timeout
        if requested_s is not None:
            timeout = min(requested_s, LONGEST_TIMEOUT if timeout is None else timeout)
        return cls(
            timeout,
            settings.first_token_timeout or None,
            None if timeout is None else round((timeout + ENGINE_GRACE_S) * 1000),
            settings.queue_timeout,
        )


class Timers:
    """Calls `expire` with a 504 when the request or its first token takes too long, and with the error that
    `queued_too_long` makes when the engine does not begin in time. Must be closed.

    They hold for every engine: one may keep a request in its own queue and say nothing about it.
    """

    __slots__ = ("_first_token", "_queue", "_request")

    def __init__(
        self,
        limits: TimeLimits,
        started: float,
        expire: Callable[[Exception], None],
        queued_too_long: Callable[[], Exception],
    ) -> None:
        """`started`: when the request arrived, by `time.perf_counter`."""
        loop = asyncio.get_running_loop()
        arrived = loop.time() - (time.perf_counter() - started)
        self._request: asyncio.TimerHandle | None = None
        self._first_token: asyncio.TimerHandle | None = None
        self._queue: asyncio.TimerHandle | None = None
        timeout, first = limits.request_timeout_s, limits.first_token_timeout_s
        queue = limits.queue_timeout_s
        if timeout is not None:
            late = "The request took longer than its timeout."
            self._request = loop.call_at(arrived + timeout, expire, ApiError(504, late, code="timeout"))
        if first is not None and (timeout is None or first < timeout):
            late = "The first token took longer than the first-token timeout."
            self._first_token = loop.call_at(arrived + first, expire, ApiError(504, late, code="timeout"))
        if queue is not None and (timeout is None or queue < timeout):
            self._queue = loop.call_at(arrived + queue, lambda: expire(queued_too_long()))

    def begun(self) -> None:
        """The engine has begun: cancel the queue timer."""
        if self._queue is not None:
            self._queue.cancel()

    def first_token_came(self) -> None:
        """Cancel the first-token timer."""
        if self._first_token is not None:
            self._first_token.cancel()

    def close(self) -> None:
        """Cancel all timers. Idempotent."""
        for timer in (self._request, self._first_token, self._queue):
            if timer is not None:
                timer.cancel()
