"""The load client of the front-end benchmark: a process of its own that does what it is told over a pipe."""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import random
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection as Pipe
from typing import Any

import uvloop

from trtllm_openai.bench.client import Client, Connection
from trtllm_openai.bench.plan import Record, Target
from trtllm_openai.bench.sse import ResponseReader

Body = dict[str, Any]


class Load:
    """Seen from the benchmark: every method is carried out by the client process. Closes it at the end."""

    def __init__(self, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(port, theirs), daemon=True)
        self._process.start()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def hold(self, streams: int, path: str, body: Body) -> None:
        """Open streams and wait until each has text."""
        self._call("hold", streams, path, body)

    def frames(self) -> int:
        """Pieces of text that the open streams have brought so far."""
        count: int = self._call("frames")
        return count

    def drop(self) -> None:
        """Leave all open streams."""
        self._call("drop")

    def ask(self, requests: int, concurrency: int, endpoint: str, body: Body) -> list[float]:
        """Requests in a closed loop; seconds to first text, or to the answer's end where it is one object."""
        times: list[float] = self._call("ask", requests, concurrency, endpoint, body)
        return times

    def arrive(self, requests: int, rate: float, endpoint: str, body: Body) -> list[float]:
        """Requests at random times, `rate` a second; seconds to first text."""
        times: list[float] = self._call("arrive", requests, rate, endpoint, body)
        return times

    def pause(self, path: str, body: Body) -> float:
        """The longest time that the server answered nothing else while it took this request."""
        longest: float = self._call("pause", path, body)
        return longest

    def _call(self, name: str, *arguments: Any) -> Any:
        self._pipe.send((name, arguments))
        result = self._pipe.recv()
        if isinstance(result, Exception):
            raise result
        return result


def _main(port: int, pipe: Pipe) -> None:
    uvloop.run(_Commands(port).serve(pipe))


class _Commands:
    def __init__(self, port: int) -> None:
        self._port = port
        self._client = Client(Target("127.0.0.1", port, False, "/v1"), 120.0)
        self._held: list[tuple[Connection, ResponseReader]] = []
        self._numbers = itertools.count(100_000)

    async def serve(self, pipe: Pipe) -> None:
        while True:
            name, arguments = await asyncio.to_thread(pipe.recv)
            command: Callable[..., Awaitable[Any]] = getattr(self, name)
            try:
                pipe.send(await command(*arguments))
            except Exception as error:
                pipe.send(error)

    async def hold(self, streams: int, path: str, body: Body) -> None:
        raw = _request(path, body)
        for _ in range(streams):
            connection = await self._connect()
            self._held.append((connection, connection.begin(raw)))
        deadline = time.monotonic() + 60
        while not all(answer.frames.times for _, answer in self._held):
            for connection, answer in self._held:
                assert connection.open, f"a stream ended: {answer.status} {answer.body!r}"
            assert time.monotonic() < deadline, "the streams did not begin"
            await asyncio.sleep(0.02)

    async def frames(self) -> int:
        return sum(len(answer.frames.times) for _, answer in self._held)

    async def drop(self) -> None:
        for connection, _ in self._held:
            connection.close()
        self._held.clear()

    async def ask(self, requests: int, concurrency: int, endpoint: str, body: Body) -> list[float]:
        left, times = requests, []

        async def one() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                encoded = self._numbered(body)
                if body["stream"]:
                    times.append(_checked(await self._client.generate(endpoint, encoded)).ttft)
                else:
                    began = time.monotonic()
                    await self._client.post("/chat/completions", encoded)
                    times.append(time.monotonic() - began)

        await asyncio.gather(*(one() for _ in range(concurrency)))
        return times

    async def arrive(self, requests: int, rate: float, endpoint: str, body: Body) -> list[float]:
        chance = random.Random(0)
        clock = asyncio.get_running_loop().time
        due = clock()
        times: list[float] = []

        async def one() -> None:
            answer = await self._client.generate(endpoint, self._numbered(body))
            times.append(_checked(answer).ttft)

        async with asyncio.TaskGroup() as group:
            for _ in range(requests):
                due += chance.expovariate(rate)
                await asyncio.sleep(max(due - clock(), 0))
                group.create_task(one())
        return times

    async def pause(self, path: str, body: Body) -> float:
        probe, asking = await self._connect(), await self._connect()
        ping = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
        longest = 0.0
        for _ in range(20):
            await probe.exchange(ping)
        answer = asyncio.create_task(asking.exchange(_request(path, body)))
        while not answer.done():
            began = time.perf_counter()
            await probe.exchange(ping)
            longest = max(longest, time.perf_counter() - began)
        assert answer.result().status == 200, answer.result().body
        probe.close()
        asking.close()
        return longest

    def _numbered(self, body: Body) -> bytes:
        """A request that is not like any other."""
        return json.dumps(body).replace("{number}", str(next(self._numbers))).encode()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
        return connection


def _request(path: str, body: Body) -> bytes:
    encoded = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(encoded)}\r\n\r\n".encode() + encoded


def _checked(record: Record) -> Record:
    assert not record.error, record.error
    return record
