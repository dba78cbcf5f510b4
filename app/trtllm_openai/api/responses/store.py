"""In-memory store of responses that later requests can continue, bounded in number and bytes.

A response belongs to the API key that made it, and no other key finds it. Above a bound the oldest response
of the key that holds most is evicted. With several HTTP workers each stores its own responses. An id names
its worker, and the other workers forward operations there.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

from trtllm_openai.api.errors import ApiError
from trtllm_openai.protocol.common import JsonObject

Operation = Literal["get", "delete", "cancel"]
StoredAnswer = Callable[[Operation, str, str], Awaitable[bytes | None]]
"""Runs `(operation, id, key)` on one process's responses of `key`: the response as JSON, None if unknown."""


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

    async def fetch_stored_response(
        self, owner: str, operation: Operation, response_id: str, key: str
    ) -> bytes | None:
        """Run `operation` in the process named `owner`; None if `key` has no such response there."""


@dataclass(slots=True)
class Stored:
    """`messages`: the whole conversation before the response, without instructions."""

    response: JsonObject
    input_items: list[JsonObject]
    messages: list[dict[str, Any]]
    key: str = ""
    """Name of the API key that made it; empty when the server needs none."""
    task: asyncio.Task[None] | None = None
    """The task that generates it in the background of this process, while it runs."""

    def packed(self) -> bytes:
        """Everything but key and task, as JSON."""
        return msgspec.json.encode([self.response, self.input_items, self.messages])

    @classmethod
    def unpacked(cls, packed: bytes, key: str) -> Stored:
        """The inverse of `packed`."""
        response, input_items, messages = msgspec.json.decode(packed)
        return cls(response, input_items, messages, key)


@dataclass(slots=True)
class _Entry:
    """A stored response: as JSON, whose size is what it costs, or as an object while it is generated."""

    size: int
    packed: bytes
    generating: Stored | None

    @classmethod
    def of(cls, stored: Stored) -> _Entry:
        packed = stored.packed()
        return cls(len(packed), packed, None) if stored.task is None else cls(len(packed), b"", stored)


@dataclass(slots=True)
class _Owned:
    """The responses of one key, oldest first."""

    entries: OrderedDict[str, _Entry] = field(default_factory=OrderedDict)
    size: int = 0

    def put(self, response_id: str, entry: _Entry) -> None:
        before = self.entries.get(response_id)
        self.size += entry.size - (before.size if before is not None else 0)
        self.entries[response_id] = entry

    def remove(self, response_id: str) -> int:
        """Remove an entry; returns its size."""
        size = self.entries.pop(response_id).size
        self.size -= size
        return size

    def oldest(self) -> str | None:
        """The oldest response that is not being generated."""
        return next((key for key, entry in self.entries.items() if entry.generating is None), None)


class ResponseStore:
    """Keeps responses by key and id: `capacity` of them, of `max_bytes` as JSON, in all HTTP workers."""

    def __init__(self, capacity: int, max_bytes: int, peers: StorePeers) -> None:
        self._capacity = math.ceil(capacity / peers.workers)
        self._max_bytes = math.ceil(max_bytes / peers.workers)
        self._peers = peers
        self._keys: dict[str, _Owned] = {}
        self._number = 0
        self._size = 0
        peers.serve_stored_responses(self._answer)

    def new_id(self) -> str:
        """A new id for a response of this process."""
        owner = f"{self._peers.worker}_" if self._peers.worker else ""
        return f"resp_{owner}{uuid.uuid4().hex}"

    def put(self, stored: Stored) -> None:
        """Store a response, or its new state, and evict others until all fit."""
        owned = self._keys.setdefault(stored.key, _Owned())
        number, size = len(owned.entries), owned.size
        owned.put(stored.response["id"], _Entry.of(stored))
        self._number += len(owned.entries) - number
        self._size += owned.size - size
        while self._number > self._capacity and self._evict(lambda one: len(one.entries)):
            pass
        while self._size > self._max_bytes and self._evict(lambda one: one.size):
            pass

    def generated(self, stored: Stored) -> None:
        """A response is no longer generated in the background: keep its last state, unless it was deleted."""
        owned = self._keys.get(stored.key)
        if owned is not None and stored.response["id"] in owned.entries:
            self.put(stored)

    async def get(self, response_id: str, key: str, param: str | None = None) -> Stored:
        """The response in its current state. Raises `ApiError` 404 for one that `key` does not have."""
        return await self._do("get", response_id, key, param)

    async def delete(self, response_id: str, key: str) -> None:
        """Delete a response, and cancel its generation. Raises `ApiError` 404."""
        await self._do("delete", response_id, key)

    async def cancel(self, response_id: str, key: str) -> Stored:
        """Cancel a response's generation; returns its state afterwards. Raises `ApiError` 404."""
        return await self._do("cancel", response_id, key)

    def close(self) -> None:
        """Cancel everything that is being generated."""
        for owned in self._keys.values():
            for entry in owned.entries.values():
                if entry.generating is not None and entry.generating.task is not None:
                    entry.generating.task.cancel()

    def _evict(self, held: Callable[[_Owned], int]) -> bool:
        """Evict the oldest response of the key that holds most. Returns whether one could be."""
        for key in sorted(self._keys, key=lambda key: -held(self._keys[key])):
            oldest = self._keys[key].oldest()
            if oldest is not None:
                self._remove(key, oldest)
                return True
        return False

    def _remove(self, key: str, response_id: str) -> None:
        owned = self._keys[key]
        self._size -= owned.remove(response_id)
        self._number -= 1
        if not owned.entries:
            del self._keys[key]

    async def _do(self, operation: Operation, response_id: str, key: str, param: str | None = None) -> Stored:
        owner = self._owner(response_id)
        if owner == self._peers.worker:
            stored = await self._do_here(operation, response_id, key)
        else:
            told = await self._peers.fetch_stored_response(owner, operation, response_id, key)
            stored = Stored.unpacked(told, key) if told is not None else None
        if stored is None:
            raise ApiError(
                404,
                f"Response '{response_id}' was not found: it was never stored, was deleted or was evicted.",
                param=param,
                code="response_not_found",
            )
        return stored

    async def _do_here(self, operation: Operation, response_id: str, key: str) -> Stored | None:
        owned = self._keys.get(key)
        entry = owned.entries.get(response_id) if owned is not None else None
        if entry is None:
            return None
        stored = entry.generating or Stored.unpacked(entry.packed, key)
        if operation == "delete":
            self._remove(key, response_id)
        if operation != "get" and (task := stored.task) is not None:
            task.cancel()
            if operation == "cancel":
                await asyncio.gather(task, return_exceptions=True)
        return stored

    async def _answer(self, operation: Operation, response_id: str, key: str) -> bytes | None:
        """Handle an operation forwarded by another process."""
        stored = await self._do_here(operation, response_id, key)
        return stored.packed() if stored is not None else None

    def _owner(self, response_id: str) -> str:
        parts = response_id.split("_")
        return parts[1] if len(parts) == 3 else ""
