"""`/v1/responses`. What it returns is built in `api.responses.writer`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from trtllm_openai.protocol.chat import MAX_TOP_LOGPROBS
from trtllm_openai.protocol.common import JsonObject, RequestModel, ResponseModel


class ResponsesRequest(RequestModel):
    input: str | list[JsonObject] = Field(
        description="A text, or items: messages, function_call and function_call_output."
    )
    model: str | None = None
    instructions: str | None = Field(None, description="A system message for this answer alone.")
    previous_response_id: str | None = Field(None, description="Go on from this stored answer.")
    store: bool | None = Field(None, description="Default true: keep the answer for later requests.")
    background: bool | None = Field(None, description="Answer at once, generate on; see retrieve and cancel.")
    stream: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    tools: list[JsonObject] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: JsonObject | None = Field(None, description="format: text, json_object or json_schema.")
    reasoning: JsonObject | None = Field(None, description="effort, given to the chat template.")
    include: list[str] | None = Field(None, description="message.output_text.logprobs, or nothing.")
    metadata: dict[str, str] | None = None
    truncation: str | None = Field(None, description="disabled, the default, or auto: drop the beginning.")
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    stream_options: JsonObject | None = None


class ResponseObject(ResponseModel):
    """An answer, as it stands."""

    id: str
    object: str
    created_at: float
    status: str
    model: str
    output: list[JsonObject]
    error: JsonObject | None
    incomplete_details: JsonObject | None
    instructions: str | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: str | None
    temperature: float
    top_p: float
    tool_choice: Any
    tools: list[JsonObject]
    max_output_tokens: int | None
    background: bool
    store: bool
    text: JsonObject
    reasoning: JsonObject
    truncation: str
    usage: JsonObject | None
    user: str | None
    completed_at: float | None
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    max_tool_calls: int | None
    service_tier: str
    safety_identifier: str | None
    prompt_cache_key: str | None


class ResponseDeleted(ResponseModel):
    id: str
    object: str = "response"
    deleted: bool = True


class InputItems(ResponseModel):
    object: str = "list"
    data: list[JsonObject]
    first_id: str | None
    last_id: str | None
    has_more: bool = False
