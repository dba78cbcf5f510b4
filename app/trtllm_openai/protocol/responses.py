"""`/v1/responses`. The response objects are built in `api.responses.writer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

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
        presence_penalty: float | None = None
        frequency_penalty: float | None = None
else:
    ParameterFields = create_model(
        "ParameterFields",
        __base__=RequestModel,
        __module__=__name__,
        **parameter_fields([row for row in PARAMETERS if row.name != "max_tokens"]),
    )


class ConversationFields(RequestModel):
    """The fields of every route that reads a conversation."""

    model: str | None = None
    instructions: str | None = Field(None, description="A system message for this response only.")
    previous_response_id: str | None = Field(None, description="Continue from this stored response.")
    conversation: Any = Field(None, description="Refused: use previous_response_id.")
    prompt_cache_key: str | None = Field(
        None,
        description="Names the conversation: where there are several runners, its requests go to the same "
        "one if they can.",
    )
    prompt_cache_options: JsonObject | None = Field(None, description="A hint, without effect.")
    prompt_cache_retention: str | None = Field(None, description="A hint, without effect.")
    session_id: str | None = Field(None, description="The same, if there is no prompt_cache_key.")
    client_metadata: JsonObject | None = Field(None, description="The client's own, without effect.")
    service_tier: str | None = None


class CountedFields(ConversationFields):
    """The fields that a prompt follows from."""

    tools: FailFastList[JsonObject] | None = Field(
        None, description="function, namespace and custom; tools that only OpenAI can run are left out."
    )
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: JsonObject | None = Field(None, description="format: text, json_object or json_schema.")
    reasoning: JsonObject | None = Field(None, description="effort, passed to the chat template.")
    truncation: str | None = Field(None, description="disabled, the default, or auto: drop the beginning.")
    chat_template_kwargs: JsonObject | None = Field(
        None, description="Additional variables for the chat template."
    )
    documents: FailFastList[JsonObject] | None = Field(
        None, description="For chat templates that read documents, such as objects with title and text."
    )


class InputTokensRequest(CountedFields):
    """`/v1/responses/input_tokens`."""

    input: str | FailFastList[JsonObject] | None = None


class CompactRequest(ConversationFields):
    """`/v1/responses/compact`."""

    input: str | FailFastList[JsonObject] | None = None
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class ResponsesRequest(CountedFields, ParameterFields):
    input: str | FailFastList[JsonObject] = Field(
        description="A text, or items: messages, calls and what they returned, references to stored items."
    )
    store: bool | None = Field(None, description="Default true: store the response for later requests.")
    background: bool | None = Field(None, description="Return at once and generate in the background.")
    stream: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1), INTEGRAL] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1), INTEGRAL] | None = Field(
        None, description="Another name of max_output_tokens, which wins."
    )
    max_tokens: Annotated[int, Field(ge=1), INTEGRAL] | None = Field(
        None, description="Another name of max_output_tokens, which wins."
    )
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS), INTEGRAL] | None = None
    include: FailFastList[str] | None = Field(None, description="message.output_text.logprobs, or nothing.")
    metadata: Metadata | None = None
    stop: str | FailFastList[str] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    structured_outputs: JsonObject | None = Field(
        None, description="One of json, regex, choice, grammar, structural_tag or json_object: true."
    )
    thinking_token_budget: Annotated[int, Field(ge=0), INTEGRAL] | None = Field(
        None, description="Tokens of thinking after which its end is forced."
    )
    tool_strict: Literal["auto", "all", "none"] | None = Field(
        None, description="Whose calls are held to the schemas of the tools. Default: the server's setting."
    )
    prompt: Any = Field(None, description="Refused: there are no stored prompts.")
    max_tool_calls: int | None = Field(None, description="Of tools that OpenAI runs: without effect.")
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    stream_options: JsonObject | None = None


class ResponseObject(ResponseModel):
    """A response in its current state."""

    id: str
    object: str
    created_at: int
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
    completed_at: int | None
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    max_tool_calls: int | None
    service_tier: str
    safety_identifier: str | None
    prompt_cache_key: str | None


class CompactedResponse(ResponseModel):
    """The user's messages and a compaction item, to be the beginning of later input."""

    id: str
    object: str = "response.compaction"
    created_at: int
    output: list[JsonObject]
    usage: JsonObject


class InputTokens(ResponseModel):
    object: str = "response.input_tokens"
    input_tokens: int


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
