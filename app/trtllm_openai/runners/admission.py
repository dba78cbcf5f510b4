"""Admission control: limits on waiting sequences and of API keys, and the retry-after estimate.

A sequence waits from its submission to its first output. Waiting sequences cost memory and latency; running
ones are limited by the engine. Limits apply to the whole server: its HTTP processes share the counters.

Where there are keys, one that fills the queue keeps no other out: a key is still admitted as long as it has
no more than an equal share of the queue, among the keys that wait.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from trtllm_openai.config import LimitSettings
from trtllm_openai.errors import Overloaded
from trtllm_openai.generation import QUEUE_FULL, QUEUE_TIMEOUT
from trtllm_openai.runners.rate_limits import REQUESTS, TOKENS, Bucket, rate_headers
from trtllm_openai.runners.shared_counters import Counts, SharedCounters
from trtllm_openai.runners.tenants import NO_LIMITS, KeyLimits, Tenant

LONGEST_RETRY = 60
RATE_LIMITED = "rate_limit_exceeded"
"""OpenAI's code for a limit of requests or tokens a minute."""


class Admission:
    """Admits or rejects requests. `rejected` is called with the error code of every rejection."""

    def __init__(
        self, limits: LimitSettings, rejected: Callable[[str], None], counters: SharedCounters
    ) -> None:
        self._limits = limits
        self._rejected = rejected
        self._counters = counters

    @property
    def waiting(self) -> int:
        """Number of this process's sequences without a first output."""
        return self._counters.waiting

    def arrive(self, tenant: Tenant) -> Overloaded | None:
        """A generating request arrived: take it from its key's requests a minute. Returns its refusal."""
        per_minute = tenant.limits.requests_per_minute
        if per_minute is None:
            return None
        counters, now = self._counters, time.monotonic()
        with counters.lock:
            slot = counters.slot(tenant.name, now)
            wait_s = None if slot is None else REQUESTS.wait_s(counters, slot, per_minute, 1, now)
            if slot is not None and not wait_s:
                counters.take(slot, REQUESTS.index, 1, per_minute, now)
        if wait_s is None:
            return Overloaded("Too many API keys are in use.", "key_concurrency", self.retry_after_ms())
        return _rate_limited(REQUESTS, per_minute, wait_s) if wait_s else None

    def rate_headers(self, tenant: Tenant) -> list[tuple[bytes, bytes]]:
        """The `x-ratelimit-*` headers of a response to this tenant; none without limits for a minute."""
        if not tenant.limits.rated:
            return []
        now = time.monotonic()
        with self._counters.lock:
            slot = self._counters.slot(tenant.name, now)
        if slot is None:
            return []
        return list(rate_headers(self._counters, slot, tenant.limits, now))

    def enter(
        self, key: str, prompt_tokens: list[int], limits: KeyLimits = NO_LIMITS, *, charged: int = 0
    ) -> Ticket:
        """Admit sequences with these prompt lengths. Raises `Overloaded` with the exceeded limit.

        `charged`: prompt tokens that count for the key's tokens a minute.
        """
        sequences, tokens = len(prompt_tokens), sum(prompt_tokens)
        counters, now = self._counters, time.monotonic()
        most = limits.concurrent or self._limits.max_requests_per_key
        per_minute = limits.tokens_per_minute
        exceeded: Overloaded | None = None
        with counters.lock:
            counts = counters.counts(key if key or most is not None else None, now)
            slot = counts.slot
            if most is not None or per_minute is not None:
                exceeded = self._key_exceeded(counts, most)
            if exceeded is None and slot is not None and per_minute is not None:
                wait_s = TOKENS.wait_s(counters, slot, per_minute, charged, now)
                exceeded = _rate_limited(TOKENS, per_minute, wait_s) if wait_s else None
            exceeded = exceeded or self._queue_exceeded(counts, sequences, tokens)
            if exceeded is None:
                counters.admit(sequences, tokens, slot)
                if slot is not None and per_minute is not None:
                    counters.take(slot, TOKENS.index, charged, per_minute, now)
        if exceeded is not None:
            self._rejected(exceeded.code)
            raise exceeded
        return Ticket(counters, slot, prompt_tokens, per_minute)

    def _key_exceeded(self, counts: Counts, most: int | None) -> Overloaded | None:
        if counts.slot is None:
            return self._overloaded("key_concurrency", "Too many API keys have open requests.")
        if most is not None and counts.opened >= most:
            return self._overloaded("key_concurrency", f"This API key may have {most} concurrent requests.")
        return None

    def _has_share(self, slot: int, sequences: int, tokens: int) -> bool:
        """Whether a key has no more than an equal share of the queue with these, or has nothing in it."""
        own, own_tokens = self._counters.waiting_of(slot)
        if not own:
            return True
        keys = self._counters.waiting_keys()
        return (
            own + sequences <= self._limits.max_waiting_requests // keys
            and own_tokens + tokens <= self._limits.max_waiting_tokens // keys
        )

    def _queue_exceeded(self, counts: Counts, sequences: int, tokens: int) -> Overloaded | None:
        full, slot = self._queue_full(counts, sequences, tokens), counts.slot
        return None if full and slot is not None and self._has_share(slot, sequences, tokens) else full

    def _queue_full(self, counts: Counts, sequences: int, tokens: int) -> Overloaded | None:
        limits = self._limits
        # An empty queue admits any request, so that none is rejected for ever.
        waiting, waiting_tokens = counts.waiting, counts.tokens
        if waiting and waiting + sequences > limits.max_waiting_requests:
            message = f"{waiting} sequences are waiting, {limits.max_waiting_requests} may."
            return self._overloaded(QUEUE_FULL, message)
        if waiting and waiting_tokens + tokens > limits.max_waiting_tokens:
            message = f"{waiting_tokens} prompt tokens are waiting, {limits.max_waiting_tokens} may."
            return self._overloaded(QUEUE_FULL, message)
        return None

    def too_late(self) -> Overloaded:
        """The error of a request that exceeded the queue timeout."""
        waited = f"The request was queued for longer than {self._limits.queue_timeout:g} s."
        return self._reject(QUEUE_TIMEOUT, waited)

    def engine_refusal(self, code: str) -> Overloaded:
        """The error of a request that found no place in the engine: `QUEUE_FULL` or `QUEUE_TIMEOUT`."""
        if code == QUEUE_FULL:
            return self._reject(code, "The engine's queue is full.")
        return self.too_late()

    def retry_after_ms(self) -> int:
        """Milliseconds until half of the queue will have begun at the current rate; from 1 s to 60 s."""
        begun = self._counters.begin_times()
        if len(begun) < 2:
            return 1000
        rate = len(begun) / max(time.monotonic() - begun[0], 1e-3)
        waiting, _ = self._counters.totals()
        return round(1000 * min(max(waiting / 2 / rate, 1.0), LONGEST_RETRY))

    def _reject(self, code: str, message: str) -> Overloaded:
        self._rejected(code)
        return self._overloaded(code, message)

    def _overloaded(self, code: str, message: str) -> Overloaded:
        return Overloaded(message, code, self.retry_after_ms())


