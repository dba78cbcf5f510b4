"""HTTP/1.1 client with keep-alive connections to the server under test, on asyncio protocols."""

from __future__ import annotations

import asyncio
import ssl
import time
from array import array
from collections import deque
from typing import Any, cast

import msgspec

from trtllm_openai.bench.plan import Record, Target
from trtllm_openai.bench.sse import ResponseReader
from trtllm_openai.errors import BadResponse


class Connection(asyncio.Protocol):
    """One socket, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: ResponseReader | None = None
        self._done: asyncio.Future[None] | None = None
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport is no subclass

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            return
        try:
            self._answer.feed(data, time.monotonic())
        except BadResponse as error:
            self._end(error)
            return
        if self._answer.complete:
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._answer is not None:
            self._answer.end()
            self._end(None if self._answer.complete else error or ConnectionResetError())

    def begin(self, request: bytes) -> ResponseReader:
        """Send a request. Returns the reader, which is filled as data arrives."""
        assert self._transport is not None
        self._answer = ResponseReader()
        self._transport.write(request)
        return self._answer

    async def exchange(self, request: bytes) -> ResponseReader:
        """Send a request and read the complete response. Raises OSError or `BadResponse`."""
        answer = self.begin(request)
        self._done = asyncio.get_running_loop().create_future()
        try:
            await self._done
        finally:
            self._answer = None
        return answer

    def close(self) -> None:
        """Abort the connection."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    def _end(self, error: Exception | None) -> None:
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)


class Client:
    """Sends requests to one target, over as many connections as there are concurrent requests."""

    def __init__(self, target: Target, timeout: float) -> None:
        self._target = target
        self._timeout = timeout
        self._idle: deque[Connection] = deque()
        self._tls = ssl.create_default_context() if target.tls else None

    async def generate(self, endpoint: str, body: bytes) -> Record:
        """Send one streamed request. Times count from just before it is written."""
        path = "/chat/completions" if endpoint == "chat" else "/completions"
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._send(self._request("POST", path, body))
        except TimeoutError:
            return _failed(began, "timeout")
        except OSError as error:
            return _failed(began, "connection " + type(error).__name__)
        except BadResponse:
            return _failed(began, "not HTTP")
        return _record(began, answer)

    async def get(self, path: str) -> Any:
        """GET and decode JSON. Raises OSError, `BadResponse` or ValueError."""
        return msgspec.json.decode((await self._send(self._request("GET", path, b""))).body)

    async def post(self, path: str, body: bytes) -> bytes:
        """POST and return the body. Raises OSError, or `BadResponse` for a status other than 200 too."""
        answer = await self._send(self._request("POST", path, body))
        if answer.status != 200:
            raise BadResponse(f"HTTP {answer.status}")
        return answer.body

    def close(self) -> None:
        """Close every connection."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _send(self, request: bytes) -> ResponseReader:
        connection = await self._take()
        try:
            answer = await connection.exchange(request)
        except BaseException:
            connection.close()
            raise
        if answer.keep_alive and connection.open:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            Connection, self._target.host, self._target.port, ssl=self._tls
        )
        return connection

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        target = self._target
        lines = [
            f"{method} {target.prefix}{path} HTTP/1.1",
            f"host: {target.host}:{target.port}",
            "accept: text/event-stream, application/json",
        ]
        if target.api_key:
            lines.append(f"authorization: Bearer {target.api_key}")
        if body:
            lines += ["content-type: application/json", f"content-length: {len(body)}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def _failed(began: float, kind: str) -> Record:
    return Record(began, 0.0, time.monotonic() - began, 0, 0, b"", kind)


def _record(began: float, answer: ResponseReader) -> Record:
    frames = answer.frames
    if answer.status != 200:
        return _failed(began, f"HTTP {answer.status}")
    if frames.error:
        return _failed(began, "error event")
    if not frames.done:
        return _failed(began, "cut short")
    times, usage = frames.times, frames.usage()
    if not times:
        return _failed(began, "no text")
    gaps = array("d", map(float.__sub__, times[1:], times))
    return Record(
        began,
        times[0] - began,
        time.monotonic() - began,
        int(usage.get("prompt_tokens", 0)),
        int(usage.get("completion_tokens", len(times))),
        gaps.tobytes(),
    )
