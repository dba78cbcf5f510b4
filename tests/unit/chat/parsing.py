"""Texts for output parsers, cut at any place, and what is read from them."""

import json
from typing import Any

from hypothesis import strategies as st

from trtllm_openai.chat.parsers import ChatOutput
from trtllm_openai.chat.parsers.tool_parser import ToolParser
from trtllm_openai.text.events import CallArguments, CallStart, Content, Event, merged

NAMES = ("get_weather", "f", "math.add-2")

Call = tuple[str, dict[str, Any]]

STRINGS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            '"',
            '\\"',
            "\\",
            "}",
            "{",
            "}}]",
            "[{",
            "a, b",
            "</tool_call>",
            "<tool_call>",
            "[TOOL_CALLS]",
            "[ARGS]",
        ]
    ),
    st.sampled_from(["서울", "👩‍👩‍👧", "\n", "'", 'it\'s "it"', "<|python_end|>", "f(x=1)", "=", ";", ": ,"]),
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(-1e9, 1e9), STRINGS)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=6,
)
KEYS = st.one_of(STRINGS, st.sampled_from(["city", "name", "arguments", "parameters", "function", "id"]))
ARGUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)
PYTHON_ARGUMENTS = st.dictionaries(st.sampled_from(["city", "days", "x", "_y2", "한"]), VALUES, max_size=4)
CALLS = st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), min_size=1, max_size=3)
PYTHON_CALLS = st.lists(st.tuples(st.sampled_from(NAMES), PYTHON_ARGUMENTS), min_size=1, max_size=3)


def feed(parser: ToolParser | ChatOutput, chunks: list[str]) -> list[Event]:
    events: list[Event] = []
    for chunk in chunks:
        events += parser.push(chunk)
    return merged(events + parser.finish())


def parse(parser: type[ToolParser], text: str) -> list[Event]:
    return feed(parser(NAMES), [text])


def cut(text: str, data: st.DataObject) -> list[str]:
    """The text in random pieces; often every character for itself."""
    if data.draw(st.booleans()):
        return list(text)
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def told(events: list[Event]) -> list[tuple[object, ...]]:
    """The events without the calls' ids, which are random."""
    return [
        ("call", event.index, event.name)
        if isinstance(event, CallStart)
        else (type(event).__name__, getattr(event, "index", None), event.text)
        for event in events
    ]


def content_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Content))


def sources_of(events: list[Event]) -> list[tuple[str, str]]:
    """Names and sources of arguments by index, which must count from 0."""
    starts = [event for event in events if isinstance(event, CallStart)]
    assert [event.index for event in starts] == list(range(len(starts)))
    assert len({event.id for event in starts}) == len(starts)
    sources = ["" for _ in starts]
    for event in events:
        if isinstance(event, CallArguments):
            sources[event.index] += event.text
    return [(start.name, source) for start, source in zip(starts, sources, strict=True)]


def calls_of(events: list[Event]) -> list[Call]:
    return [(name, json.loads(source)) for name, source in sources_of(events)]
