"""The sequences that wait for their guide: each leaves with its matcher, without one, or with an error."""

from __future__ import annotations

import logging
from concurrent import futures

from trtllm_openai.engines.base import FAILED_ON_REQUEST, refusal
from trtllm_openai.engines.torch.guide_compiler import GuideCompiler
from trtllm_openai.engines.torch.guides import GuideMatcher
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import EngineStats, Guide, StepOutput

log = logging.getLogger(__name__)


class GuideQueue:
    """Has the guides of one engine compiled. Used by one thread, which never waits unless it is told to."""

    def __init__(self, compiler: GuideCompiler) -> None:
        self._compiler = compiler
        self._compiling: dict[futures.Future[GuideMatcher], Sequence] = {}

    def __len__(self) -> int:
        """Number of sequences that wait."""
        return len(self._compiling)

    def add(self, sequence: Sequence, guide: Guide) -> None:
        """Queue `sequence` until its `guide` is compiled."""
        self._compiling[self._compiler.compile(guide)] = sequence

    def remove(self, sequence: Sequence) -> bool:
        """Give up the guide of `sequence`. False if it does not wait here."""
        for future, waiting in self._compiling.items():
            if waiting is sequence:
                future.cancel()
                del self._compiling[future]
                return True
        return False

    def take(self, timeout: float) -> tuple[list[Sequence], list[StepOutput]]:
        """Wait up to `timeout` seconds for a guide. Take the sequences that wait no longer out of the queue.

        Returns those that can be scheduled, and the only output of each whose guide cannot be used. An
        optional guide that is refused is left out.
        """
        done, _ = futures.wait(self._compiling, timeout, futures.FIRST_COMPLETED)
        ready: list[Sequence] = []
        failed: list[StepOutput] = []
        for future in done:
            sequence = self._compiling.pop(future)
            request_id, guide = sequence.request.request_id, sequence.request.guide
            error = future.exception()
            if error is None:
                sequence.matcher = future.result()
                sequence.matcher.apply(sequence.request.sampling)
                ready.append(sequence)
            elif not isinstance(error, InvalidRequest):
                log.error("the guide of request %s could not be compiled", request_id, exc_info=error)
                failed.append(StepOutput(request_id, [], "error", error=FAILED_ON_REQUEST))
            elif guide is not None and guide.optional:
                log.info("request %s goes without its guide: %s", request_id, error)
                ready.append(sequence)
            else:
                failed.append(refusal(request_id, error))
        return ready, failed

    def count(self, stats: EngineStats) -> None:
        """Set the totals of compilation, and how many sequences wait for it."""
        compiler = self._compiler
        stats.deferred = len(self)
        stats.guides_compiled, stats.guides_refused = compiler.compiled, dict(compiler.refused)
        stats.guide_cache_hits = compiler.cache.hits
        stats.guide_cache_misses = compiler.cache.misses
        stats.guide_compile_counts = list(compiler.counts)
        stats.guide_compile_seconds = compiler.seconds

    def close(self) -> None:
        """End compilation; `take` must not be called any more."""
        self._compiler.close()
