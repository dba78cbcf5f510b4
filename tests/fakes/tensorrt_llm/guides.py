"""Answers that follow a guide, as XGrammar's matcher inside the executor makes them."""

from typing import Any

ENDING = ("}", "]", '"', "0", ":", ",", "{")
"""Tokens that come first where they are allowed: they end a JSON text soon."""


class Follower:
    """Picks the tokens of one answer. `compiled`: XGrammar's compiled grammar."""

    def __init__(self, compiled: Any, vocabulary: list[str], vocab_size: int, end_ids: list[int]) -> None:
        import xgrammar

        self._xgrammar = xgrammar
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._mask = xgrammar.allocate_token_bitmask(1, vocab_size)
        self._preferred = [*end_ids, *(vocabulary.index(text) for text in ENDING)]
        self._vocab_size = vocab_size

    def next(self) -> int:
        """The next token: an end token where the text may end."""
        if self._matcher.is_terminated():
            return self._preferred[0]
        self._matcher.fill_next_token_bitmask(self._mask)
        words = self._mask[0].tolist()
        candidates = (*self._preferred, *range(self._vocab_size))
        token: int = next(one for one in candidates if words[one // 32] >> (one % 32) & 1)
        self._matcher.accept_token(token)
        return token
