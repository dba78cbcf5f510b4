"""Server-Sent Events from byte templates, carried by sse-starlette.

A frame for new text costs one JSON string escape and two joins. sse-starlette passes bytes through, watches
for the client's departure and sends keep-alive comments; its own reaction to SIGTERM, which cuts live
streams, is switched off: draining is the server's decision.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.types import Receive, Scope, Send

AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]

DONE = b"data: [DONE]\n\n"
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


class TokenStream(EventSourceResponse):
    """A stream whose `on_close` runs exactly once, also when the body was never iterated."""

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        on_close: Callable[[], None],
        ping: int,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(
            frames,
            ping=ping,
            ping_message_factory=lambda: ServerSentEvent(comment="ping", sep="\n"),
            sep="\n",
            headers={"cache-control": "no-cache", **(headers or {})},
        )
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})
        state["complete"] = False

        async def marked(message: Any) -> None:
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                state["complete"] = True

        try:
            await super().__call__(scope, receive, marked)
        finally:
            self._on_close()
