"""Formats the engine's TokenLogprobs as `logprobs` of chat and of legacy completions."""

from __future__ import annotations

from typing import Any

from trtllm_openai.generation import TokenLogprobs
from trtllm_openai.text.choice import TextDelta
from trtllm_openai.text.tokenizer import Tokenizer

MIN_LOGPROB = -9999.0
"""Replaces minus infinity, which JSON cannot represent."""


def chat_logprobs(tokenizer: Tokenizer, tokens: list[TokenLogprobs]) -> dict[str, Any]:
    """`choices[].logprobs` of a chat response or chunk."""

    def one(token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": tokenizer.token_text(token_id),
            "logprob": max(logprob, MIN_LOGPROB),
            "bytes": list(tokenizer.token_bytes(token_id)),
        }

    content = [
        {
            **one(token.token_id, token.logprob),
            "top_logprobs": [one(*alternative) for alternative in token.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokenizer: Tokenizer, delta: TextDelta, shift: int = 0) -> dict[str, Any]:
    """`choices[].logprobs` of a completion or its chunk.

    Of alternatives with the same text the most likely is kept. `shift`: offset in characters of the generated
    text within the choice's text.
    """
    tokens = delta.logprobs or []
    return {
        "tokens": [tokenizer.token_text(token.token_id) for token in tokens],
        "token_logprobs": [max(token.logprob, MIN_LOGPROB) for token in tokens],
        "top_logprobs": [
            # Least likely first, so that the most likely of several with the same text overwrites the rest.
            {
                tokenizer.token_text(token_id): max(logprob, MIN_LOGPROB)
                for token_id, logprob in reversed(token.top)
            }
            for token in tokens
        ],
        "text_offset": [offset + shift for offset in delta.text_offsets],
    }
