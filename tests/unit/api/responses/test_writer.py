"""The response object and its events, which must tell the same."""

from typing import Any

from trtllm_openai.api.responses.tools import WireTool
from trtllm_openai.api.responses.writer import ResponseWriter, new_response
from trtllm_openai.protocol.common import CompletionTokensDetails, PromptTokensDetails, Usage
from trtllm_openai.protocol.responses import ResponseObject, ResponsesRequest
from trtllm_openai.text.events import CallArguments, CallStart, Content, Event, Reasoning

USAGE = Usage(
    prompt_tokens=3,
    completion_tokens=5,
    total_tokens=8,
    prompt_tokens_details=PromptTokensDetails(cached_tokens=1),
    completion_tokens_details=CompletionTokensDetails(reasoning_tokens=2),
)
ANSWER: list[Event] = [
    Reasoning("h"),
    Reasoning("m"),
    Content("Hel"),
    Content("lo"),
    CallStart(0, "call_1", "f"),
    CallArguments(0, '{"a"'),
    CallArguments(0, ": 1}"),
]


def written(parts: list[Event], reason: str = "stop") -> tuple[ResponseWriter, list[dict[str, Any]]]:
    writer = ResponseWriter(new_response(ResponsesRequest(input="x"), "resp_1", "m"))
    events = writer.begin()
    for part in parts:
        events += writer.add(part)
    return writer, events + writer.finish(reason, USAGE)


def test_each_kind_has_its_item() -> None:
    writer, _ = written(ANSWER)
    reasoning, message, call = writer.response["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert message["content"][0]["text"] == "Hello"
    assert (call["call_id"], call["name"], call["arguments"]) == ("call_1", "f", '{"a": 1}')
    assert {item["status"] for item in writer.response["output"]} == {"completed"}
    assert writer.response["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    ResponseObject.model_validate(writer.response)


def test_events_are_numbered_and_their_deltas_add_up() -> None:
    writer, events = written(ANSWER)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    for kind, text in (("reasoning_text", "hm"), ("output_text", "Hello")):
        deltas = [event["delta"] for event in events if event["type"] == f"response.{kind}.delta"]
        (done,) = [event["text"] for event in events if event["type"] == f"response.{kind}.done"]
        assert "".join(deltas) == done == text
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert items == writer.response["output"] == events[-1]["response"]["output"]
    assert events[0]["response"]["output"] == [], "earlier events do not change"


def test_an_answer_that_was_cut_is_incomplete() -> None:
    writer, events = written([Content("Hel")], "length")
    assert events[-1]["type"] == "response.incomplete"
    assert writer.response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert writer.response["output"][0]["status"] == "incomplete"
    assert writer.response["completed_at"] is None


def test_an_empty_answer_has_an_empty_message_whose_stream_is_whole() -> None:
    writer, events = written([])
    (message,) = writer.response["output"]
    assert (message["type"], message["content"][0]["text"]) == ("message", "")
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


def test_calls_have_the_clients_names() -> None:
    tools = {
        "crm__find": WireTool("function", "find", "crm"),
        "shell": WireTool("custom", "shell"),
    }
    writer = ResponseWriter(new_response(ResponsesRequest(input="x"), "resp_1", "m"), tools)
    events = writer.begin()
    for part in (
        CallStart(0, "call_1", "crm__find"),
        CallArguments(0, '{"id": 1}'),
        CallStart(1, "call_2", "shell"),
        CallArguments(1, '{"input": "ls'),
        CallArguments(1, '\\n"'),
        CallArguments(1, "}"),
    ):
        events += writer.add(part)
    events += writer.finish("tool_calls", USAGE)
    function, custom = writer.response["output"]
    assert (function["type"], function["namespace"], function["name"]) == ("function_call", "crm", "find")
    assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "shell", "ls\n")
    assert not custom.keys() & {"namespace", "arguments"}
    kind = "response.custom_tool_call_input"
    own = [event for event in events if event["type"].startswith(kind)]
    assert [event.get("delta", event.get("input")) for event in own] == ["ls", "\n", "ls\n"]
    assert {event["item_id"] for event in own} == {custom["id"]}
    assert len({item["id"] for item in writer.response["output"]}) == 2


def test_custom_input_of_another_form_comes_at_the_end() -> None:
    writer = ResponseWriter(
        new_response(ResponsesRequest(input="x"), "resp_1", "m"), {"c": WireTool("custom", "c")}
    )
    events = [*writer.add(CallStart(0, "call_1", "c")), *writer.add(CallArguments(0, '{"cmd": "ls"}'))]
    events += writer.finish("tool_calls", USAGE)
    deltas = [event["delta"] for event in events if event["type"].endswith(".delta")]
    assert deltas == [writer.response["output"][0]["input"]] == ['{"cmd": "ls"}']


def test_tools_are_told_as_they_were_given() -> None:
    tools: list[dict[str, Any]] = [{"type": "function", "name": "f"}, {"type": "web_search"}]
    told = new_response(ResponsesRequest(input="x", tools=tools), "resp_1", "m")["tools"]
    assert told == [{**tools[0], "description": None, "parameters": None, "strict": None}, tools[1]]


def test_failure_keeps_the_text_so_far() -> None:
    writer = ResponseWriter(new_response(ResponsesRequest(input="x"), "resp_1", "m"))
    writer.add(Content("Hel"))
    writer.fail("failed", None, "it broke")
    assert writer.response["error"] == {"code": "server_error", "message": "it broke"}
    (message,) = writer.response["output"]
    assert (message["status"], message["content"][0]["text"]) == ("incomplete", "Hel")
    writer.fail("cancelled", None, "")
    assert (writer.response["status"], writer.response["error"]) == ("cancelled", None)
