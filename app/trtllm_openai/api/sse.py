"""Server-Sent Events from byte templates, carried by sse-starlette.

A frame for new text costs one JSON string escape and two joins. Of sse-starlette's response the headers are
used as they are; `TokenStream` says what is not. Its reaction to SIGTERM, which cuts live streams, is
switched off: draining is the server's decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import msgspec
from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from trtllm_openai.api.disconnect import DisconnectWatcher
from trtllm_openai.api.step_coroutine import when_unblocked

AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
json_bytes = msgspec.json.Encoder().encode


def event(value: object) -> bytes:
    """One frame with any JSON value."""
    return b"data: " + json_bytes(value) + b"\n\n"


class ChunkFrames:
    """The frames of one stream. `before`/`after` enclose the text in the choice object, as JSON source.

    For chat that is `"delta":{"content":` … `}`, for completions `"text":` … nothing.
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
        """The usage that frames carry from now on."""
        self._finish_with(b',"usage":' + json_bytes(usage))

    def _finish_with(self, usage: bytes) -> None:
        self._close = b"]" + usage + b"}\n\n"
        self._end = self._after + self._close

    def text(self, index: int, text: str) -> bytes:
        """A frame that adds `text` to choice `index`."""
        return self._starts[index] + json_bytes(text) + self._end

    def choice(self, choice: dict[str, Any]) -> bytes:
        """A frame with any choice object."""
        return self._open + json_bytes(choice) + self._close

    def usage(self, usage: dict[str, Any]) -> bytes:
        """The frame with the usage and no choices."""
        return self._open + b'],"usage":' + json_bytes(usage) + b"}\n\n"


class StreamSource(Protocol):
    """What fills a `TokenStream`."""

    def start(self, stream: TokenStream) -> None:
        """Begin to call `push` and, once, `finish`."""

    def pause(self) -> None:
        """The socket is behind: push no more for now."""

    def resume(self) -> None:
        """It has caught up."""

    def close(self) -> None:
        """The response is over, however it ended. Called exactly once, also if `start` never was."""


class _Empty:
    """Stands where sse-starlette expects a body: frames are pushed here, not pulled."""

    def __aiter__(self) -> _Empty:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


# Made once: most of what making one costs goes into headers, which are always the same.
_PLAIN = EventSourceResponse(_Empty(), sep="\n", headers={"cache-control": "no-cache"})


class TokenStream(Response):
    """sse-starlette's response for frames that are pushed, from any callback, and not pulled.

    sse-starlette pulls them in one of a group of four tasks, each send in a cancel scope of its own. Here
    `push` runs the ASGI `send` on the spot: it completes at once unless the socket is behind, and is gone on
    with when the socket is not, as a task would do it. The request's task waits for the end.
    """

    def __init__(self, source: StreamSource, ping: float, headers: dict[str, str] | None = None) -> None:
        self.status_code = _PLAIN.status_code
        self.raw_headers = _PLAIN.raw_headers + [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()
        ]
        self._source = source
        self._ping = ping
        self._sending: Coroutine[Any, Any, None] | None = None
        self._tail: bytes | None = None

    def push(self, frames: bytes) -> None:
        """Send frames now; the source is paused until the socket has taken them."""
        self._drive(self._send({"type": "http.response.body", "body": frames, "more_body": True}))

    def finish(self, tail: bytes) -> None:
        """Send the last frames and end the response."""
        self._tail = tail
        if self._sending is None:
            self._drive(self._end(tail))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._state = scope.setdefault("state", {})
        self._state["complete"] = False
        self._send: Callable[[Message], Coroutine[Any, Any, None]] = send  # type: ignore[assignment]
        loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = loop.create_future()
        departure: DisconnectWatcher | None = None
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            self._pinger = loop.call_later(self._ping, self._keep_alive)
            departure = DisconnectWatcher(receive, self._stop)
            self._source.start(self)
            await self._over
        finally:
            if departure is not None:
                self._pinger.cancel()
                departure.close()
            if self._sending is not None:
                self._sending.close()
                self._sending = None
            self._source.close()
            del self._source  # which holds this: refcounts are enough then

    async def _end(self, tail: bytes) -> None:
        await self._send({"type": "http.response.body", "body": tail, "more_body": False})
        self._state["complete"] = True
        self._stop()

    def _drive(self, sending: Coroutine[Any, Any, None]) -> None:
        """Run a send as far as it goes."""
        try:
            blocker = sending.send(None)
        except StopIteration:
            return
        except Exception as error:
            self._stop(error)
            return
        self._sending = sending
        self._source.pause()
        when_unblocked(blocker, self._unblocked)

    def _unblocked(self, _: asyncio.Future[None] | None = None) -> None:
        sending, self._sending = self._sending, None
        if sending is None or self._over.done():
            return
        self._drive(sending)
        if self._sending is not None or self._over.done():
            return
        if self._tail is not None:
            self._drive(self._end(self._tail))
        else:
            self._source.resume()

    def _keep_alive(self) -> None:
        """A comment, so that nobody in between takes the connection for dead."""
        if self._sending is None and not self._over.done():
            self.push(PING)
        self._pinger = asyncio.get_running_loop().call_later(self._ping, self._keep_alive)

    def _stop(self, error: BaseException | None = None) -> None:
        if self._over.done():
            return
        if error is not None:
            self._over.set_exception(error)
        else:
            self._over.set_result(None)
