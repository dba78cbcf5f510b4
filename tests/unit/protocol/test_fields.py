"""Ranges, integers and lists of request models: a wrong value is one error, at its place."""

from typing import Any

import pytest
from pydantic import ValidationError

from trtllm_openai.api.errors import from_validation
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.common import RequestModel, SamplingFields
from trtllm_openai.protocol.completions import CompletionRequest
from trtllm_openai.protocol.responses import ResponsesRequest
from trtllm_openai.protocol.tokens import DetokenizeRequest, TokenizeRequest

MANY = 500_000
BASE: dict[type[RequestModel], dict[str, Any]] = {
    ChatRequest: {"messages": [{"role": "user", "content": "x"}]},
    CompletionRequest: {"prompt": "x"},
    ResponsesRequest: {"input": "x"},
    TokenizeRequest: {},
    DetokenizeRequest: {"tokens": [1]},
}


def parse(model: type[RequestModel], **fields: Any) -> dict[str, Any]:
    return model.model_validate(BASE[model] | fields).model_dump(exclude_unset=True)


def refusal(model: type[RequestModel], **fields: Any) -> ValidationError:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(BASE[model] | fields)
    return refused.value


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("max_tokens", [0, 1, 2**40], [-1, -(2**70)]),
        ("temperature", [0, 0.0, 5e-324, 2, 2.0], [-5e-324, 2.0000001, float("inf"), float("nan")]),
        ("top_p", [5e-324, 1, 1.0], [0, 0.0, -0.1, 1.0000001, float("nan")]),
        ("top_k", [-1, 0, 1, 2**31 - 1], [-2, 2**31, 2**70]),
        ("min_p", [0, 1.0], [-0.1, 1.1, float("nan")]),
        ("seed", [-(2**63), -1, 0, 2**63 - 1], [-(2**63) - 1, 2**63, 2**64, 1e30]),
        ("presence_penalty", [-2, 2.0], [-2.1, 2.1, float("nan")]),
        ("frequency_penalty", [-2, 2.0], [-2.1, 2.1, float("-inf")]),
        ("repetition_penalty", [0.01, 1, 100], [1e-38, 0, -1.0, 0.009, 100.5, float("inf"), float("nan")]),
        ("min_tokens", [0, 5], [-1]),
        ("priority", [0, 0.5, 1], [-0.1, 1.1, float("nan")]),
    ],
)
def test_ranges(name: str, inside: list[float], outside: list[float]) -> None:
    for model in (ChatRequest, CompletionRequest):
        for value in inside:
            assert parse(model, **{name: value})[name] == value
        for value in outside:
            error = from_validation(refusal(model, **{name: value}))
            assert (error.status, error.param, error.code) == (400, name, "invalid_value"), value
        wrongs: list[Any] = [True, "1", [1], {}]
        for wrong in wrongs:
            error = from_validation(refusal(model, **{name: wrong}))
            assert (error.param, error.code) == (name, "invalid_type"), wrong
        assert parse(model, **{name: None})[name] is None


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (ChatRequest, "max_tokens"),
        (ChatRequest, "max_completion_tokens"),
        (ChatRequest, "top_k"),
        (ChatRequest, "seed"),
        (ChatRequest, "n"),
        (ChatRequest, "min_tokens"),
        (ChatRequest, "top_logprobs"),
        (ChatRequest, "truncate_prompt_tokens"),
        (CompletionRequest, "logprobs"),
        (CompletionRequest, "best_of"),
        (ResponsesRequest, "max_output_tokens"),
        (ResponsesRequest, "seed"),
        (ResponsesRequest, "top_logprobs"),
    ],
)
def test_an_integral_float_is_an_integer(model: type[RequestModel], name: str) -> None:
    value = parse(model, **{name: 2.0})[name]
    assert (type(value), value) == (int, 2)
    for wrong, code in ((2.5, "invalid_type"), (True, "invalid_type"), (-9e20, "invalid_value")):
        error = from_validation(refusal(model, **{name: wrong}))
        assert (error.param, error.code) == (name, code)


def test_the_schema_of_an_integer_is_plain() -> None:
    schema = SamplingFields.model_json_schema()["properties"]
    assert schema["max_tokens"]["anyOf"] == [{"minimum": 0, "type": "integer"}, {"type": "null"}]
    assert schema["n"]["anyOf"] == [{"maximum": 128, "minimum": 1, "type": "integer"}, {"type": "null"}]


