"""The runner's end of connections, in the test's own event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path

from trtllm_openai.engine_host.messages import (
    Abort,
    FromRunner,
    Ready,
    Submit,
    ToRunner,
    decode_to_runner,
    encode,
)
from trtllm_openai.generation import Capabilities, EngineInfo
from trtllm_openai.processes.framing import LENGTH, framed
from trtllm_openai.runners.state import Endpoint

INFO = EngineInfo("fake", "none", "none", "cpu", 100, (2,), 64, 4, Capabilities())


class RunnerPeer:
    """Listens as a runner does; says only what the test has it say."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.endpoint = Endpoint(f"unix:{path}")
        self.heard: list[ToRunner] = []
        self.accepted = 0
        """Connections so far."""
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def close(self) -> None:
        """Drop the connections and listen no more."""
        self.drop()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def send(self, *messages: FromRunner) -> None:
        """Send to every connection."""
        for writer in self._writers:
            writer.write(b"".join(framed(encode(message)) for message in messages))

    def send_raw(self, body: bytes) -> None:
        """Send a message that need not be one to every connection."""
        for writer in self._writers:
            writer.write(framed(body))

    def drop(self) -> None:
        """Close the connections; what was sent before still arrives."""
        while self._writers:
            self._writers.pop().close()

    def be_ready(self) -> None:
        self.send(Ready(INFO))

    @property
    def submitted(self) -> list[str]:
        return [
            one.request_id
            for message in self.heard
            if isinstance(message, Submit)
            for one in message.requests
        ]

    @property
    def aborted(self) -> list[str]:
        return [name for message in self.heard if isinstance(message, Abort) for name in message.request_ids]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.append(writer)
        try:
            while True:
                (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                self.heard.append(decode_to_runner(await reader.readexactly(size)))
        except (EOFError, OSError):
            writer.close()
            if writer in self._writers:
                self._writers.remove(writer)
