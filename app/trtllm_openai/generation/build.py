"""From parameters to GenerationRequests, validated against what the loaded engine really can do."""

from __future__ import annotations

from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation.types import EngineInfo, SamplingParams


def check_context(info: EngineInfo, prompt_tokens: int, max_tokens: int | None, param: str) -> int:
    """The tokens this sequence may generate: `max_tokens`, or the rest of the context when that is None.

    Raises `InvalidRequest` with `context_length_exceeded` when prompt and answer do not fit.
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
        raise InvalidRequest(
            f"This model's maximum context length is {limit} tokens, but {prompt_tokens + max_tokens} were "
            f"asked for: {prompt_tokens} in the prompt and {max_tokens} to generate.",
            param,
            "context_length_exceeded",
        )
    return max_tokens


def check_capabilities(info: EngineInfo, sampling: SamplingParams, logprobs_param: str) -> None:
    """Refuse, by name, what would change the answer and this engine cannot do."""
    can = info.capabilities
    wanted = {
        "logit_bias": bool(sampling.logit_bias) and not can.logit_bias,
        "seed": sampling.seed is not None and not can.seed,
        "min_p": sampling.min_p > 0 and not can.min_p,
        "presence_penalty": sampling.presence_penalty != 0 and not can.penalties,
        "frequency_penalty": sampling.frequency_penalty != 0 and not can.penalties,
        "repetition_penalty": sampling.repetition_penalty != 1 and not can.penalties,
        "min_tokens": sampling.min_tokens > 0 and not can.min_tokens,
    }
    for param, refused in wanted.items():
        if refused:
            raise unsupported(info, param)
    _check_logprobs(info, sampling.logprobs, can.max_logprobs, logprobs_param)
    _check_logprobs(info, sampling.prompt_logprobs, can.max_prompt_logprobs, "echo")
    if sampling.max_tokens == 0 and can.max_prompt_logprobs < 0:
        raise InvalidRequest("max_tokens must be at least 1 with this engine.", "max_tokens")
    if sampling.min_tokens > sampling.max_tokens:
        raise InvalidRequest(
            f"min_tokens ({sampling.min_tokens}) is larger than max_tokens ({sampling.max_tokens}).",
            "min_tokens",
        )
    check_token_ids(info, sampling.stop_token_ids, "stop_token_ids")
    check_token_ids(info, sampling.logit_bias or (), "logit_bias")


def _check_logprobs(info: EngineInfo, wanted: int | None, most: int, param: str) -> None:
    if wanted is None:
        return
    if most < 0:
        raise unsupported(info, param)
    if wanted > most:
        raise InvalidRequest(f"This engine gives at most {most} alternatives, not {wanted}.", param)


def check_token_ids(
    info: EngineInfo, ids: list[int] | tuple[int, ...] | dict[int, float], param: str
) -> None:
    """Refuse ids outside of the vocabulary."""
    if ids and max(ids) >= info.vocab_size:
        raise InvalidRequest(
            f"Token id {max(ids)} is outside of the vocabulary of {info.vocab_size} tokens.", param
        )


def unsupported(info: EngineInfo, param: str) -> InvalidRequest:
    """The refusal of a parameter that this engine has no way to honour."""
    return InvalidRequest(
        f"The engine {info.engine} does not support {param}.", param, "unsupported_parameter"
    )
