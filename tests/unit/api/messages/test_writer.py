"""The message and its events, which must tell the same, in the types of Anthropic's SDK."""

import json
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from trtllm_openai.api.messages.writer import MessageWriter, new_message
from trtllm_openai.protocol.common import CompletionTokensDetails, PromptTokensDetails, Usage
from trtllm_openai.text.events import CallArguments, CallStart, Content, Event, Reasoning

EVENTS: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
USAGE = Usage(
    prompt_tokens=30,
    completion_tokens=5,
    total_tokens=35,
    prompt_tokens_details=PromptTokensDetails(cached_tokens=10),
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
    CallStart(1, "call_2", "g"),
]


def written(
    parts: list[Event], reason: str = "stop", stop: str | int | None = None, *, shown: bool = True
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    writer = MessageWriter(new_message("m"), shown)
    events = writer.begin(USAGE)
    for part in parts:
        events += writer.add(part)
    return writer.message, events + writer.finish(reason, stop, USAGE)


def accumulated(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What Anthropic's SDK makes of the events."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events:
        if event["type"] != "ping":
            parsed = EVENTS.validate_python(event)
            snapshot = accumulate_event(event=parsed, current_snapshot=snapshot, json_bufs=buffers)
    return plain(snapshot.to_dict())


def plain(message: dict[str, Any]) -> dict[str, Any]:
    return {key: message[key] for key in ("id", "role", "model", "content", "stop_reason", "usage")}


def test_each_kind_has_its_block() -> None:
    message, _ = written(ANSWER, "tool_calls")
    Message.model_validate(message)
    thinking, text, first, second = message["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "hm")
    assert thinking["signature"]
    assert text == {"type": "text", "text": "Hello"}
    assert first == {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}}
    assert second["input"] == {}
    assert (message["stop_reason"], message["stop_sequence"]) == ("tool_use", None)


def test_the_order_of_events() -> None:
    _, events = written(ANSWER)
    assert [(event["type"], event.get("index")) for event in events] == [
        ("message_start", None),
        ("content_block_start", 0),
        ("ping", None),
        ("content_block_delta", 0),
        ("content_block_delta", 0),
        ("content_block_delta", 0),  # the signature
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
        ("content_block_delta", 2),
        ("content_block_stop", 2),
        ("content_block_start", 3),
        ("content_block_delta", 3),
        ("content_block_stop", 3),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert events[0]["message"]["content"] == [], "earlier events do not change"
    pieces = [
        event["delta"].get("partial_json")
        for event in events
        if event.get("index", 0) > 1 and "delta" in event
    ]
    assert pieces == ['{"a"', ": 1}", "{}"]


def test_usage() -> None:
    message, events = written(ANSWER)
    counts = {"input_tokens": 20, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 0}
    assert counts.items() <= message["usage"].items()
    assert message["usage"]["output_tokens_details"] == {"thinking_tokens": 2}
    assert counts.items() <= events[0]["message"]["usage"].items()
    assert (events[0]["message"]["usage"]["output_tokens"], message["usage"]["output_tokens"]) == (0, 5)


@pytest.mark.parametrize(
    ("reason", "stop", "expected"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", 17, ("end_turn", None)),
        ("stop", "STOP", ("stop_sequence", "STOP")),
        ("length", None, ("max_tokens", None)),
        ("tool_calls", "STOP", ("tool_use", None)),
        ("content_filter", None, ("refusal", None)),
    ],
)
def test_stop_reasons(reason: str, stop: str | int | None, expected: tuple[str, str | None]) -> None:
    message, events = written([Content("a")], reason, stop)
    assert (message["stop_reason"], message["stop_sequence"]) == expected
    assert events[-2]["delta"] == {"stop_reason": expected[0], "stop_sequence": expected[1]}


def test_an_answer_without_text_has_a_block() -> None:
    message, events = written([Content("")])
    assert message["content"] == [{"type": "text", "text": ""}]
    assert accumulated(events) == plain(message)


def test_thinking_that_is_not_shown() -> None:
    message, events = written(ANSWER, shown=False)
    assert message["content"][0]["thinking"] == ""
    assert not [event for event in events if event.get("delta", {}).get("type") == "thinking_delta"]
    assert accumulated(events) == plain(message)


def test_a_call_that_was_cut_keeps_what_is_complete() -> None:
    message, events = written([CallStart(0, "c", "f"), CallArguments(0, '{"a": 1, "b": "te')], "length")
    assert message["content"][0]["input"] == {"a": 1}
    assert message["stop_reason"] == "max_tokens"
    assert accumulated(events) == plain(message)


ARGUMENTS = json.dumps({"a": [1, "x"], "한": {"b": None}}, ensure_ascii=False)


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    found: list[Event] = []
    calls = 0
    for kind in draw(st.lists(st.sampled_from(["content", "reasoning", "call"]), max_size=6)):
        pieces = draw(st.lists(st.sampled_from(["", "a", "한글", "👩‍👩‍👧 ", "\n\n"]), max_size=3))
        if kind == "content":
            found += map(Content, pieces)
        elif kind == "reasoning":
            found += map(Reasoning, pieces)
        else:
            found.append(CallStart(calls, f"call_{calls}", "f"))
            end = draw(st.integers(0, len(ARGUMENTS)))
            cut = draw(st.integers(0, end))
            found += [CallArguments(calls, ARGUMENTS[:cut]), CallArguments(calls, ARGUMENTS[cut:end])]
            calls += 1
    return found


@given(parts=answers(), reason=st.sampled_from(["stop", "length", "tool_calls"]), shown=st.booleans())
@settings(max_examples=200, deadline=None)
def test_stream_and_whole_agree(parts: list[Event], reason: str, shown: bool) -> None:
    message, events = written(parts, reason, shown=shown)
    Message.model_validate(message)
    assert accumulated(events) == plain(message)
