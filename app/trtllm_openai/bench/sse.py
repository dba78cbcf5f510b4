"""Reads a streamed HTTP/1.1 response for its timing: the arrival of each chunk with text, and the usage.

Only the last frame with a usage is decoded as JSON. A frame has text if a text field does not begin with its
closing quote. Quotes inside JSON strings are escaped, so the pattern cannot match inside a string.
"""

from __future__ import annotations

import json
import re
from array import array
from typing import Any

import httptools

from trtllm_openai.errors import BadResponse

_TEXT = re.compile(rb'"(?:content|text|reasoning_content|reasoning|arguments)"\s*:\s*"(?!")').search
_USAGE = re.compile(rb'"usage"\s*:\s*\{').search
_ERROR = re.compile(rb'(?:^|\n)(?:event:\s*error\r?\n)?data:\s*\{\s*"(?:error|object"\s*:\s*"error)"').search
_BREAK = re.compile(rb"\r?\n\r?\n").search


class FrameReader:
    """Parser of one response's Server-Sent Events. `times` has the arrival time of each frame with text."""

    __slots__ = ("_rest", "_usage", "done", "error", "times")

    def __init__(self) -> None:
        self._rest = b""
        self._usage = b""
        self.times = array("d")
        self.done = False
        self.error = b""

    def feed(self, data: bytes, now: float) -> None:
        """Parse the next bytes of the body, however they are chunked."""
        if self._rest:
            data = self._rest + data
        start = 0
        while True:
            end = data.find(b"\n\n", start)
            after = end + 2
            if end < 0:
                found = _BREAK(data, start)  # some servers end frames with CRLF
                if found is None:
                    break
                end, after = found.span()
            self._frame(data[start:end], now)
            start = after
        self._rest = data[start:]

    def usage(self) -> dict[str, Any]:
        """The last usage received; empty without one."""
        if not self._usage:
            return {}
        try:
            usage = json.loads(self._usage[self._usage.index(b"{") :])["usage"]
        except (ValueError, KeyError):
            return {}
        return usage if isinstance(usage, dict) else {}

    def _frame(self, frame: bytes, now: float) -> None:
        if _TEXT(frame):
            self.times.append(now)
        if _USAGE(frame):
            self._usage = frame
        elif frame.startswith(b"data: [DONE]") or frame == b"data:[DONE]":
            self.done = True
        elif not self.error and _ERROR(frame):
            self.error = frame[frame.index(b"{") :]


class ResponseReader:
    """One HTTP/1.1 response, parsed by httptools. A reader is used once."""

    __slots__ = (
        "_event_stream", "_framed", "_now", "_parser", "body", "complete", "frames", "keep_alive", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self.status = 0
        """0 until the header section is complete."""
        self.frames = FrameReader()
        self.body = b""
        """The body, unless it is an event stream."""
        self.complete = False
        self.keep_alive = False
        """Whether the connection can take another request after this response."""
        self._event_stream = False
        self._framed = False  # the end of the body is known from content-length or chunked encoding
        self._now = 0.0
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes, now: float) -> None:
        """Parse the next bytes from the socket, received at `now`. Raises `BadResponse`."""
        self._now = now
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise BadResponse(f"{error}: {data[:40]!r}") from None

    def end(self) -> None:
        """The server closed the connection, which completes a body without a length."""
        if self.status and not self._framed:
            self.complete = True

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._framed = True
        elif name == b"content-type":
            self._event_stream = value.lower().startswith(b"text/event-stream")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.keep_alive = bool(self._parser.should_keep_alive())  # forgotten at the end of the message

    def on_body(self, data: bytes) -> None:
        if self._event_stream:
            self.frames.feed(data, self._now)
        else:
            self.body += data

    def on_message_complete(self) -> None:
        self.complete = True
