"""Limits on requests, a section of the settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trtllm_openai.config.fields import Positive, Section, Timeout


class LimitSettings(Section):
    """Limits on queued and running requests, and on what one request holds. Above a queue limit: 429 with
    retry-after. Above a limit of one request: 400 that names the parameter."""

    max_waiting_requests: Positive = Field(
        512, description="maximum number of sequences that no engine has begun with"
    )
    max_waiting_tokens: Positive = Field(
        2_000_000, description="maximum number of prompt tokens of those sequences"
    )
    max_requests_per_key: Positive | None = Field(
        None, description="maximum number of concurrent requests per API key; null is unlimited"
    )
    queue_timeout: Timeout = Field(
        60.0, description="seconds until the engine begins with a request; null is unlimited"
    )
    first_token_timeout: Timeout = Field(
        None, description="seconds until the first token, then the response is 504; null is unlimited"
    )
    request_timeout: Timeout = Field(
        600.0,
        description="seconds until the last token, then the response is 504 or the stream ends with an "
        "error event; a request's timeout or x-request-timeout can only shorten it; null is unlimited",
    )
    client_read_timeout: Timeout = Field(
        60.0,
        description="seconds that a client may leave a full send buffer unread, then its connection is reset "
        "and its generation aborted; null is unlimited",
    )
    clamp_max_tokens: bool = Field(
        True,
        description="whether a max_tokens above what the prompt leaves of the context means the rest of it; "
        "false: 400",
    )
    max_choices: Positive = Field(
        128, description="maximum number of sequences of one request: prompts times n or best_of"
    )
    max_messages: Positive = Field(
        4096,
        description="maximum number of messages, or input items, of one request, with those of "
        "previous_response_id",
    )
    max_message_parts: Positive = Field(
        4096, description="maximum number of content parts and tool calls in all messages of one request"
    )
    max_tools: Positive = Field(256, description="maximum number of tools of one request")
    max_stop_strings: Positive = Field(64, description="maximum number of stop strings of one request")
    max_stop_length: Positive = Field(
        8192, description="maximum length of all stop strings of one request together, in characters"
    )
    max_stop_token_ids: Positive = Field(1024, description="maximum number of stop_token_ids of one request")
    max_logit_bias: Positive = Field(
        16_384,
        description="maximum number of logit_bias entries, and of allowed_token_ids, of one request, counted "
        "once for each of its sequences",
    )
    max_bad_words: Positive = Field(
        128, description="maximum number of bad_words of one request, of max_stop_length characters together"
    )
    max_json_values: Positive = Field(
        65_536,
        description="maximum number of JSON values in one body (messages, tools, schemas, metadata and so "
        "on), without those of lists of texts or token ids",
    )
    max_prompt_length: Positive = Field(
        33_554_432, description="maximum length of a prompt that the chat template renders, in characters"
    )
    render_timeout: Annotated[float, Field(gt=0)] = Field(
        5.0, description="seconds that the chat template may take to render a prompt; above it: 400"
    )
