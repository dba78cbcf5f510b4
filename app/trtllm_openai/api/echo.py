"""`echo`: of completions the prompt as part of the choice, with its log-probabilities if requested; of a chat
the last message at the beginning of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trtllm_openai.api.logprobs import completion_logprobs
from trtllm_openai.api.token_fields import TokenFields
from trtllm_openai.chat.messages import normalise
from trtllm_openai.generation import TokenLogprobs
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.text.choice import TextDelta
from trtllm_openai.text.detokenizer import Detokenizer
from trtllm_openai.text.events import Content, Reasoning
from trtllm_openai.text.tokenizer import Tokenizer


def echoed_message(body: ChatRequest) -> list[Content | Reasoning]:
    """The last message, if the answer is one of the same role: the assistant's, or it is continued.

    Of a message whose thinking is continued that is the thinking.
    """
    (last,) = normalise(body.messages[-1:])
    begun = body.add_generation_prompt is not False and not body.continue_final_message
    if begun and last["role"] != "assistant":
        return []
    thinking = last.get("reasoning_content")
    if body.continue_final_message and not last["content"] and isinstance(thinking, str) and thinking:
        return [Reasoning(thinking)]
    return [Content(last["content"])] if last["content"] else []


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt to echo. `text_offsets`: index in `text` of each prompt token."""

    token_ids: list[int]
    text: str
    text_offsets: list[int]

    @classmethod
    def of(cls, tokenizer: Tokenizer, token_ids: list[int], text: str | None) -> Echo:
        """`text`: the prompt as the client wrote it; None if the client sent token ids."""
        detokenizer = Detokenizer(tokenizer)
        pieces: list[str] = []
        offsets = []
        length = 0
        for token in token_ids:
            offsets.append(length)
            piece = detokenizer.push(token)
            length += len(piece)
            pieces.append(piece)
        decoded = "".join(pieces) + detokenizer.flush()
        return cls(token_ids, decoded if text is None else text, offsets)

    def logprobs(self, fields: TokenFields, values: list[TokenLogprobs | None] | None) -> dict[str, Any]:
        """The prompt's `choices[].logprobs`; null for the first token, which has no prediction."""
        known = [value for value in values or () if value is not None]
        rest = completion_logprobs(fields, TextDelta(logprobs=known))
        first = len(self.token_ids) - len(known)
        return {
            "tokens": [fields.name(token) for token in self.token_ids],
            "token_logprobs": [None] * first + rest["token_logprobs"],
            "top_logprobs": [None] * first + rest["top_logprobs"],
            "text_offset": self.text_offsets,
        }
