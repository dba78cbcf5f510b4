"""A choice of a response: one sequence in the engine, and the text decoded from it."""

from __future__ import annotations

from dataclasses import dataclass

from trtllm_openai.generation import GenerationRequest, TokenLogprobs
from trtllm_openai.text.choice import ChoiceDecoder, TextDelta


@dataclass(slots=True)
class Choice:
    """`index`: its index on the wire. `first`: first choice of its prompt, whose tokens count once."""

    index: int
    request: GenerationRequest
    decoder: ChoiceDecoder
    first: bool = True
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    """Log-probabilities of the prompt's tokens, once they are known, when the request asked for them."""
    finish_reason: str | None = None
    begun: bool = False
    """Whether the engine has produced any output for it."""


Delta = tuple[Choice, TextDelta]
"""New text of a choice."""
