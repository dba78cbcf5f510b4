"""A request of /v1/messages as a chat request, and parameter names on the way back."""

from typing import Any

import pytest

from trtllm_openai.api.errors import ApiError
from trtllm_openai.api.messages.translate import Translation, translate
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.messages import CountTokensRequest, MessagesRequest

TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object"}, "cache_control": {}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def translation(**fields: Any) -> Translation:
    turn = {"role": "user", "content": "Hi"}
    return translate(MessagesRequest.model_validate({"messages": [turn], "max_tokens": 7, **fields}))


def test_the_chat_request_that_asks_the_same() -> None:
    schema = {"type": "object", "properties": {}}
    chat = translation(
        system=[{"type": "text", "text": "Be brief."}],
        temperature=0.5,
        top_k=5,
        stop_sequences=["x"],
        tools=[SEARCH, {**TOOL, "strict": True}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        output_config={"effort": "high", "format": {"type": "json_schema", "schema": schema}},
    ).chat
    assert chat["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    body = ChatRequest.model_validate(chat)
    assert body.model_extra == {}
    assert (body.max_tokens, chat["temperature"], chat["top_k"], body.stop) == (7, 0.5, 5, ["x"])
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
    assert body.tools == [{"type": "function", "function": function}]
    assert (body.tool_choice, body.parallel_tool_calls) == ("required", False)
    assert body.response_format is not None
    assert body.response_format["json_schema"]["schema"] == schema
    assert body.reasoning_effort == "high"


@pytest.mark.parametrize(
    ("given", "chat"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tool_choice(given: dict[str, Any], chat: Any) -> None:
    found = translation(tools=[TOOL], tool_choice=given).chat
    assert found["tool_choice"] == chat
    assert "parallel_tool_calls" not in found


@pytest.mark.parametrize(("kind", "thinks"), [("enabled", True), ("adaptive", True), ("disabled", False)])
def test_thinking_is_a_variable_of_the_template(kind: str, thinks: bool) -> None:
    found = translation(thinking={"type": kind}, chat_template_kwargs={"a": 1})
    assert found.chat["chat_template_kwargs"] == {"enable_thinking": thinks, "a": 1}
    assert found.left_out == []
    assert "chat_template_kwargs" not in translation().chat, "the template's own default"
    budget = translation(thinking={"type": "enabled", "budget_tokens": 2000})
    assert budget.left_out == ["thinking.budget_tokens"], "it is not enforced, which the client is told"


def test_tools_that_anthropic_runs_are_left_out_by_name() -> None:
    found = translation(tools=[SEARCH, TOOL, {"type": "custom", **TOOL, "name": "g"}])
    assert [tool["function"]["name"] for tool in found.chat["tools"]] == ["f", "g"]
    assert found.left_out == ["tools[0]:web_search_20250305"]


def test_the_last_turn_of_the_assistant_is_continued() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "("}]
    assert translation(messages=turns).chat["continue_final_message"] is True


def test_a_count_has_no_sampling() -> None:
    turn = {"role": "user", "content": "Hi"}
    assert translate(CountTokensRequest(messages=[turn])).chat == {"messages": [turn]}


@pytest.mark.parametrize(
    ("chat", "own"),
    [
        ("messages", "messages"),
        ("temperature", "temperature"),
        ("stop", "stop_sequences"),
        ("stop[1]", "stop_sequences[1]"),
        ("tools[0].function.name", "tools[1].name"),
        ("tools[0].function.parameters", "tools[1].input_schema"),
        ("tool_choice.function.name", "tool_choice.name"),
        ("response_format.json_schema.schema.type", "output_config.format.schema.type"),
        ("reasoning_effort", "output_config.effort"),
        (None, None),
    ],
)
def test_errors_have_the_clients_names(chat: str | None, own: str | None) -> None:
    fault = ApiError(400, f"Invalid value for '{chat}'.", param=chat)
    renamed = translation(tools=[SEARCH, TOOL]).renamed(fault)
    assert (renamed.param, renamed.message) == (own, f"Invalid value for '{own}'.")


@pytest.mark.parametrize(
    ("said", "here"),
    [
        (
            "min_tokens cannot be combined with response_format.json_schema.schema, which ends.",
            "min_tokens cannot be combined with output_config.format.schema, which ends.",
        ),
        ("The engine does not support response_format.", "The engine does not support output_config.format."),
        ("'stop' must not have an empty string.", "'stop_sequences' must not have an empty string."),
        ("Words that stop: tools, tools[9].", "Words that stop: tools, tools[9]."),
        (
            "'tools[0].function.parameters.properties.tools' is wrong.",
            "'tools[1].input_schema.properties.tools' is wrong.",
        ),
    ],
)
def test_messages_have_the_clients_names(said: str, here: str) -> None:
    fault = ApiError(400, said, param="min_tokens")
    assert translation(tools=[SEARCH, TOOL]).renamed(fault).message == here


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [TOOL, {**TOOL, "type": 5}]}, "tools[1].type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
    ],
)
def test_wrong_values_are_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translation(**fields)
    assert caught.value.param == param
