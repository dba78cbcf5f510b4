"""Server-Sent Events: frames from byte templates, and a response that frames are pushed into.

A frame for new text costs one JSON string escape and two concatenations. The response has the status and the
headers of sse-starlette's `EventSourceResponse`; `SseResponse` says why its body is sent differently.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol

import msgspec
from sse_starlette.sse import EventSourceResponse
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from trtllm_openai.api.disconnect import DisconnectWatcher
from trtllm_openai.api.errors import answer_to
from trtllm_openai.api.step_coroutine import when_unblocked

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
json_bytes = msgspec.json.Encoder().encode


def event(value: object) -> bytes:
    """One frame with any JSON value."""
    return b"data: " + json_bytes(value) + b"\n\n"


def typed_frames(events: Iterable[Mapping[str, Any]]) -> bytes:
    """Frames of events whose `type` is also their name."""
    return b"".join(
        b"event: " + one["type"].encode() + b"\ndata: " + json_bytes(one) + b"\n\n" for one in events
    )


class ChunkFrames:
    """Makes the frames of one stream. `before` and `after` enclose the text in the choice object, as JSON.

    For chat they are `"delta":{"content":` and `}`, for completions `"text":` and nothing.
    """

    def __init__(
        self, head: dict[str, Any], before: str, after: str, choices: int, *, include_usage: bool
    ) -> None:
        self._open = b"data: " + json_bytes(head)[:-1] + b',"choices":['
        self._after = f'{after},"logprobs":null,"finish_reason":null}}'.encode()
        starts = [f'{{"index":{index},{before}'.encode() for index in range(choices)]
        self._starts = [self._open + start for start in starts]
        self._finish_with(b',"usage":null' if include_usage else b"")

    def set_usage(self, usage: dict[str, Any]) -> None:
        """Set the usage that every later frame carries."""
        self._finish_with(b',"usage":' + json_bytes(usage))

    def _finish_with(self, usage: bytes) -> None:
        self._close = b"]" + usage + b"}\n\n"
        self._end = self._after + self._close

    def text(self, index: int, text: str) -> bytes:
        """A frame that adds `text` to choice `index`."""
        return self._starts[index] + json_bytes(text) + self._end

    def choice(self, choice: dict[str, Any], more: dict[str, Any] | None = None) -> bytes:
        """A frame with any choice object. `more`: fields beside `choices`."""
        if not more:
            return self._open + json_bytes(choice) + self._close
        return self._open + json_bytes(choice) + b"]," + json_bytes(more)[1:-1] + self._close[1:]

    def usage(self, usage: dict[str, Any]) -> bytes:
        """The frame with the usage and no choices."""
        return self._open + b'],"usage":' + json_bytes(usage) + b"}\n\n"


class StreamSource(Protocol):
    """Produces the frames of an `SseResponse`."""

    @property
    def flow(self) -> Flow:
        """Paused while the socket's buffer is full."""

    def start(self, writer: SseWriter) -> None:
        """Begin to call `writer.push` and, once, `writer.finish`."""

    def close(self) -> None:
        """The response has ended. Called exactly once, even if `start` never was."""


class Flow(Protocol):
    """Back-pressure on the producer of frames; see `api.flow`."""

    def pause(self) -> None:
        """The socket's buffer is full: push no more."""

    def resume(self) -> None:
        """The socket has drained."""


