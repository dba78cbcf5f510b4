"""Checks of a request against the limits and capabilities of the loaded engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation.parameters import BY_NAME, SAMPLING, Row
from trtllm_openai.generation.sampling import SamplingParams
from trtllm_openai.generation.types import EngineInfo


def check_context(
    info: EngineInfo, prompt_tokens: int, max_tokens: int | None, param: str, *, clamp: bool = False
) -> int:
    """The tokens this sequence may generate: `max_tokens`, or the rest of the context when that is None.

    `clamp`: where `max_tokens` is more than the rest of the context, the rest is what it may generate. Raises
    `InvalidRequest` with `context_length_exceeded` when prompt and answer do not fit.
    """
    limit = info.max_seq_len
    if prompt_tokens == 0:
        raise InvalidRequest("The prompt is empty: it must have at least one token.", param)
    if prompt_tokens > limit or (prompt_tokens == limit and max_tokens != 0):
        raise InvalidRequest(
            f"This model's maximum context length is {limit} tokens, but the prompt has {prompt_tokens}, "
            "which leaves no room for an answer.",
            param,
            "context_length_exceeded",
        )
    if max_tokens is None:
        return limit - prompt_tokens
    if prompt_tokens + max_tokens > limit:
        if clamp:
            return limit - prompt_tokens
        raise InvalidRequest(
            f"This model's maximum context length is {limit} tokens, but {prompt_tokens + max_tokens} were "
            f"asked for: {prompt_tokens} in the prompt and {max_tokens} to generate.",
            param,
            "context_length_exceeded",
        )
    return max_tokens


def check_capabilities(
    info: EngineInfo,
    sampling: SamplingParams,
    logprobs_param: str,
    table: Collection[Row] = SAMPLING,
    *,
    prompt_logprobs_param: str = "prompt_logprobs",
) -> None:
    """Refuse a parameter that this engine cannot honour, or a token id outside of its vocabulary, by name.

    `logprobs_param` and `prompt_logprobs_param` name the parameters that `sampling.logprobs` and
    `sampling.prompt_logprobs` came from.
    """
    can = info.capabilities
    if not can.sampling and sampling.temperature != 0:
        raise greedy_only(info, "temperature")
    check_supported(info, sampling, table)
    _check_logprobs(info, sampling.logprobs, can.max_logprobs, logprobs_param)
    _check_logprobs(info, sampling.prompt_logprobs, can.max_prompt_logprobs, prompt_logprobs_param)
    if sampling.max_tokens == 0 and can.max_prompt_logprobs < 0:
        raise InvalidRequest("max_tokens must be at least 1 with this engine.", "max_tokens")
    if sampling.min_tokens > sampling.max_tokens:
        raise InvalidRequest(
            f"min_tokens ({sampling.min_tokens}) is larger than max_tokens ({sampling.max_tokens}).",
            "min_tokens",
        )


def supported_defaults(info: EngineInfo, defaults: Mapping[str, float]) -> dict[str, float]:
    """Those of `defaults`, values of sampling parameters by name, that this engine can honour."""
    can = info.capabilities
    return {
        name: value
        for name, value in defaults.items()
        if (can.sampling or name not in _CHOOSE)
        and ((needed := BY_NAME[name].parameter.capability) is None or getattr(can, needed))
    }


_CHOOSE = frozenset({"temperature", "top_p", "top_k", "min_p"})
"""Parameters without a meaning for an engine that takes the likeliest token."""


def check_supported(info: EngineInfo, values: msgspec.Struct, table: Collection[Row]) -> None:
    """Refuse the first parameter of `table` that `values` sets and that this engine does not support."""
    for row in table:
        value = getattr(values, row.name)
        if value == row.default:
            continue
        parameter = row.parameter
        if parameter.capability is not None and not getattr(info.capabilities, parameter.capability):
            raise unsupported(info, row.name)
        if parameter.token_ids:
            check_token_ids(info, value, row.name)


def _check_logprobs(info: EngineInfo, wanted: int | None, most: int, param: str) -> None:
    if wanted is None:
        return
    if most < 0:
        raise unsupported(info, param)
    if wanted > most:
        raise InvalidRequest(f"This engine gives at most {most} alternatives, not {wanted}.", param)


def check_token_ids(info: EngineInfo, ids: Collection[int], param: str) -> None:
    """Refuse ids outside of the vocabulary. A dict is checked by its keys."""
    if ids and (largest := max(ids)) >= info.vocab_size:
        raise InvalidRequest(
            f"Token id {largest} is outside of the vocabulary of {info.vocab_size} tokens.", param
        )


def greedy_only(info: EngineInfo, param: str) -> InvalidRequest:
    """The refusal of a parameter that asks for sampling from an engine that only decodes greedily."""
    return InvalidRequest(
        f"This {info.engine} engine decodes greedily, without sampling: temperature must be 0 or absent, and "
        f"{param} cannot be honoured.",
        param,
        "unsupported_parameter",
    )


def unsupported(info: EngineInfo, param: str) -> InvalidRequest:
    """The refusal of a parameter that this engine has no way to honour."""
    return InvalidRequest(
        f"The engine {info.engine} does not support {param}.", param, "unsupported_parameter"
    )
