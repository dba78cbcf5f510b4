"""A request on the pool: engine deltas in, text deltas out to one consumer, until the end.

    engine deltas -> RequestRun -> Consumer (a chunk formatter or a collector) -> SSE writer -> socket

Each holds only the next. Streamed or not, both kinds of response read from here, so that they cannot disagree
about text, finish reason, log-probabilities or usage.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
from collections.abc import Callable
from typing import Protocol

from trtllm_openai.api.accounting import Accounting
from trtllm_openai.api.choice import Choice, Delta
from trtllm_openai.api.decoding import RequestDecoder
from trtllm_openai.api.flow import FlowControl
from trtllm_openai.api.time_limits import TimeLimits, Timers
from trtllm_openai.errors import Overloaded
from trtllm_openai.generation import QUEUE_TIMEOUT
from trtllm_openai.runners import Generation


class Consumer(Protocol):
    """Receives the text of a run. Called in the context of the request, never from a task of its own."""

    def consume(self, deltas: list[Delta], last: bool) -> None:
        """New text of one engine step, or of several after a pause. `last`: every choice has ended."""

    def ended(self, error: Exception | None) -> None:
        """Called once, as the last call: the response is complete (None), or `error` ended it."""


class RequestRun:
    """The choices of one HTTP request, running on the pool. Must be closed.

    Text is pushed: a runner's message goes through `Consumer.consume` to the socket in one call, without
    waking a task. The request's own task only waits for the end.
    """

    __slots__ = (
        "_accepted",
        "_consumer",
        "_context",
        "_decoder",
        "_end_reason",
        "_failure",
        "_generation",
        "_on_close",
        "_timers",
        "accounting",
        "choices",
        "flow",
    )

    def __init__(
        self,
        choices: list[Choice],
        generation: Generation,
        accounting: Accounting,
        limits: TimeLimits,
        overloaded: Callable[[str], Overloaded],
        on_close: Callable[[RequestRun], None],
    ) -> None:
        """`overloaded` makes the error for the code of a request that found no place in the engine."""
        self.choices = choices
        self.accounting = accounting
        self.flow = FlowControl(self._advance)
        """Back-pressure of the response: while it is paused, deltas wait in the generation."""
        self._generation = generation
        self._decoder = RequestDecoder(choices, accounting, generation.abort, overloaded)
        self._on_close = on_close
        self._consumer: Consumer | None = None
        self._failure: Exception | None = None  # ended it before it had a consumer
        self._end_reason = "client_gone"  # unless something else ends it before it is complete
        self._accepted = asyncio.Event()  # set when the engine has produced output or the run has ended
        self._context = contextvars.copy_context()  # the request's; callbacks come from elsewhere
        self._timers = Timers(
            limits, accounting.started, self._expire, functools.partial(overloaded, QUEUE_TIMEOUT)
        )
        generation.listener = functools.partial(self._context.run, self._begin)

    @property
    def live(self) -> int:
        """Number of sequences that an engine works on."""
        return len(self._generation.live)

    @property
    def adapter(self) -> str | None:
        """The LoRA adapter of its sequences."""
        return self.choices[0].request.adapter

    @property
    def begun(self) -> int:
        """How many of the live sequences the engine has begun with."""
        live = self._generation.live
        return sum(choice.begun and choice.request.request_id in live for choice in self.choices)

    @property
    def guided(self) -> bool:
        """Whether the engine may still reject the request: only it can compile a grammar."""
        return self.choices[0].request.guide is not None

    async def accepted(self) -> None:
        """Wait until the engine has begun.

        Raises `InvalidRequest` if it rejects the request, `Overloaded` if it has no place for it.
        """
        await self._accepted.wait()
        if self._failure is not None:
            raise self._failure
        for output in self._generation.waiting:
            if output.error_code is not None:
                self._end_reason = "error"
                raise self._decoder.error(output)

    def start(self, consumer: Consumer) -> None:
        """Set the consumer, which is called until its `ended` was called."""
        if self._failure is not None:
            consumer.ended(self._failure)
            return
        self._consumer = consumer
        self._advance()

    def interrupt(self, error: Exception) -> None:
        """End the run with `error`."""
        self._context.run(self._end, "shutdown", error)

    def close(self) -> None:
        """Abort running sequences, and account for them. Idempotent."""
        self._stop()
        self.flow.close()
        self._on_close(self)
        self.accounting.close(self._end_reason, self._decoder.open_choices)
        self._decoder.open_choices = 0

    def _begin(self) -> None:
        """The engine's first output, which may say no more than that it has begun."""
        self._timers.begun()
        self._generation.listener = functools.partial(self._context.run, self._advance)
        self._advance()

    def _advance(self) -> None:
        """Pass the text of the buffered deltas to the consumer."""
        consumer = self._consumer
        if consumer is None:
            self._accepted.set()
            return
        if self.flow.paused:
            return
        outputs = self._generation.take()
        if not outputs:
            return
        now = time.perf_counter()
        accounting, decoder = self.accounting, self._decoder
        try:
            decoded = decoder.decode(outputs)
            failure = decoded.error
            if decoded.deltas:
                if accounting.observe_output(now):
                    self._timers.first_token_came()
                accounting.observe_deltas(decoded.deltas, now)
                consumer.consume(decoded.deltas, not decoder.open_choices)
        except Exception as error:
            failure = error
        if failure is not None:
            self._end("error", failure)
        elif not decoder.open_choices:
            accounting.complete()
            self._end("", None)

    def _expire(self, error: Exception) -> None:
        self._end("timeout", error)

    def _end(self, reason: str, error: Exception | None) -> None:
        """End the run for the consumer, even if it is set later."""
        if self._failure is not None:
            return
        self._end_reason, self._failure = reason, error
        consumer = self._consumer
        self._stop()
        self._accepted.set()
        if consumer is not None:
            consumer.ended(error)

    def _stop(self) -> None:
        """Detach the consumer, cancel the timers, abort the sequences that are still running."""
        self._consumer = None
        self._timers.close()
        self._generation.close()
