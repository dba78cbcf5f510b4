"""Fields about tokens in answers of chat and completions: which are asked for, and their form.

`return_token_ids`, `return_tokens_as_token_ids` and `prompt_logprobs` are those of vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trtllm_openai.api.choice import Choice
from trtllm_openai.generation import TokenLogprobs
from trtllm_openai.protocol.common import SamplingFields
from trtllm_openai.text.choice import TextDelta
from trtllm_openai.text.tokenizer import Tokenizer

MIN_LOGPROB = -9999.0
"""Replaces minus infinity, which JSON cannot represent."""


@dataclass(frozen=True, slots=True)
class TokenFields:
    """The fields about tokens that a request asks for.

    `logprobs`, `prompt_logprobs`: alternatives for each token; None means no log-probabilities. `ids`: token
    ids beside the text. `as_ids`: log-probabilities name tokens as `token_id:5` instead of by their text.
    """

    tokenizer: Tokenizer
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    ids: bool = False
    as_ids: bool = False

    @classmethod
    def of(cls, tokenizer: Tokenizer, body: SamplingFields, logprobs: int | None) -> TokenFields:
        """The fields that `body` asks for. `logprobs`: alternatives, which endpoints ask for differently."""
        return cls(
            tokenizer,
            logprobs,
            body.prompt_logprobs,
            bool(body.return_token_ids),
            bool(body.return_tokens_as_token_ids),
        )

    def name(self, token_id: int) -> str:
        """The token as log-probabilities name it."""
        return f"token_id:{token_id}" if self.as_ids else self.tokenizer.token_text(token_id)

    def of_prompt(self, choice: Choice) -> dict[str, Any]:
        """`prompt_token_ids` and `prompt_logprobs`, as far as they are asked for."""
        fields: dict[str, Any] = {}
        if self.ids:
            fields["prompt_token_ids"] = choice.request.prompt_token_ids
        if self.prompt_logprobs is not None:
            fields["prompt_logprobs"] = [
                value and self._of_prompt_token(value, self.prompt_logprobs)
                for value in choice.prompt_logprobs or ()
            ]
        return fields

    def of_delta(self, delta: TextDelta) -> dict[str, Any]:
        """`token_ids` of generated tokens, if they are asked for."""
        return {"token_ids": delta.token_ids or []} if self.ids else {}

    def _of_prompt_token(self, token: TokenLogprobs, count: int) -> dict[str, Any]:
        """The token and its `count` likeliest alternatives by id, the prompt's own token first."""
        ranked = {token.token_id: (token.logprob, token.rank)}
        for rank, (token_id, logprob) in enumerate(token.top[:count], 1):
            ranked.setdefault(token_id, (logprob, rank))
        return {
            str(token_id): {
                "logprob": max(logprob, MIN_LOGPROB),
                "rank": rank,
                "decoded_token": self.tokenizer.token_text(token_id),
            }
            for token_id, (logprob, rank) in ranked.items()
        }
