"""Bounds the bytes of all requests that are being received together.

A limit for each request does not bound many of them: 1000 unfinished bodies of 16 MB are 16 GB. Beyond the
limit for all, the largest unfinished one is given up, the oldest of equals ("longest queue drop", Suter et
al., INFOCOM 1998). So whoever sends large bodies and never ends them keeps nobody else out. Waiting for
room instead would block: partly received bodies could wait for each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request

from trtllm_openai.api.content_coding import content_coding, decode
from trtllm_openai.api.errors import ApiError, unavailable

BOM = b"\xef\xbb\xbf"
DECODERS = 4
"""Compressed bodies that are decoded at a time, each in a thread."""


class ReceiveBudget:
    """At most `limit` bytes of unfinished messages; used from one event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._open: dict[Receipt, None] = {}  # in the order of their beginning

    def open(self, give_up: Callable[[], object]) -> Receipt:
        """Begin a message. `give_up` is called at most once, before its receipt is closed."""
        receipt = Receipt(self, give_up)
        self._open[receipt] = None
        return receipt

    def _make_room(self) -> None:
        while self.used > self.limit:
            largest = max(self._open, key=_size)
            largest.close()
            largest.given_up = True
            largest.give_up()

    def _forget(self, receipt: Receipt) -> None:
        if self._open.pop(receipt, receipt) is None:
            self.used -= receipt.size


class Receipt:
    """The part of one unfinished message that has been received: `size` bytes. Must be closed."""

    __slots__ = ("_budget", "give_up", "given_up", "size")

    def __init__(self, budget: ReceiveBudget, give_up: Callable[[], object]) -> None:
        self._budget = budget
        self.give_up = give_up
        self.given_up = False
        """Whether it had to make room for others; it is closed then."""
        self.size = 0

    def add(self, size: int) -> None:
        """More was received. May give up any message, this one included."""
        if not self.given_up:
            self.size += size
            self._budget.used += size
            self._budget._make_room()

    def close(self) -> None:
        """The message is complete, or gone. Idempotent."""
        self._budget._forget(self)


def _size(receipt: Receipt) -> int:
    return receipt.size


class Bodies:
    """Reads the bodies of all requests of one HTTP process.

    `max_body_bytes` bounds a decoded body, `budget` the bytes of all unfinished ones.
    """

    def __init__(self, max_body_bytes: int, budget: ReceiveBudget) -> None:
        self._max_body_bytes = max_body_bytes
        self._budget = budget
        self._decoding = asyncio.Semaphore(DECODERS)

    async def read(self, request: Request, content_encoding: str | None = None) -> bytes | bytearray:
        """The whole body, decoded and without a byte order mark.

        Raises `ClientDisconnect`, and `ApiError`: 413 for a body that is too large, 415 for a content coding
        that is unknown, 400 for one that is broken, 503 for a body that had to make room for others.
        """
        coding = content_coding(content_encoding)
        message = await request.receive()
        body = message.get("body", b"")
        if message.get("more_body"):
            body = await self._rest(request, body)
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if coding is None:
            return _without_bom(body)
        async with self._decoding:
            return _without_bom(await asyncio.to_thread(decode, body, coding, self._max_body_bytes))

    async def _rest(self, request: Request, begin: bytes) -> bytearray:
        """The whole body, of which `begin` is the first part."""
        task = asyncio.current_task()
        assert task is not None

        def give_up() -> None:
            if asyncio.current_task() is not task:  # it waits in `receive` below
                task.cancel()

        receipt = self._budget.open(give_up)
        body = bytearray(begin)  # one buffer: a list of parts costs 40 bytes for each, however small it is
        more = True
        try:
            receipt.add(len(begin))
            while more and not receipt.given_up:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                more = message.get("more_body", False)
                part = message.get("body", b"")
                body += part
                receipt.add(len(part))
        except asyncio.CancelledError:
            if not receipt.given_up:
                raise
            task.uncancel()
        finally:
            receipt.close()
        if receipt.given_up:
            raise no_room()
        return body


def no_room() -> ApiError:
    """The 503 of a request that had to make room for others."""
    return unavailable("Too much is being received; this request was given up to make room for others.")


def _without_bom(body: bytes | bytearray) -> bytes | bytearray:
    return body.removeprefix(BOM)
