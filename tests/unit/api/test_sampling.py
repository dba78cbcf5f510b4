"""Sampling fields of a request as parameters of its sequences, checked against the engine."""

from typing import Any

import pytest

from tests.unit.api.served import Served, engine_info
from trtllm_openai.api.sampling import (
    check_serving,
    responses_parameters,
    sampling_params,
    stop_strings,
    truncated,
)
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Capabilities, SamplingParams
from trtllm_openai.protocol.completions import CompletionRequest
from trtllm_openai.protocol.responses import ResponsesRequest
from trtllm_openai.text.tokenizer import Tokenizer


def body(**fields: Any) -> CompletionRequest:
    return CompletionRequest(prompt="x", **fields)


def params(
    fields: dict[str, Any], *, max_tokens: int | None = 5, logprobs: int | None = None
) -> SamplingParams:
    return sampling_params(
        body(**fields),
        engine_info(),
        12,
        max_tokens=max_tokens,
        logprobs=logprobs,
        logprobs_param="logprobs",
        prompt_param="prompt",
    )


def test_given_fields_are_taken_and_the_rest_keeps_its_default() -> None:
    found = params({"temperature": 0.5, "seed": 3, "top_p": None})
    assert (found.temperature, found.seed, found.max_tokens) == (0.5, 3, 5)
    assert found.top_p == SamplingParams(max_tokens=5).top_p


def test_without_max_tokens_the_rest_of_the_context() -> None:
    assert params({}, max_tokens=None).max_tokens == 512 - 12


@pytest.mark.parametrize(
    ("fields", "options", "param"),
    [
        ({"min_p": 0.5}, {}, "min_p"),
        ({"logit_bias": {"5": 1.0}}, {}, "logit_bias"),
        ({}, {"logprobs": 6}, "logprobs"),
        ({}, {"max_tokens": 501}, "prompt"),
    ],
)
def test_an_engine_without_the_feature(fields: dict[str, Any], options: dict[str, int], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        params(fields, **options)
    assert caught.value.param == param


GENERATING: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "Hi", "max_tokens": 32_000}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 32_000}),
    ("/v1/responses", {"input": "Hi", "max_output_tokens": 32_000}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 32_000}),
]


@pytest.mark.parametrize(("path", "body"), GENERATING)
def test_more_than_the_context_holds_means_what_is_left_of_it(
    demo_tokenizer: Tokenizer, path: str, body: dict[str, Any]
) -> None:
    served = Served(demo_tokenizer)
    assert served.post(path, body).status_code == 200
    (request,) = served.pool.requests
    assert len(request.prompt_token_ids) + request.sampling.max_tokens == 512


@pytest.mark.parametrize(("path", "body"), GENERATING)
def test_it_is_refused_where_the_setting_says_so(
    demo_tokenizer: Tokenizer, path: str, body: dict[str, Any]
) -> None:
    served = Served(demo_tokenizer, limits={"clamp_max_tokens": False})
    response = served.post(path, body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error.get("code", "context_length_exceeded") == "context_length_exceeded"
    assert "512" in error["message"]
    assert "32000 to generate" in error["message"]
    assert served.pool.requests == []


@pytest.mark.parametrize(("path", "body"), GENERATING)
def test_a_prompt_without_room_for_a_token_is_refused(
    demo_tokenizer: Tokenizer, path: str, body: dict[str, Any]
) -> None:
    served = Served(demo_tokenizer)
    text = " word" * 600
    long = {
        "prompt": text,
        "input": text,
        "messages": [{"role": "user", "content": text}],
    }
    response = served.post(path, {name: long.get(name, value) for name, value in body.items()})
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert "512 tokens, but the prompt has 6" in message, "both numbers"


def test_scheduling_parameters_are_not_ignored() -> None:
    check_serving(body(priority=1.0), engine_info())
    with pytest.raises(InvalidRequest) as caught:
        check_serving(body(cache_salt="a"), engine_info(capabilities=Capabilities(priority=True)))
    assert caught.value.param == "cache_salt"


def test_stop_strings() -> None:
    assert stop_strings(body()) == []
    assert stop_strings(body(stop="a")) == ["a"]
    for wrong in (["a", ""], ""):
        with pytest.raises(InvalidRequest) as caught:
            stop_strings(body(stop=wrong))
        assert caught.value.param == "stop"


def test_truncation_keeps_one_end_of_the_prompt() -> None:
    prompt = list(range(600))
    assert truncated(body(), engine_info(), prompt, 10) is prompt
    assert truncated(body(truncate_prompt_tokens=3), engine_info(), prompt, 10) == [597, 598, 599]
    right = body(truncate_prompt_tokens=3, truncation_side="right")
    assert truncated(right, engine_info(), prompt, 10) == [0, 1, 2]
    left = body(truncate_prompt_tokens=3, truncation_side="left")
    assert truncated(left, engine_info(), prompt, 10) == [597, 598, 599]
    fitting = body(truncate_prompt_tokens=-1, truncation_side="right")
    assert truncated(fitting, engine_info(), prompt, 10) == prompt[:502]
    assert truncated(body(truncate_prompt_tokens=-1), engine_info(), prompt, 10) == prompt[-502:]
    assert truncated(body(truncate_prompt_tokens=-1), engine_info(), prompt, 1000) == prompt[-256:]
    with pytest.raises(InvalidRequest) as caught:
        truncated(body(truncate_prompt_tokens=0), engine_info(), prompt, 10)
    assert caught.value.param == "truncate_prompt_tokens"


def test_responses_has_the_parameters_of_chat_by_the_same_names() -> None:
    found = responses_parameters(ResponsesRequest(input="x", temperature=0.5))
    assert found["temperature"] == 0.5
    assert found["top_p"] is None


GREEDY = engine_info(capabilities=Capabilities(sampling=False, seed=True))


def greedy(**fields: Any) -> SamplingParams:
    return sampling_params(
        body(**fields),
        GREEDY,
        12,
        max_tokens=5,
        logprobs=None,
        logprobs_param="logprobs",
        prompt_param="prompt",
    )


@pytest.mark.parametrize(
    "fields",
    [{}, {"temperature": 0}, {"top_p": 1, "top_k": -1}, {"temperature": 0, "top_p": 0.5}, {"seed": 3}],
)
def test_an_engine_that_does_not_sample_is_greedy_unless_asked_otherwise(fields: dict[str, Any]) -> None:
    assert greedy(**fields).temperature == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 1}, "temperature"),
        ({"temperature": 0.01, "top_k": 1}, "temperature"),
        ({"top_p": 0.9}, "top_p"),
        ({"top_k": 40}, "top_k"),
        ({"min_p": 0.1}, "min_p"),
    ],
)
def test_sampling_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        greedy(**fields)
    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")
