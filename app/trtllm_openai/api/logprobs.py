"""Formats the engine's TokenLogprobs as `logprobs` of chat and of legacy completions.

Alternatives contain the chosen token, also where it is not among the likeliest: completions then have one
more than was asked for, as OpenAI's do; in chat, where the number is fixed, it takes the place of the last.
"""

from __future__ import annotations

from typing import Any

from trtllm_openai.api.token_fields import MIN_LOGPROB, TokenFields
from trtllm_openai.generation import TokenLogprobs
from trtllm_openai.text.choice import TextDelta


def chat_logprobs(fields: TokenFields, tokens: list[TokenLogprobs]) -> dict[str, Any]:
    """`choices[].logprobs` of a chat response or chunk."""
    count = fields.logprobs or 0

    def one(token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": fields.name(token_id),
            "logprob": max(logprob, MIN_LOGPROB),
            "bytes": list(fields.tokenizer.token_bytes(token_id)),
        }

    def alternatives(token: TokenLogprobs) -> list[tuple[int, float]]:
        top = token.top[:count]
        if count and all(token_id != token.token_id for token_id, _ in top):
            top = [*top[: count - 1], (token.token_id, token.logprob)]
        return top

    content = [
        {
            **one(token.token_id, token.logprob),
            "top_logprobs": [one(*alternative) for alternative in alternatives(token)],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(fields: TokenFields, delta: TextDelta, shift: int = 0) -> dict[str, Any]:
    """`choices[].logprobs` of a completion or its chunk.

    Of alternatives with the same text the chosen one is kept, else the most likely. `shift`: offset in
    characters of the generated text within the choice's text.
    """
    tokens = delta.logprobs or []
    return {
        "tokens": [fields.name(token.token_id) for token in tokens],
        "token_logprobs": [max(token.logprob, MIN_LOGPROB) for token in tokens],
        "top_logprobs": [_by_name(fields, token) for token in tokens],
        "text_offset": [offset + shift for offset in delta.text_offsets],
    }


def _by_name(fields: TokenFields, token: TokenLogprobs) -> dict[str, float]:
    found: dict[str, float] = {}
    for token_id, logprob in token.top[: fields.logprobs or 0]:
        found.setdefault(fields.name(token_id), max(logprob, MIN_LOGPROB))
    found[fields.name(token.token_id)] = max(token.logprob, MIN_LOGPROB)
    return found
