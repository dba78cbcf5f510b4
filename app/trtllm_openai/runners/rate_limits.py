"""Limits of a key for a minute: token buckets in shared memory, and what a client is told about them.

A bucket holds a minute's worth and refills continuously. Requests are taken at their arrival. Tokens are
taken when they are known, prompts at admission and answers at their end, so that a bucket may owe: nothing is
admitted until it has refilled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from trtllm_openai.runners.shared_counters import SharedCounters
from trtllm_openai.runners.tenants import KeyLimits


@dataclass(frozen=True, slots=True)
class Bucket:
    """One kind of limit: its place in the shared counters and its name in headers."""

    index: int
    name: str

    def limit(self, limits: KeyLimits) -> int | None:
        """The limit for a minute, or None."""
        return limits.requests_per_minute if self is REQUESTS else limits.tokens_per_minute

    def wait_s(self, counters: SharedCounters, slot: int, per_minute: int, amount: int, now: float) -> float:
        """Seconds until `amount` may be taken; 0: now. What a bucket can never hold needs a full one."""
        over = counters.missing(slot, self.index, per_minute, now) + min(amount, per_minute) - per_minute
        return max(0.0, over - _ROUNDING) * 60 / per_minute


REQUESTS = Bucket(0, "requests")
TOKENS = Bucket(1, "tokens")
_ROUNDING = 1e-6


def rate_headers(
    counters: SharedCounters, slot: int, limits: KeyLimits, now: float
) -> Iterator[tuple[bytes, bytes]]:
    """OpenAI's `x-ratelimit-*` headers of each limit that is set."""
    for bucket in (REQUESTS, TOKENS):
        per_minute = bucket.limit(limits)
        if per_minute is None:
            continue
        missing = counters.missing(slot, bucket.index, per_minute, now)
        remaining = max(0, math.floor(per_minute - missing + _ROUNDING))
        for what, value in (
            ("limit", str(per_minute)),
            ("remaining", str(remaining)),
            ("reset", duration(missing * 60 / per_minute)),
        ):
            yield f"x-ratelimit-{what}-{bucket.name}".encode(), value.encode()


def duration(seconds: float) -> str:
    """Seconds as OpenAI's headers have them, rounded up: `20ms`, `1.5s`, `6m0s`."""
    ms = math.ceil(seconds * 1000 - _ROUNDING)
    if ms < 1000:
        return f"{max(ms, 0)}ms"
    if ms < 60_000:
        return f"{ms / 1000:g}s"
    whole = math.ceil(ms / 1000)
    return f"{whole // 60}m{whole % 60}s"
