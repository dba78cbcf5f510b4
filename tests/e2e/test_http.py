"""HTTP as other clients than httpx speak it, and what requests cost that never end."""

import gzip
import json
import re
import socket
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import RunningServer, serve

TEXT = "/v1/completions"
BODY = {"prompt": "Hi", "max_tokens": 3}
H2C = "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c\r\n"


def connect(server: RunningServer) -> socket.socket:
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port), timeout=60)


def exchange(server: RunningServer, sent: bytes) -> str:
    """What the server says until it closes the connection."""
    with connect(server) as client:
        client.sendall(sent)
        said = b""
        while part := client.recv(65536):
            said += part
    return said.decode()


def test_a_client_that_offers_http_2(synthetic: RunningServer) -> None:
    body = json.dumps(BODY)
    head = f"POST {TEXT} HTTP/1.1\r\nHost: a\r\n{H2C}Content-Length: {len(body)}\r\n\r\n"
    end = "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    said = exchange(synthetic, (head + body + end).encode())
    assert said.startswith("HTTP/1.1 200 OK\r\n")
    assert '"object":"text_completion"' in said
    assert said.count("HTTP/1.1 200 OK\r\n") == 2


def test_a_stream_over_http_1_0(synthetic: RunningServer) -> None:
    body = json.dumps({**BODY, "stream": True})
    said = exchange(synthetic, f"POST {TEXT} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    head, _, events = said.partition("\r\n\r\n")
    assert "transfer-encoding" not in head
    assert [line for line in head.split("\r\n") if line.startswith("connection")] == ["connection: close"]
    assert events.startswith("data: {")
    assert events.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/demo", "/metrics", "/openapi.json"])
def test_head(synthetic: RunningServer, path: str) -> None:
    head, get = httpx.head(synthetic.url + path), httpx.get(synthetic.url + path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_compressed_bodies(synthetic: RunningServer) -> None:
    raw = b"\xef\xbb\xbf" + json.dumps(BODY | {"max_tokens": 3.0, "seed": -1}).encode()
    json_type = {"content-type": "application/json"}
    for coding, data in (("gzip", gzip.compress(raw)), ("deflate", zlib.compress(raw)), ("identity", raw)):
        headers = json_type | {"content-encoding": coding}
        response = httpx.post(synthetic.url + TEXT, content=data, headers=headers)
        assert response.status_code == 200, response.text
    response = httpx.post(synthetic.url + TEXT, content=raw, headers=json_type | {"content-encoding": "br"})
    assert (response.status_code, response.headers["accept-encoding"]) == (415, "gzip, deflate, zstd")
    bomb = gzip.compress(bytes(64 * 2**20))
    response = httpx.post(
        synthetic.url + TEXT, content=bomb, headers=json_type | {"content-encoding": "gzip"}
    )
    assert response.status_code == 413
    assert "max_body_bytes" in response.text


def memory(server: RunningServer) -> int:
    """Resident bytes of the HTTP process."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024


def send(client: socket.socket, data: bytes, times: int) -> None:
    """Send until the server refuses."""
    with suppress(ConnectionError):
        for _ in range(times):
            client.sendall(data)


def test_requests_that_never_end() -> None:
    """120 bodies of 16 MB, 96 MB of trailers, 500 heads; small requests are served all the while."""
    budget, largest = 64 * 2**20, 16 * 2**20
    flags = ("--max-receiving-bytes", str(budget), "--log-level", "error")
    with serve("--engine", "synthetic", "--workers", "1", *flags) as server, ExitStack() as stack:
        assert httpx.post(server.url + TEXT, json=BODY).status_code == 200
        before = memory(server)
        most = 0
        megabyte = b"x" * 2**20
        for number in range(120):
            client = stack.enter_context(connect(server))
            head = f"POST {TEXT} HTTP/1.1\r\nHost: a\r\nContent-Length: {largest}\r\n\r\n"
            client.sendall(head.encode() + b'{"prompt": "')
            send(client, megabyte, 15)
            if number % 20 == 0:
                most = max(most, memory(server))
                assert httpx.post(server.url + TEXT, json={**BODY, "prompt": "x " * 2000}).status_code == 200
        client = stack.enter_context(connect(server))
        head = f"POST {TEXT} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n"
        client.sendall(head.encode())
        send(client, b"x-a: " + megabyte + b"\r\n", 96)
        most = max(most, memory(server))
        for _ in range(500):
            client = stack.enter_context(connect(server))
            send(client, b"GET / HTTP/1.1\r\nx-a: " + b"a" * 60_000, 1)
        most = max(most, memory(server))
        assert httpx.post(server.url + TEXT, json=BODY).status_code == 200
        assert most - before < budget + 2 * largest + 121 * 400_000, f"{(most - before) / 2**20:.0f} MiB"
