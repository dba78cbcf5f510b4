"""Bounds on a request's head and on a client that is slow to send it, over a real socket."""

import asyncio
from typing import Any

import pytest
import uvicorn

from trtllm_openai.api.connection import MAX_HEAD_BYTES, protocol


async def app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def answer(*parts: bytes, read_timeout: float = 30.0, pause_s: float = 0.0) -> str:
    """What the server says to these bytes, sent with a pause between them, until it closes."""

    async def main() -> str:
        config = uvicorn.Config(app, http=protocol(read_timeout), lifespan="off", log_config=None, ws="none")
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
