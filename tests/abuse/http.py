"""Abuse of HTTP itself, most of it before any key is looked at."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

from tests.abuse.case import BOUNDS, Case
from tests.abuse.target import RECEIVING_MIB, SHORT, TEXT, Target, answers
from trtllm_openai.api.connection import MAX_PIPELINED, MAX_SMALL_PARTS

MIB = 2**20
CHUNKED = "transfer-encoding: chunked"
CLOSE = b"connection: close\r\n\r\n"
_WIDE = b"\x28\xb5\x2f\xfd\x00\xf8" + bytes(20)
"""A zstd frame whose descriptor asks for the largest window."""


def cases() -> Iterator[Case]:
    """Trailers, heads, bodies, pipelining, upgrades, compression, and what is neither HTTP nor JSON."""
    for name, attack, expected in _SMALL:
        yield Case(BOUNDS, name, attack, expected, peak_mib=64)
    unfinished = "408 or 503; a short request 200"
    receiving = RECEIVING_MIB + 6 * 16 + 32  # as docs/operations.md says
    few = "30 bodies that never end"
    yield Case(BOUNDS, few, _bodies(30), unfinished, peak_mib=receiving, full=False)
    yield Case(BOUNDS, "120 bodies that never end", _bodies(120), unfinished, False, peak_mib=receiving)
    yield Case(BOUNDS, "500 heads that never end", _heads, unfinished, False, peak_mib=128)
    yield Case(BOUNDS, "gzip: 64 kB for 64 MB", _gzip(lambda: gzip.compress(bytes(64 * MIB))), "413")
    yield Case(BOUNDS, "gzip: 16 MB for 16 GB", _gzip(_bomb), "413", False)
    empty = gzip.compress(b"")
    yield Case(BOUNDS, "gzip: 800,000 members", _gzip(lambda: empty * 800_000), "400 invalid_encoding")


def _statuses(said: list[str]) -> str:
    return ", ".join(dict.fromkeys(one.split()[0] for one in said)) or "closed"


def _raw(begin: bytes, more: bytes = b"", times: int = 0) -> Callable[[Target], str]:
    return lambda target: _statuses(target.raw(begin, *[more * 100] * (times // 100)))


def _body(make: Callable[[], bytes]) -> Callable[[Target], str]:
    return lambda target: target.ask(TEXT, make()).split()[0]


def _coded(coding: str, make: Callable[[], bytes]) -> Callable[[Target], str]:
    def attack(target: Target) -> str:
        answer = target.ask(TEXT, make(), **{"content-encoding": coding})
        return answer if answer.startswith("400") else answer.split()[0]

    return attack


def _gzip(make: Callable[[], bytes]) -> Callable[[Target], str]:
    return _coded("gzip", make)


def _bomb() -> bytes:
    """Members of 64 MB, one after the other."""
    return gzip.compress(bytes(64 * MIB)) * 250


def _trailers(trailer: bytes, times: int) -> Callable[[Target], str]:
    def attack(target: Target) -> str:
        begin = target.head(TEXT, CHUNKED) + b"2\r\n{}\r\n0\r\n"
        at_once = max(1, min(times, MIB // len(trailer)))
        return _statuses(target.raw(begin, *[trailer * at_once] * (times // at_once)))

    return attack


def _trailer_header(target: Target) -> str:
    content = json.dumps(SHORT).encode()
    chunks = b"%x\r\n%s\r\n0\r\nx-request-timeout: 0.001\r\n\r\n" % (
        len(content),
        content,
    )
    end = b"GET /health/live HTTP/1.1\r\nhost: x\r\n" + CLOSE
    return _statuses(target.raw(target.head(TEXT, CHUNKED) + chunks + end))


def _unfinished(target: Target, begin: bytes, more: bytes, times: int, count: int) -> str:
    """The answers to `count` requests that begin and never end, and to a short request beside them."""
    with ExitStack() as stack:
        clients = [stack.enter_context(target.connect()) for _ in range(count)]
        for client in clients:
            with suppress(ConnectionError):
                client.sendall(begin)
                for _ in range(times):
                    client.sendall(more)
        short = target.ask(TEXT, SHORT)
        said = {one.split()[0] for client in clients for one in answers(client)}
    assert said <= {"408", "503"}, said
    return f"408 or 503; a short request {short}"


def _heads(target: Target) -> str:
    return _unfinished(target, b"GET / HTTP/1.1\r\nx-a: ", b"a" * 60_000, 1, 500)


def _bodies(count: int) -> Callable[[Target], str]:
    def attack(target: Target) -> str:
        begin = target.head(TEXT, f"content-length: {16 * MIB}") + b'{"prompt": "'
        return _unfinished(target, begin, b"x" * MIB, 15, count)

    return attack


def _tiny_chunks(target: Target) -> str:
    parts = b"1\r\n \r\n" * (2 * MAX_SMALL_PARTS)
    (said,) = target.raw(target.head(TEXT, CHUNKED) + parts)
    return said


def _pipelined(target: Target) -> str:
    said = target.raw(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n" * 10_000)
    served = [one for one in said if one == "200"]
    return f"{served[0]} x {len(served)}, {_statuses(said[len(served) :])}"


def _stopped(target: Target) -> str:
    content = json.dumps(SHORT | {"max_tokens": 20}).encode()
    first = target.head(TEXT, f"content-length: {len(content)}") + content
    return _statuses(target.raw(first + target.head(TEXT, "content-length: 100") + b"{"))


def _upgrade(target: Target) -> str:
    content = json.dumps(SHORT).encode()
    offer = "connection: upgrade, http2-settings\r\nhttp2-settings: AAEAAEAA\r\nupgrade: h2c"
    first = target.head(TEXT, f"{offer}\r\ncontent-length: {len(content)}") + content
    return _statuses(target.raw(first + b"GET /health/live HTTP/1.1\r\nhost: x\r\n" + CLOSE))


def _silent(target: Target) -> str:
    with ExitStack() as stack:
        clients = [stack.enter_context(target.connect()) for _ in range(300)]
        short = target.ask(TEXT, SHORT)
        assert not any(answers(client) for client in clients)
    return f"closed; a short request {short}"


_SMALL: list[tuple[str, Callable[[Target], str], str]] = [
    ("trailers: 96 MB of them", _trailers(b"x-a: " + b"a" * 1000 + b"\r\n", 96_000), "431"),
    ("trailers: one of 96 MB", _trailers(b"a" * MIB, 96), "431"),
    ("a trailer x-request-timeout: 0.001", _trailer_header, "200"),
    ("a head of 1 MB", _raw(b"GET / HTTP/1.1\r\n", b"x: " + b"a" * 100 + b"\r\n", 10_000), "431"),
    ("a body of 1 byte in each chunk", _tiny_chunks, "400 invalid_http"),
    ("10,000 pipelined requests", _pipelined, f"200 x {MAX_PIPELINED + 1}, 400"),
    ("a pipelined predecessor of a body that stops", _stopped, "200, 408"),
    ("an upgrade to h2c", _upgrade, "200"),
    ("gzip: cut off", _gzip(lambda: gzip.compress(b"{" * 1000)[:-4]), "400 invalid_encoding"),
    ("zstd: a window of gigabytes", _coded("zstd", lambda: _WIDE), "400 invalid_encoding"),
    ("a content-encoding of 60 kB", _coded("x" * 60_000, lambda: b""), "415"),
    ("JSON 100,000 deep", _body(lambda: b"[" * 100_000), "400"),
    ("a number of 1 MB", _body(lambda: b'{"max_tokens": 1' + b"0" * 10**6 + b"}"), "400"),
    ("not HTTP", _raw(b"\x16\x03\x01 hello\r\n\r\n"), "400"),
    ("300 connections that say nothing", _silent, "closed; a short request 200"),
]
