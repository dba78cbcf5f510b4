"""From the wire's sampling fields to SamplingParams; what cannot be honoured is refused by name."""

from __future__ import annotations

import asyncio
import math
from functools import partial

from fastapi import Request

from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.headers import header
from trtllm_openai.api.stream import UsageWanted
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.common import SamplingFields
from trtllm_openai.serve.state import InferenceService
from trtllm_openai.telemetry.record import RequestRecord

TIMEOUT_HEADER = "x-request-timeout"
TOKENIZE_OFF_LOOP = 4096
"""Characters from which tokenising takes long enough (over a millisecond) to leave the event loop."""


def usage_wanted(body: SamplingFields) -> UsageWanted:
    """Which usage the stream carries."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options is only allowed together with stream: true.", "stream_options")
    options = body.stream_options
    if options is None:
        return UsageWanted()
    return UsageWanted(bool(options.include_usage), bool(options.continuous_usage_stats))


def patience(request: Request, body: SamplingFields) -> float | None:
    """Seconds the client gives the request: its timeout, or the header x-request-timeout."""
    if body.timeout is not None:
        return body.timeout
    given = header(request.scope, TIMEOUT_HEADER.encode())
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequest(f"{TIMEOUT_HEADER} must be a number of seconds above 0.", TIMEOUT_HEADER)
    return seconds


def api_key_name(request: Request) -> str:
    """The name of the key the request came with; empty where none is asked for."""
    name: str = request.scope["state"].get("key", "")
    return name


def request_record(request: Request) -> RequestRecord:
    """What the request layer keeps of the request."""
    record: RequestRecord = request.scope["state"]["record"]
    return record


def check_model(service: InferenceService, model: str | None) -> None:
    """Refuse a model that is not served here. Leaving it out means the served one."""
    if model is not None and model != service.model_id:
        raise ApiError(
            404,
            f"The model '{model}' does not exist here; '{service.model_id}' is served.",
            param="model",
            code="model_not_found",
        )


async def encode(
    service: InferenceService, text: str, *, add_special_tokens: bool, salt: str | None = None
) -> list[int]:
    """Token ids of `text`; a long one is tokenised off the event loop."""
    work = partial(service.tokenizer.encode, text, add_special_tokens=add_special_tokens, salt=salt)
    return work() if len(text) < TOKENIZE_OFF_LOOP else await asyncio.to_thread(work)
