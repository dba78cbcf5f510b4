"""Parsers of tool calls: the same events however the text is cut, and nothing lost."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.chat.parsing import (
    ARGUMENTS,
    CALLS,
    NAMES,
    PYTHON_CALLS,
    Call,
    calls_of,
    content_of,
    cut,
    feed,
    parse,
    sources_of,
    told,
)
from trtllm_openai.chat.parsers import TOOL_FORMATS, ChatOutput, detect_reasoning, detect_tools
from trtllm_openai.chat.parsers.formats import Hermes
from trtllm_openai.chat.parsers.json_array import JsonArray
from trtllm_openai.chat.parsers.llama_json import LlamaJson
from trtllm_openai.chat.parsers.mistral import Mistral
from trtllm_openai.chat.parsers.pythonic import Pythonic
from trtllm_openai.chat.parsers.tool_parser import ToolParser
from trtllm_openai.text.events import CallArguments, CallStart, Content, merged

PARSERS = (Hermes, LlamaJson, Mistral, Pythonic, JsonArray)
MARKS = ("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
PYTHONIC_MARKS = ("<|python_start|>", "<|python_end|>")

each_parser = pytest.mark.parametrize("parser", PARSERS)

SPACE = st.text(" \n\t", max_size=3)
PROSE = st.sampled_from(
    ["Hello", "한국어", "a < b", "x {y}", "see [1]", "1 + 1 = 2.", "<tool", "]", "}", "<|", ""]
)


@st.composite
def objects(draw: st.DrawFn) -> str:
    """One call as a JSON object, with the variations of real models."""
    name, arguments = draw(st.tuples(st.sampled_from([*NAMES, "unknown", ""]), ARGUMENTS))
    value: Any = draw(st.sampled_from([arguments, arguments, json.dumps(arguments), None, 5, "", [], "x"]))
    extras: list[list[tuple[str, Any]]] = [[], [], [("id", "abc")], [("type", "function")], [("other", 1)]]
    parts = [
        (draw(st.sampled_from(["name", "name", "function"])), name),
        (draw(st.sampled_from(["arguments", "parameters"])), value),
        *draw(st.sampled_from(extras)),
    ]
    if draw(st.booleans()):
        parts.reverse()
    return json.dumps(
        dict(parts),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, None, 2])),
        separators=draw(st.sampled_from([None, (",", ":")])),
    )


@st.composite
def fragments(draw: st.DrawFn) -> str:
    """A piece of an answer: a call of some format, maybe broken, or text."""
    source = draw(objects())
    kind = draw(st.integers(0, 9))
    name = draw(st.sampled_from([*NAMES, "unknown", ""]))
    match kind:
        case 0:
            source = f"<tool_call>{draw(SPACE)}{source}{draw(SPACE)}</tool_call>"
        case 1:
            source = f"[TOOL_CALLS]{draw(SPACE)}[{source}, {draw(objects())}]"
        case 2:
            source = f"[TOOL_CALLS]{name}[ARGS]{json.dumps(draw(ARGUMENTS))}"
        case 3:
            source = f"[TOOL_CALLS]{name}[CALL_ID]abc[ARGS]{json.dumps(draw(ARGUMENTS))}"
        case 4:
            source = pythonic(draw(PYTHON_CALLS))
        case 5:
            source = f"{draw(st.sampled_from(['', '<|python_tag|>']))}{source}; {draw(objects())}"
        case 6:
            source = f"[{source},{draw(SPACE)}{draw(objects())}]"
        case 7:
            source = draw(PROSE)
        case 8:
            source = draw(
                st.sampled_from([*MARKS, *PYTHONIC_MARKS, "[", "{", "]", "}", "(", ",", ";", '"', "\\"])
            )
    if draw(st.integers(0, 3)) == 0:  # broken: cut, or a character too few
        place = draw(st.integers(0, len(source)))
        source = source[:place] + draw(st.sampled_from(["", source[place + 1 :]]))
    return source + draw(SPACE)


TEXTS = st.builds("".join, st.tuples(SPACE, st.lists(fragments(), max_size=4).map("".join)))
ALPHABET = st.sampled_from(
    [*MARKS, *PYTHONIC_MARKS, *NAMES, *' \n{}[]()<>|"\\:,;=x1', '"name"', '"arguments"', '"f"', "{}", "가"]
)
SOUP = st.lists(ALPHABET, max_size=25).map("".join)


def pythonic(calls: list[Call]) -> str:
    """Calls as a model writes them in Python."""
    return "[" + ", ".join(python_call(*call) for call in calls) + "]"


def python_call(name: str, arguments: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def mistral_named(calls: list[Call]) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments)}" for name, arguments in calls)


def as_object(call: Call, key: str = "arguments") -> str:
    return json.dumps({"name": call[0], key: call[1]}, ensure_ascii=False)


def array(calls: list[Call]) -> str:
    return "[" + ", ".join(as_object(call) for call in calls) + "]"


def hermes(calls: list[Call]) -> str:
    return "\n".join(f"<tool_call>\n{as_object(call)}\n</tool_call>" for call in calls)


FORMATS: list[tuple[type[ToolParser], Callable[[list[Call]], str]]] = [
    (Hermes, hermes),
    (Hermes, lambda calls: "".join(f"<tool_call>{as_object(call)}</tool_call>" for call in calls)),
    (LlamaJson, lambda calls: "; ".join(as_object(call, "parameters") for call in calls)),
    (LlamaJson, lambda calls: "<|python_tag|>" + ";".join(as_object(call, "parameters") for call in calls)),
    (Mistral, lambda calls: f"[TOOL_CALLS]{array(calls)}"),
    (Mistral, lambda calls: f"[TOOL_CALLS] {array(calls)}"),
    (Mistral, mistral_named),
    (JsonArray, array),
    (JsonArray, lambda calls: json.dumps([{"name": n, "arguments": a} for n, a in calls], indent=1)),
]


@each_parser
@given(text=st.one_of(TEXTS, SOUP), data=st.data())
@settings(max_examples=400, deadline=None)
def test_any_cutting(parser: type[ToolParser], text: str, data: st.DataObject) -> None:
    assert told(feed(parser(NAMES), cut(text, data))) == told(parse(parser, text))


@each_parser
@given(text=st.text())
@settings(max_examples=100, deadline=None)
@example("[")
@example("{")
@example('  {"x": 1} ')
@example(" [1, 2]\n")
@example("[]")
def test_text_without_a_call_is_unchanged(parser: type[ToolParser], text: str) -> None:
    assert content_of(parse(parser, text)) == text


@each_parser
@given(text=st.one_of(TEXTS, SOUP))
@settings(max_examples=400, deadline=None)
def test_an_answer_without_calls_is_all_content(parser: type[ToolParser], text: str) -> None:
    events = parse(parser, text)
    if not sources_of(events):
        assert content_of(events) == text


@pytest.mark.parametrize(("parser", "write"), FORMATS)
@given(calls=CALLS)
@settings(max_examples=100, deadline=None)
def test_calls_are_read_back(
    parser: type[ToolParser], write: Callable[[list[Call]], str], calls: list[Call]
) -> None:
    events = parse(parser, write(calls))
    assert calls_of(events) == calls
    assert content_of(events) == ""


@given(PYTHON_CALLS, st.sampled_from([("", ""), ("<|python_start|>", "<|python_end|>")]))
@settings(max_examples=200, deadline=None)
def test_pythonic_calls_are_read_back(calls: list[Call], marks: tuple[str, str]) -> None:
    events = parse(Pythonic, marks[0] + pythonic(calls) + marks[1])
    assert calls_of(events) == calls
    assert content_of(events) == ""


@pytest.mark.parametrize(("parser", "write"), FORMATS)
@given(calls=CALLS, data=st.data())
@settings(max_examples=60, deadline=None)
def test_truncated_calls(
    parser: type[ToolParser], write: Callable[[list[Call]], str], calls: list[Call], data: st.DataObject
) -> None:
    """What was begun is there, as far as it went; what was not begun is content."""
    text = write(calls)
    full = sources_of(parse(parser, text))
    length = data.draw(st.integers(0, len(text)))
    events = parse(parser, text[:length])
    found = sources_of(events)
    assert [name for name, _ in found] == [name for name, _ in full[: len(found)]]
    assert [source for _, source in found[:-1]] == [source for _, source in full[: len(found)][:-1]]
    if found:
        assert full[len(found) - 1][1].startswith(found[-1][1])
    assert content_of(events) in text[:length]


@pytest.mark.parametrize(("parser", "write"), FORMATS[:2] + FORMATS[4:7])
@given(calls=CALLS, before=PROSE, after=st.sampled_from(["Done.", "한국어", ""]), space=SPACE)
@settings(max_examples=60, deadline=None)
def test_content_around_calls(
    parser: type[ToolParser],
    write: Callable[[list[Call]], str],
    calls: list[Call],
    before: str,
    after: str,
    space: str,
) -> None:
    events = parse(parser, f"{before}{space}{write(calls)}{space}{after}")
    assert calls_of(events) == calls
    texts = [event.text.strip() for event in events if isinstance(event, Content)]
    assert texts == [part for part in (before, after) if part]
    if before:
        assert events[0] == Content(before)


@pytest.mark.parametrize(
    ("parser", "text", "content"),
    [
        (Hermes, "<tool_call>\nnot json\n</tool_call>", None),
        (Hermes, '<tool_call>{"nam', None),
        (Hermes, '<tool_call>{"arguments": {"a": 1}}</tool_call>', None),
        (Hermes, '<tool_call>{"name": 5, "arguments": {}}</tool_call>', None),
        (Hermes, "<tool_call>", None),
        (Hermes, "<tool", None),
        (LlamaJson, '{"name": "unknown", "parameters": {"a": 1}}', None),
        (LlamaJson, '{"answer": {"name": "f"}}', None),
        (LlamaJson, ' {"name": ["f"], "age": 5}', None),
        (LlamaJson, '<|python_tag|>print("hi")', None),
        (LlamaJson, 'Like this: {"name": "f", "parameters": {}}', None),
        (LlamaJson, '{"name": "get_wea', None),
        (Mistral, "[TOOL_CALLS]", None),
        (Mistral, "Hi [TOOL_CALLS] and more {x}", None),
        (Mistral, "Hi [TOOL_CALLS] [1, 2]", None),
        (Mistral, "[TOOL_CALLS][TOOL_CALLS]f", None),
        (Mistral, "[TOOL_CALLS]unknown{}", None),
        (Mistral, "[TOOL_CALLS][] [TOOL_CALLS]\n[", None),
        (Mistral, "[TOOL_CALLS]f[ARGS]null", None),
        (Mistral, "[TOOL_CALLS]" + 300 * "f" + "{}", None),
        (Mistral, '[TOOL_CALLS][{"nam', None),
        (Pythonic, "[unknown(a=1)]", None),
        (Pythonic, " <|python_start|> [f, g]", None),
        (Pythonic, "[get_wea", None),
        (Pythonic, "[" + 300 * "f" + "()]", None),
        (Pythonic, "[see f(a=1)]<|python_end|>", None),
        (JsonArray, '[{"answer": 5}, {"name": "f"}]', None),
        (JsonArray, '[{"na', None),
    ],
)
def test_malformed_calls_are_content(parser: type[ToolParser], text: str, content: str | None) -> None:
    events = parse(parser, text)
    assert told(events) == [("Content", None, content if content is not None else text)]


@pytest.mark.parametrize(
    ("parser", "text", "calls", "content"),
    [
        # a brace too few: the tag ends the call
        (Hermes, '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call> so', [("f", {"a": 1})], " so"),
        (Hermes, '<tool_call>{"name": "f", "arguments": {}<tool_call>{"name": "f"}', [("f", {})] * 2, ""),
        (Hermes, '<tool_call>{"name": "f", "arguments": {}, oh}', [("f", {})], "oh}"),
        (Hermes, '<tool_call>{"na<tool_call>{"name": "f"}</tool_call>', [("f", {})], '<tool_call>{"na'),
        (Hermes, '<tool_call><tool_call>{"name": "f"}</tool_call>', [("f", {})], "<tool_call>"),
        (Hermes, '<tool_call>x<tool_call>{"name": "f"}</tool_call>', [("f", {})], "<tool_call>x"),
        (Hermes, '<tool_call>{"name": "f", "arguments": {}}\n<tool_call>{"name": "f"}', [("f", {})] * 2, ""),
        (Hermes, '<tool_call>{"name": "f", "arguments": {}}</tool', [("f", {})], ""),
        (Hermes, '<tool_call>{"name": "f", "arguments": {}} x', [("f", {})], " x"),
        (Hermes, '<tool_call>{"name": "f"}</tool_call>\nA <tool_call>{', [("f", {})], "\nA <tool_call>{"),
        (Hermes, '<tool_call>{"name": "f"}</tool_call>A \n', [("f", {})], "A \n"),
        (Hermes, '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', [("f", {"a": 1})], ""),
        (Hermes, '<tool_call>{"name": "f", "arguments": null}</tool_call>', [("f", {})], ""),
        (Hermes, '<tool_call>{"name": "f", "arguments": ""}</tool_call>', [("f", {})], ""),
        (Hermes, '<tool_call>{"arguments": {"name": "g"}, "name": "f"}', [("f", {"name": "g"})], ""),
        (
            Hermes,
            '<tool_call>{"name": "f", "\\"": "}", "arguments": {"a": 1}, "parameters": {}}',
            [("f", {"a": 1})],
            "",
        ),
        (Hermes, '<tool_call>{"name": "f", "arguments": }</tool_call>', [("f", {})], ""),
        (Hermes, '<tool_call>{"id": "x", "type": "function", "function": "f"}', [("f", {})], ""),
        (LlamaJson, '{"name": "f", "parameters": {}}\n', [("f", {})], ""),
        (LlamaJson, '{"name": "f", "parameters": {}};', [("f", {})], ""),
        (LlamaJson, '{"name": "f", "parameters": {}} Done.', [("f", {})], " Done."),
        (LlamaJson, '{"name": "f"}, {"name": "unknown"}', [("f", {})], ', {"name": "unknown"}'),
        (LlamaJson, '<|python_tag|> {"name": "f"}; <|python_tag|>{"name": "f"}', [("f", {})] * 2, ""),
        (LlamaJson, '<|python_start|>{"name": "f"}<|python_end|>', [("f", {})], ""),
        (
            LlamaJson,
            '<|python_start|>{"name": "f"}<|python_end|>\n<|python_start|>',
            [("f", {})],
            "\n<|python_start|>",
        ),
        (Mistral, '[TOOL_CALLS]f{"a": 1} So [TOOL_CALLS]f[ARGS]{}', [("f", {"a": 1}), ("f", {})], " So"),
        (Mistral, "[TOOL_CALLS]g[ARGS]{} [TOOL_CALLS]g{}", [("g", {})], " [TOOL_CALLS]g{}"),
        (Mistral, "[TOOL_CALLS] f [ARGS] {}\n[TOOL_CALLS]f {}", [("f", {})], "[TOOL_CALLS] f [ARGS] {}"),
        (Mistral, '[TOOL_CALLS][{"name": "f"}, 5] [TOOL_CALLS]f{}', [("f", {})] * 2, ", 5]"),
        (Mistral, '[TOOL_CALLS]f[CALL_ID]abc[ARGS]{"a": "}"} {x}', [("f", {"a": "}"})], " {x}"),
        (Mistral, "[TOOL_CALLS]oh no [TOOL_CALLS]f[ARGS]{}", [("f", {})], "[TOOL_CALLS]oh no"),
        (Mistral, '[TOOL_CALLS][{"name": "f"}] A [TOOL_CALLS][{"name": "f"}]', [("f", {})] * 2, " A"),
        (Mistral, "[TOOL_CALLS][TOOL_CALLS]f[ARGS]{}", [("f", {})], ""),
        (Pythonic, "[f()]", [("f", {})], ""),
        (
            Pythonic,
            "[f(a=true, b=null, c=(1, 2), d=x)]",
            [("f", {"a": True, "b": None, "c": [1, 2], "d": "x"})],
            "",
        ),
        (Pythonic, "[f('a=b', x='it\\'s')]", [("f", {"argument_0": "a=b", "x": "it's"})], ""),
        (Pythonic, "[f(a=1), unknown(b=2)] x", [("f", {"a": 1})], ", unknown(b=2)] x"),
        (Pythonic, "[f(a=1), f(b=2,), ]", [("f", {"a": 1}), ("f", {"b": 2})], ""),
        (Pythonic, "[f(a=1), get_wea", [("f", {"a": 1})], ", get_wea"),
        (Pythonic, "[f(a=[1, {'b': ')'}], c='[']", [("f", {"a": [1, {"b": ")"}], "c": "["})], ""),
        (Pythonic, "[f(a=1] x", [("f", {"a": 1})], " x"),
        (Pythonic, "[f(a=1) and]", [("f", {"a": 1})], " and]"),
        (Pythonic, "[f(a=1)]<|python_end|> Done.<|python_end|>", [("f", {"a": 1})], " Done."),
        (Pythonic, "Sure. <|python_start|>[f(a=1)]<|python_end|>", [("f", {"a": 1})], "Sure."),
        (Pythonic, "[f()]<|python_end|>So <|python_start|>[f()]", [("f", {})] * 2, "So"),
        (Pythonic, "Like <|python_start|> so.", [], "Like <|python_start|> so."),
        (Pythonic, '[f(a=[true, {"x": null}])]', [("f", {"a": [True, {"x": None}]})], ""),
        (JsonArray, '[{"name": "f"}] Done.', [("f", {})], " Done."),
        (JsonArray, '[{"name": "f"}, {"x": 1}]', [("f", {})], ', {"x": 1}]'),
        (JsonArray, '[{"name": "f", "arguments": {"a": 1}]', [("f", {"a": 1})], ""),
    ],
)
def test_calls_in_doubtful_form(parser: type[ToolParser], text: str, calls: list[Call], content: str) -> None:
    events = parse(parser, text)
    assert calls_of(events) == calls
    assert content_of(events) == content


@pytest.mark.parametrize(
    ("parser", "text", "source"),
    [
        (Hermes, '<tool_call>{"name": "f", "arguments": {"a": [1, "}', '{"a": [1, "}'),
        (Hermes, '<tool_call>{"name": "f", "arguments": {"a": 1}', '{"a": 1}'),
        (Hermes, '<tool_call>{"name": "f"', ""),
        (Hermes, '<tool_call>{"name": "f", "arguments": {"a": 1</tool_call>', '{"a": 1'),
        (Hermes, '<tool_call>{"name": "f", "arguments": nul', ""),
        (Hermes, '<tool_call>{"name": "f", "arguments": "\\ud83d', "?"),
        (Hermes, '<tool_call>{"name": "f", "arguments": "{\\"a\\": \\"x', '{"a": "x'),
        (Hermes, '<tool_call>{"name": "f", "arguments": "{\\"a\\": \\', '{"a": '),
        (LlamaJson, '{"name": "f", "parameters": {"a": ', '{"a": '),
        (Mistral, '[TOOL_CALLS][{"name": "f", "arguments": {"a": "\\"', '{"a": "\\"'),
        (Mistral, '[TOOL_CALLS]f[ARGS]{"a": 1', '{"a": 1'),
        (Pythonic, "[f(a=1, b=[2", '{"a": 1, "b": "[2"'),
        (Pythonic, "[f(", ""),
        (JsonArray, '[{"name": "f", "arguments": {"a"', '{"a"'),
    ],
)
def test_truncated_arguments_are_kept(parser: type[ToolParser], text: str, source: str) -> None:
    events = parse(parser, text)
    assert sources_of(events) == [("f", source)]
    assert content_of(events) == ""


def test_arguments_are_streamed() -> None:
    parser = Hermes(NAMES)
    assert parser.push('<tool_call>{"name": "f", "arg') != []
    assert parser.push('uments": {"a"') == [CallArguments(0, '{"a"')]
    assert parser.push(": 1}") == [CallArguments(0, ": 1}")]
    assert parser.push("}</tool_call>") + parser.finish() == []


def test_no_empty_pieces() -> None:
    parser = Hermes(NAMES)
    parser.push('<tool_call>{"name": "f", "arguments": {"a": 1')
    assert parser.push("</tool_call>") + parser.finish() == []


def test_text_is_not_held_back_for_long() -> None:
    for parser in PARSERS:
        assert content_of(parser(NAMES).push("Hello there")) == "Hello there"
    assert content_of(LlamaJson(NAMES).push('{"answer": ')) == '{"answer":'
    assert content_of(Hermes(NAMES).push("a <b> <tool")) == "a <b>"


LONG = 200_000
LONG_TEXTS = {
    "arguments": (Hermes, '<tool_call>{"name": "f", "arguments": {"a": "%s"}}</tool_call>', 'x \\" }'),
    "numbers": (LlamaJson, '{"name": "f", "parameters": {"a": [%s0]}}', "1, "),
    "text of arguments": (Hermes, '<tool_call>{"name": "f", "arguments": "%s"}', "{}"),
    "arguments first": (JsonArray, '[{"arguments": {"a": "%s"}, "name": "f"}]', "word "),
    "other key": (JsonArray, '[{"name": "f", "%s": 1}]', "key"),
    "named": (Mistral, '[TOOL_CALLS]f[ARGS]{"a": "%s"}', "\\n]"),
    "no name": (Mistral, "[TOOL_CALLS]%s", "name"),
    "markers": (Mistral, "%s", "[TOOL_CALLS]"),
    "tags": (Hermes, "%s", "<tool_call>"),
    "calls": (LlamaJson, "%s", '{"name": "f"};'),
    "python": (Pythonic, "[f(a=[%s0])]", "'x', "),
    "python arguments": (Pythonic, "[f(%s)]", "a=1,"),
    **{f"space {parser.__name__}": (parser, "%s x", " \n") for parser in PARSERS},
    "space after a call": (Hermes, '<tool_call>{"name": "f"}%s</tool_call>', " "),
    "space between calls": (LlamaJson, '{"name": "f"}%s', " "),
}


@pytest.mark.parametrize("step", [4, LONG])
@pytest.mark.parametrize(("parser", "frame", "filling"), LONG_TEXTS.values(), ids=LONG_TEXTS)
def test_work_is_linear(parser: type[ToolParser], frame: str, filling: str, step: int) -> None:
    """Whatever is copied or searched again and again would be counted many times over."""
    text = frame % (filling * (LONG // len(filling)))
    seen = pieces = 0

    class Counting(parser):  # type: ignore[misc, valid-type]
        def advance(self) -> bool:
            nonlocal seen
            seen += len(self.buffer)
            return bool(super().advance())

        def hold(self, text: str) -> None:
            nonlocal pieces
            pieces += len(text)
            super().hold(text)

    reader = Counting(NAMES)
    events = [
        event for start in range(0, len(text), step) for event in reader.push(text[start : start + step])
    ]
    events += reader.finish()
    assert len(events) < len(text)
    assert pieces <= 3 * len(text)
    assert seen <= (100 if step == LONG else 12) * len(text)
    assert told(merged(events)) == told(parse(parser, text))


@pytest.mark.parametrize("size", [1000, LONG])
def test_characters_are_not_taken_one_by_one(size: int) -> None:
    """Functions called for an argument streamed in tokens, and in one piece: by pieces, not by characters."""
    calls = 0

    def count(_frame: object, event: str, _value: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    argument = "words " * (size // 6)
    tokens = [argument[start : start + 6] for start in range(0, len(argument), 6)]
    for chunks, most in ((tokens, 30 * len(tokens)), ([argument], 20 + size // 6)):
        parser = Hermes(NAMES)
        parser.push('<tool_call>{"name": "f", "arguments": {"a": "')
        sys.setprofile(count)
        try:
            events = [event for chunk in chunks for event in parser.push(chunk)]
        finally:
            sys.setprofile(None)
        assert merged(events) == [CallArguments(0, argument)]
        assert 0 < calls <= most
        calls = 0


def test_ids() -> None:
    """Mistral's templates demand nine letters and digits."""
    for text in (mistral_named([("f", {})]), '[TOOL_CALLS][{"name": "f"}]'):
        start = next(event for event in parse(Mistral, text) if isinstance(event, CallStart))
        assert len(start.id) == 9
        assert start.id.isalnum()
    start = next(event for event in parse(Hermes, hermes([("f", {})])) if isinstance(event, CallStart))
    assert start.id.startswith("call_")


