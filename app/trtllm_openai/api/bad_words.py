"""`bad_words` of a request as sequences of token ids that the engine must not generate."""

from __future__ import annotations

from trtllm_openai.api.conversation import encode_all
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.text.tokenizer import Tokenizer

MAX_TOKENS = 64
"""Tokens of one word. Every generated token is compared with those of all words."""

BadWords = tuple[tuple[int, ...], ...]


def tokenized(tokenizer: Tokenizer, words: list[str] | None, salt: str | None) -> BadWords:
    """The tokens of each word as they are in the middle of a text, after a space, and at its beginning.

    `salt`: that of `api.prefixes`. Raises `InvalidRequest` for a word that is blank or too long.
    """
    found: dict[tuple[int, ...], None] = {}
    for index, word in enumerate(words or ()):
        param = f"bad_words[{index}]"
        bare = word.lstrip()
        if not bare:
            raise InvalidRequest(f"'{param}' must not be blank.", param)
        forms = encode_all(tokenizer, [bare, f" {bare}"], param, add_special_tokens=False, salt=salt)
        for ids in forms:
            if len(ids) > MAX_TOKENS:
                raise InvalidRequest(f"'{param}' has {len(ids)} tokens, more than {MAX_TOKENS}.", param)
            if ids:
                found[tuple(ids)] = None
    return tuple(found)
