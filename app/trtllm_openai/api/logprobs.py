"""Log-probabilities in the two shapes of the wire, from the engine's TokenLogprobs."""

from __future__ import annotations

from typing import Any

from trtllm_openai.generation import TokenLogprobs
from trtllm_openai.text.choice import TextDelta
from trtllm_openai.text.tokenizer import Tokenizer

MIN_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


def chat_logprobs(tokenizer: Tokenizer, tokens: list[TokenLogprobs]) -> dict[str, Any]:
    """`choices[].logprobs` of a chat answer or chunk."""

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
    """`choices[].logprobs` of a completion or its chunk. Alternatives of equal text keep the likelier one.

    `shift`: characters of the choice's text that precede what was generated.
    """
    tokens = delta.logprobs or []
    return {
        "tokens": [tokenizer.token_text(token.token_id) for token in tokens],
        "token_logprobs": [max(token.logprob, MIN_LOGPROB) for token in tokens],
        "top_logprobs": [
            # Worst first, so that of two alternatives with one text the better is kept.
            {
                tokenizer.token_text(token_id): max(logprob, MIN_LOGPROB)
                for token_id, logprob in reversed(token.top)
            }
            for token in tokens
        ],
        "text_offset": [offset + shift for offset in delta.text_offsets],
    }
