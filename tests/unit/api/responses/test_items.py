"""Items of /v1/responses as messages of a chat, and parameter names on the way back."""

from typing import Any

import pytest

from trtllm_openai.api.responses.items import from_output, renamed, to_chat, to_messages
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.responses import ResponsesRequest

USER = {"role": "user", "content": "Hi"}


def test_text_is_a_message_of_the_user() -> None:
    assert to_messages("Hi") == [USER]


def test_calls_join_the_message_before_them() -> None:
    def call(call_id: str) -> dict[str, Any]:
        return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}", "status": "x"}

    items = [
        {**USER, "type": "message", "id": "item_1"},
        {"role": "assistant", "content": "Wait."},
        call("1"),
        call("2"),
        {"type": "function_call_output", "call_id": "1", "output": "sunny"},
        {"type": "reasoning", "content": []},
        call("3"),
    ]
    user, assistant, output, last = to_messages(items)
    assert user == USER, "what a chat does not know is left out"
    assert (assistant["content"], [one["id"] for one in assistant["tool_calls"]]) == ("Wait.", ["1", "2"])
    assert output == {"role": "tool", "tool_call_id": "1", "content": "sunny"}
    assert (last["role"], last["content"], last["tool_calls"][0]["id"]) == ("assistant", None, "3")


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "item_reference"}, "input[1].type"),
        ({"type": "function_call", "name": "f"}, "input[1].call_id"),
        ({"type": "function_call", "call_id": "1", "name": 5}, "input[1].name"),
        ({"type": "function_call_output"}, "input[1].call_id"),
    ],
)
def test_wrong_items_are_named(item: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        to_messages([USER, item])
    assert caught.value.param == param


def test_the_chat_request_that_asks_the_same() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    body = ResponsesRequest(
        input="Hi",
        temperature=0.5,
        max_output_tokens=7,
        tools=[tool],
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
        reasoning={"effort": "low"},
        truncation="auto",
        include=["message.output_text.logprobs"],
    )
    chat = to_chat(body, [USER])
    assert chat == {
        "messages": [USER],
        "max_completion_tokens": 7,
        "temperature": 0.5,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}},
        },
        "reasoning_effort": "low",
        "truncate_prompt_tokens": -1,
        "logprobs": True,
        "top_logprobs": 0,
    }
    ChatRequest.model_validate(chat)


def test_other_tools_are_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        to_chat(ResponsesRequest(input="Hi", tools=[{"type": "web_search"}]), [USER])
    assert (caught.value.param, caught.value.code) == ("tools[0].type", "unsupported_parameter")


@pytest.mark.parametrize(
    ("chat", "here"),
    [
        (None, None),
        ("messages", "input"),
        ("messages[5].content", "input[2].content"),
        ("messages[1]", "input[0]"),
        ("response_format.json_schema.schema", "text.format.json_schema.schema"),
        ("max_completion_tokens", "max_output_tokens"),
        ("tools[0].function.name", "tools[0].function.name"),
        ("temperature", "temperature"),
    ],
)
def test_parameters_have_the_names_of_this_endpoint(chat: str | None, here: str | None) -> None:
    assert renamed(chat, 3) == here


def test_an_answer_continues_without_its_reasoning() -> None:
    content = [{"type": "output_text", "text": "Hello"}]
    output: list[dict[str, Any]] = [
        {"type": "reasoning", "content": []},
        {"type": "message", "role": "assistant", "content": content, "status": "completed"},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"a": 1}'},
    ]
    (message,) = from_output(output)
    assert message["content"] == content
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
