"""`/v1/completions`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trtllm_openai.protocol.common import (
    MAX_CHOICES,
    RESPONSE_FORMAT,
    JsonObject,
    PromptLogprobs,
    ResponseModel,
    SamplingFields,
    SparseModel,
    Usage,
)
from trtllm_openai.protocol.fields import INTEGRAL, FailFastList, TokenIds


class CompletionRequest(SamplingFields):
    # A union tries every branch, so each of them has to fail fast.
    prompt: str | FailFastList[str] | TokenIds | FailFastList[TokenIds] = Field(
        description="Text, texts, token ids, or lists of token ids."
    )
    logprobs: Annotated[int, Field(ge=0), INTEGRAL] | None = Field(
        None, description="How many alternatives to give for each token, beside the chosen one."
    )
    echo: bool | None = Field(None, description="Begin the text with the prompt; logprobs cover it too.")
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES), INTEGRAL] | None = Field(
        None, description="Generate this many and return the n of the highest log-probability per token."
    )
    suffix: str | None = Field(None, description="Refused.")
    response_format: Annotated[JsonObject, RESPONSE_FORMAT] | None = None


class CompletionLogprobs(ResponseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(SparseModel):
    sparse = ("token_ids", "prompt_token_ids", "prompt_logprobs")

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str
    stop_reason: str | int | None = Field(None, description="The stop string or stop token id that matched.")
    token_ids: list[int] | None = Field(None, description="With return_token_ids.")
    prompt_token_ids: list[int] | None = Field(None, description="With return_token_ids.")
    prompt_logprobs: PromptLogprobs | None = Field(None, description="With prompt_logprobs.")


class CompletionResponse(ResponseModel):
    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
