"""Deployment of an HTTP process: as the only one, or as one of several workers (`serve.workers`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from trtllm_openai.api.responses.store import Operation, StoredAnswer
from trtllm_openai.config import Settings
from trtllm_openai.engine_host.prestart import PrestartedHosts
from trtllm_openai.runners import SequencePool
from trtllm_openai.runners.shared_counters import SharedCounters
from trtllm_openai.serve.model import ServedModel, open_served_model
from trtllm_openai.telemetry.failures import Failure
from trtllm_openai.telemetry.history import History, Overview
from trtllm_openai.telemetry.values import Snapshot


class Deployment(Protocol):
    """Services that one HTTP process needs from the rest of the server."""

    worker: str
    """Name of this process, never reused within this server; empty when it is alone."""
    workers: int
    """Number of HTTP processes."""
    created: int
    """Start of the server, in Unix seconds."""
    counters: SharedCounters
    """Counters that all HTTP processes share."""
    history: History | None
    """Where this process keeps samples of its metrics; None if another one keeps those of all."""

    async def open_model(
        self, settings: Settings, converting: Callable[[float, str], None], on_change: Callable[[], None]
    ) -> ServedModel[SequencePool]:
        """Open the model; `pool.start()` then starts its runners or connects to them.

        `converting(share, part)` is called, from any thread, with the progress (0..1) of converting the
        checkpoint; `on_change` after every transition of a runner. Raises `CheckpointError` or `ConfigError`.
        """

    async def merged_metrics(self, own: Callable[[], Snapshot]) -> Snapshot:
        """Metrics of all HTTP processes; `own` returns those of this one."""

    def serve_failures(self, own: Callable[[], list[Failure]]) -> None:
        """Register what gives the latest failures of this process."""

    async def overview(self) -> Overview:
        """Samples and failures of all HTTP processes."""

    def serve_stored_responses(self, answer: StoredAnswer) -> None:
        """Register the handler of other processes' operations on responses that this process stores."""

    async def fetch_stored_response(
        self, owner: str, operation: Operation, response_id: str, key: str
    ) -> bytes | None:
        """Apply an operation to a response of `key` that the process `owner` stores; None if it has none."""


class SingleProcess:
    """The only HTTP process; implements `Deployment`."""

    worker = ""
    workers = 1

    def __init__(self, hosts: PrestartedHosts | None = None) -> None:
        """`hosts`: for the first launches of its runners."""
        self._hosts = hosts
        self.created = int(time.time())
        self.counters = SharedCounters.alone()
        self.history: History | None = History()
        self._failures: Callable[[], list[Failure]] = list

    async def open_model(
        self, settings: Settings, converting: Callable[[float, str], None], on_change: Callable[[], None]
    ) -> ServedModel[SequencePool]:
        return await open_served_model(settings, converting, on_change, self._hosts)

    async def merged_metrics(self, own: Callable[[], Snapshot]) -> Snapshot:
        return own()

    def serve_failures(self, own: Callable[[], list[Failure]]) -> None:
        self._failures = own

    async def overview(self) -> Overview:
        assert self.history is not None
        return Overview(self.history.samples, self._failures())

    def serve_stored_responses(self, answer: StoredAnswer) -> None:
        """Nothing to do: there is no other process."""

    async def fetch_stored_response(
        self, owner: str, operation: Operation, response_id: str, key: str
    ) -> bytes | None:
        return None
