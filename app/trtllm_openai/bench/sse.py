"""An HTTP/1.1 answer read for its timing: where its text begins, how many pieces it has, what its usage says.

Nothing is decoded but the last frame with a usage: a piece of text is a frame in which a text field opens
with something other than its closing quote. Quotes inside JSON strings are escaped, so that the pattern
cannot match inside a text.
"""

from __future__ import annotations

import json
import re
from array import array
from typing import Any

from trtllm_openai.errors import BadResponse

_TEXT = re.compile(rb'"(?:content|text|reasoning_content|reasoning|arguments)"\s*:\s*"(?!")').search
_USAGE = re.compile(rb'"usage"\s*:\s*\{').search
_ERROR = re.compile(rb'(?:^|\n)(?:event:\s*error\r?\n)?data:\s*\{\s*"(?:error|object"\s*:\s*"error)"').search
_BREAK = re.compile(rb"\r?\n\r?\n").search
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE).search
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE).search
_EVENTS = re.compile(rb"\r\ncontent-type:\s*text/event-stream", re.IGNORECASE).search
_CLOSE = re.compile(rb"\r\nconnection:\s*close", re.IGNORECASE).search


class FrameReader:
    """Server-Sent Events of one answer. `times` holds a reading of the clock for each piece of text."""

    __slots__ = ("_rest", "_usage", "done", "error", "times")

    def __init__(self) -> None:
        self._rest = b""
        self._usage = b""
        self.times = array("d")
        self.done = False
        self.error = b""

    def feed(self, data: bytes, now: float) -> None:
        """The next bytes of the body, wherever they are cut."""
        if self._rest:
            data = self._rest + data
        place = 0
        while True:
            end = data.find(b"\n\n", place)
            after = end + 2
            if end < 0:
                found = _BREAK(data, place)  # frames that end in carriage returns, as some servers write them
                if found is None:
                    break
                end, after = found.span()
            self._frame(data[place:end], now)
            place = after
        self._rest = data[place:]

    def usage(self) -> dict[str, Any]:
        """The last usage that came; empty without one."""
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


class AnswerReader:
    """One HTTP answer: status, then a body by length, in chunks, or up to the end of the connection."""

    __slots__ = (
        "_buffer",
        "_chunked",
        "_events",
        "_left",
        "body",
        "complete",
        "frames",
        "keep_alive",
        "status",
    )

    def __init__(self) -> None:
        self.status = 0
        self.frames = FrameReader()
        self.body = b""
        """Of an answer that is no event stream."""
        self.complete = False
        self.keep_alive = True
        self._buffer = b""
        self._chunked = False
        self._events = False
        self._left = -1  # bytes of the chunk, or of the body; -1: not known

    def feed(self, data: bytes, now: float) -> None:
        """The next bytes from the socket. Raises `BadResponse`."""
        if self.status == 0:
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            data = self._buffer[end + 4 :]
            head, self._buffer = self._buffer[: end + 2], b""
            self._read_head(head)
        if self._chunked:
            self._feed_chunked(data, now)
        elif self._left >= 0:
            self._take(data[: self._left], now)
            self._left -= min(len(data), self._left)
            self.complete = self._left == 0
        elif data:
            self._take(data, now)

    def end(self) -> None:
        """The connection ended, which completes a body without a length."""
        if self.status and not self._chunked and self._left < 0:
            self.complete = True

    def _read_head(self, head: bytes) -> None:
        words = head.split(b" ", 2)
        if len(words) < 2 or not head.startswith(b"HTTP/1.") or not words[1][:3].isdigit():
            raise BadResponse(repr(head[:40]))
        self.status = int(words[1][:3])
        self.keep_alive = _CLOSE(head) is None
        self._chunked = _CHUNKED(head) is not None
        self._events = _EVENTS(head) is not None
        length = _LENGTH(head)
        if not self._chunked and length is not None:
            self._left = int(length[1])

    def _feed_chunked(self, data: bytes, now: float) -> None:
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        place = 0
        while place < len(data):
            if self._left > 0:
                piece = data[place : place + self._left]
                self._take(piece, now)
                self._left -= len(piece)
                place += len(piece)
                if self._left == 0:
                    self._left = -2  # the line break after a chunk
                continue
            if self._left == -2:
                if len(data) - place < 2:
                    break
                place += 2
                self._left = -1
                continue
            end = data.find(b"\r\n", place)
            if end < 0:
                break
            try:
                size = int(data[place:end].partition(b";")[0], 16)
            except ValueError:
                raise BadResponse(repr(data[place : place + 20])) from None
            if size == 0:
                self.complete = data.find(b"\r\n\r\n", end) >= 0  # trailers, if any, and the empty line
                break
            self._left = size
            place = end + 2
        self._buffer = data[place:]

    def _take(self, piece: bytes, now: float) -> None:
        if self._events:
            self.frames.feed(piece, now)
        else:
            self.body += piece
