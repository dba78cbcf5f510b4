"""uvicorn's HTTP protocol with a read timeout and a limit on the size of the request head.

uvicorn's own protocol waits indefinitely for the rest of a request and buffers any number of header bytes.
The response to invalid HTTP has the same JSON shape as every other error.
"""

from __future__ import annotations

import asyncio
import http
from typing import Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trtllm_openai.api.errors import ApiError

MAX_HEAD_BYTES = 64 * 1024


class BoundedProtocol(HttpToolsProtocol):
    """An HTTP/1.1 connection with a read timeout.

    `read_timeout`: seconds for a complete request head, and between two chunks of a body, whose total time is
    not limited.
    """

    read_timeout = 30.0
    _awaited: Literal["head", "rest of head", "body"] = "head"
    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._awaited == "body":
            self._start_timer()
        super().data_received(data)
        if self._awaited != "rest of head":
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            message = f"The request head is larger than {MAX_HEAD_BYTES} bytes."
            self._refuse(ApiError(431, message, code="headers_too_large"))

    def on_message_begin(self) -> None:
        self._awaited = "rest of head"
        if self._timer is None:
            self._start_timer()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._awaited = "body"
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._awaited = "head"
        self._stop_timer()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, "The request is not valid HTTP.", code="invalid_http"))

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self.read_timeout, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._awaited == "head":
            self.transport.close()  # idle keep-alive connection: there is no request to answer
            return
        message = f"The request was not received within {self.read_timeout:g} s."
        self._refuse(ApiError(408, message, code="request_timeout"))

    def _refuse(self, error: ApiError) -> None:
        """Send an error response and close; if a response has already started, only close."""
        if self.transport.is_closing():
            return
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            response = error.response()
            head = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
            line = f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}\r\n".encode()
            self.transport.write(line + head + b"connection: close\r\n\r\n" + bytes(response.body))
        self.transport.close()


def protocol(read_timeout: float) -> type[BoundedProtocol]:
    """The protocol class with this `read_timeout` in seconds, for uvicorn's `http` setting."""
    return type("Protocol", (BoundedProtocol,), {"read_timeout": read_timeout})
