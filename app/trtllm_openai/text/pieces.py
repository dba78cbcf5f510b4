"""Encoding a text piece by piece, between the special tokens in it, and remembering the pieces.

A chat prompt is pieces that were seen before: the system message, every turn but the last. A special token
splits a text before anything else looks at it, so that what lies between two of them has the same ids
wherever it stands, if the rest of the tokenizer looks at one piece at a time.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from array import array
from typing import NamedTuple

import tokenizers
from tokenizers import AddedToken
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

BUDGET = 16 << 20
"""Bytes of memory for what is remembered."""
OVERHEAD = 200
"""Bytes that the table takes for a piece, beside the piece itself and its ids."""
Key = str | tuple[str, str]
"""A piece, or a salt and a piece."""
_PIECEWISE = {
    "ByteLevel",
    "Split",
    "Digits",
    "Punctuation",
    "Whitespace",
    "WhitespaceSplit",
    "BertPreTokenizer",
}
"""Pre-tokenizers that do not ask whether a piece is the first."""
_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Replace", "Prepend"}


def encode_whole(backend: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    """Token ids of a text that is not taken apart."""
    # A batch of one: unlike `encode` it lets other threads run, and spares the offsets.
    (encoding,) = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    ids: list[int] = encoding.ids
    return ids


class _Known(NamedTuple):
    ids: array[int]
    size: int
    """Bytes of memory, as it was counted: an equal text may take more or less (it may keep its UTF-8)."""


class PieceEncoder:
    """Encodes without adding special tokens. May be called from any thread."""

    def __init__(self, backend: tokenizers.Tokenizer, splitting: list[str], budget: int = BUDGET) -> None:
        """`splitting`: the text of every token that splits a text."""
        self._backend = backend
        # The longest first, since the tokenizer too takes the longest of those that begin at one place.
        longest_first = sorted(splitting, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first))})").split
        self._budget = budget
        self._known: dict[Key, _Known] = {}  # the least recently used first
        self._size = 0
        self._lock = threading.Lock()

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> PieceEncoder | None:
        """None where the ids of a piece depend on what is around it, or may."""
        added = backend.get_added_tokens_decoder().values()
        splitting = [token for token in added if not token.normalized]
        if not splitting or any(map(_looks_around, splitting)):
            return None
        parts = [*_types(backend.pre_tokenizer), *_types(backend.normalizer)]
        if type(backend.model).__name__ != "BPE" or not set(parts) <= _PIECEWISE | _NORMALIZERS:
            return None
        return cls(backend, [token.content for token in splitting])

    def encode(self, text: str, salt: str | None = None) -> list[int]:
        """Token ids. What one `salt` has had remembered another does not find."""
        ids: list[int] = []
        for piece in self._split(text):
            if piece:
                ids += self._ids(piece, salt)
        return ids

    def _ids(self, piece: str, salt: str | None) -> array[int]:
        key: Key = (salt, piece) if salt else piece
        with self._lock:
            known = self._known.pop(key, None)
            if known is not None:
                self._known[key] = known
                return known.ids
        ids = array("I", encode_whole(self._backend, piece, add_special_tokens=False))
        with self._lock:
            self._remember(key, ids)
        return ids

    def _remember(self, key: Key, ids: array[int]) -> None:
        text = key if isinstance(key, str) else key[1]
        size = sys.getsizeof(text) + sys.getsizeof(ids) + OVERHEAD
        if size > self._budget // 8 or key in self._known:  # the latter by another thread
            return
        self._known[key] = _Known(ids, size)
        self._size += size
        while self._size > self._budget:
            self._size -= self._known.pop(next(iter(self._known))).size


def _looks_around(token: AddedToken) -> bool:
    return bool(token.lstrip or token.rstrip or token.single_word)


def _types(part: PreTokenizer | Normalizer | None) -> list[str]:
    """The types of what a pre-tokenizer or normalizer consists of."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    nested = [*state.get("pretokenizers", []), *state.get("normalizers", [])]
    return [item["type"] for item in nested] or [state["type"]]
