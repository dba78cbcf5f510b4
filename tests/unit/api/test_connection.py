"""Bounds on what a client sends and how slowly, and HTTP/1's less common parts, over a real socket."""

import asyncio
import fcntl
import json
import re
import socket
import struct
import termios
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn

from trtllm_openai.api.connection import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_PIPELINED,
    MAX_SMALL_PARTS,
    SEND_BUFFER,
    BoundedProtocol,
    protocol,
)
from trtllm_openai.api.receiving import ReceiveBudget

CLOSE = b"connection: close\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the method, the body and the names of the headers, /slow only after a while."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(0.4)
    names = b",".join(name for name, _ in scope["headers"])
    said = b"%s [%s] %s" % (scope["method"].encode(), body, names)
    whole = scope["path"] != "/stream"
    headers = [(b"content-length", b"%d" % len(said))] if whole else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if not whole:
        await send({"type": "http.response.body", "body": said[:3], "more_body": True})
        said = said[3:]
    await send({"type": "http.response.body", "body": said})


def answer(
    *parts: bytes,
    read_timeout: float = 30.0,
    pause_s: float = 0.0,
    http: type[BoundedProtocol] | None = None,
) -> str:
    """What the server says to these bytes, sent with a pause between them, until it closes."""

    async def main() -> str:
        http_class = http or protocol(read_timeout)
        config = uvicorn.Config(app, http=http_class, lifespan="off", log_config=None, ws="none")
        config.load()
        state = uvicorn.server.ServerState()
        make: Any = config.http_protocol_class
        server = await asyncio.get_running_loop().create_server(
            lambda: make(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause_s)
        said = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        server.close()
        await server.wait_closed()
        return said.decode()

    return asyncio.run(main())


def test_a_request_is_answered() -> None:
    said = answer(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", read_timeout=0.5)
    assert said.startswith("HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\nhost: a\r\n", b"GET / HT"])
def test_a_head_that_does_not_end(begin: bytes) -> None:
    said = answer(begin, read_timeout=0.1)
    assert said.startswith("HTTP/1.1 408 Request Timeout\r\n") or begin == b"GET / HT"
    if said:
        assert '"code":"request_timeout"' in said
        assert "connection: close" in said


def test_nothing_asked_is_only_closed() -> None:
    assert answer(read_timeout=0.1) == ""


@pytest.mark.parametrize("blank", [b"\r\n", b"\r\n\r\n\r\n"])
def test_blank_lines_after_a_request_do_not_keep_the_connection(blank: bytes) -> None:
    said = answer(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", blank, read_timeout=0.2, pause_s=0.1)
    assert said.count("HTTP/1.1 200 ") == 1
    ended = answer(CHUNKED + b"0\r\nconnection: close\r\n\r\n", b"GET / HT", read_timeout=0.2, pause_s=0.1)
    assert ended.count("HTTP/1.1 200 ") == 1


def test_a_body_that_stops() -> None:
    said = answer(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc", read_timeout=0.1)
    assert said.startswith("HTTP/1.1 408 ")


def test_a_long_body_may_take_longer_as_long_as_it_comes() -> None:
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\nconnection: close\r\n\r\n"
    said = answer(head, *[b"a"] * 8, read_timeout=0.5, pause_s=0.1)
    assert said.startswith("HTTP/1.1 200 ")


def test_a_head_that_is_too_large() -> None:
    line = b"x-a: " + b"a" * 1000 + b"\r\n"
    said = answer(b"GET / HTTP/1.1\r\nhost: a\r\n", line * (MAX_HEAD_BYTES // len(line) + 1))
    assert said.startswith("HTTP/1.1 431 ")
    assert '"code":"headers_too_large"' in said


def test_what_is_not_http_has_the_shape_of_every_error() -> None:
    said = answer(b"\x16\x03\x01 hello\r\n\r\n")
    assert said.startswith("HTTP/1.1 400 Bad Request\r\n")
    assert '"code":"invalid_http"' in said


H2C = b"host: a\r\nconnection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAEAAEAA\r\nupgrade: h2c\r\n"
"""What the JDK's HttpClient sends with its first request."""


@pytest.mark.parametrize("cut", [None, 30, 150], ids=["whole", "in the head", "in the body"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_request_that_offers_an_upgrade_keeps_its_body(framing: str, cut: int | None) -> None:
    text = b'{"prompt": "x"}' * 9
    chunks = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (20, text[:20], len(text) - 20, text[20:])
    head = b"content-length: %d\r\n\r\n" % len(text)
    body = head + text if framing == "length" else b"transfer-encoding: chunked\r\n\r\n" + chunks
    sent = b"POST /a HTTP/1.1\r\n" + H2C + body
    parts = [sent] if cut is None else [sent[:cut], sent[cut:]]
    said = answer(*parts, b"GET /b HTTP/1.1\r\n" + H2C + CLOSE, pause_s=0.05)
    first, second = said.split("HTTP/1.1 200 OK\r\n")[1:]
    assert f"POST [{text.decode()}] host,connection,http2-settings" in first
    assert "GET [] host,connection,http2-settings" in second


@pytest.mark.parametrize("path", [b"/v1/responses", b"/v1/responses/?a=b"])
def test_a_websocket_of_responses_is_refused_at_once(path: bytes, caplog: pytest.LogCaptureFixture) -> None:
    offer = b"host: a\r\nupgrade: WebSocket\r\nconnection: keep-alive, Upgrade\r\n\r\n"
    said = answer(b"GET " + path + b" HTTP/1.1\r\n" + offer)
    assert said.startswith("HTTP/1.1 426 Upgrade Required\r\n")
    assert json.loads(said.split("\r\n\r\n")[1])["error"]["code"] == "upgrade_required"
    assert not caplog.records


def test_an_upgrade_to_another_protocol_is_ignored_too() -> None:
    head = b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade, close\r\n\r\n"
    said = answer(head)
    assert said.startswith("HTTP/1.1 200 ")
    assert said.endswith("GET [] host,connection")


def test_a_tunnel_is_refused() -> None:
    assert answer(b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n").startswith("HTTP/1.1 400 ")


@pytest.mark.parametrize("path", [b"/", b"/stream"])
def test_http_1_0_gets_no_chunks(path: bytes) -> None:
    said = answer(b"POST " + path + b" HTTP/1.0\r\ncontent-length: 2\r\n\r\nhi")
    head, _, body = said.partition("\r\n\r\n")
    assert "transfer-encoding" not in head
    assert body == "POST [hi] content-length"


def test_http_1_1_gets_chunks() -> None:
    said = answer(b"GET /stream HTTP/1.1\r\nhost: a\r\n" + CLOSE)
    assert "transfer-encoding: chunked" in said
    assert said.endswith("\r\n3\r\nGET\r\n13\r\n [] host,connection\r\n0\r\n\r\n")


CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


def test_trailers_are_no_headers() -> None:
    said = answer(CHUNKED + b"2\r\nhi\r\n0\r\nx-request-timeout: 1\r\n\r\n", b"GET / HTTP/1.1\r\n" + CLOSE)
    assert "POST [hi] host,transfer-encoding" in said
    assert "x-request-timeout" not in said


@pytest.mark.parametrize(
    "trailer",
    [b"x-a: " + b"a" * 100 + b"\r\n", b"a" * 1000, b"x-a: " + b"a" * (2 * MAX_HEAD_BYTES) + b"\r\n"],
    ids=["many", "one without end", "one"],
)
def test_trailers_that_are_too_large(trailer: bytes) -> None:
    parts = [trailer] * (MAX_HEAD_BYTES // len(trailer) + 2)
    said = answer(CHUNKED + b"2\r\nhi\r\n0\r\n", *parts)
    assert said.startswith("HTTP/1.1 431 ")


def test_a_body_in_parts_that_are_too_small() -> None:
    said = answer(CHUNKED + b"1\r\na\r\n" * MAX_SMALL_PARTS + b"0\r\n\r\n", b"GET / HTTP/1.1\r\n" + CLOSE)
    assert said.count("HTTP/1.1 200 ") == 2
    said = answer(CHUNKED + b"1\r\na\r\n" * (MAX_SMALL_PARTS + 1))
    assert "parts that are too small" in said


def test_too_many_headers() -> None:
    lines = b"".join(b"x-%d: a\r\n" % i for i in range(MAX_HEADERS - 1))
    assert answer(b"GET / HTTP/1.1\r\n" + lines + CLOSE).startswith("HTTP/1.1 200 ")
    assert answer(b"GET / HTTP/1.1\r\nhost: a\r\n" + lines + CLOSE).startswith("HTTP/1.1 431 ")


def test_a_head_that_is_too_large_and_comes_at_once() -> None:
    size = b"a" * MAX_HEAD_BYTES
    assert answer(b"GET /" + size + b" HTTP/1.1\r\n" + CLOSE).startswith("HTTP/1.1 431 ")
    assert answer(b"GET / HTTP/1.1\r\nx-a: " + size + b"\r\n" + CLOSE).startswith("HTTP/1.1 431 ")


def test_heads_of_all_connections_together() -> None:
    class Small(BoundedProtocol):
        heads = ReceiveBudget(1000)

    begin = b"GET / HTTP/1.1\r\nhost: a\r\nx-a: "
    assert answer(begin, b"a" * 900, b"\r\n" + CLOSE, pause_s=0.05, http=Small).startswith("HTTP/1.1 200 ")
    said = answer(begin, b"a" * 1000, pause_s=0.05, http=Small)
    assert said.startswith("HTTP/1.1 503 ")
    assert "retry-after: " in said
    assert Small.heads.used == 0


SLOW = b"POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\na"


@pytest.mark.parametrize(
    ("begin", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost", "408 "),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc", "408 "),
        (b"nonsense", "400 "),
        (b"GET / HTTP/1.1\r\nx-a: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n", "431 "),
    ],
    ids=["head", "body", "nonsense", "large head"],
)
def test_a_refusal_comes_after_the_answers_to_earlier_requests(begin: bytes, status: str) -> None:
    for sent in (SLOW + begin, SLOW + SLOW + begin):
        parts = [SLOW, begin] if sent == SLOW + begin else [sent]
        said = answer(*parts, read_timeout=0.15, pause_s=0.02).split("HTTP/1.1 ")[1:]
        assert [one[:4] for one in said] == ["200 "] * (len(said) - 1) + [status]
        assert len(said) == sent.count(b"/slow") + 1


def test_too_many_requests_at_once() -> None:
    said = answer(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * (MAX_PIPELINED + 5))
    assert said.count("HTTP/1.1 200 ") == MAX_PIPELINED + 1
    assert said.count("HTTP/1.1 400 ") == 1
    assert "too_many_pipelined" in said


def test_the_time_in_which_the_server_does_not_read_does_not_count() -> None:
    """The rest of the second body is not read while the first request is being answered."""
    body = b"a" * 400_000
    second = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n" % len(body) + CLOSE + body
    said = answer(SLOW + second, read_timeout=0.15)
    assert said.count("HTTP/1.1 200 ") == 2


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [(["http://a"], b"http://a", "http://a"), (["*"], b"http://b", "*"), (["http://a"], b"http://b", None)],
)
def test_a_page_may_read_a_refusal(origins: list[str], origin: bytes, allowed: str | None) -> None:
    head = b"POST / HTTP/1.1\r\nhost: a\r\norigin: " + origin + b"\r\ncontent-length: 9\r\n\r\nabc"
    said = answer(head, http=protocol(0.1, None, origins))
    assert said.startswith("HTTP/1.1 408 ")
    found = re.search(r"(?m)^access-control-allow-origin: (\S+)\r$", said)
    assert (found and found[1]) == allowed


def not_read(client_read_timeout: float | None, meanwhile: Callable[[BoundedProtocol], None]) -> str:
    """The last event of an endless response whose client reads nothing."""
    ends: list[str] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
        ends.append(gone.result()["type"])

    async def main() -> str:
        config = uvicorn.Config(
            endless, http=protocol(30.0, client_read_timeout), lifespan="off", log_config=None, ws="none"
        )
        config.load()
        state = uvicorn.server.ServerState()
        make: Any = config.http_protocol_class
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: make(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        with socket.create_connection(server.sockets[0].getsockname()[:2]) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            deadline = loop.time() + 20
            while not ends:
                await asyncio.sleep(0.01)
                assert loop.time() < deadline, "the response did not end"
                for connection in list(state.connections):
                    assert isinstance(connection, BoundedProtocol)
                    if connection.flow.write_paused:
                        meanwhile(connection)
        server.close()
        await server.wait_closed()
        return ends[0]

    return asyncio.run(main())


def test_a_response_that_is_not_read_ends_as_if_the_client_had_left() -> None:
    assert not_read(0.1, lambda _: None) == "http.disconnect"


def test_what_the_kernel_takes_of_a_response_that_is_not_read_is_bounded() -> None:
    taken: list[int] = []

    def count(connection: BoundedProtocol) -> None:
        end = connection.transport.get_extra_info("socket")
        taken.append(struct.unpack("i", fcntl.ioctl(end.fileno(), termios.TIOCOUTQ, bytes(4)))[0])

    assert not_read(0.3, count) == "http.disconnect"
    assert 0 < max(taken) <= 3 * SEND_BUFFER


def test_the_bound_can_be_shortened_for_what_is_not_read_already() -> None:
    def shorten(connection: BoundedProtocol) -> None:
        if type(connection).client_read_timeout == 3600:
            type(connection).client_read_timeout = 0.1
            connection.shorten_unread()

    assert not_read(3600, shorten) == "http.disconnect"


def test_a_client_that_reads_again_in_time_gets_everything() -> None:
    size = 8 * 2**20

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(size // 2**16):
            await send({"type": "http.response.body", "body": b"x" * 2**16, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def main() -> int:
        config = uvicorn.Config(large, http=protocol(30.0, 20.0), lifespan="off", log_config=None, ws="none")
        config.load()
        state = uvicorn.server.ServerState()
        make: Any = config.http_protocol_class
        server = await asyncio.get_running_loop().create_server(
            lambda: make(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(b"GET / HTTP/1.0\r\nhost: a\r\n\r\n")
        await asyncio.sleep(0.2)
        said = await reader.read()
        writer.close()
        server.close()
        await server.wait_closed()
        return said.count(b"x")

    assert asyncio.run(main()) >= size
