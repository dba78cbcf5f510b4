"""Tokenization with a cache: a text is split at its special tokens, and the ids of each piece are cached.

Most pieces of a chat prompt have been seen before: the system message, and every turn but the last. The
tokenizer splits a text at special tokens before any other step, so the piece between two of them has the same
ids wherever it occurs, provided that no later step looks beyond its piece.
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
"""Size of the cache in bytes of memory."""
OVERHEAD = 200
"""Bytes per cache entry, in addition to the piece and its ids."""
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
"""Pre-tokenizers whose result does not depend on whether a piece is the first."""
_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Replace", "Prepend"}


def encode_whole(backend: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    """Encode a text without splitting it into pieces."""
    # A batch of one: unlike `encode` it releases the GIL, and computes no offsets.
    (encoding,) = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    ids: list[int] = encoding.ids
    return ids


class _Known(NamedTuple):
    ids: array[int]
    size: int
    """Bytes, as counted at insertion: the size of an equal string can differ (it may cache its UTF-8)."""


class PieceEncoder:
    """Encodes without adding special tokens. Thread-safe, with an LRU cache."""

    def __init__(self, backend: tokenizers.Tokenizer, splitting: list[str], budget: int = BUDGET) -> None:
        """`splitting`: the texts of the tokens at which a text is split."""
        self._backend = backend
        # Longest first: of several tokens that match at a position the tokenizer also takes the longest.
        longest_first = sorted(splitting, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first))})").split
        self._budget = budget
        self._known: dict[Key, _Known] = {}  # in order of use, least recent first
        self._size = 0
        self._lock = threading.Lock()

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> PieceEncoder | None:
        """The encoder for `backend`; None if the ids of a piece could depend on the text around it."""
        added = backend.get_added_tokens_decoder().values()
        splitting = [token for token in added if not token.normalized]
        if not splitting or any(map(_looks_around, splitting)):
            return None
        parts = [*_types(backend.pre_tokenizer), *_types(backend.normalizer)]
        if type(backend.model).__name__ != "BPE" or not set(parts) <= _PIECEWISE | _NORMALIZERS:
            return None
        return cls(backend, [token.content for token in splitting])

    def encode(self, text: str, salt: str | None = None) -> list[int]:
        """Token ids. Cache entries are separate per `salt`: timing reveals nothing across salts."""
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
        if size > self._budget // 8 or key in self._known:  # inserted by another thread meanwhile
            return
        self._known[key] = _Known(ids, size)
        self._size += size
        while self._size > self._budget:
            self._size -= self._known.pop(next(iter(self._known))).size


def _looks_around(token: AddedToken) -> bool:
    return bool(token.lstrip or token.rstrip or token.single_word)


def _types(part: PreTokenizer | Normalizer | None) -> list[str]:
    """Type names of a pre-tokenizer or normalizer, or of the members of a sequence of them."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    nested = [*state.get("pretokenizers", []), *state.get("normalizers", [])]
    return [item["type"] for item in nested] or [state["type"]]
