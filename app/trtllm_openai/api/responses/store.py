"""Answers that later requests may go on from; a bounded number of them, the oldest forgotten first.

With several HTTP workers each keeps the answers it gave. An id names its keeper, which the others ask.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec

from trtllm_openai.api.errors import ApiError
from trtllm_openai.protocol.common import JsonObject
from trtllm_openai.serve.deployment import Deployment, Operation


@dataclass(slots=True)
class Stored:
    """`messages` are those of the whole conversation before the answer, instructions left out."""

    response: JsonObject
    input_items: list[JsonObject]
    messages: list[dict[str, Any]]
    task: asyncio.Task[None] | None = None
    """What generates it, while that goes on in the background, in this process."""


class ResponseStore:
    """Keeps answers by id, `capacity` of them in all HTTP workers together."""

    def __init__(self, capacity: int, deployment: Deployment) -> None:
        self._capacity = math.ceil(capacity / deployment.workers)
        self._deployment = deployment
        self._stored: OrderedDict[str, Stored] = OrderedDict()
        deployment.serve_stored_responses(self._answer)

    def new_id(self) -> str:
        """An id for an answer of this process."""
        keeper = f"{self._deployment.worker}_" if self._deployment.worker else ""
        return f"resp_{keeper}{uuid.uuid4().hex}"

    def put(self, stored: Stored) -> None:
        """Keep an answer, at the cost of the oldest that is not being generated."""
        self._stored[stored.response["id"]] = stored
        while len(self._stored) > self._capacity:
            oldest = next((key for key, one in self._stored.items() if one.task is None), None)
            if oldest is None:
                return
            del self._stored[oldest]

    async def get(self, response_id: str, param: str | None = None) -> Stored:
        """The answer as it stands. Raises `ApiError` 404 for an id that is not known, or not any more."""
        return await self._do("get", response_id, param)

    async def delete(self, response_id: str) -> None:
        """Forget an answer, and stop generating it. Raises `ApiError` 404."""
        await self._do("delete", response_id)

    async def cancel(self, response_id: str) -> Stored:
        """Stop generating an answer; returns it as it stands then. Raises `ApiError` 404."""
        return await self._do("cancel", response_id)

    def close(self) -> None:
        """Stop whatever is being generated."""
        for stored in self._stored.values():
            if stored.task is not None:
                stored.task.cancel()

    async def _do(self, operation: Operation, response_id: str, param: str | None = None) -> Stored:
        keeper = self._keeper(response_id)
        if keeper == self._deployment.worker:
            stored = await self._do_here(operation, response_id)
        else:
            told = await self._deployment.fetch_stored_response(keeper, operation, response_id)
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
        """What another process asks."""
        stored = await self._do_here(operation, response_id)
        if stored is None:
            return None
        return msgspec.json.encode([stored.response, stored.input_items, stored.messages])

    def _keeper(self, response_id: str) -> str:
        parts = response_id.split("_")
        return parts[1] if len(parts) == 3 else ""
