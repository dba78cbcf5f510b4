"""A Job as a stream of frames: text as it comes, then finish reason, usage if asked, [DONE].

What differs between the endpoints is a `ChunkFormat`; order, merging and errors are the same for both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

from trtllm_openai.api.errors import from_exception
from trtllm_openai.api.job import Choice, Delta, Job
from trtllm_openai.api.sse import DONE, ChunkFrames, TokenStream
from trtllm_openai.errors import ShuttingDown
from trtllm_openai.text.choice import TextDelta
from trtllm_openai.text.events import merged as merged_events


@dataclass(frozen=True, slots=True)
class UsageWanted:
    """Usage in a stream: as its last chunk, and as of every chunk."""

    at_end: bool = False
    always: bool = False


class ChunkFormat(Protocol):
    """How an endpoint writes its choices."""

    frames: ChunkFrames

    def opening(self, choice: Choice) -> bytes:
        """What precedes the first text of a choice; may be empty."""

    def delta(self, choice: Choice, delta: TextDelta) -> bytes:
        """What a delta adds, other than its end; may be empty."""

    def final(self, index: int, delta: TextDelta) -> dict[str, Any]:
        """The choice object that carries the finish reason."""


class JobStream(ABC):
    """A job's text on its way into a response: a `Consumer` of the one and a `StreamSource` of the other."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._started = False
        self._last = b""  # frames that the end goes out with

    def response(self, headers: dict[str, str]) -> TokenStream:
        """The response that it fills. The job is closed when that ends, however it ends."""
        return TokenStream(self, self.job.service.settings.ping_interval, headers)

    @abstractmethod
    def frames(self, deltas: list[Delta]) -> bytes:
        """New text as frames; may be empty."""

    @abstractmethod
    def tail(self) -> bytes:
        """The last frames of a complete answer."""

    @abstractmethod
    def failure(self, error: Exception) -> bytes:
        """The last frames of an answer that `error` ended."""

    def opening(self) -> bytes:
        """What precedes all text; may be empty."""
        return b""

    def start(self, stream: TokenStream) -> None:
        self._stream = stream
        self._started = True
        self.job.service.metrics.streams.inc()
        if first := self.opening():
            stream.push(first)
        self.job.run(self)

    def consume(self, deltas: list[Delta]) -> None:
        frames = self.frames(deltas)
        if not self.job.open_choices:
            self._last = frames
        elif frames:
            self._stream.push(frames)

    def ended(self, error: Exception | None) -> None:
        self._stream.finish(self._last + (self.tail() if error is None else self.failure(error)))

    def pause(self) -> None:
        self.job.pause()

    def resume(self) -> None:
        self.job.resume()

    def close(self) -> None:
        if self._started:
            self.job.service.metrics.streams.dec()
        self.job.close()


class ChunkStream(JobStream):
    """OpenAI's chunks: text as it comes, then the finish reason, the usage if asked for, [DONE]."""

    def __init__(self, job: Job, form: ChunkFormat, usage: UsageWanted) -> None:
        super().__init__(job)
        self._form = form
        self._usage = usage
        self._opened: set[int] = set()

    def frames(self, deltas: list[Delta]) -> bytes:
        form, opened = self._form, self._opened
        choice, delta = deltas[0]
        always = self._usage.always
        if len(deltas) == 1 and delta.finish_reason is None and choice.index in opened and not always:
            return form.delta(choice, delta)  # nearly every time
        if always:
            form.frames.set_usage(self.job.usage(final=False).model_dump())
        parts = []
        for choice, delta in merged(deltas):
            if choice.index not in opened:
                opened.add(choice.index)
                parts.append(form.opening(choice))
            parts.append(form.delta(choice, delta))
            if delta.finish_reason is not None:
                parts.append(form.frames.choice(form.final(choice.index, delta)))
        return b"".join(parts)

    def tail(self) -> bytes:
        usage = self._form.frames.usage(self.job.usage().model_dump()) if self._usage.at_end else b""
        return usage + DONE

    def failure(self, error: Exception) -> bytes:
        cut = b""
        if isinstance(error, ShuttingDown):  # what there is, is a part: say so to those who only read chunks
            delta = TextDelta(finish_reason="abort")
            cut = b"".join(
                self._form.frames.choice(self._form.final(choice.index, delta))
                for choice in self.job.choices
                if not choice.decoder.finished
            )
        return cut + b"data: " + from_exception(error).body() + b"\n\n"


def merged(deltas: list[Delta]) -> list[Delta]:
    """Plain-text deltas of the same choice made one: the socket was behind, or the engine made several."""
    if len(deltas) == 1:
        return deltas
    result: list[Delta] = []
    last: dict[int, TextDelta] = {}
    for choice, delta in deltas:
        before = last.get(choice.index)
        if before is not None and not before.logprobs and not delta.logprobs:
            before.text += delta.text
            before.events = merged_events([*before.events, *delta.events])
            before.finish_reason, before.stop_reason = delta.finish_reason, delta.stop_reason
        else:
            last[choice.index] = delta
            result.append((choice, delta))
    return result
