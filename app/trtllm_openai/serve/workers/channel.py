"""Messages, requests and responses between the supervisor and a worker, over `processes.framing`.

A message that cannot be decoded is counted and dropped: a question or an answer is then unanswered at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from trtllm_openai.errors import Unanswered
from trtllm_openai.processes.framing import LENGTH, framed, read_framed
from trtllm_openai.processes.undecodable import UNDECODABLE, report
from trtllm_openai.serve.workers.messages import (
    Answer,
    Ask,
    Message,
    NotDecoded,
    Question,
    decode,
    encode,
)

log = logging.getLogger(__name__)

T = TypeVar("T")
ANSWER_TIMEOUT_S = 5.0
"""Timeout in seconds for a response."""


def frame(message: Message) -> bytes:
    """Encode a message for the socket."""
    return framed(encode(message))


def read_blocking(end: socket.socket) -> Message:
    """Read one message synchronously, before the event loop runs. Raises `EOFError`."""
    message: Message = decode(read_framed(end.recv))
    return message


class Channel:
    """One end of the channel. `hear` is called with each one-way message, `answer` with each question."""

    def __init__(
        self,
        end: socket.socket,
        hear: Callable[[Message], None],
        answer: Callable[[Question], Awaitable[Any]],
    ) -> None:
        self._end = end
        self._hear = hear
        self._answer = answer
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._counter = 0
        self._answering: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Start using the socket; messages sent earlier are dropped."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._end)

    async def run(self) -> None:
        """Handle messages until the other side is gone."""
        assert self._reader is not None
        assert self._writer is not None
        try:
            while True:
                (size,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
                body = await self._reader.readexactly(size)
                try:
                    message = decode(body)
                except UNDECODABLE as error:
                    self._take_undecodable(report("the other end of the channel", body, error))
                else:
                    self._take(message)
        except (EOFError, OSError):  # includes asyncio.IncompleteReadError
            pass
        finally:
            self._writer.close()
            for future in self._waiting.values():
                future.cancel()
            for task in self._answering:
                task.cancel()

    def tell(self, message: Message) -> None:
        """Send a message. Does nothing if the other side is gone."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame(message))

    async def ask(self, question: Question, kind: type[T], timeout_s: float = ANSWER_TIMEOUT_S) -> T:
        """Send a question and return its answer, decoded as `kind`. Raises `Unanswered`."""
        self._counter += 1
        number = self._counter
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self.tell(Ask(number, question))
            done, _ = await asyncio.wait({future}, timeout=timeout_s)
            if not done or future.cancelled() or not future.result():
                raise Unanswered(type(question).__name__)
            try:
                return msgspec.msgpack.decode(future.result(), type=kind)
            except UNDECODABLE as error:
                report("the other end of the channel", future.result(), error)
                raise Unanswered(type(question).__name__) from None
        finally:
            del self._waiting[number]

    def _take(self, message: Message) -> None:
        match message:
            case Ask():
                task = asyncio.create_task(self._reply(message))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
            case Answer(number, result):
                future = self._waiting.get(number)
                if future is not None and not future.done():
                    future.set_result(result)
            case _:
                self._hear(message)

    def _take_undecodable(self, message: list[object]) -> None:
        match message:
            case ["ask", int(number), *_]:
                self.tell(Answer(number, b""))
            case ["answer", int(number), *_]:
                self._take(Answer(number, b""))
            case [str(tag), *_]:
                self._hear(NotDecoded(tag))

    async def _reply(self, ask: Ask) -> None:
        result = b""
        try:
            result = encode(await self._answer(ask.question))
        except Unanswered:
            pass
        except Exception:
            log.exception("answering a question of another process failed")
        self.tell(Answer(ask.number, result))
