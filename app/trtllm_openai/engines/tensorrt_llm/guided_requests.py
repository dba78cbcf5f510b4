"""Requests that wait until their guides are checked, for both engines over TensorRT-LLM."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from dataclasses import dataclass

import msgspec

from trtllm_openai.engines.base import refusal
from trtllm_openai.engines.tensorrt_llm.guide_check import GuideChecker
from trtllm_openai.engines.tensorrt_llm.guided import as_compiled
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import QUEUE_FULL, GenerationRequest, Guide, StepOutput

log = logging.getLogger(__name__)
TIMEOUT_S = 60.0
"""Seconds that a request waits for the check of its guide: behind others' guides, or for a process that has
to be started again. It is refused as if the engine's queue were full.
"""
POLL_S = 0.005
"""Seconds between two looks while any waits."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: GenerationRequest
    check: Future[None]
    deadline: float
    """On the monotonic clock, in seconds."""

    @property
    def optional(self) -> bool:
        """Whether the request can do without its guide."""
        return self.request.guide is not None and self.request.guide.optional


class GuidedRequests:
    """Used by the engine's thread. Without a checker guides go unchecked."""

    def __init__(self, checker: GuideChecker | None) -> None:
        self._checker = checker
        self._waiting: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def guide_of(self, request: GenerationRequest) -> Guide | None:
        """The guide that the engine is given; an optional one that goes unchecked is left out."""
        guide = request.guide
        unchecked = guide is None or (guide.optional and self._checker is None)
        return None if guide is None or unchecked else as_compiled(guide)

    def add(self, request: GenerationRequest) -> bool:
        """Begin to check the request's guide. False if there is nothing to check: it can begin at once."""
        if request.guide is None or self._checker is None:
            return False
        check = self._checker.check(as_compiled(request.guide))
        self._waiting[request.request_id] = _Waiting(request, check, time.monotonic() + TIMEOUT_S)
        return True

    def drop(self, request_id: str) -> bool:
        """Forget a request. False if it does not wait here."""
        waiting = self._waiting.pop(request_id, None)
        if waiting is not None:
            waiting.check.cancel()
        return waiting is not None

    def take(self) -> tuple[list[GenerationRequest], list[StepOutput]]:
        """The requests whose guides can be used, and the last outputs of those that cannot begin."""
        ready: list[GenerationRequest] = []
        ended: list[StepOutput] = []
        for request_id, one in list(self._waiting.items()):
            if one.check.done():
                del self._waiting[request_id]
                error = one.check.exception()
                if error is None:
                    ready.append(one.request)
                elif isinstance(error, InvalidRequest) and one.optional:
                    log.info("request %s goes without its guide: %s", request_id, error)
                    ready.append(msgspec.structs.replace(one.request, guide=None))
                elif isinstance(error, InvalidRequest):
                    ended.append(refusal(request_id, error))
                else:
                    log.error("the guide of request %s could not be checked: %s", request_id, error)
                    ended.append(StepOutput(request_id, [], "error", error=str(error)))
            elif time.monotonic() >= one.deadline:
                self.drop(request_id)
                message = f"its guide was not checked within {TIMEOUT_S:g} s"
                ended.append(StepOutput(request_id, [], "error", error=message, error_code=QUEUE_FULL))
        return ready, ended

    def close(self) -> None:
        """End the checker."""
        if self._checker is not None:
            self._checker.close()
