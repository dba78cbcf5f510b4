"""The Engine interface: pull-shaped, synchronous, driven by one thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from trtllm_openai.generation import EngineInfo, EngineStats, GenerationRequest, StepOutput

Progress = Callable[[float, str], None]
"""Reports loading: the share done (0..1) and what is being done."""


class Engine(Protocol):
    """A loaded model that generates tokens for many sequences at once.

    Every submitted request ends with exactly one `StepOutput` whose `finish_reason` is set, also when it is
    aborted or fails; after that nothing more is said about it.
    """

    info: EngineInfo

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request. Never blocks. Raises `InvalidRequest` if it can never run here."""

    def abort(self, request_id: str) -> None:
        """End a request at the next step. Idempotent; unknown ids are ignored."""

    def step(self, timeout: float) -> list[StepOutput]:
        """Advance all running sequences once and return what is new.

        With nothing to do it returns at once or after at most `timeout` seconds.
        """

    def stats(self) -> EngineStats: ...

    def shutdown(self, deadline: float) -> None:
        """Free the model within `deadline` seconds. Unfinished requests are dropped."""
