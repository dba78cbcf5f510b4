"""Parameters of the chat request, and messages about them, by the client's names."""

import pytest

from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.responses.names import Names, Origin, output_limit
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.responses import ResponsesRequest

NAMES = Names(
    [
        Origin("instructions"),
        Origin("previous_response_id"),
        Origin("input[1]"),
        Origin("input[4]", "output"),
    ],
    ["tools[0]", "tools[2].tools[1]"],
)


@pytest.mark.parametrize(
    ("chat", "here"),
    [
        (None, None),
        ("messages", "input"),
        ("messages[2].role", "input[1].role"),
        ("messages[2].content[0].type", "input[1].content[0].type"),
        ("messages[3].content", "input[4].output"),
        ("messages[0].content", "instructions.content"),
        ("messages[9].content", "input"),
        ("response_format", "text.format"),
        ("response_format.type", "text.format.type"),
        ("response_format.json_schema", "text.format"),
        ("response_format.json_schema.schema.properties.messages", "text.format.schema.properties.messages"),
        ("max_completion_tokens", "max_output_tokens"),
        ("reasoning_effort", "reasoning.effort"),
        ("tools", "tools"),
        ("tools[0].function.name", "tools[0].name"),
        ("tools[1].function.parameters", "tools[2].tools[1].parameters"),
        ("structured_outputs.regex", "structured_outputs.regex"),
        ("min_tokens", "min_tokens"),
        ("temperature", "temperature"),
    ],
)
def test_parameters(chat: str | None, here: str | None) -> None:
    assert NAMES.renamed(chat) == here


def test_the_bound_of_an_answer_has_the_name_that_the_client_used() -> None:
    for fields, name, limit in (
        ({}, "max_output_tokens", None),
        ({"max_tokens": 5}, "max_tokens", 5),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", 6),
        ({"max_tokens": 5, "max_output_tokens": 7}, "max_output_tokens", 7),
    ):
        body = ResponsesRequest.model_validate({"input": "x", **fields})
        assert output_limit(body) == (name, limit)
        assert Names(limit=name).renamed("max_completion_tokens") == name


@pytest.mark.parametrize(
    ("said", "param", "here"),
    [
        (
            "'messages[2].role' must be one of user.",
            "messages[2].role",
            "'input[1].role' must be one of user.",
        ),
        (
            "response_format and structured_outputs.regex are mutually exclusive.",
            "structured_outputs.regex",
            "text.format and structured_outputs.regex are mutually exclusive.",
        ),
        (
            "'response_format.json_schema.schema.type' is not valid in a JSON schema: x.",
            "response_format.json_schema.schema.type",
            "'text.format.schema.type' is not valid in a JSON schema: x.",
        ),
        ("There are too many messages.", "messages", "There are too many messages."),
        (
            "This API key may generate at most 5 tokens (max_completion_tokens).",
            "max_completion_tokens",
            "This API key may generate at most 5 tokens (max_output_tokens).",
        ),
    ],
)
def test_messages_name_the_same(said: str, param: str, here: str) -> None:
    fault = NAMES.error(InvalidRequest(said, param))
    assert (fault.message, fault.param) == (here, NAMES.renamed(param))


def test_the_rest_of_an_error_stays() -> None:
    fault = NAMES.error(
        ApiError(429, "messages", param="messages", code="busy", headers={"retry-after": "1"})
    )
    assert (fault.status, fault.param, fault.code, fault.headers) == (
        429,
        "input",
        "busy",
        {"retry-after": "1"},
    )
    own = ApiError(503, "The messages are lost.")
    assert NAMES.error(own) is own
