"""How an HTTP process takes part in serving: alone, or as one worker of several (`serve.workers`)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from trtllm_openai.config import Settings
from trtllm_openai.runners import SequencePool
from trtllm_openai.runners.shared_counters import SharedCounters
from trtllm_openai.serve.model import ServedModel, open_served_model
from trtllm_openai.telemetry.values import Snapshot

Operation = Literal["get", "delete", "cancel"]
StoredAnswer = Callable[[Operation, str], Awaitable[bytes | None]]
"""What a process says of a response that it stores: `(operation, id)` to JSON, None if there is none."""


class Deployment(Protocol):
    """What one HTTP process needs of whatever else belongs to the server."""

    worker: str
    """A name for this process that no other of this server has or had; empty when it is alone."""
    workers: int
    """How many HTTP processes there are."""
    created: int
    """When the server was started, in Unix seconds."""
    board: SharedCounters
    """Counts that hold for all HTTP processes together."""

    async def open_model(
        self, settings: Settings, converting: Callable[[float, str], None], on_change: Callable[[], None]
    ) -> ServedModel[SequencePool]:
        """The model, with its runners begun to be reached by `pool.start()`.

        `converting` is told the share that is done and the present part, from any thread; `on_change` is
        called after a runner changed its state. Raises `CheckpointError` or `ConfigError`.
        """

    async def merged_metrics(self, own: Callable[[], Snapshot]) -> Snapshot:
        """The metrics of all HTTP processes; `own` gives this one's."""

    def serve_stored_responses(self, answer: StoredAnswer) -> None:
        """From now on, have other processes' questions about stored responses answered."""

    async def fetch_stored_response(self, owner: str, operation: Operation, response_id: str) -> bytes | None:
        """What another process says of a response that it stores; None if there is none."""


class SingleProcess:
    """The only HTTP process; implements `Deployment`."""

    worker = ""
    workers = 1

    def __init__(self) -> None:
        self.created = int(time.time())
        self.board = SharedCounters.alone()

    async def open_model(
        self, settings: Settings, converting: Callable[[float, str], None], on_change: Callable[[], None]
    ) -> ServedModel[SequencePool]:
        return await open_served_model(settings, converting, on_change)

    async def merged_metrics(self, own: Callable[[], Snapshot]) -> Snapshot:
        return own()

    def serve_stored_responses(self, answer: StoredAnswer) -> None:
        """Nobody asks."""

    async def fetch_stored_response(self, owner: str, operation: Operation, response_id: str) -> bytes | None:
        return None
