"""Requests of /v1/responses on the wire."""

import pytest
from pydantic import ValidationError

from trtllm_openai.protocol.responses import ResponsesRequest


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


def test_sampling_parameters_of_chat_alone_are_unknown_here() -> None:
    body = ResponsesRequest.model_validate({"input": "Hi", "temperature": 0.5, "repetition_penalty": 1.1})
    assert body.temperature == 0.5
    assert body.model_extra == {"repetition_penalty": 1.1}
