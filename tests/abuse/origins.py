"""CORS headers of answers, refusals too: a browser hides an answer without them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx

from tests.abuse.case import KEYS, Case
from tests.abuse.target import ORIGIN, RECEIVING_MIB, SHORT, TEXT, Target

MIB = 2**20
ELSEWHERE = "https://elsewhere.example"
ALLOWED = "access-control-allow-origin"


def cases() -> Iterator[Case]:
    """An allowed origin, and another one."""
    expected = "200, 400, 401, 413, 503, a preflight without a key 200; elsewhere none, 400"
    yield Case(KEYS, "a page of an allowed origin, of another", _pages, expected)


def _pages(target: Target) -> str:
    key = {"authorization": f"Bearer {target.keys['mallory']}"}
    with httpx.Client(base_url=target.server.url, timeout=60) as client:

        def asked(origin: str, **headers: str) -> list[httpx.Response]:
            headers = {"origin": origin, **headers}
            return [
                client.post(TEXT, json=SHORT, headers=headers | key),
                client.post(TEXT, json={}, headers=headers | key),
                client.post(TEXT, json=SHORT, headers=headers),
                client.post(TEXT, content=bytes(17 * MIB), headers=headers | key),
            ]

        def preflight(origin: str) -> httpx.Response:
            wants = {
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization",
            }
            return client.options(TEXT, headers={"origin": origin, **wants})

        readable = [str(one.status_code) for one in asked(ORIGIN) if one.headers.get(ALLOWED) == ORIGIN]
        readable += _refused_for_room(target)
        before = preflight(ORIGIN)
        assert before.headers[ALLOWED] == ORIGIN
        others = [one for one in asked(ELSEWHERE) if ALLOWED in one.headers]
        refused = preflight(ELSEWHERE)
        assert ALLOWED not in refused.headers
    said = f"{', '.join(readable)}, a preflight without a key {before.status_code}"
    return f"{said}; elsewhere {others or 'none'}, {refused.status_code}"


def _refused_for_room(target: Target) -> list[str]:
    """The readable statuses of bodies that do not end, of which one has to make room for the others."""
    head = target.head(TEXT, f"content-length: {16 * MIB}\r\norigin: {ORIGIN}")
    with ExitStack() as stack:
        clients = [stack.enter_context(target.connect()) for _ in range(RECEIVING_MIB // 15 + 1)]
        for client in clients:
            with suppress(ConnectionError):
                client.sendall(head + b'{"prompt": "' + bytes(15 * MIB))
        said = b""
        with suppress(ConnectionError):
            while piece := clients[0].recv(65536):
                said += piece
    status = re.match(rb"HTTP/1\.1 (\d{3}) ", said)
    readable = f"{ALLOWED}: {ORIGIN}\r\n".encode() in said.lower()
    return [status[1].decode()] if status and readable else []
