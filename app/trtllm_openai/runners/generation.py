"""The deltas that belong to one HTTP request: one or more sequences, one consumer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from trtllm_openai.generation import StepOutput


def _nobody() -> None:
    """Nobody listens yet; the deltas wait."""


class Generation:
    """Collects the deltas of its sequences until the consumer takes them, all at once.

    `listener` is called once per engine step that brought something, however many tokens that were, but not
    again before what is there was taken: a consumer that is behind finds the deltas of several steps and can
    merge them. Must be closed: what is still live is then aborted.
    """

    __slots__ = ("_abort", "_items", "listener", "live", "moved")

    def __init__(self, request_ids: Iterable[str], abort: Callable[[list[str]], None]) -> None:
        self.live = set(request_ids)
        self._abort = abort
        self._items: list[StepOutput] = []
        self.moved: set[str] = set()
        """Sequences that were begun again on another runner, which is done once."""
        self.listener: Callable[[], None] = _nobody

    def put(self, output: StepOutput) -> bool:
        """Add a delta (called by the pool); whether the listener must be called once the step is through."""
        if output.finish_reason is not None:
            self.live.discard(output.request_id)
        self._items.append(output)
        return len(self._items) == 1

    def fail(self, request_id: str, message: str) -> None:
        """End one sequence with an error (called by the pool)."""
        if self.put(StepOutput(request_id, [], "error", error=message)):
            self.listener()

    def take(self) -> list[StepOutput]:
        """The deltas since the last call, oldest first; maybe none."""
        items, self._items = self._items, []
        return items

    @property
    def waiting(self) -> Sequence[StepOutput]:
        """The deltas that nobody has taken yet."""
        return self._items

    def abort(self, request_id: str) -> None:
        """End one sequence; its later deltas are dropped."""
        if request_id in self.live:
            self.live.discard(request_id)
            self._abort([request_id])

    def close(self) -> None:
        """End every sequence that is still live. Idempotent, never waits."""
        if self.live:
            ids = list(self.live)
            self.live.clear()
            self._abort(ids)
        self.listener = _nobody  # whose listener holds it would need the garbage collector
