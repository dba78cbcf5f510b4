"""What both generation endpoints share: sampling fields, stream options, usage, errors."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

MAX_CHOICES = 128
Token = Annotated[int, Field(ge=0)]
JsonObject = dict[str, Any]


class RequestModel(BaseModel):
    """A request part. Unknown fields are kept, so that they can be named to the client."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


class ResponseModel(BaseModel):
    """A response part. Only fields that were set are sent."""

    model_config = ConfigDict(protected_namespaces=())


class StreamOptions(RequestModel):
    include_usage: bool | None = Field(None, description="End the stream with a chunk that has the usage.")
    continuous_usage_stats: bool | None = Field(None, description="Give every chunk the usage so far.")


class SamplingFields(RequestModel):
    """Sampling parameters of both endpoints; null means the default, as with OpenAI."""

    model: str | None = Field(None, description="A model id of /v1/models. Default: the served model.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        None, description="Default 1; 0 is greedy."
    )
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = Field(None, description="0 and -1 mean no cut.")
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    logit_bias: (
        dict[
            Annotated[str, Field(pattern=r"^\d{1,9}$")],
            Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)],
        ]
        | None
    ) = Field(None, description="Token id to a bias in -100..100.")
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[Token] | None = None
    ignore_eos: bool | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    user: str | None = None
    priority: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Higher goes first, where the engine can do that. Default 0.5."
    )
    cache_salt: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Reuse cached prompt beginnings only of requests with the same salt."
    )
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Seconds after which the request is given up with 504."
    )
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = Field(
        None, description="Keep only this many of the prompt's last tokens; -1: as many as fit."
    )
    include_stop_str_in_output: bool | None = Field(
        None, description="Whether the stop string or stop token that ended the text is part of it."
    )
    skip_special_tokens: bool | None = Field(None, description="Default true: special tokens have no text.")
    add_special_tokens: bool | None = Field(
        None, description="Whether the tokenizer adds its own special tokens to the prompt."
    )
    guided_json: JsonObject | str | None = Field(None, description="A JSON schema that the text must match.")
    guided_regex: str | None = Field(None, description="A regular expression that the text must match.")
    guided_grammar: str | None = Field(None, description="An EBNF grammar that the text must match.")
    guided_choice: list[str] | None = Field(None, description="Texts of which the answer must be one.")
    structured_outputs: JsonObject | None = Field(
        None, description="One of json, regex, choice, grammar, structural_tag or json_object: true."
    )


class PromptTokensDetails(ResponseModel):
    cached_tokens: int


class CompletionTokensDetails(ResponseModel):
    reasoning_tokens: int


class UsageTimings(ResponseModel):
    """Milliseconds; prefill is what remains of the time to the first token without the queue."""

    queue_ms: float
    prefill_ms: float
    ttft_ms: float
    decode_ms: float


class Usage(ResponseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
    timings: UsageTimings | None = Field(None, description="Where the setting server_timing is on.")

    @model_serializer(mode="wrap")
    def _without_timings_that_are_not_there(self, handler: SerializerFunctionWrapHandler) -> JsonObject:
        fields: JsonObject = handler(self)
        if fields["timings"] is None:
            del fields["timings"]
        return fields


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None
    request_id: str | None


class ErrorResponse(BaseModel):
    """The shape of every error, whatever the status."""

    error: ErrorDetail


class EngineCard(ResponseModel):
    engine: str
    architecture: str
    dtype: str
    max_model_len: int
    max_batch_size: int
    tensor_parallel: int
    pipeline_parallel: int
    tool_parser: str | None
    reasoning_parser: str | None
    capabilities: JsonObject


class ModelCard(ResponseModel):
    id: str
    object: str = "model"
    created: int
    owned_by: str
    max_model_len: int | None = None
    trtllm_openai: EngineCard | None = Field(None, description="The engine's real limits, once it is ready.")


class ModelList(ResponseModel):
    object: str = "list"
    data: list[ModelCard]
