"""Models shared by several endpoints: sampling parameters, stream options, usage, errors, model cards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    create_model,
    model_serializer,
)

from trtllm_openai.generation.parameters import PARAMETERS
from trtllm_openai.protocol.fields import INTEGRAL, FailFastList, parameter_fields

MAX_CHOICES = 128
JsonObject = dict[str, Any]


def shown_as(name: str) -> WithJsonSchema:
    """Document a leniently read part by a model of `protocol.documented`."""
    return WithJsonSchema({"$ref": f"#/components/schemas/{name}"})


RESPONSE_FORMAT = shown_as("ResponseFormat")


class RequestModel(BaseModel):
    """A request part. Unknown fields are kept, so that they can be named to the client."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


class ResponseModel(BaseModel):
    """A response part. Only fields that were set are sent."""

    model_config = ConfigDict(protected_namespaces=())


class SparseModel(ResponseModel):
    """A response part of which the fields `sparse` are only sent where they are not null."""

    sparse: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _omit_missing(self, handler: SerializerFunctionWrapHandler) -> JsonObject:
        fields: JsonObject = handler(self)
        for name in self.sparse:
            if fields[name] is None:
                del fields[name]
        return fields


class PromptLogprob(ResponseModel):
    """A token of the prompt, or an alternative to it; `rank` counts from 1, the likeliest."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""For each token of the prompt, by token id; null for the first, which nothing predicts."""


class StreamOptions(RequestModel):
    include_usage: bool | None = Field(None, description="End the stream with a chunk that has the usage.")
    continuous_usage_stats: bool | None = Field(None, description="Give every chunk the usage so far.")


if TYPE_CHECKING:

    class ParameterFields(RequestModel):
        """The fields of the parameter table, as far as they are read other than by name (`api.sampling`)."""

        max_tokens: int | None = None
        min_tokens: int | None = None
        stop_token_ids: list[int] | None = None
        priority: float | None = None
        cache_salt: str | None = None
        bad_words: list[str] | None = None
else:
    ParameterFields = create_model(
        "ParameterFields", __base__=RequestModel, __module__=__name__, **parameter_fields(PARAMETERS)
    )


class SamplingFields(ParameterFields):
    """The parameters of chat and completions; null means the default, as with OpenAI."""

    model: str | None = Field(None, description="A model id of /v1/models. Default: the served model.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | FailFastList[str] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), INTEGRAL] | None = None
    user: str | None = None
    prompt_cache_key: str | None = Field(
        None,
        description="Names the conversation: where there are several runners, its requests go to the same "
        "one if they can.",
    )
    session_id: str | None = Field(None, description="The same, if there is no prompt_cache_key.")
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Seconds after which the request ends with 504."
    )
    truncate_prompt_tokens: Annotated[int, Field(ge=-1), INTEGRAL] | None = Field(
        None, description="Keep only this many of the prompt's tokens, the last; -1: as many as fit."
    )
    truncation_side: Literal["left", "right"] | None = Field(
        None, description="Which end of the prompt truncate_prompt_tokens cuts off. Default left."
    )
    include_stop_str_in_output: bool | None = Field(
        None, description="Whether the stop string or stop token that ended the text is part of it."
    )
    skip_special_tokens: bool | None = Field(None, description="Default true: special tokens have no text.")
    add_special_tokens: bool | None = Field(
        None, description="Whether the tokenizer adds its own special tokens to the prompt."
    )
    prompt_logprobs: Annotated[int, Field(ge=0), INTEGRAL] | None = Field(
        None, description="Log-probabilities of the prompt's tokens, with this many alternatives for each."
    )
    return_token_ids: bool | None = Field(
        None, description="Give the ids of the tokens of prompt and answer beside the text."
    )
    return_tokens_as_token_ids: bool | None = Field(
        None, description="Name tokens in logprobs as token_id:5 instead of by their text."
    )
    guided_json: JsonObject | str | None = Field(None, description="A JSON schema that the text must match.")
    guided_regex: str | None = Field(None, description="A regular expression that the text must match.")
    guided_grammar: str | None = Field(None, description="An EBNF grammar that the text must match.")
    guided_choice: FailFastList[str] | None = Field(None, description="The answer is one of these texts.")
    structured_outputs: JsonObject | None = Field(
        None, description="One of json, regex, choice, grammar, structural_tag or json_object: true."
    )


class PromptTokensDetails(ResponseModel):
    cached_tokens: int


class CompletionTokensDetails(ResponseModel):
    reasoning_tokens: int
    accepted_prediction_tokens: int = Field(
        0, description="Tokens of the answer that speculative decoding had drafted."
    )
    rejected_prediction_tokens: int = Field(
        0, description="Drafted tokens that are not in the answer; completion_tokens does not have them."
    )


class UsageTimings(ResponseModel):
    """Milliseconds; prefill is what remains of the time to the first token without the queue."""

    queue_ms: float
    prefill_ms: float
    ttft_ms: float
    decode_ms: float


class Usage(SparseModel):
    sparse = ("timings",)

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
    timings: UsageTimings | None = Field(None, description="Where the setting server_timing is on.")


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None
    request_id: str | None


class ErrorResponse(BaseModel):
    """The body of every error response."""

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
    default_sampling: JsonObject = Field(description="Sampling parameters of requests that do not say.")
    capabilities: JsonObject


class ModelCard(ResponseModel):
    """OpenAI's and Anthropic's card in one: clients of either read their fields."""

    id: str
    object: str = "model"
    created: int
    owned_by: str
    root: str | None = Field(
        None, description="The model that this one is made of: itself, unless an adapter."
    )
    parent: str | None = Field(None, description="The model that a LoRA adapter changes.")
    type: str = "model"
    display_name: str
    created_at: str
    lifecycle: str = "active"
    max_model_len: int | None = None
    trtllm_openai: EngineCard | None = Field(None, description="The engine's real limits, once it is ready.")


class ModelList(ResponseModel):
    object: str = "list"
    data: list[ModelCard]
    first_id: str
    last_id: str
    has_more: bool = False
