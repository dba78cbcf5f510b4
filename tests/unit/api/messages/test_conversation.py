"""Turns and blocks of Anthropic's API as messages of a chat."""

from typing import Any

import pytest

from trtllm_openai.api.messages.conversation import Conversation
from trtllm_openai.errors import InvalidRequest


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def converted(*turns: dict[str, Any]) -> Conversation:
    conversation = Conversation()
    for index, turn in enumerate(turns):
        conversation.add_turn(turn, f"messages[{index}]")
    return conversation


def test_texts_and_blocks() -> None:
    system = {"role": "system", "content": [text("a"), {**text("b"), "cache_control": {"type": "ephemeral"}}]}
    found = converted(
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [text("Hel"), text("lo")]},
        system,
        {"role": "user", "content": [text("x"), text("y")]},
    ).messages
    assert found == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "system", "content": [text("a"), text("b")]},
        {"role": "user", "content": [text("x"), text("y")]},
    ], "a system message stays in its place"


def test_calls_and_their_results() -> None:
    use = {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}
    found = converted(
        {"role": "user", "content": "Go"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                text("Wait."),
                use,
                {**use, "id": "c2"},
                {**use, "id": "c3"},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [text("sunny"), text("warm")]},
                {"type": "tool_result", "tool_use_id": "c2", "content": "no such city", "is_error": True},
                {"type": "tool_result", "tool_use_id": "c3"},
                text("And?"),
            ],
        },
    ).messages
    assert [message["role"] for message in found] == ["user", "assistant", "tool", "tool", "tool", "user"]
    assistant = found[1]
    assert (assistant["content"], assistant["reasoning_content"]) == ("Wait.", "hm")
    assert [call["id"] for call in assistant["tool_calls"]] == ["c1", "c2", "c3"]
    assert assistant["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert found[2] == {"role": "tool", "tool_call_id": "c1", "content": [text("sunny"), text("warm")]}
    assert [message["content"] for message in found[3:]] == ["Error: no such city", "", "And?"]


def test_turns_of_one_role_are_one_message() -> None:
    found = converted(
        {"role": "user", "content": "a"},
        {"role": "user", "content": [text("b")]},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
        {"role": "user", "content": [text("before"), {"type": "tool_result", "tool_use_id": "1"}, text("d")]},
        {"role": "user", "content": "e"},
    ).messages
    assert [message["role"] for message in found] == ["user", "assistant", "user", "tool", "user"]
    assert found[0]["content"] == [text("a"), text("b")]
    assert (found[1]["content"], len(found[1]["tool_calls"])) == ("c", 1)
    assert (found[2]["content"], found[4]["content"]) == ("before", [text("d"), text("e")])


def test_documents_are_their_text() -> None:
    plain = {"type": "text", "media_type": "text/plain", "data": "words"}
    blocks = [
        {"type": "document", "title": "T", "source": plain},
        {"type": "document", "source": {"type": "content", "content": [text("a"), text("b")]}},
        {"type": "search_result", "title": "S", "source": "http://x", "content": [text("found")]},
    ]
    (message,) = converted({"role": "user", "content": blocks}).messages
    assert [part["text"] for part in message["content"]] == ["T\nwords", "a\nb", "S\nhttp://x\nfound"]


def test_what_anthropic_ran_is_left_out() -> None:
    blocks = [{"type": "server_tool_use"}, {"type": "web_search_tool_result"}, text("ok")]
    conversation = converted({"role": "user", "content": "a"}, {"role": "assistant", "content": blocks})
    assert conversation.messages[1]["content"] == "ok"
    assert conversation.left_out == {"server_tool_use", "web_search_tool_result"}


def test_a_last_turn_of_the_assistant_is_continued() -> None:
    user = {"role": "user", "content": "a"}
    assert converted(user, {"role": "assistant", "content": "("}).continues
    assert not converted(user).continues
    assert not converted(user, {"role": "assistant", "content": []}).continues
    use = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
    assert not converted(user, {"role": "assistant", "content": [text("x"), use]}).continues


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}


@pytest.mark.parametrize(
    ("turn", "param"),
    [
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": ["x"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [text("a"), IMAGE]}, "messages[0].content[1].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        (
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [IMAGE]}]},
            "messages[0].content[0].content[0].type",
        ),
        (
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": 5}]},
            "messages[0].content[0].content",
        ),
        ({"role": "user", "content": [{"type": "tool_result"}]}, "messages[0].content[0].tool_use_id"),
        (
            {"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]},
            "messages[0].content[0].source.type",
        ),
        ({"role": "system", "content": [IMAGE]}, "messages[0].content[0].type"),
        ({"role": "assistant", "content": [IMAGE]}, "messages[0].content[0].type"),
        (
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": "x"}]},
            "messages[0].content[0].input",
        ),
        (
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "input": {}}]},
            "messages[0].content[0].name",
        ),
    ],
)
def test_wrong_blocks_are_named(turn: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        converted(turn)
    assert caught.value.param == param