@pytest.mark.parametrize(("parser", "write"), FORMATS)
@given(calls=CALLS)
@settings(max_examples=20, deadline=None)
def test_not_parallel_leaves_the_first_call(
    parser: type[ToolParser], write: Callable[[list[Call]], str], calls: list[Call]
) -> None:
    events = feed(ChatOutput(None, parser(NAMES), parallel=False), list(write(calls)))
    assert calls_of(events) == calls[:1]


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ messages }}", None),
        ("{% if tools %}<tool_call>{% endif %}", "hermes"),
        ("{% if tools %}{{ tools }}{% endif %}", "hermes"),
        ("{% if tools %}<|python_tag|>{% endif %}", "llama3_json"),
        ('{% if tools %}{"name": function name, "parameters": dictionary}{% endif %}', "llama3_json"),
        ("{% if tools %}<|python_start|>[f()]{% endif %}", "pythonic"),
        ("{{ tools }}[TOOL_CALLS]", "mistral"),
        ("", None),
        ('{{ tools }}<|python_start|>{"name": name, "parameters": dictionary}', "llama3_json"),
        ("{{ tools }}[func_name1(params_name1=params_value1), func_name2(params)]", "pythonic"),
        ("{{ tools }}<｜tool▁calls▁begin｜>{{ '```json' }}", "deepseek_v3"),
        ("{{ tools }}<｜tool▁calls▁begin｜>{{ name }}<｜tool▁sep｜>", "deepseek_v31"),
        ("{{ tools }}<tool_call>\n<function={{ name }}>\n<parameter={{ key }}>", "qwen3_coder"),
        ("{{ tools }}<tool_call>{{ name }}<arg_key>{{ key }}</arg_key><arg_value>", "glm45"),
        ("<|im_system|>tool_declare<|im_middle|>{{ tools }}", "kimi_k2"),
        ("{{ tools }}<|tool_calls_section_begin|>", "kimi_k2"),
        ("{{ tools }}<|start|>assistant<|channel|>commentary<|message|>", "harmony"),
        ("<|start_of_role|>available_tools<|end_of_role|>{{ tools }}", "granite"),
        ("<|start_of_role|>system<|end_of_role|>{{ tools }}<tool_call>\n</tool_call>", "hermes"),
        ("<|function_call_library|>{{ tools }}<function_call> {{ call }}", "granite_20b"),
        ("<|tool|>{{ message['tools'] }}<|/tool|>", "phi4_mini"),
        ("{{ tools }}functools[{}]", "phi4_mini"),
        ("{{ tools }}<start_function_call>call:{{ name }}", "functiongemma"),
        ("{{ tools }}<|tool_call>call:{{ name }}", "gemma4"),
        ('{{ tools }}"parameters": <tool_call>{}</tool_call>', "hermes"),
    ],
)
def test_detected_tools(template: str, form: str | None) -> None:
    assert detect_tools(template) == form
    assert form is None or form in TOOL_FORMATS


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ messages }}", None),
        ("{{ content.split('</think>') }}", "think"),
        ("[THINK]{{ x }}[/THINK]", "mistral"),
        ("</seed:think>", "seed"),
        ("<|end|><|channel|>analysis<|message|>", "harmony"),
        ("{{ '<|end|>' }}", None),
        ("<|channel>thought\n<channel|>", "gemma4"),
        ("after 'Here is my thought process:' and 'Here is my response:'", "granite"),
        ("between <think></think> and your response between <response></response>", "granite_tags"),
    ],
)
def test_detected_reasoning(template: str, form: str | None) -> None:
    assert detect_reasoning(template) == form


def test_formats_show_their_marks() -> None:
    assert set(TOOL_FORMATS["hermes"].markers) == {"<tool_call>", "</tool_call>"}
    assert set(TOOL_FORMATS["mistral"].markers) == {"[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"}
    assert TOOL_FORMATS["llama3_json"].markers == ("<|python_tag|>", "<|python_start|>", "<|python_end|>")
    assert TOOL_FORMATS["pythonic"].markers == PYTHONIC_MARKS
    for form in TOOL_FORMATS.values():
        assert parse(type(form.parser(())), "x") == [Content("x")]
