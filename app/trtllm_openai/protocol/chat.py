"""`/v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, WithJsonSchema, model_serializer

from trtllm_openai.protocol.common import (
    RESPONSE_FORMAT,
    JsonObject,
    PromptLogprobs,
    ResponseModel,
    SamplingFields,
    SparseModel,
    Usage,
    shown_as,
)
from trtllm_openai.protocol.fields import INTEGRAL, FailFastList, Metadata

MAX_TOP_LOGPROBS = 20


TOOL_CHOICE = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        {"$ref": "#/components/schemas/NamedTool"},
        {"type": "null"},
    ]
}


class PredictionPart(BaseModel):
    type: str = Field(description="text")
    text: str


class Prediction(BaseModel):
    """A text that the answer is expected to repeat in part."""

    type: str = Field(description="content")
    content: str | FailFastList[PredictionPart]


class ChatRequest(SamplingFields):
    messages: Annotated[FailFastList[Annotated[JsonObject, shown_as("ChatMessage")]], Field(min_length=1)] = (
        Field(description="The conversation: objects with a role and a content (text or text parts).")
    )
    max_completion_tokens: Annotated[int, Field(ge=1), INTEGRAL] | None = Field(
        None, description="Wins over max_tokens. Default: the rest of the context."
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS), INTEGRAL] | None = None
    tools: FailFastList[Annotated[JsonObject, shown_as("Tool")]] | None = None
    tool_choice: Annotated[Any, WithJsonSchema(TOOL_CHOICE)] = None
    functions: FailFastList[JsonObject] | None = None
    response_format: Annotated[JsonObject, RESPONSE_FORMAT] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = Field(
        None, description="Passed to the chat template; also sets its enable_thinking, to false for none."
    )
    thinking_token_budget: Annotated[int, Field(ge=0), INTEGRAL] | None = Field(
        None, description="Tokens of thinking after which its end is forced."
    )
    include_reasoning: bool | None = Field(None, description="false leaves the reasoning out of the answer.")
    tool_strict: Literal["auto", "all", "none"] | None = Field(
        None, description="Whose calls are held to the schemas of the tools. Default: the server's setting."
    )
    chat_template_kwargs: JsonObject | None = Field(
        None, description="Additional variables for the chat template."
    )
    add_generation_prompt: bool | None = Field(
        None, description="Default true, unless continue_final_message is."
    )
    continue_final_message: bool | None = Field(
        None, description="Continue the last message instead of starting a new one."
    )
    echo: bool | None = Field(
        None,
        description="Begin the answer with the last message, if that is the assistant's or the prompt has no "
        "beginning of an answer.",
    )
    documents: FailFastList[JsonObject] | None = Field(
        None, description="For chat templates that read documents, such as objects with title and text."
    )
    chat_template: Any = Field(None, description="Refused: client templates are not evaluated.")
    prompt_token_ids: Any = Field(None, description="Refused: use /v1/completions.")
    function_call: Any = None
    modalities: FailFastList[str] | None = None
    audio: Any = Field(None, description="Refused: this server generates text.")
    web_search_options: Any = Field(None, description="Refused: this server does not search.")
    metadata: Metadata | None = None
    store: bool | None = None
    service_tier: str | None = None
    prediction: Prediction | None = Field(
        None,
        description="What the answer will be like. With speculative decoding it comes faster where that is "
        "so; elsewhere this is ignored.",
    )


class TopLogprob(ResponseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(ResponseModel):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(ResponseModel):
    content: list[TokenLogprob]
    refusal: None = None


class FunctionCall(ResponseModel):
    name: str
    arguments: str


class ToolCall(ResponseModel):
    id: str
    type: str = "function"
    function: FunctionCall


class AssistantMessage(ResponseModel):
    role: str
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    reasoning: str | None = Field(None, description="The same, with the setting reasoning_field.")
    tool_calls: list[ToolCall] | None = None

    @model_serializer(mode="wrap")
    def _omit_missing(self, handler: SerializerFunctionWrapHandler) -> JsonObject:
        fields: JsonObject = handler(self)
        for name in ("reasoning_content", "reasoning", "tool_calls"):
            if fields[name] is None:
                del fields[name]
        return fields


class ChatChoice(SparseModel):
    sparse = ("token_ids",)

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: str | int | None = Field(None, description="The stop string or stop token id that matched.")
    token_ids: list[int] | None = Field(None, description="With return_token_ids.")


class ChatResponse(SparseModel):
    sparse = ("prompt_token_ids", "prompt_logprobs")

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | None = Field(None, description="With return_token_ids.")
    prompt_logprobs: PromptLogprobs | None = Field(None, description="With prompt_logprobs.")


class RenderResponse(ResponseModel):
    prompt: str
    token_ids: list[int]
    count: int
    max_model_len: int
