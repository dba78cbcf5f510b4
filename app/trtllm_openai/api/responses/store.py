"""Responses that later requests may continue: a bounded number of them, evicted oldest first.

With several HTTP workers each keeps the responses it made. An id names its owner, which the others ask.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from trtllm_openai.api.errors import ApiError
from trtllm_openai.protocol.common import JsonObject

Operation = Literal["get", "delete", "cancel"]
StoredAnswer = Callable[[Operation, str], Awaitable[bytes | None]]
"""Runs `(operation, id)` on the responses of one process: returns the response as JSON, None if unknown."""


class StorePeers(Protocol):
    """Access to the response stores of the other HTTP processes."""

    @property
    def worker(self) -> str:
        """Unique name of this process; empty when it is the only one."""

    @property
    def workers(self) -> int:
        """Number of HTTP processes."""

    def serve_stored_responses(self, answer: StoredAnswer) -> None:
        """Register the handler of other processes' requests."""

    async def fetch_stored_response(self, owner: str, operation: Operation, response_id: str) -> bytes | None:
        """Run `operation` in the process named `owner`; None if the response is unknown there."""


@dataclass(slots=True)
class Stored:
    """`messages`: the whole conversation before the response, without instructions."""

    response: JsonObject
    input_items: list[JsonObject]
    messages: list[dict[str, Any]]
    task: asyncio.Task[None] | None = None
    """The task that generates it in the background of this process, while it runs."""


class ResponseStore:
    """Keeps responses by id, `capacity` of them in all HTTP workers together."""

    def __init__(self, capacity: int, peers: StorePeers) -> None:
        self._capacity = math.ceil(capacity / peers.workers)
        self._peers = peers
        self._stored: OrderedDict[str, Stored] = OrderedDict()
        peers.serve_stored_responses(self._answer)

    def new_id(self) -> str:
        """A new id for a response of this process."""
        owner = f"{self._peers.worker}_" if self._peers.worker else ""
        return f"resp_{owner}{uuid.uuid4().hex}"

    def put(self, stored: Stored) -> None:
        """Store a response; evicts the oldest one that is not being generated."""
        self._stored[stored.response["id"]] = stored
        while len(self._stored) > self._capacity:
            oldest = next((key for key, one in self._stored.items() if one.task is None), None)
            if oldest is None:
                return
            del self._stored[oldest]

    async def get(self, response_id: str, param: str | None = None) -> Stored:
        """The response in its current state. Raises `ApiError` 404 for an unknown or evicted id."""
        return await self._do("get", response_id, param)

    async def delete(self, response_id: str) -> None:
        """Delete a response, and cancel its generation. Raises `ApiError` 404."""
        await self._do("delete", response_id)

    async def cancel(self, response_id: str) -> Stored:
        """Cancel a response's generation; returns its state afterwards. Raises `ApiError` 404."""
        return await self._do("cancel", response_id)

    def close(self) -> None:
        """Cancel everything that is being generated."""
        for stored in self._stored.values():
            if stored.task is not None:
                stored.task.cancel()

    async def _do(self, operation: Operation, response_id: str, param: str | None = None) -> Stored:
        owner = self._owner(response_id)
        if owner == self._peers.worker:
            stored = await self._do_here(operation, response_id)
        else:
            told = await self._peers.fetch_stored_response(owner, operation, response_id)
            stored = Stored(*msgspec.json.decode(told)) if told is not None else None
        if stored is None:
            raise ApiError(
                404,
                f"There is no response '{response_id}' here: it was not stored, was deleted or is too old.",
                param=param,
                code="response_not_found",
            )
        return stored

    async def _do_here(self, operation: Operation, response_id: str) -> Stored | None:
        stored = self._stored.get(response_id)
        if stored is None:
            return None
        if operation == "delete":
            del self._stored[response_id]
        if operation != "get" and (task := stored.task) is not None:
            task.cancel()
            if operation == "cancel":
                await asyncio.gather(task, return_exceptions=True)
        return stored

    async def _answer(self, operation: Operation, response_id: str) -> bytes | None:
        """Serve another process."""
        stored = await self._do_here(operation, response_id)
        if stored is None:
            return None
        return msgspec.json.encode([stored.response, stored.input_items, stored.messages])

    def _owner(self, response_id: str) -> str:
        parts = response_id.split("_")
        return parts[1] if len(parts) == 3 else ""
