"""Buffer of engine deltas for one HTTP request: one or more sequences, one consumer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from trtllm_openai.generation import StepOutput


def _nobody() -> None:
    """The default listener: deltas stay buffered."""


class Generation:
    """Collects the deltas of its sequences until the consumer takes them, all at once.

    `listener` is called at most once per engine step, and not again until the buffered deltas are taken: a
    slow consumer gets the deltas of several steps at once and can merge them. Must be closed, which aborts
    live sequences.
    """

    __slots__ = ("_abort", "_items", "listener", "live", "moved")

    def __init__(self, request_ids: Iterable[str], abort: Callable[[list[str]], None]) -> None:
        self.live = set(request_ids)
        self._abort = abort
        self._items: list[StepOutput] = []
        self.moved: set[str] = set()
        """Sequences restarted on another runner after theirs was lost; this is done once for each."""
        self.listener: Callable[[], None] = _nobody

    def put(self, output: StepOutput) -> bool:
        """Add a delta (called by the pool). Returns whether to call the listener at the end of the step."""
        if output.finish_reason is not None:
            self.live.discard(output.request_id)
        self._items.append(output)
        return len(self._items) == 1

    def fail(self, request_id: str, message: str) -> None:
        """End one sequence with an error (called by the pool)."""
        if self.put(StepOutput(request_id, [], "error", error=message)):
            self.listener()

    def take(self) -> list[StepOutput]:
        """Remove and return the buffered deltas, oldest first; may be empty."""
        items, self._items = self._items, []
        return items

    @property
    def waiting(self) -> Sequence[StepOutput]:
        """The buffered deltas."""
        return self._items

    def abort(self, request_id: str) -> None:
        """Abort one sequence; later deltas are dropped."""
        if request_id in self.live:
            self.live.discard(request_id)
            self._abort([request_id])

    def close(self) -> None:
        """Abort every live sequence. Idempotent, does not block."""
        if self.live:
            ids = list(self.live)
            self.live.clear()
            self._abort(ids)
        self.listener = _nobody  # break the reference cycle with the listener
