"""`/v1/responses`. The response objects are built in `api.responses.writer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, create_model

from trtllm_openai.generation.parameters import PARAMETERS
from trtllm_openai.protocol.chat import MAX_TOP_LOGPROBS
from trtllm_openai.protocol.common import JsonObject, RequestModel, ResponseModel
from trtllm_openai.protocol.fields import INTEGRAL, FailFastList, Metadata, parameter_fields

if TYPE_CHECKING:

    class ParameterFields(RequestModel):
        """The fields of the parameter table, as far as they are read other than by name."""

        temperature: float | None = None
        top_p: float | None = None
else:
    ParameterFields = create_model(
        "ParameterFields",
        __base__=RequestModel,
        __module__=__name__,
        **parameter_fields([row for row in PARAMETERS if row.parameter.in_responses]),
    )


class ResponsesRequest(ParameterFields):
    input: str | FailFastList[JsonObject] = Field(
        description="A text, or items: messages, function_call and function_call_output."
    )
    model: str | None = None
    instructions: str | None = Field(None, description="A system message for this response only.")
    previous_response_id: str | None = Field(None, description="Continue from this stored response.")
    store: bool | None = Field(None, description="Default true: store the response for later requests.")
    background: bool | None = Field(None, description="Return at once and generate in the background.")
    stream: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1), INTEGRAL] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS), INTEGRAL] | None = None
    tools: FailFastList[JsonObject] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: JsonObject | None = Field(None, description="format: text, json_object or json_schema.")
    reasoning: JsonObject | None = Field(None, description="effort, passed to the chat template.")
    include: FailFastList[str] | None = Field(None, description="message.output_text.logprobs, or nothing.")
    metadata: Metadata | None = None
    truncation: str | None = Field(None, description="disabled, the default, or auto: drop the beginning.")
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    stream_options: JsonObject | None = None


class ResponseObject(ResponseModel):
    """A response in its current state."""

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
