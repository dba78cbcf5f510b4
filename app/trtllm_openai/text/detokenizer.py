"""Token ids to text, one token at a time: never a half character early, never anything lost at the end."""

from __future__ import annotations

import codecs
from collections.abc import Container

from trtllm_openai.text.tokenizer import Tokenizer

_utf8 = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """The text of one sequence. Special tokens have none."""

    __slots__ = ("_decoder", "_partial", "_shown", "_tokenizer", "_whole")

    def __init__(self, tokenizer: Tokenizer, shown: Container[int] = ()) -> None:
        """`shown`: special tokens whose text is wanted all the same."""
        self._tokenizer = tokenizer
        self._whole = tokenizer.whole_texts
        self._shown = shown
        self._decoder = _utf8("replace")
        self._partial = False

    def push(self, token_id: int) -> str:
        """The characters that `token_id` completes."""
        if not self._partial and (whole := self._whole[token_id]) is not None:
            return whole
        if self._tokenizer.is_special(token_id) and token_id not in self._shown:
            return ""
        text = self._decoder.decode(self._tokenizer.token_bytes(token_id))
        self._partial = bool(self._decoder.getstate()[0])
        return text

    def flush(self) -> str:
        """U+FFFD if the sequence ended inside a character, else nothing."""
        self._partial = False
        return self._decoder.decode(b"", True)
