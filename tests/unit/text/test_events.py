"""Neighbouring events of one kind become one."""

import pytest

from trtllm_openai.text.events import CallArguments, CallStart, Content, Event, Reasoning, merged


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], []),
        ([Content("a"), Content("b"), Content("c")], [Content("abc")]),
        ([Reasoning("a"), Content("b"), Content("c")], [Reasoning("a"), Content("bc")]),
        ([Content("a"), Reasoning("b"), Content("c")], [Content("a"), Reasoning("b"), Content("c")]),
        ([CallArguments(0, "{"), CallArguments(0, "}")], [CallArguments(0, "{}")]),
        ([CallArguments(0, "{"), CallArguments(1, "}")], [CallArguments(0, "{"), CallArguments(1, "}")]),
        (
            [CallStart(0, "x", "f"), CallStart(1, "y", "f"), CallArguments(1, "{}")],
            [CallStart(0, "x", "f"), CallStart(1, "y", "f"), CallArguments(1, "{}")],
        ),
    ],
)
def test_merged(events: list[Event], expected: list[Event]) -> None:
    assert merged(events) == expected
