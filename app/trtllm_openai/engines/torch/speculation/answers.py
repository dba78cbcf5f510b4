"""Earlier answers, kept to draft from: within bounds, and apart for each cache salt.

A salt covers the API key and the request's `cache_salt`, as in the prefix cache (`engines.torch.block_pool`):
a text never influences the drafts, and with them the latency, of a request with another salt.
"""

from __future__ import annotations

from collections import OrderedDict

from trtllm_openai.engines.torch.speculation.matching import LONGEST, SEPARATOR, TokenBuffer, Tokens

MOST_OF_A_SALT = 32_768
"""Tokens kept for one salt: a search reads all of them."""
SHORTEST_ANSWER = 8


class Answers:
    """At most `most` tokens of answers, 4 bytes each; the least recently used salts are dropped first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of_a_salt = min(most, MOST_OF_A_SALT)
        self._buffers: OrderedDict[str | None, TokenBuffer] = OrderedDict()
        self.total = 0
        """Number of tokens kept."""

    def add(self, salt: str | None, prompt: list[int], answer: list[int]) -> None:
        """Keep an answer, after the end of its prompt: what a text began with can be drafted too."""
        if len(answer) < SHORTEST_ANSWER or not self._most:
            return
        buffer = self._buffers.setdefault(salt, TokenBuffer(self._of_a_salt))
        self._buffers.move_to_end(salt)
        self.total -= len(buffer)
        buffer.extend([SEPARATOR, *prompt[-LONGEST:], *answer])
        self.total += len(buffer)
        while self.total > self._most:
            _, dropped = self._buffers.popitem(last=False)
            self.total -= len(dropped)

    def of(self, salt: str | None) -> Tokens | None:
        """The answers of a salt, with `SEPARATOR` before each; None if there are none."""
        buffer = self._buffers.get(salt)
        if buffer is None:
            return None
        self._buffers.move_to_end(salt)
        return buffer.tokens
