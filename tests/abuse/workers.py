"""Several HTTP workers: from the first 200 of /health/ready on, every new connection is served."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.abuse.case import BOUNDS, Case
from tests.abuse.target import SHORT, TEXT, Target
from tests.e2e.conftest import serve

WORKERS, CONNECTIONS, STARTS = 4, 40, 2
FLAGS = ("--engine", "synthetic", "--workers", str(WORKERS), "--log-level", "warning")


def cases() -> Iterator[Case]:
    """A server of its own, which is started `STARTS` times in each round."""
    name = f"{WORKERS} workers, {CONNECTIONS} connections at the first ready"
    yield Case(BOUNDS, name, _started, "200", short=False)


def _started(_: Target) -> str:
    return ", ".join(sorted(set().union(*(_volley() for _ in range(STARTS)))))


def _volley() -> set[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with ThreadPoolExecutor(1) as beside:
        said = beside.submit(_at_first_ready, url)
        with serve(*FLAGS, "--port", str(port)):
            return said.result(60)


def _at_first_ready(url: str) -> set[str]:
    deadline = time.monotonic() + 60
    while not _ready(url):
        assert time.monotonic() < deadline, "never ready"
        time.sleep(0.005)
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        return set(threads.map(_asked, [url] * CONNECTIONS))


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _asked(url: str) -> str:
    try:
        return str(httpx.post(url + TEXT, json=SHORT, timeout=30).status_code)
    except httpx.TransportError as error:
        return type(error).__name__
