"""Incremental detokenization: emits whole characters only, and loses nothing at the end of the sequence."""

from __future__ import annotations

import codecs
from collections.abc import Container

from trtllm_openai.text.tokenizer import Tokenizer

_utf8 = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Detokenizer of one sequence. Skips special tokens."""

    __slots__ = ("_decoder", "_partial", "_tokenizer", "_visible", "_whole")

    def __init__(self, tokenizer: Tokenizer, visible_special_ids: Container[int] = ()) -> None:
        """`visible_special_ids`: special tokens that are not skipped."""
        self._tokenizer = tokenizer
        self._whole = tokenizer.whole_texts
        self._visible = visible_special_ids
        self._decoder = _utf8("replace")
        self._partial = False

    def push(self, token_id: int) -> str:
        """Returns the characters that `token_id` completes."""
        if not self._partial and (whole := self._whole[token_id]) is not None:
            return whole
        if self._tokenizer.is_special(token_id) and token_id not in self._visible:
            return ""
        text = self._decoder.decode(self._tokenizer.token_bytes(token_id))
        self._partial = bool(self._decoder.getstate()[0])
        return text

    def flush(self) -> str:
        """Returns U+FFFD if the sequence ended in the middle of a character, else an empty string."""
        self._partial = False
        return self._decoder.decode(b"", True)
