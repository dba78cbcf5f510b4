"""From the wire's sampling fields to SamplingParams; what cannot be honoured is refused by name."""

from __future__ import annotations

import asyncio
import math
from functools import partial

from fastapi import Request

from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.headers import header
from trtllm_openai.api.stream import UsageWanted
from trtllm_openai.generation import EngineInfo, InvalidRequest, SamplingParams
from trtllm_openai.generation.build import check_capabilities, check_context, unsupported
from trtllm_openai.protocol.common import SamplingFields
from trtllm_openai.serve.state import InferenceService
from trtllm_openai.telemetry.record import RequestRecord
from trtllm_openai.text.choice import TextRules

MAX_STOPS = 64
TIMEOUT_HEADER = "x-request-timeout"
TOKENIZE_OFF_LOOP = 4096
"""Characters from which tokenising takes long enough (over a millisecond) to leave the event loop."""


SAME_NAME = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
"""Fields that are called in SamplingParams what they are called on the wire."""


def sampling_params(
    body: SamplingFields,
    info: EngineInfo,
    prompt_tokens: int,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    logprobs_param: str,
    prompt_param: str,
    prompt_logprobs: int | None = None,
) -> SamplingParams:
    """The parameters of one sequence, checked against the engine's limits.

    `max_tokens` None means the rest of the context.
    """
    allowed = check_context(info, prompt_tokens, max_tokens, prompt_param)
    given = {name: value for name in SAME_NAME if (value := getattr(body, name)) is not None}
    if body.top_k is not None:
        given["top_k"] = max(body.top_k, 0)
    if body.logit_bias:
        given["logit_bias"] = {int(token): bias for token, bias in body.logit_bias.items()}
    sampling = SamplingParams(
        max_tokens=allowed,
        seed=body.seed,
        min_tokens=body.min_tokens or 0,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        **given,
    )
    check_capabilities(info, sampling, logprobs_param)
    return sampling


def stop_strings(body: SamplingFields) -> list[str]:
    """`stop` as a list."""
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stops) > MAX_STOPS:
        raise InvalidRequest(f"There may be at most {MAX_STOPS} stop strings, not {len(stops)}.", "stop")
    if "" in stops:
        raise InvalidRequest("A stop string must not be empty.", "stop")
    return stops


def text_rules(
    service: InferenceService, body: SamplingFields, markers: frozenset[int] = frozenset()
) -> TextRules:
    """How tokens become text. `markers`: special tokens that a parser of the text needs to see."""
    return TextRules(
        stop=stop_strings(body),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        include_stop=bool(body.include_stop_str_in_output),
        shown=service.tokenizer.special_ids if body.skip_special_tokens is False else markers,
    )


def truncated(body: SamplingFields, info: EngineInfo, prompt: list[int], max_tokens: int | None) -> list[int]:
    """The prompt cut from its beginning as `truncate_prompt_tokens` says."""
    wanted = body.truncate_prompt_tokens
    if wanted is None:
        return prompt
    if wanted == 0:
        raise InvalidRequest("truncate_prompt_tokens must be -1 or at least 1.", "truncate_prompt_tokens")
    keep = max(1, info.max_seq_len - (max_tokens or 1)) if wanted == -1 else wanted
    return prompt[-keep:]


def check_serving(body: SamplingFields, info: EngineInfo) -> None:
    """Refuse a priority or a cache_salt that the engine would ignore."""
    if body.priority is not None and not info.capabilities.priority:
        raise unsupported(info, "priority")
    if body.cache_salt is not None and not info.capabilities.cache_salt:
        raise unsupported(info, "cache_salt")


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
