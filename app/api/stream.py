"""A Job as a stream of frames: text as it comes, then finish reason, usage if asked, [DONE].

What differs between the endpoints is a `ChunkFormat`; order, merging and errors are the same for both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from app.api.errors import from_exception
from app.api.job import Choice, Job
from app.api.sse import DONE, ChunkFrames
from app.pool import ShuttingDown
from app.text.choice import TextDelta
from app.text.events import merged as merged_events


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


async def stream_frames(job: Job, form: ChunkFormat, usage: UsageWanted) -> AsyncIterator[bytes]:
    """All frames of a stream, each item one write. An error becomes an error frame and ends the stream."""
    opened: set[int] = set()
    gauge = job.service.metrics.streams
    gauge.inc()
    try:
        async for deltas in job.deltas():
            parts = []
            if usage.always:
                form.frames.set_usage(job.usage(final=False).model_dump())
            for choice, delta in merged(deltas):
                if choice.index not in opened:
                    opened.add(choice.index)
                    parts.append(form.opening(choice))
                parts.append(form.delta(choice, delta))
                if delta.finish_reason is not None:
                    parts.append(form.frames.choice(form.final(choice.index, delta)))
            if frame := b"".join(parts):
                yield frame
        tail = form.frames.usage(job.usage().model_dump()) if usage.at_end else b""
        yield tail + DONE
    except Exception as error:
        if isinstance(error, ShuttingDown):  # what there is, is a part: say so to those who only read chunks
            cut = TextDelta(finish_reason="abort")
            yield b"".join(
                form.frames.choice(form.final(choice.index, cut))
                for choice in job.choices
                if not choice.decoder.finished
            )
        yield b"data: " + from_exception(error).body() + b"\n\n"
    finally:
        gauge.dec()
        job.close()


def merged(deltas: list[tuple[Choice, TextDelta]]) -> list[tuple[Choice, TextDelta]]:
    """Plain-text deltas of the same choice made one: the socket was behind, or the engine made several."""
    if len(deltas) == 1:
        return deltas
    result: list[tuple[Choice, TextDelta]] = []
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
