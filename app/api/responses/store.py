"""Answers that later requests may go on from; a bounded number of them, the oldest forgotten first."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from app.api.errors import ApiError
from app.protocol.common import JsonObject


@dataclass(slots=True)
class Stored:
    """`messages` are those of the whole conversation before the answer, instructions left out."""

    response: JsonObject
    input_items: list[JsonObject]
    messages: list[dict[str, Any]]
    task: asyncio.Task[None] | None = None
    """What generates it, while that goes on in the background."""


class ResponseStore:
    """Keeps answers by id."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._stored: OrderedDict[str, Stored] = OrderedDict()

    def put(self, stored: Stored) -> None:
        """Keep an answer, at the cost of the oldest that is not being generated."""
        self._stored[stored.response["id"]] = stored
        while len(self._stored) > self._capacity:
            oldest = next((key for key, one in self._stored.items() if one.task is None), None)
            if oldest is None:
                return
            del self._stored[oldest]

    def get(self, response_id: str, param: str | None = None) -> Stored:
        """Raises `ApiError` 404 for an id that is not known, or not any more."""
        stored = self._stored.get(response_id)
        if stored is None:
            raise ApiError(
                404,
                f"There is no response '{response_id}' here: it was not stored, was deleted or is too old.",
                param=param,
                code="response_not_found",
            )
        return stored

    def delete(self, response_id: str) -> None:
        """Forget an answer, and stop generating it. Raises `ApiError` 404."""
        stored = self.get(response_id)
        del self._stored[response_id]
        if stored.task is not None:
            stored.task.cancel()

    def close(self) -> None:
        """Stop whatever is being generated."""
        for stored in self._stored.values():
            if stored.task is not None:
                stored.task.cancel()
