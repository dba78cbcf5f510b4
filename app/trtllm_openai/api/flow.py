"""Back-pressure from a response's socket to the run that fills it."""

from __future__ import annotations

from collections.abc import Callable


def _ignore() -> None:
    """Replaces the callback of a closed `FlowControl`."""


class FlowControl:
    """A gate between a producer and a socket: closed by `pause`, opened by `resume`.

    The producer checks `paused` before it writes; `on_resume` is called when it may write again.
    """

    __slots__ = ("_on_resume", "paused")

    def __init__(self, on_resume: Callable[[], None]) -> None:
        self.paused = False
        self._on_resume = on_resume

    def pause(self) -> None:
        """Stop the producer: the socket's buffer is full."""
        self.paused = True

    def resume(self) -> None:
        """Restart the producer: the socket has drained."""
        self.paused = False
        self._on_resume()

    def close(self) -> None:
        """Drop the callback, which breaks the reference cycle with the producer. Idempotent."""
        self._on_resume = _ignore
