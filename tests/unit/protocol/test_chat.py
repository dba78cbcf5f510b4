"""Chat requests and responses on the wire."""

import pytest
from pydantic import ValidationError

from trtllm_openai.protocol.chat import AssistantMessage, ChatRequest

MESSAGES = [{"role": "user", "content": "Hi"}]


def test_fields_that_are_absent_are_not_sent_and_null_content_is() -> None:
    assert AssistantMessage(role="assistant", content=None).model_dump() == {
        "role": "assistant",
        "content": None,
        "refusal": None,
    }
    assert AssistantMessage(role="assistant", content="", reasoning_content="hm").model_dump() == {
        "role": "assistant",
        "content": "",
        "refusal": None,
        "reasoning_content": "hm",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": "Hi"},
        {"max_completion_tokens": 0},
        {"top_logprobs": 21},
        {"n": 0},
        {"n": 129},
        {"timeout": 0.0},
        {"temperature": "hot"},
        {"stream": "yes"},
    ],
)
def test_wrong_values_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({"messages": MESSAGES, **fields})
    assert caught.value.errors()[0]["loc"][0] == next(iter(fields))


def test_null_is_the_default() -> None:
    fields = dict.fromkeys(("temperature", "n", "stream", "tools", "stop", "response_format"))
    given = ChatRequest.model_validate({"messages": MESSAGES, **fields})
    assert given.model_dump() == ChatRequest.model_validate({"messages": MESSAGES}).model_dump()
