"""What a runner's frontends tell each other, through it, of the prefixes that it holds.

A frontend that routes by prefix names what it sends (`messages.Held`). Others that send to the same runner
have to know, or they send the next turn of a conversation elsewhere. The runner keeps the latest of these
names, and does not look into them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from trtllm_openai.engine_host.messages import Held
from trtllm_openai.processes.framing import FramedSocket

KEPT = 2048
"""Prompts whose names a frontend is told that attaches later."""


class PrefixNews:
    """The names, with the frontend that each came from."""

    def __init__(self) -> None:
        self._kept: deque[tuple[FramedSocket | None, Held]] = deque(maxlen=KEPT)
        self._new: list[tuple[FramedSocket | None, Held]] = []

    def add(self, sender: FramedSocket, held: Sequence[Held]) -> None:
        """A frontend sent these."""
        for one in held:
            self._kept.append((sender, one))
            self._new.append((sender, one))

    def kept(self) -> list[Held]:
        """For a frontend that has attached."""
        return [held for _, held in self._kept]

    def forget(self, frontend: FramedSocket) -> None:
        """A frontend is gone; what it sent still counts."""
        for names in (self._kept, self._new):
            for position, (sender, held) in enumerate(names):
                if sender is frontend:
                    names[position] = None, held

    def take(self, frontends: Sequence[FramedSocket]) -> Iterator[tuple[FramedSocket, list[Held]]]:
        """For each frontend that has to be told something, what others sent since the last time."""
        new, self._new = self._new, []
        if new and len(frontends) > 1:
            for frontend in frontends:
                if theirs := [held for sender, held in new if sender is not frontend]:
                    yield frontend, theirs
