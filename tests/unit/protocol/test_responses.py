"""Requests of /v1/responses on the wire."""

import pytest
from pydantic import ValidationError

from trtllm_openai.protocol.common import RequestModel
from trtllm_openai.protocol.responses import CompactRequest, InputTokensRequest, ResponsesRequest


@pytest.mark.parametrize("given", ["Hi", [], [{"role": "user", "content": "Hi"}]])
def test_input_is_text_or_items(given: object) -> None:
    assert ResponsesRequest.model_validate({"input": given}).input == given


@pytest.mark.parametrize(
    "fields",
    [
        {"input": [5]},
        {"input": None},
        {"max_output_tokens": 0},
        {"top_logprobs": 21},
        {"metadata": {"a": 1}},
        {"text": "json"},
        {"temperature": -1.0},
        {"timeout": -1.0},
    ],
)
def test_wrong_values_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        ResponsesRequest.model_validate({"input": "Hi", **fields})
    assert caught.value.errors()[0]["loc"][0] == next(iter(fields))


def test_hints_are_known() -> None:
    hints = {
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "session_id": "s",
        "client_metadata": {"a": "b"},
        "max_tool_calls": 3,
    }
    for model in (ResponsesRequest, InputTokensRequest, CompactRequest):
        known = {name: hints[name] for name in hints if name in model.model_fields}
        assert len(known) >= 4
        assert not model.model_validate({"input": "Hi", **known}).model_extra


@pytest.mark.parametrize("model", [InputTokensRequest, CompactRequest])
def test_input_may_be_left_out_where_nothing_is_generated_from_it(model: type[RequestModel]) -> None:
    assert model.model_validate({"input": None}).model_dump()["input"] is None
