"""Models for the OpenAPI document only: request parts that are parsed by hand elsewhere, and stream chunks.

Tests validate real chunks against these models.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from trtllm_openai.protocol.chat import ChatLogprobs
from trtllm_openai.protocol.common import JsonObject, PromptLogprobs, ResponseModel, Usage
from trtllm_openai.protocol.completions import CompletionLogprobs


class TextPart(ResponseModel):
    type: Literal["text", "input_text", "output_text", "refusal"]
    text: str | None = None
    refusal: str | None = None


class CalledFunction(ResponseModel):
    name: str
    arguments: str


class MadeToolCall(ResponseModel):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(ResponseModel):
    role: str = Field(
        description="system, developer, user, assistant, tool or one of the chat template's own."
    )
    content: str | list[TextPart] | None = Field(None, description="Null only for an assistant's tool calls.")
    name: str | None = None
    tool_calls: list[MadeToolCall] | None = None
    tool_call_id: str | None = None


class FunctionDefinition(ResponseModel):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: JsonObject | None = Field(None, description="A JSON schema.")
    strict: bool | None = None


class Tool(ResponseModel):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(ResponseModel):
    name: str


class NamedTool(ResponseModel):
    type: Literal["function"]
    function: NamedFunction


class JsonSchemaFormat(ResponseModel):
    name: str | None = None
    json_schema: JsonObject = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(ResponseModel):
    """Also a JSON schema as it is, whose `type` is object, array or another type of JSON."""

    type: Literal["text", "json_object", "json_schema", "json", "regex", "ebnf", "structural_tag"]
    json_schema: JsonSchemaFormat | None = None
    json_form: JsonObject | None = Field(
        None, alias="schema", description="With json, and with json_object if it has one."
    )
    regex: str | None = None
    ebnf: str | None = Field(None, description="From the rule root.")
    format: JsonObject | None = Field(None, description="A structural tag in XGrammar's format.")


class ToolCallDelta(ResponseModel):
    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: JsonObject


class ChatDelta(ResponseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(ResponseModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "abort"] | None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


class ChatCompletionChunk(ResponseModel):
    """One event of a streamed chat. The stream ends with the event `[DONE]`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = Field(None, description="In the first chunk.")
    prompt_logprobs: PromptLogprobs | None = Field(None, description="In the first chunk.")


class CompletionChunkChoice(ResponseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length", "abort"] | None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = Field(None, description="In the first chunk of a choice.")
    prompt_logprobs: PromptLogprobs | None = Field(None, description="In the first chunk of a choice.")


class CompletionChunk(ResponseModel):
    """One event of a streamed completion. The stream ends with the event `[DONE]`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: Usage | None = None


class TextBlock(ResponseModel):
    type: Literal["text"]
    text: str


class ConversationTurn(ResponseModel):
    """A message of `/v1/messages`. Other blocks: thinking, tool_use, tool_result, document, search_result."""

    role: Literal["user", "assistant", "system"]
    content: str | list[TextBlock]


class CustomTool(ResponseModel):
    type: Literal["custom"] | None = None
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
    description: str | None = None
    input_schema: JsonObject = Field(description="A JSON schema.")


class MessageStreamEvent(ResponseModel):
    """One event of a streamed message; further fields depend on its type."""

    type: Literal[
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "ping",
    ]
    message: JsonObject | None = None
    index: int | None = None
    content_block: JsonObject | None = None
    delta: JsonObject | None = None
    usage: JsonObject | None = None


class ResponseStreamEvent(ResponseModel):
    """One event of a streamed response; further fields depend on its type."""

    type: str
    sequence_number: int
    response: JsonObject | None = None
    item: JsonObject | None = None
    part: JsonObject | None = None
    delta: str | None = None
    text: str | None = None
    arguments: str | None = None
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    logprobs: list[Any] | None = None
