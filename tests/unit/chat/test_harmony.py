"""gpt-oss's channels: reasoning, content and calls, in any order and cut anywhere."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.chat.parsing import content_of, cut, feed, told
from trtllm_openai.chat.parsers.harmony import MARKS, Harmony
from trtllm_openai.text.events import CallArguments, Reasoning

NEXT = "<|start|>assistant"
THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|>"
CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>'
FINAL = "<|channel|>final<|message|>Yes."


def read(text: str, names: tuple[str, ...] = ("f", "g"), **options: Any) -> list[tuple[object, ...]]:
    whole = told(feed(Harmony(names, **options), [text]))
    assert told(feed(Harmony(names, **options), list(text))) == whole
    return whole


def call(index: int, name: str, arguments: str) -> list[tuple[object, ...]]:
    return [("call", index, name), ("CallArguments", index, arguments)]


HM, YES, F = ("Reasoning", None, "Hm."), ("Content", None, "Yes."), call(0, "f", '{"a": 1}')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (THOUGHT + NEXT + FINAL, [HM, YES]),
        (THOUGHT + NEXT + FINAL + "<|return|>", [HM, YES]),
        (THOUGHT + FINAL, [HM, YES]),  # without the start
        ("<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>Yes.", [HM, YES]),  # without the end
        ("<|channel|>analysis<|message|>Hm.<|start|>assistant<|channel|>final<|message|>Yes.", [HM, YES]),
        (FINAL, [YES]),
        ("Yes.", [YES]),
        (THOUGHT + NEXT + CALL, [HM, *F]),
        (THOUGHT + NEXT + CALL.removesuffix("<|call|>"), [HM, *F]),
        (' to=functions.f<|channel|>commentary json<|message|>{"a": 1}', F),
        (f'{NEXT} to=functions.f<|channel|>commentary<|message|>{{"a": 1}}<|call|>', F),
        (' to=f<|channel|>commentary json<|message|>{"a": 1}', F),
        ('<|channel|>analysis to=functions.f code<|message|>{"a": 1}<|call|>', F),
        (CALL + NEXT + THOUGHT + NEXT + FINAL, [*F, HM, YES]),
        (CALL + NEXT + CALL, [*F, *call(1, "f", '{"a": 1}')]),
        ("<|channel|>commentary to=functions.g<|message|><|call|>", call(0, "g", "{}")),
        ("<|channel|>commentary to=functions.new<|message|>{}<|call|>", call(0, "new", "{}")),
        (
            "<|channel|>commentary<|message|>I look it up.<|end|>" + NEXT + CALL,
            [("Content", None, "I look it up."), *F],
        ),
        (
            "<|channel|>commentary<|message|>One\n<|end|>" + NEXT + FINAL,
            [("Content", None, "One\nYes.")],
        ),
        (THOUGHT + NEXT + THOUGHT, [("Reasoning", None, "Hm.\nHm.")]),
        ("<|channel|>analysis to=python code<|message|>1+1<|call|>", [("Reasoning", None, "1+1")]),
        (
            "<|channel|>commentary to=browser.open<|message|>5<|call|>",
            [("Content", None, "<|channel|>commentary to=browser.open<|message|>5")],
        ),
        (
            "<|channel|>commentary to=functions.f<|message|>print(1)",
            [("Content", None, "<|channel|>commentary to=functions.f<|message|>print(1)")],
        ),
        ("<|channel|>final<|message|>a <|message|> b", [("Content", None, "a <|message|> b")]),
        ("<|channel|>final<|message|>a <b> <|", [("Content", None, "a <b> <|")]),
        ("<|channel|>final <|constrain|>json<|message|>{}", [("Content", None, "{}")]),
        (THOUGHT + "<|start|>assis", [HM]),
        (THOUGHT + "<|channel|>fin", [HM]),
        (THOUGHT + "so", [HM, ("Content", None, "so")]),
        ("<|channel|>ana<|end|>x", [("Content", None, "<|channel|>anax")]),
        ("to=day I say", [("Content", None, "to=day I say")]),
        (CALL.replace("1", '"<|call|>"'), call(0, "f", '{"a": "<|call|>"}')),
    ],
)
def test_messages(text: str, expected: list[tuple[object, ...]]) -> None:
    assert read(text) == expected


def test_without_tools_a_call_is_text() -> None:
    assert read(CALL, ()) == [("Content", None, CALL.removesuffix("<|call|>"))]


def test_reasoning_can_be_content() -> None:
    assert read(THOUGHT + NEXT + FINAL, reasons=False) == [("Content", None, "Hm.\nYes.")]


@pytest.mark.parametrize("opened", [True, False])
def test_a_message_that_the_prompt_begins(opened: bool) -> None:
    parser = Harmony(("f",), opened=opened)
    assert parser.in_reasoning == opened
    events = feed(parser, [" see.<|end|>", NEXT, FINAL])
    assert isinstance(events[0], Reasoning) == opened
    assert content_of(events) == ("Yes." if opened else " see.\nYes.")


def test_arguments_and_reasoning_are_streamed() -> None:
    parser = Harmony(("f",))
    inside = []
    for piece in ("<|channel|>analysis<|message|>", "<|end|>", NEXT):
        parser.push(piece)
        inside.append(parser.in_reasoning)
    assert inside == [True, False, False]
    parser.push("<|channel|>analysis<|message|>")
    assert parser.push("Hm") == [Reasoning("Hm")]
    parser.push("<|end|>" + NEXT + "<|channel|>commentary to=functions.f<|message|>{")
    assert parser.push('"a"') == [CallArguments(0, '"a"')]


WORDS = (THOUGHT, CALL, FINAL, NEXT, "analysis", "final", "commentary", " to=functions.f", " to=x")
SOUP = st.lists(st.sampled_from([*MARKS, *WORDS, *' \n{}"a<']), max_size=14).map("".join)


@given(text=SOUP, data=st.data(), tools=st.booleans(), reasons=st.booleans())
@settings(max_examples=400, deadline=None)
def test_any_cutting(text: str, data: st.DataObject, tools: bool, reasons: bool) -> None:
    names = ("f",) if tools else ()
    whole = told(feed(Harmony(names, reasons=reasons), [text]))
    assert told(feed(Harmony(names, reasons=reasons), cut(text, data))) == whole
    assert reasons or not any(kind == "Reasoning" for kind, *_ in whole)


@given(text=st.text(alphabet=st.characters(exclude_characters="<"), max_size=40))
@settings(max_examples=100, deadline=None)
def test_text_without_marks_is_content(text: str) -> None:
    assert content_of(feed(Harmony(("f",)), [text])) == text
