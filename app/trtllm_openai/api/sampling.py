"""From the wire's sampling fields to SamplingParams; what cannot be honoured is refused by name."""

from __future__ import annotations

from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import EngineInfo, SamplingParams
from trtllm_openai.generation.build import check_capabilities, check_context, unsupported
from trtllm_openai.protocol.common import SamplingFields
from trtllm_openai.serve.state import InferenceService
from trtllm_openai.text.choice import TextRules

MAX_STOPS = 64


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
        visible_special_ids=service.tokenizer.special_ids if body.skip_special_tokens is False else markers,
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