class SseWriter:
    """Sends frames with an ASGI `send`, from any callback. Must be closed.

    The response begins, with the message `start`, at the first frame or ping: what fails before can still be
    an ordinary error response (`refuse`).

    `push` runs `send` on the spot. It usually completes at once. When it has to wait because the socket's
    buffer is full, `flow` is paused until the socket has drained and the send is complete.
    """

    __slots__ = (
        "__weakref__",
        "_flow",
        "_ping_frame",
        "_pinger",
        "_pinging",
        "_send",
        "_sending",
        "_tail",
        "begun",
        "complete",
        "ended",
        "refusal",
    )

    def __init__(
        self, start: Message, send: Send, flow: Flow, ping_interval_s: float, ping: bytes = PING
    ) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the last frame was sent, `stop` was called or a send failed (with its error)."""
        self.complete = False
        """Whether the last frame was sent."""
        self.begun = False
        """Whether the response's status was sent."""
        self.refusal: Exception | None = None
        """The error that is sent instead of a response that has not begun."""
        # Replaced by `send` at the first frame, so that later ones pay nothing for it.
        self._send: Callable[[Message], Coroutine[Any, Any, None]] = functools.partial(
            self._begin, start, send
        )
        self._flow = flow
        self._sending: Coroutine[Any, Any, None] | None = None  # a send that waits for the socket
        self._tail: bytes | None = None  # the last frames, once there are any
        self._pinging = ping_interval_s
        self._ping_frame = ping
        self._pinger = asyncio.get_running_loop().call_later(ping_interval_s, self._ping)

    def push(self, frames: bytes) -> None:
        """Send frames now. Only while no send is pending: `flow` must not be paused."""
        self._step(self._send({"type": "http.response.body", "body": frames, "more_body": True}))

    def finish(self, tail: bytes) -> None:
        """Send the last frames, after a send that is pending, and end the response."""
        self._tail = tail
        if self._sending is None:
            self._step(self._finish(tail))

    def refuse(self, error: Exception) -> None:
        """End a response that has not begun with an ordinary error response."""
        self.refusal = error
        self.stop()

    def stop(self, error: BaseException | None = None) -> None:
        """End the response where it is, with `error` if one is given."""
        if self.ended.done():
            return
        if error is not None:
            self.ended.set_exception(error)
        else:
            self.ended.set_result(None)

    def close(self) -> None:
        """Cancel the ping timer and a pending send, and let go of what may refer to this writer."""
        self._pinger.cancel()
        if self._sending is not None:
            self._sending.close()
            self._sending = None
        del self._flow, self._send

    async def _begin(self, start: Message, send: Send, message: Message) -> None:
        self.begun = True
        self._send = send  # type: ignore[assignment]
        await send(start)
        await send(message)

    async def _finish(self, tail: bytes) -> None:
        await self._send({"type": "http.response.body", "body": tail, "more_body": False})
        self.complete = True
        self.stop()

    def _step(self, sending: Coroutine[Any, Any, None]) -> None:
        """Run a send until it completes or has to wait."""
        try:
            blocker = sending.send(None)
        except StopIteration:
            return
        except Exception as error:
            self.stop(error)
            return
        self._sending = sending
        self._flow.pause()
        when_unblocked(blocker, self._unblocked)

    def _unblocked(self, _: asyncio.Future[None] | None = None) -> None:
        sending, self._sending = self._sending, None
        if sending is None or self.ended.done():
            return
        self._step(sending)
        if self._sending is not None or self.ended.done():
            return
        if self._tail is not None:
            self._step(self._finish(self._tail))
        else:
            self._flow.resume()

    def _ping(self) -> None:
        """Send a frame, so that no proxy closes a silent connection; skipped while a send is pending."""
        if self._sending is None and not self.ended.done():
            self.push(self._ping_frame)
        self._pinger = asyncio.get_running_loop().call_later(self._pinging, self._ping)


class _Empty:
    """The body that sse-starlette's constructor asks for: frames are pushed here, not pulled."""

    def __aiter__(self) -> _Empty:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


# Made once: most of the cost of making a response is its headers, which are always the same.
_PLAIN = EventSourceResponse(_Empty(), sep="\n", headers={"cache-control": "no-cache"})
# It is the server that knows whether the connection lasts: not for HTTP/1.0, or a client that closes it.
_HEADERS = [(name, value) for name, value in _PLAIN.raw_headers if name != b"connection"]


class SseResponse(Response):
    """A response whose frames are pushed by callbacks and not pulled from an iterator.

    sse-starlette pulls them in one of a group of four tasks, with a cancel scope around each send: some ten
    times the work per token of `SseWriter.push`. The request's own task only waits for the end here.
    """

    def __init__(
        self,
        source: StreamSource,
        ping_interval_s: float,
        headers: dict[str, str] | None = None,
        ping: bytes = PING,
    ) -> None:
        """`ping`: the frame that keeps a silent stream open, every `ping_interval_s`."""
        self.status_code = _PLAIN.status_code
        self.raw_headers = _HEADERS + [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()
        ]
        self._source = source
        self._ping_interval_s = ping_interval_s
        self._ping = ping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})
        state["complete"] = False
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        source = self._source
        writer: SseWriter | None = None
        watcher: DisconnectWatcher | None = None
        try:
            writer = SseWriter(start, send, source.flow, self._ping_interval_s, self._ping)
            watcher = DisconnectWatcher(receive, writer.stop)
            source.start(writer)
            await writer.ended
        finally:
            if watcher is not None:
                watcher.close()
            if writer is not None:
                state["complete"] = writer.complete
                writer.close()
            source.close()
        if writer.refusal is not None:
            await answer_to(writer.refusal, scope)(scope, receive, send)
            state["complete"] = True