def _rate_limited(bucket: Bucket, per_minute: int, wait_s: float) -> Overloaded:
    message = f"This API key may use {per_minute} {bucket.name} a minute."
    return Overloaded(message, RATE_LIMITED, math.ceil(wait_s * 1000))


class Ticket:
    """The admission of one request, until its sequences begin and it ends. Must be closed."""

    __slots__ = ("_counters", "_slot", "_tokens_per_minute", "_waiting")

    def __init__(
        self,
        counters: SharedCounters,
        slot: int | None,
        prompt_tokens: list[int],
        tokens_per_minute: int | None,
    ) -> None:
        self._counters = counters
        self._slot = slot
        self._tokens_per_minute = tokens_per_minute
        self._waiting = dict(enumerate(prompt_tokens))

    def begun(self, index: int) -> None:
        """Sequence `index` has its first output. Idempotent."""
        tokens = self._waiting.pop(index, None)
        if tokens is not None:
            self._counters.dequeue(tokens, self._slot)
            self._counters.begun(time.monotonic())

    def generated(self, tokens: int) -> None:
        """Take the answer's tokens from the key's tokens a minute. Called once, before `close`."""
        per_minute, counters = self._tokens_per_minute, self._counters
        if per_minute is not None and self._slot is not None and tokens:
            with counters.lock:
                counters.take(self._slot, TOKENS.index, tokens, per_minute, time.monotonic())

    def close(self) -> None:
        """Release the request's counts. Idempotent."""
        while self._waiting:
            _, tokens = self._waiting.popitem()
            self._counters.dequeue(tokens, self._slot)
        if self._slot is not None:
            self._counters.leave(self._slot)
            self._slot = None
