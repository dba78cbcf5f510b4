"""A run as a stream of frames: text as it comes, then finish reason, usage if asked for, [DONE].

An endpoint's `ChunkFormat` formats its choices; order, merging and errors are the same for all endpoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from trtllm_openai.api.choice import Choice, Delta
from trtllm_openai.api.errors import from_exception
from trtllm_openai.api.flow import FlowControl
from trtllm_openai.api.run import Consumer, RequestRun
from trtllm_openai.api.sse import DONE, ChunkFrames, SseWriter
from trtllm_openai.errors import InvalidRequest, ShuttingDown
from trtllm_openai.protocol.common import CompletionTokensDetails, SamplingFields
from trtllm_openai.text.choice import TextDelta
from trtllm_openai.text.events import merged as merged_events


@dataclass(frozen=True, slots=True)
class UsageOptions:
    """Usage in a stream: as its last chunk, and in every chunk."""

    at_end: bool = False
    always: bool = False

    @classmethod
    def of(cls, body: SamplingFields) -> UsageOptions:
        """Read `stream_options`. Raises `InvalidRequest` without `stream: true`."""
        options = body.stream_options
        if options is None:
            return _NO_USAGE
        if not body.stream:
            raise InvalidRequest(
                "stream_options is only allowed together with stream: true.", "stream_options"
            )
        return cls(bool(options.include_usage), bool(options.continuous_usage_stats))


_NO_USAGE = UsageOptions()


class ChunkFormat(Protocol):
    """How an endpoint writes its choices."""

    frames: ChunkFrames

    def opening(self, choice: Choice) -> bytes:
        """Frames before the first text of a choice; may be empty."""

    def delta(self, choice: Choice, delta: TextDelta) -> bytes:
        """Frames of a delta without its finish reason; may be empty."""

    def final(self, index: int, delta: TextDelta) -> dict[str, Any]:
        """The choice object that carries the finish reason."""


class StreamFormatter(ABC):
    """Turns a run's text into frames and pushes them to the writer; implements `api.run.Consumer`."""

    def __init__(self, writer: SseWriter) -> None:
        self._writer = writer
        self._last = b""  # frames that are sent together with the tail

    @abstractmethod
    def frames(self, deltas: list[Delta]) -> bytes:
        """New text as frames; may be empty."""

    @abstractmethod
    def tail(self) -> bytes:
        """The last frames of a complete response."""

    @abstractmethod
    def failure(self, error: Exception) -> bytes:
        """The last frames of a response that `error` ended."""

    def consume(self, deltas: list[Delta], last: bool) -> None:
        frames = self.frames(deltas)
        if last:
            self._last = frames
        elif frames:
            self._writer.push(frames)

    def ended(self, error: Exception | None) -> None:
        if error is not None and not self._writer.begun:
            self._writer.refuse(error)
            return
        self._writer.finish(self._last + (self.tail() if error is None else self.failure(error)))


class ChunkFormatter(StreamFormatter):
    """OpenAI's chunks: text as it comes, then the finish reason, the usage if asked for, [DONE]."""

    def __init__(self, writer: SseWriter, run: RequestRun, form: ChunkFormat, usage: UsageOptions) -> None:
        super().__init__(writer)
        self._accounting = run.accounting
        self._choices = run.choices
        self._form = form
        self._usage = usage
        self._opened: set[int] = set()

    def frames(self, deltas: list[Delta]) -> bytes:
        form, opened = self._form, self._opened
        choice, delta = deltas[0]
        always = self._usage.always
        if len(deltas) == 1 and delta.finish_reason is None and choice.index in opened and not always:
            return form.delta(choice, delta)  # the common case
        parts = []
        if always:
            parts = self._openings(deltas)
            form.frames.set_usage(self._accounting.usage(final=False).model_dump())
        for choice, delta in merged(deltas):
            if choice.index not in opened:
                opened.add(choice.index)
                parts.append(form.opening(choice))
            parts.append(form.delta(choice, delta))
            if delta.finish_reason is not None:
                parts.append(form.frames.choice(form.final(choice.index, delta)))
        return b"".join(parts)

    def _openings(self, deltas: list[Delta]) -> list[bytes]:
        """The openings of choices, with the usage before their first tokens."""
        form, opened = self._form, self._opened
        if not opened:
            usage = self._accounting.usage(final=False)
            usage.completion_tokens, usage.total_tokens = 0, usage.prompt_tokens
            usage.completion_tokens_details = CompletionTokensDetails(reasoning_tokens=0)
            form.frames.set_usage(usage.model_dump())
        parts = []
        for choice, _ in deltas:
            if choice.index not in opened:
                opened.add(choice.index)
                parts.append(form.opening(choice))
        return parts

    def tail(self) -> bytes:
        usage = b""
        if self._usage.at_end:
            usage = self._form.frames.usage(self._accounting.usage().model_dump())
        return usage + DONE

    def failure(self, error: Exception) -> bytes:
        cut = b""
        if isinstance(error, ShuttingDown):  # tells clients that read only chunks that the text is truncated
            delta = TextDelta(finish_reason="abort")
            cut = b"".join(
                self._form.frames.choice(self._form.final(choice.index, delta))
                for choice in self._choices
                if not choice.decoder.finished
            )
        return cut + b"data: " + from_exception(error).body() + b"\n\n"


class RunStream:
    """A run as the source of an SSE response, which owns it; implements `api.sse.StreamSource`.

    `make_formatter` makes the run's consumer around the response's writer.
    """

    __slots__ = ("_make_formatter", "_run", "_started")

    def __init__(self, run: RequestRun, make_formatter: Callable[[SseWriter], Consumer]) -> None:
        self._run = run
        self._make_formatter = make_formatter
        self._started = False

    @property
    def flow(self) -> FlowControl:
        return self._run.flow

    def start(self, writer: SseWriter) -> None:
        self._started = True
        self._run.accounting.metrics.streams.inc()
        self._run.start(self._make_formatter(writer))

    def close(self) -> None:
        if self._started:
            self._run.accounting.metrics.streams.dec()
        self._run.close()


def merged(deltas: list[Delta]) -> list[Delta]:
    """Merge plain-text deltas of the same choice: several gather during back-pressure or in one step."""
    if len(deltas) == 1:
        return deltas
    result: list[Delta] = []
    last: dict[int, TextDelta] = {}
    for choice, delta in deltas:
        before = last.get(choice.index)
        if before is not None and not before.logprobs and not delta.logprobs:
            before.text += delta.text
            before.events = merged_events([*before.events, *delta.events])
            if delta.token_ids is not None:
                before.token_ids = [*(before.token_ids or ()), *delta.token_ids]
            before.finish_reason, before.stop_reason = delta.finish_reason, delta.stop_reason
        else:
            last[choice.index] = delta
            result.append((choice, delta))
    return result
