"""`/tokenize` and `/detokenize`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from trtllm_openai.protocol.common import JsonObject, RequestModel, ResponseModel
from trtllm_openai.protocol.fields import FailFastList, TokenIds


class TokenizeRequest(RequestModel):
    """All but `model`, `prompt` and the two about tokens are for messages, and refused beside a text."""

    model: str | None = None
    prompt: str | None = Field(None, description="A text; or else messages.")
    messages: Annotated[FailFastList[JsonObject], Field(min_length=1)] | None = None
    tools: FailFastList[JsonObject] | None = None
    tool_choice: Any = Field(None, description="none leaves the tools out of the prompt.")
    add_special_tokens: bool | None = Field(None, description="Default: true for a text, false for messages.")
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: JsonObject | None = None
    documents: FailFastList[JsonObject] | None = None
    reasoning_effort: str | None = None
    return_token_strs: bool | None = None


class TokenizeResponse(ResponseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(RequestModel):
    model: str | None = None
    tokens: TokenIds
    skip_special_tokens: bool | None = Field(None, description="Default true: special tokens have no text.")


class DetokenizeResponse(ResponseModel):
    prompt: str
