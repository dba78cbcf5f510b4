"""`/v1/messages` and `/v1/messages/count_tokens`, Anthropic's API.

Content blocks and tools are read in `api.messages`: their kinds are open, and a kind that cannot be served is
refused, or left out, by its own name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import ConfigDict, Field, WithJsonSchema, create_model

from trtllm_openai.generation.parameters import PARAMETERS
from trtllm_openai.protocol.common import JsonObject, RequestModel, ResponseModel
from trtllm_openai.protocol.fields import INTEGRAL, FailFastList, parameter_fields

OWN_PARAMETERS = tuple(row for row in PARAMETERS if row.name != "max_tokens")
"""Sampling parameters by the names that they have on the other routes; some are Anthropic's names too."""

if TYPE_CHECKING:

    class ParameterFields(RequestModel):
        """The fields of the parameter table, as far as they are read other than by name."""

        cache_salt: str | None = None
else:
    ParameterFields = create_model(
        "ParameterFields", __base__=RequestModel, __module__=__name__, **parameter_fields(OWN_PARAMETERS)
    )

_TURN = WithJsonSchema({"$ref": "#/components/schemas/ConversationTurn"})
_TOOL = WithJsonSchema({"$ref": "#/components/schemas/CustomTool"})
_BLOCK = WithJsonSchema({"$ref": "#/components/schemas/TextBlock"})


class Thinking(RequestModel):
    """Whether the model thinks first, if its chat template knows the variable `enable_thinking`."""

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: Annotated[int, Field(ge=1), INTEGRAL] | None = None
    display: Literal["summarized", "omitted"] | None = Field(
        None, description="omitted: thinking blocks come without their text."
    )


class ToolChoice(RequestModel):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(None, description="Of the tool, with the type tool.")
    disable_parallel_tool_use: bool | None = None


class OutputConfig(RequestModel):
    effort: str | None = Field(None, description="The chat template's reasoning_effort.")
    format: JsonObject | None = Field(None, description="A json_schema with its schema.")


class CountTokensRequest(RequestModel):
    """The fields from which the prompt is made."""

    model: str | None = Field(None, description="A model id of /v1/models. Default: the served model.")
    messages: Annotated[FailFastList[Annotated[JsonObject, _TURN]], Field(min_length=1)]
    system: str | FailFastList[Annotated[JsonObject, _BLOCK]] | None = None
    tools: FailFastList[Annotated[JsonObject, _TOOL]] | None = Field(
        None,
        description="Custom tools; those that Anthropic runs are left out, and named in x-ignored-params.",
    )
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: JsonObject | None = Field(
        None, description="Additional variables for the chat template."
    )
    cache_control: JsonObject | None = Field(None, description="Accepted: prefixes are cached anyway.")
    context_management: JsonObject | None = Field(None, description="Accepted, without effect.")
    speed: str | None = None


_EXAMPLE: JsonObject = {
    "max_tokens": 1000,
    "system": "Be brief.",
    "messages": [{"role": "user", "content": "What is the weather in Seoul?"}],
    "tools": [
        {
            "name": "get_weather",
            "description": "The weather of a city.",
            "input_schema": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        }
    ],
    "tool_choice": {"type": "auto"},
}


class MessagesRequest(CountTokensRequest, ParameterFields):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    max_tokens: Annotated[int, Field(ge=1), INTEGRAL]
    stream: bool | None = None
    stop_sequences: FailFastList[str] | None = None
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Seconds after which the request ends with 504."
    )
    metadata: JsonObject | None = Field(None, description="user_id; without effect.")
    service_tier: str | None = None
    inference_geo: str | None = None


class MessageObject(ResponseModel):
    """A complete answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[JsonObject]
    stop_reason: str | None
    stop_sequence: str | None
    usage: JsonObject


class TokenCount(ResponseModel):
    input_tokens: int


class AnthropicErrorDetail(ResponseModel):
    type: str
    message: str


class AnthropicErrorResponse(ResponseModel):
    """The body of every error response of these routes."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str | None
