"""The Engine interface: synchronous and polled by one thread, which calls `step` in a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import EngineInfo, EngineStats, GenerationRequest, StepOutput
from trtllm_openai.processes.undecodable import sendable

Progress = Callable[[float, str], None]
"""Reports loading progress: the fraction done (0..1) and a description of the current stage."""


class Engine(Protocol):
    """A loaded model that generates tokens for many sequences at once.

    Every submitted request ends with exactly one `StepOutput` that has a `finish_reason`, even if it is
    aborted or fails. No output for that request follows it.
    """

    info: EngineInfo

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request without blocking. Raises `InvalidRequest` if this engine can never run it."""

    def abort(self, request_id: str) -> None:
        """Abort a request at the next step. Idempotent; unknown ids are ignored."""

    def step(self, timeout: float) -> list[StepOutput]:
        """Advance all running sequences by one step and return the new outputs.

        An idle engine returns immediately or blocks for at most `timeout` seconds.
        """

    def stats(self) -> EngineStats: ...

    def shutdown(self, timeout_s: float) -> None:
        """Free the model within `timeout_s` seconds. Unfinished requests are dropped."""


@runtime_checkable
class Interruptible(Engine, Protocol):
    """An engine whose steps may take long, and let prompts that go first in between."""

    def interrupt_with(self, look: Callable[[], None]) -> None:
        """Call `look` again and again during a step. It may submit, abort, and call `step_first`."""

    def step_first(self) -> list[StepOutput]:
        """Compute prompts of keys below their share that may go first now, and return the new outputs."""


FAILED_ON_REQUEST = "the engine failed on this request"
"""Error of a sequence for which an exception was raised that was not foreseen; the log has it."""


def refusal(request_id: str, error: InvalidRequest) -> StepOutput:
    """The only output of a request that an engine refuses."""
    param = error.param and sendable(error.param)
    return StepOutput(
        request_id, [], "error", error=sendable(str(error)), error_code=error.code, error_param=param
    )
