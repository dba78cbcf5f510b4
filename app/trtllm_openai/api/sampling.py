"""Converts the sampling fields of a request body to SamplingParams, checked against the engine.

It reads the fields that `protocol.fields` makes from the parameter table by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from trtllm_openai.api.context import LoadedModel
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import EngineInfo, SamplingParams
from trtllm_openai.generation.build import check_capabilities, check_context, greedy_only, unsupported
from trtllm_openai.generation.parameters import PARAMETERS, SAMPLING, converted
from trtllm_openai.protocol.common import SamplingFields
from trtllm_openai.protocol.responses import ResponsesRequest
from trtllm_openai.text.choice import TextRules

_NAMES = tuple(row.name for row in SAMPLING if row.name not in ("max_tokens", "bad_words"))
NOTHING: Mapping[str, float] = MappingProxyType({})
_SCHEDULING = tuple(
    (row.name, row.parameter.capability)
    for row in PARAMETERS
    if row not in SAMPLING and row.parameter.capability is not None
)
_IN_RESPONSES = tuple(row.name for row in PARAMETERS if row.name != "max_tokens")


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
    bad_words: tuple[tuple[int, ...], ...] = (),
    most_tokens: int | None = None,
    clamp: bool = False,
    defaults: Mapping[str, float] = NOTHING,
) -> SamplingParams:
    """The parameters of one sequence. Raises `InvalidRequest` for those that the engine does not support.

    `max_tokens` None means the rest of the context, but at most `most_tokens`; with `clamp` a larger one does
    too. `bad_words`: those of the body, tokenized (`api.bad_words`). `logprobs_param` and `prompt_param`
    name, in errors, the request parameters that `logprobs` and the prompt came from. `defaults`: of
    parameters that the body leaves out or null.
    """
    allowed = check_context(info, prompt_tokens, max_tokens, prompt_param, clamp=clamp)
    if max_tokens is None and most_tokens is not None:
        allowed = min(allowed, most_tokens)
    fields = vars(body)
    given = {name: value for name in _NAMES if (value := fields[name]) is not None}
    if defaults:
        given = {**defaults, **given}
    if not info.capabilities.sampling:
        _default_to_greedy(given, info)
    sampling = SamplingParams(
        max_tokens=allowed,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        bad_words=bad_words,
        **converted(given),
    )
    prompt_logprobs_param = "echo" if body.prompt_logprobs is None else "prompt_logprobs"
    check_capabilities(info, sampling, logprobs_param, prompt_logprobs_param=prompt_logprobs_param)
    return sampling


def _default_to_greedy(given: dict[str, Any], info: EngineInfo) -> None:
    """Without sampling an absent temperature is 0. Raises `InvalidRequest` if another field asks for it."""
    if "temperature" in given:
        return
    for name, neutral in (("top_p", (1,)), ("top_k", (-1, 0, 1))):
        if name in given and given[name] not in neutral:
            raise greedy_only(info, name)
    given["temperature"] = 0.0


def responses_parameters(body: ResponsesRequest) -> dict[str, Any]:
    """The sampling parameters of `/v1/responses`, as fields of a chat request."""
    fields = vars(body)
    return {name: fields[name] for name in _IN_RESPONSES}


def stop_strings(body: SamplingFields) -> list[str]:
    """`stop` as a list."""
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if "" in stops:
        raise InvalidRequest("'stop' must not have an empty string.", "stop")
    return stops


def text_rules(model: LoadedModel, body: SamplingFields, markers: frozenset[int] = frozenset()) -> TextRules:
    """The rules for decoding tokens to text. `markers`: special tokens that an output parser needs to see."""
    return TextRules(
        stop=stop_strings(body),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        include_stop=bool(body.include_stop_str_in_output),
        visible_special_ids=model.tokenizer.special_ids if body.skip_special_tokens is False else markers,
        with_ids=bool(body.return_token_ids),
    )


def truncated(body: SamplingFields, info: EngineInfo, prompt: list[int], max_tokens: int | None) -> list[int]:
    """The last `truncate_prompt_tokens` tokens of the prompt; -1 keeps as many as fit beside the answer.

    With `truncation_side` right it is the first.
    A `max_tokens` that no prompt could fit beside leaves the prompt half of the context.
    """
    wanted = body.truncate_prompt_tokens
    if wanted is None:
        return prompt
    if wanted == 0:
        raise InvalidRequest("truncate_prompt_tokens must be -1 or at least 1.", "truncate_prompt_tokens")
    if wanted == -1:
        answer = max_tokens or 1
        wanted = info.max_seq_len - (answer if answer < info.max_seq_len else info.max_seq_len // 2)
    return prompt[:wanted] if body.truncation_side == "right" else prompt[-wanted:]


def check_serving(body: SamplingFields, info: EngineInfo) -> None:
    """Reject a scheduling parameter (priority, cache_salt) that the engine would ignore."""
    fields = vars(body)
    for name, capability in _SCHEDULING:
        if fields[name] is not None and not getattr(info.capabilities, capability):
            raise unsupported(info, name)


def sequence_params(
    model: LoadedModel,
    body: SamplingFields,
    prompt_lengths: list[int],
    *,
    max_tokens: int | None,
    logprobs: int | None,
    logprobs_param: str,
    prompt_param: str,
    prompt_logprobs: int | None = None,
    bad_words: tuple[tuple[int, ...], ...] = (),
    most_tokens: int | None = None,
    clamp: bool = False,
    markers: frozenset[int] = frozenset(),
) -> tuple[list[SamplingParams], TextRules]:
    """The sampling parameters of each prompt's sequences, and the rules for their text; both checked.

    `most_tokens`: what the client's key may have generated for a choice. `clamp`: `limits.clamp_max_tokens`.
    `markers`: special tokens whose text an output parser needs. Raises `InvalidRequest`.
    """
    if most_tokens is not None and max_tokens is not None and max_tokens > most_tokens:
        chat = vars(body).get("max_completion_tokens") is not None
        raise InvalidRequest(
            f"This API key may generate at most {most_tokens} tokens, not {max_tokens}.",
            "max_completion_tokens" if chat else "max_tokens",
        )
    check_serving(body, model.info)
    sampling = [
        sampling_params(
            body,
            model.info,
            length,
            max_tokens=max_tokens,
            logprobs=logprobs,
            logprobs_param=logprobs_param,
            prompt_param=prompt_param,
            prompt_logprobs=prompt_logprobs,
            bad_words=bad_words,
            most_tokens=most_tokens,
            clamp=clamp,
            defaults=model.defaults,
        )
        for length in prompt_lengths
    ]
    return sampling, text_rules(model, body, markers)
