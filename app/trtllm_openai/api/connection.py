"""uvicorn's HTTP protocol with bounds on time and size, and with what it lacks of HTTP/1.

uvicorn's own protocol waits indefinitely for the rest of a request and for a client to read its response,
buffers any number of header bytes, makes headers of trailers, loses the body of a request that offers an
upgrade, and sends chunks to HTTP/1.0 clients. The response to invalid HTTP has the same JSON shape as every
other error.
"""

from __future__ import annotations

import asyncio
import http
import logging
import socket
from collections.abc import Sequence
from typing import Any, Literal

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.receiving import Receipt, ReceiveBudget, no_room

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024
"""Of one request: target, headers and trailers."""
MAX_HEADERS = 256
MAX_HEADS_BYTES = 32 * 2**20
"""Of all heads that are not complete, in one HTTP process."""
MAX_PIPELINED = 32
"""Requests of one connection that wait for the answer to the first of them."""
MAX_SMALL_PARTS, SMALL_PART = 8192, 16
"""A body of more parts than this must have this many bytes in each, on average: a part of one byte costs as
much time as one of thousands."""
SEND_BUFFER = 256 * 1024
"""Bytes of a response that the kernel takes before the client reads; it counts them twice, with what it adds.

Linux would take 4 MB: minutes of a stream's text, for which nobody could see that its client does not read.
"""

LINGER_S = 2.0
"""Seconds that a client gets to read why it was refused, and to close the connection."""


class BoundedProtocol(HttpToolsProtocol):
    """An HTTP/1.1 connection with timeouts.

    `read_timeout`: seconds for a complete request head, and between two chunks of a body, whose total time is
    not limited. `client_read_timeout`: seconds that the client may leave a full send buffer unread; None is
    unlimited. Then the connection is reset, which ends the response and its generation like any disconnect.
    The kernel takes `SEND_BUFFER` bytes at most, so that a short stream is seen not to be read, too.
    `heads` bounds the incomplete heads of all connections.

    An unacceptable request gets its error once those before it have been answered, and the connection closes.
    """

    read_timeout = 30.0
    cors_origins: frozenset[str] = frozenset()
    heads = ReceiveBudget(MAX_HEADS_BYTES)
    client_read_timeout: float | None = 60.0
    _unread: asyncio.TimerHandle | None = None
    _awaited: Literal["head", "rest of head", "body"] = "head"
    _head_bytes = 0
    _head_receipt: Receipt | None = None
    _timer: asyncio.TimerHandle | None = None
    _unanswered = 0
    """Requests with a complete head whose response is not complete."""
    _upgrading = False
    """Whether the request offers an upgrade, at whose end the parser stops."""
    _body_bytes = 0
    _body_parts = 0
    _silent_bytes = 0
    """Bytes of chunk extensions and trailers since the last data of a chunked body."""
    _fault: ApiError | None = None
    """Why a callback stopped the parser."""
    _refusal: ApiError | None = None
    """The answer to the last request; nothing after it is read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _bound_send_buffer(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._close_receipt()
        self._is_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.client_read_timeout is not None and self._unread is None:
            self._unread = self.loop.call_later(self.client_read_timeout, self._not_read)

    def resume_writing(self) -> None:
        self._is_read()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        awaited, body_bytes = self._awaited, self._body_bytes
        if awaited == "body":
            self._start_timer()
        self._parse(data)
        if self._awaited == "rest of head":
            self._head_grew(len(data))
        elif self._awaited == awaited == "body":
            # The parser keeps a line that does not end, whatever its length.
            self._silent_bytes = self._silent_bytes + len(data) if self._body_bytes == body_bytes else 0
            if self._silent_bytes > MAX_HEAD_BYTES:
                self._refuse(_head_too_large())
        elif self._timer is None and not self._unanswered:
            self._start_timer()  # what came began no request, and ended the wait for one

    def _parse(self, data: bytes) -> None:
        """uvicorn's `data_received`, but for upgrades: none is made, and the request is read without it."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                # The parser takes what follows the head for another protocol: only a new one reads the body.
                data = self._head_without_upgrade() + data[stopped.args[0] :]
                self._upgrading = False
                self._new_parser()
            except httptools.HttpParserError:
                self._refuse(
                    self._fault or ApiError(400, "The request is not valid HTTP.", code="invalid_http")
                )
                return
            else:
                return

    def on_message_begin(self) -> None:
        self._awaited = "rest of head"
        self._head_bytes = 0
        if self._timer is None:
            self._start_timer()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) >= MAX_HEADERS:
            raise self._stop(_head_too_large())
        if self._awaited != "body":  # else a trailer, which RFC 9110 (6.5.1) forbids to take for a header
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._close_receipt()
        if self._head_bytes + len(self.url) > MAX_HEAD_BYTES:
            raise self._stop(_head_too_large())
        if self._unanswered > MAX_PIPELINED:
            raise self._stop(ApiError(400, "Too many requests are pipelined.", code="too_many_pipelined"))
        self._upgrading = self.parser.should_upgrade()
        if self._upgrading:
            if self.parser.get_method() == b"CONNECT":
                raise self._stop(ApiError(400, "This server makes no tunnels.", code="invalid_http"))
            if self._is_websocket(b"/v1/responses"):
                raise self._stop(_no_websocket())
            return
        super().on_headers_complete()
        self._awaited = "body"
        self._body_bytes = self._body_parts = self._silent_bytes = 0
        self._unanswered += 1
        if self.scope["http_version"] != "1.1":
            _send_without_chunks(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._body_parts += 1
        if self._body_parts > MAX_SMALL_PARTS and self._body_bytes < self._body_parts * SMALL_PART:
            raise self._stop(
                ApiError(400, "The body comes in parts that are too small.", code="invalid_http")
            )
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        self._awaited = "head"
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._unanswered -= 1
        if self._refusal is not None and self._unanswered == self._own():
            self._answer_refusal()
        else:
            super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, "The request is not valid HTTP.", code="invalid_http"))

    def _is_websocket(self, path: bytes) -> bool:
        """Whether a WebSocket is asked for at `path`."""
        return (b"upgrade", b"websocket") in ((name, value.lower()) for name, value in self.headers) and (
            self.url.partition(b"?")[0].rstrip(b"/") == path
        )

    def _new_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        if hasattr(
            self.parser, "set_dangerous_leniencies"
        ):  # as uvicorn does, with httptools 0.6.3 and newer
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _head_without_upgrade(self) -> bytes:
        """The head that was just read, as if it did not offer an upgrade."""
        method = self.parser.get_method()
        version = self.parser.get_http_version().encode()
        lines = [method + b" " + self.url + b" HTTP/" + version]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(option for option in options if option.lower() != b"upgrade")
            if name != b"upgrade":
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def _head_grew(self, size: int) -> None:
        """A head is not complete after `size` more bytes; most heads come whole and never get here."""
        if self._head_receipt is None:
            self._head_receipt = self.heads.open(lambda: self._refuse(no_room()))
        self._head_receipt.add(size)
        if self._head_receipt.size > MAX_HEAD_BYTES:
            self._refuse(_head_too_large())

    def _close_receipt(self) -> None:
        if self._head_receipt is not None:
            self._head_receipt.close()
            self._head_receipt = None

    def shorten_unread(self) -> None:
        """A new `client_read_timeout` of the class holds from now on for what is not read already."""
        if self._unread is not None:
            self._is_read()
            self.pause_writing()

    def _not_read(self) -> None:
        log.info("a connection is reset: its client read nothing for %g s", self.client_read_timeout)
        self.transport.abort()

    def _is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

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
        elif self.flow.read_paused:
            self._start_timer()  # it is this server that does not read: earlier requests are being answered
        else:
            message = f"The request was not received within {self.read_timeout:g} s."
            self._refuse(ApiError(408, message, code="request_timeout"))

    def _stop(self, fault: ApiError) -> ApiError:
        """The exception with which a callback of the parser stops it."""
        self._fault = fault
        return fault

    def _refuse(self, error: ApiError) -> None:
        """Answer the request that is being received with `error`, after the requests before it, and close."""
        if self._refusal is not None or self.transport.is_closing():
            return
        self._stop_timer()
        self._close_receipt()
        self._refusal = error
        if self._unanswered == self._own():
            self._answer_refusal()

    def _own(self) -> int:
        """How many of the unanswered requests are the one that is being received: 1 or 0."""
        return int(self._awaited == "body" and not self.cycle.response_complete)

    def _answer_refusal(self) -> None:
        """Send the refusal, unless the request already has a response or a part of one, and close."""
        if self.transport.is_closing():
            return
        error = self._refusal
        if error is not None and (self._awaited != "body" or not self.cycle.response_started):
            response = error.response()
            response.headers.update(self._cors_headers())
            head = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
            line = f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}\r\n".encode()
            self.transport.write(line + head + b"connection: close\r\n\r\n" + bytes(response.body))
            if self.transport.can_write_eof():
                self.transport.write_eof()
            # Closing now would reset the connection if the client still sends, and could lose the response.
            self._timer = self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()

    def _cors_headers(self) -> dict[str, str]:
        """What `CORSMiddleware`, which this error does not pass, would add to it."""
        headers = self.headers if self._awaited != "head" else []
        origin = next((value.decode("latin-1") for name, value in headers if name == b"origin"), None)
        if origin is None or self.cors_origins.isdisjoint(("*", origin)):
            return {}
        allowed = "*" if "*" in self.cors_origins else origin
        return {"access-control-allow-origin": allowed, "vary": "Origin"}


