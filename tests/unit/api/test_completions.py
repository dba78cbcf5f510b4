"""Completions over a fake engine: prompts in every form, echo, best_of, and what is refused."""

import json
from typing import Any

import pytest

from tests.unit.api.served import Served
from trtllm_openai.generation import Guide
from trtllm_openai.text.tokenizer import Tokenizer

PATH = "/v1/completions"


def test_default_length_is_openais(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    answer = served.post(PATH, {"prompt": "Hi"}).json()
    assert answer["choices"][0]["text"] == "Hello world"
    assert served.pool.requests[0].sampling.max_tokens == 16


def test_prompts_of_every_form_and_n_of_each(demo_tokenizer: Tokenizer) -> None:
    for prompt, count in (("a", 1), (["a", "b"], 2), ([5, 6], 1), ([[5], [6, 7]], 2)):
        served = Served(demo_tokenizer)
        answer = served.post(PATH, {"prompt": prompt, "n": 2}).json()
        assert [choice["index"] for choice in answer["choices"]] == list(range(2 * count))
        assert len(served.pool.requests) == 2 * count
    assert [request.prompt_token_ids for request in served.pool.requests] == [[5], [5], [6, 7], [6, 7]]
    assert answer["usage"]["prompt_tokens"] == 3, "a prompt counts once, however many choices it has"


def test_best_of_generates_more_and_returns_n(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    answer = served.post(PATH, {"prompt": "a", "best_of": 3}).json()
    assert len(answer["choices"]) == 1
    assert answer["choices"][0]["logprobs"] is None, "they were used, not asked for"
    assert [request.sampling.logprobs for request in served.pool.requests] == [0, 0, 0]
    each = len(demo_tokenizer.encode("Hello world", add_special_tokens=False))
    assert answer["usage"]["completion_tokens"] == 3 * each


def test_the_form_is_that_of_response_format(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    named = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    served.post(PATH, {"prompt": "a", "response_format": named})
    (request,) = served.pool.requests
    assert request.guide == Guide("json_schema", '{"type":"object"}', "response_format.json_schema.schema")
    named["json_schema"]["schema"] = {"type": "nothing"}  # type: ignore[index]
    param = "response_format.json_schema.schema.type"
    assert served.refusal(PATH, {"prompt": "a", "response_format": named}) == (400, param, "invalid_schema")


@pytest.mark.parametrize("stream", [False, True])
def test_echo_puts_the_prompt_and_its_logprobs_first(demo_tokenizer: Tokenizer, stream: bool) -> None:
    body = {"prompt": "Once upon", "echo": True, "logprobs": 1, "stream": stream}
    response = Served(demo_tokenizer).post(PATH, body)
    if stream:
        frames = response.text.removesuffix("\n\ndata: [DONE]\n\n").split("\n\n")
        choices = [json.loads(frame.removeprefix("data: "))["choices"][0] for frame in frames]
    else:
        choices = response.json()["choices"]
    assert "".join(choice["text"] for choice in choices) == "Once uponHello world"
    parts = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    logprobs = {key: [value for part in parts for value in part[key]] for key in parts[0]}
    prompt = len(demo_tokenizer.encode("Once upon", add_special_tokens=True))
    assert logprobs["token_logprobs"][0] is None, "nothing predicts the first token"
    assert logprobs["token_logprobs"][1 : prompt + 1] == [-1.5] * (prompt - 1) + [-0.5]
    assert logprobs["text_offset"][prompt] == len("Once upon")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": ["a"] * 2, "n": 128}, "n"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": " word" * 600}, "prompt"),  # no room for an answer
    ],
)
def test_refusals_name_the_parameter(demo_tokenizer: Tokenizer, fields: dict[str, Any], param: str) -> None:
    served = Served(demo_tokenizer)
    status, named, _ = served.refusal(PATH, {"prompt": "a", **fields})
    assert (status, named) == (400, param)
    assert served.pool.requests == []