@pytest.mark.parametrize(
    ("model", "name", "element", "branches", "param"),
    [
        (ChatRequest, "messages", 5, 1, "messages[0]"),
        (ChatRequest, "tools", 5, 1, "tools[0]"),
        (ChatRequest, "functions", 5, 1, "functions[0]"),
        (ChatRequest, "modalities", 5, 1, "modalities[0]"),
        (ChatRequest, "guided_choice", 5, 1, "guided_choice[0]"),
        (ChatRequest, "stop", 5, 2, "stop[0]"),
        (ChatRequest, "stop_token_ids", "x", 1, "stop_token_ids[0]"),
        (ChatRequest, "stop_token_ids", -1, 1, "stop_token_ids[0]"),
        (CompletionRequest, "prompt", -1, 4, "prompt[0]"),
        (CompletionRequest, "prompt", None, 4, "prompt[0]"),
        (CompletionRequest, "prompt", [-1], 4, "prompt[0][0]"),
        (ResponsesRequest, "input", 5, 2, "input[0]"),
        (ResponsesRequest, "tools", 5, 1, "tools[0]"),
        (ResponsesRequest, "include", 5, 1, "include[0]"),
        (TokenizeRequest, "messages", 5, 1, "messages[0]"),
        (TokenizeRequest, "tools", 5, 1, "tools[0]"),
        (DetokenizeRequest, "tokens", "x", 1, "tokens[0]"),
    ],
)
def test_a_list_fails_at_its_first_wrong_element(
    model: type[RequestModel], name: str, element: object, branches: int, param: str
) -> None:
    """`branches`: the alternatives of a union give an error each."""
    error = refusal(model, **{name: [element] * MANY})
    assert error.error_count() == branches
    assert from_validation(error).param == param


def test_a_wrong_element_in_the_middle() -> None:
    error = refusal(CompletionRequest, prompt=[1] * 1000 + [-1] * MANY)
    assert error.error_count() == 4
    assert from_validation(error).param == "prompt[1000]"


@pytest.mark.parametrize("value", [101, "x"])
def test_a_map_fails_within_a_batch(value: object) -> None:
    error = refusal(ChatRequest, logit_bias={str(key): value for key in range(MANY)})
    assert 1 <= error.error_count() <= 64
    assert from_validation(error).param == "logit_bias.0"


@pytest.mark.parametrize("model", [ChatRequest, ResponsesRequest])
def test_metadata_is_bounded_as_with_openai(model: type[RequestModel]) -> None:
    most = {str(key).zfill(64): "x" * 512 for key in range(16)}
    assert parse(model, metadata=most)["metadata"] == most
    for wrong, param in (
        ({str(key): "x" for key in range(MANY)}, "metadata"),
        ({"x" * 65: "x"}, "metadata"),
        ({"a": "x" * 513}, "metadata.a"),
        ({"a": 5}, "metadata.a"),
        ({"a": None}, "metadata.a"),
        (["a"], "metadata"),
    ):
        error = refusal(model, metadata=wrong)
        assert error.error_count() == 1
        assert from_validation(error).param == param


def test_a_long_map_is_read_whole() -> None:
    biases = {str(token): token / 100 for token in range(1000)}
    assert parse(ChatRequest, logit_bias=biases)["logit_bias"] == biases
    error = from_validation(refusal(ChatRequest, logit_bias=biases | {"x": 1}))
    assert (error.param, error.code) == ("logit_bias.x", "invalid_value")
    error = from_validation(refusal(ChatRequest, logit_bias=biases | {"٣": 1}))
    assert error.code == "invalid_value"


def test_responses_has_the_table_and_its_bound_from_one() -> None:
    assert parse(ResponsesRequest, temperature=0, top_p=0.5, seed=-1) == {
        "input": "x",
        "temperature": 0,
        "top_p": 0.5,
        "seed": -1,
    }
    assert parse(ResponsesRequest, top_k=5) == {"input": "x", "top_k": 5}
    assert parse(ResponsesRequest, max_tokens=5) == {"input": "x", "max_tokens": 5}
    assert from_validation(refusal(ResponsesRequest, max_tokens=0)).param == "max_tokens"


@pytest.mark.parametrize(("model", "name"), [(CompletionRequest, "prompt"), (DetokenizeRequest, "tokens")])
@pytest.mark.parametrize("wrong", [-1, True, 1.5, "1", None, [1]])
def test_token_ids_of_long_lists_are_checked(model: type[RequestModel], name: str, wrong: object) -> None:
    for length in (1000, 10_000):
        ids = list(range(length))
        assert parse(model, **{name: ids})[name] == ids
        error = from_validation(refusal(model, **{name: [*ids, wrong, *ids]}))
        assert error.param == f"{name}[{length}]"
        assert error.code == ("invalid_value" if wrong == -1 else "invalid_type")