def protocol(
    read_timeout: float, client_read_timeout: float | None = None, cors_origins: Sequence[str] = ()
) -> type[BoundedProtocol]:
    """The protocol class with these timeouts in seconds, for uvicorn's `http` setting."""
    attributes = {
        "read_timeout": read_timeout,
        "client_read_timeout": client_read_timeout,
        "cors_origins": frozenset(cors_origins),
        "heads": ReceiveBudget(MAX_HEADS_BYTES),
    }
    return type("Protocol", (BoundedProtocol,), attributes)


def _bound_send_buffer(transport: asyncio.Transport) -> None:
    end = transport.get_extra_info("socket")
    if end is not None:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


def _head_too_large() -> ApiError:
    message = f"The request head is larger than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers."
    return ApiError(431, message, code="headers_too_large")


def _no_websocket() -> ApiError:
    """Codex and others then send the request by HTTP; after another status they try again first."""
    message = "There are no WebSockets here: send the request by POST."
    return ApiError(426, message, code="upgrade_required", headers={"upgrade": "HTTP/1.1"})


def _send_without_chunks(cycle: RequestResponseCycle) -> None:
    """Have the end of the connection end the response: HTTP/1.0 knows no chunks.

    uvicorn writes a body of unknown length in chunks, and parts of a known one as they are. So each part is
    given out as the rest of a known one.
    """
    send = cycle.send

    async def send_part(message: Any) -> None:
        if message["type"] == "http.response.start":
            cycle.chunked_encoding = False
        else:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    cycle.keep_alive = False
    cycle.send = send_part  # type: ignore[method-assign]
