"""A run whose text becomes a response object: at once, as a stream of typed events, or in the background."""

from __future__ import annotations

import asyncio
import functools
import time

from starlette.responses import Response

from trtllm_openai.api.choice import Choice, Delta
from trtllm_openai.api.collect import consumed
from trtllm_openai.api.context import LoadedModel, ServerContext
from trtllm_openai.api.logprobs import chat_logprobs
from trtllm_openai.api.responses.items import from_output
from trtllm_openai.api.responses.names import Names
from trtllm_openai.api.responses.store import ResponseStore, Stored
from trtllm_openai.api.responses.writer import ResponseWriter, StreamEvent
from trtllm_openai.api.run import RequestRun
from trtllm_openai.api.sse import SseWriter, json_bytes, typed_frames
from trtllm_openai.api.stream import StreamFormatter
from trtllm_openai.api.token_fields import TokenFields
from trtllm_openai.telemetry.traces import Tracer
from trtllm_openai.text.choice import TextDelta
from trtllm_openai.text.events import Content


class ResponseRun:
    """A run on its way to a response object: streamed, complete or in the background.

    `store` None: the response is not stored. `names`: of the chat request's parameters, for errors.
    """

    def __init__(
        self,
        run: RequestRun,
        model: LoadedModel,
        writer: ResponseWriter,
        store: ResponseStore | None,
        stored: Stored,
        names: Names,
    ) -> None:
        self.run = run
        self.names = names
        self.writer = writer
        self._model = model
        self._store = store
        self._stored = stored

    def complete(self) -> asyncio.Future[None]:
        """Start the run. The future completes at its end, with its error if it fails."""
        return consumed(self.run, self.events)

    def in_background(self, context: ServerContext, headers: dict[str, str]) -> Response:
        """Return the response in its current state, and generate in a background task."""
        assert self._store is not None
        self.run.accounting.record.detached = True
        task = self._stored.task = asyncio.create_task(self._generate())
        # A callback and not the task's own end: one that is cancelled before its first step never runs.
        task.add_done_callback(functools.partial(self._generated, context.tracer))
        self._store.put(self._stored)
        return Response(json_bytes(self._stored.response), headers=headers, media_type="application/json")

    def events(self, deltas: list[Delta]) -> list[StreamEvent]:
        """Add new text to the response object. Returns the events that a stream sends for it."""
        events: list[StreamEvent] = []
        for choice, delta in deltas:
            events += self._delta_events(choice, delta)
            if delta.finish_reason is not None:
                events += self.writer.finish(delta.finish_reason, self.run.accounting.usage())
                self._keep()
        return events

    def _delta_events(self, choice: Choice, delta: TextDelta) -> list[StreamEvent]:
        logprobs = None
        if delta.logprobs:
            fields = TokenFields(self._model.tokenizer, choice.request.sampling.logprobs)
            logprobs = chat_logprobs(fields, delta.logprobs)["content"]
        found = delta.events if choice.decoder.parsed else [Content(delta.text)]
        if logprobs and not any(isinstance(event, Content) for event in found):
            logprobs = None  # the tokens are reasoning or a tool call, which have no log-probabilities here
        events: list[StreamEvent] = []
        for event in found:
            if isinstance(event, Content):
                events += self.writer.add(event, logprobs)
                logprobs = None
            else:
                events += self.writer.add(event)
        return events

    async def _generate(self) -> None:
        await self.complete()

    def _generated(self, tracer: Tracer | None, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self.writer.fail("cancelled", None, "")
        elif isinstance(error := task.exception(), Exception):
            fault = self.names.error(error)
            self.writer.fail("failed", fault.code, fault.message)
        self.run.close()
        self._stored.task = None
        if self._store is not None:
            self._store.generated(self._stored)
        record = self.run.accounting.record
        record.seconds = time.perf_counter() - record.begun
        record.log()
        if tracer is not None:
            tracer.record(record, self._model.id)

    def _keep(self) -> None:
        output = self._stored.response["output"]
        compacted = any(item["type"] == "compaction" for item in output)
        self._stored.messages = ([] if compacted else self._stored.messages) + from_output(output)
        if self._store is not None and self._stored.task is None:
            self._store.put(self._stored)


class EventFormatter(StreamFormatter):
    """The typed events of `/v1/responses` as frames."""

    def __init__(self, writer: SseWriter, response: ResponseRun) -> None:
        super().__init__(writer)
        self._response = response
        self._opened = False

    def frames(self, deltas: list[Delta]) -> bytes:
        return self._opening() + typed_frames(self._response.events(deltas))

    def tail(self) -> bytes:
        return b""

    def failure(self, error: Exception) -> bytes:
        opening = self._opening()
        fault = self._response.names.error(error)
        writer = self._response.writer
        writer.fail("failed", fault.code, fault.message)
        detail = fault.detail()
        event = {**detail, "type": "error", "sequence_number": writer.next_number(), "error": detail}
        return opening + typed_frames([event])

    def _opening(self) -> bytes:
        """The first events, once: they come with the first text, so that a refusal is no stream."""
        if self._opened:
            return b""
        self._opened = True
        return typed_frames(self._response.writer.begin())
