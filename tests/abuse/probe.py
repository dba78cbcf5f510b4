"""The view of another client of the server: how long a probe waits, and a stream for its tokens.

    python -m tests.abuse.probe PORT KEY

It asks for /health/live again and again, and streams answers one after the other. For each line on standard
input it prints a `Seen` as JSON, of the time since the line before. It is a process of its own, since a test
that makes a body of 16 MB holds its interpreter's lock for longer than the server may stop.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import msgspec

PING = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
PAUSE_S = 0.002
"""Between two probes: the server's process has other things to do."""
STREAM = {"prompt": "Once upon a time", "max_tokens": 900, "ignore_eos": True, "stream": True}


class Seen(msgspec.Struct):
    """Longest waits in seconds: `stop` of the probe, `gap` of the stream for a token, the first one included.

    `tokens`: how many came. `errors`: what went wrong with the stream.
    """

    stop: float
    gap: float
    tokens: int
    errors: list[str]


class Wait:
    """The longest time between two beats."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = time.perf_counter()

    def begin(self) -> None:
        self._last = time.perf_counter()

    def beat(self) -> None:
        now = time.perf_counter()
        self.longest = max(self.longest, now - self._last)
        self._last = now

    def take(self) -> float:
        """The longest wait since the last call, the present one included."""
        longest = max(self.longest, time.perf_counter() - self._last)
        self.longest = 0.0
        return longest


class Neighbour:
    """Another client of the server."""

    def __init__(self, port: int, key: str) -> None:
        body = json.dumps(STREAM).encode()
        lines = ["POST /v1/completions HTTP/1.1", "host: x", f"authorization: Bearer {key}"]
        lines += ["content-type: application/json", f"content-length: {len(body)}", "", ""]
        self._request = "\r\n".join(lines).encode() + body
        self._port = port
        self._probe, self._stream = Wait(), Wait()
        self._tokens = 0
        self._errors: list[str] = []

    def take(self) -> Seen:
        seen = Seen(self._probe.take(), self._stream.take(), self._tokens, self._errors)
        self._tokens, self._errors = 0, []
        return seen

    async def probe(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while True:
            self._probe.begin()
            writer.write(PING)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            self._probe.beat()
            await asyncio.sleep(PAUSE_S)

    async def stream(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while True:
            self._stream.begin()
            writer.write(self._request)
            if b" 200 " not in (head := await reader.readuntil(b"\r\n\r\n")):
                self._errors.append(head.partition(b"\r\n")[0].decode())
                await asyncio.sleep(1)
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                continue
            line = b""
            while line != b"data: [DONE]\n":
                line = await reader.readline()
                if line.startswith(b'data: {"error"') or not line:
                    self._errors.append(line.decode() or "cut off")
                    break
                if b'"text":' in line:
                    self._stream.beat()
                    self._tokens += 1
            else:
                await reader.readuntil(b"0\r\n\r\n")
                continue
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)


async def main(port: int, key: str) -> None:
    neighbour = Neighbour(port, key)
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    tasks = [asyncio.create_task(neighbour.probe()), asyncio.create_task(neighbour.stream())]
    while await stdin.readline():
        for task in tasks:
            if task.done():
                task.result()  # its exception ends this process
        print(msgspec.json.encode(neighbour.take()).decode(), flush=True)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
