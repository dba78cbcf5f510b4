"""Formats of model families: what is written is read back, however it is cut, and nothing is lost."""

import json
from typing import Any, get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.conftest import PACKAGE_ROOT
from tests.unit.chat.parsing import (
    NAMES,
    Call,
    calls_of,
    content_of,
    cut,
    feed,
    sources_of,
    told,
)
from trtllm_openai.chat.parsers import REASONING, TOOL_FORMATS, ChatOutput
from trtllm_openai.chat.parsers.layout import LayoutParser
from trtllm_openai.chat.parsers.tool_parser import ToolParser
from trtllm_openai.chat.parsers.written_calls import WrittenCalls
from trtllm_openai.config import Settings
from trtllm_openai.text.events import CallArguments, CallStart, Content

DECLARED = (
    "deepseek_v3",
    "deepseek_v31",
    "qwen3_coder",
    "glm45",
    "kimi_k2",
    "granite",
    "granite_20b",
    "phi4_mini",
    "functiongemma",
    "gemma4",
)
FORMATS = (*DECLARED, "harmony")
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "rate": {"type": "number"},
        "now": {"type": "boolean"},
        "where": {"type": "object"},
        "list": {"type": "array"},
        "unit": {"enum": ["C", "F"]},
        "note": {"type": ["string", "null"]},
    },
}
TOOLS: dict[str, Any] = dict.fromkeys(NAMES, PARAMETERS)

each_format = pytest.mark.parametrize("name", FORMATS)

STRINGS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["서울", "\n  x = 1\n\n", " a ", "5", "true", "null", '{"a": 1}', '"', "\\", "a, b: {c}", "<b>"]
    ),
)
INNER = st.one_of(st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(-1e9, 1e9), STRINGS)
PLAIN_NAMES = st.sampled_from(["a", "b_2", "한"])
OBJECTS = st.recursive(
    st.dictionaries(PLAIN_NAMES, INNER, max_size=2),
    lambda one: st.dictionaries(PLAIN_NAMES, one | st.lists(one | INNER, max_size=2), max_size=2),
    max_leaves=4,
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "city": STRINGS,
        "days": st.integers(-(10**20), 10**20),
        "rate": st.floats(-1e9, 1e9),
        "now": st.booleans(),
        "where": OBJECTS,
        "list": st.lists(OBJECTS | INNER, max_size=3),
        "unit": st.sampled_from(["C", "F"]),
        "note": st.none(),
    },
)
CALLS = st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), min_size=1, max_size=3)
SPACE = st.text(" \n", max_size=2)


def make(name: str) -> ToolParser:
    return TOOL_FORMATS[name].parser(TOOLS)


def write(name: str, calls: list[Call]) -> str:
    form = TOOL_FORMATS[name].form
    assert isinstance(form, WrittenCalls)
    return form.write(calls if form.several else calls[:1])


def marks(name: str) -> tuple[str, ...]:
    return TOOL_FORMATS[name].markers


def has_marks(name: str, value: Any) -> bool:
    """Whether a string anywhere in `value` contains a mark of the format, which would end it."""
    return any(mark in json.dumps(value, ensure_ascii=False) for mark in (*marks(name), "</parameter>"))


@each_format
@given(calls=CALLS, data=st.data())
@settings(max_examples=60, deadline=None)
def test_calls_are_read_back(name: str, calls: list[Call], data: st.DataObject) -> None:
    assume(not has_marks(name, calls))
    form = TOOL_FORMATS[name].form
    expected = calls if isinstance(form, WrittenCalls) and form.several else calls[:1]
    events = feed(make(name), cut(write(name, calls), data))
    assert calls_of(events) == expected
    assert content_of(events) == ""


@st.composite
def broken(draw: st.DrawFn, name: str) -> str:
    """Text, marks, and calls that may miss a part."""
    pieces = []
    alphabet = [
        *marks(name),
        *NAMES,
        *' \n{}[]()<>|"\\:,;=x1`',
        "</",
        "functions.",
        "call:",
        "```json",
        "to=",
        "```",
    ]
    for _ in range(draw(st.integers(0, 3))):
        if draw(st.booleans()):
            source = write(name, draw(CALLS))
            if draw(st.booleans()):
                place = draw(st.integers(0, len(source)))
                source = source[:place] + draw(st.sampled_from(["", source[place + 1 :]]))
        else:
            source = "".join(draw(st.lists(st.sampled_from(alphabet), max_size=12)))
        pieces += [source, draw(SPACE)]
    return "".join(pieces)


@each_format
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_cutting(name: str, data: st.DataObject) -> None:
    text = data.draw(broken(name))
    assert told(feed(make(name), cut(text, data))) == told(feed(make(name), [text]))


@pytest.mark.parametrize("name", DECLARED)
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_an_answer_without_calls_is_all_content(name: str, data: st.DataObject) -> None:
    text = data.draw(broken(name) | st.text())
    events = feed(make(name), [text])
    if not sources_of(events):
        assert content_of(events) == text


@each_format
@given(calls=CALLS, data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_truncated_response_keeps_what_was_begun(name: str, calls: list[Call], data: st.DataObject) -> None:
    text = write(name, calls)
    full = sources_of(feed(make(name), [text]))
    found = sources_of(feed(make(name), [text[: data.draw(st.integers(0, len(text)))]]))
    assert [one for one, _ in found] == [one for one, _ in full[: len(found)]]
    assert found[:-1] == full[: len(found)][:-1]


@pytest.mark.parametrize("name", DECLARED)
@given(calls=CALLS, before=st.sampled_from(["Hello", "한국어", "a < b", "{x} [1]", ""]), space=SPACE)
@settings(max_examples=30, deadline=None)
def test_content_around_calls(name: str, calls: list[Call], before: str, space: str) -> None:
    assume(not has_marks(name, calls))
    events = feed(make(name), [f"{before}{space}{write(name, calls)}{space}Done."])
    assert calls_of(events) == calls
    texts = [event.text.strip() for event in events if isinstance(event, Content)]
    assert texts == [part for part in (before, "Done.") if part]


@each_format
@given(calls=CALLS)
@settings(max_examples=15, deadline=None)
def test_not_parallel_leaves_the_first_call(name: str, calls: list[Call]) -> None:
    assume(not has_marks(name, calls))
    events = feed(ChatOutput(None, make(name), parallel=False), list(write(name, calls)))
    assert calls_of(events) == calls[:1]


V3 = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"


def qwen(key: str, value: str) -> str:
    return f"<function=f>\n<parameter={key}>\n{value}\n</parameter>\n</function>"


def gemma(arguments: str) -> str:
    return f"<start_function_call>call:f{arguments}"


def glm(key: str, value: str) -> str:
    return f"<tool_call>f\n<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n</tool_call>"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("deepseek_v3", f"{V3}function<｜tool▁sep｜>f\n```json\nnot json\n```<｜tool▁call▁end｜>"),
        ("deepseek_v3", f"{V3}function<｜tool▁sep｜>"),
        ("deepseek_v3", "<｜tool▁calls▁begin｜>I cannot.<｜tool▁calls▁end｜>"),
        ("deepseek_v31", f"{V3}f<｜tool▁sep｜>5<｜tool▁call▁end｜>"),
        ("deepseek_v31", f"{V3}{'f' * 200}<｜tool▁sep｜>{{}}"),
        ("qwen3_coder", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'),
        ("qwen3_coder", "<tool_call>\n<function=f"),
        ("qwen3_coder", "<function=>\n</function>"),
        ("glm45", "<tool_call>\n</tool_call>"),
        ("glm45", "<tool_call>see f for more</tool_call>"),
        ("kimi_k2", "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_end|>"),
        ("kimi_k2", "<|tool_call_begin|>functions.<|tool_call_argument_begin|>{}<|tool_call_end|>"),
        ("granite", "<|tool_call|>[1, 2]"),
        ("granite", "<|tool_call|>none"),
        ("granite", '<|tool_call|>[{"answer": 5}]'),
        ("granite_20b", "<function_call> no_function"),
        ("phi4_mini", "functools[5]"),
        ("phi4_mini", "use functools, [1]"),
        ("functiongemma", "<start_function_call>call:f<end_function_call>"),
        ("functiongemma", "<start_function_call>f{}<end_function_call>"),
        ("gemma4", "<|tool_call>call f{}<tool_call|>"),
        ("harmony", "Just text, to=functions.f and so on."),
        ("harmony", " to=functions.f"),
    ],
)
def test_malformed_calls_are_content(name: str, text: str) -> None:
    assert told(feed(make(name), [text])) == [("Content", None, text)]
    assert told(feed(make(name), list(text))) == [("Content", None, text)]


@pytest.mark.parametrize(
    ("name", "text", "calls", "content"),
    [
        ("deepseek_v3", f'{V3}function<｜tool▁sep｜>f\n{{"days": 1}}', [("f", {"days": 1})], ""),
        ("deepseek_v3", f"{V3}function<｜tool▁sep｜>f\n```json\n```<｜tool▁call▁end｜>", [("f", {})], ""),
        (
            "deepseek_v3",
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n``` so",
            [("f", {})],
            " so",
        ),
        ("deepseek_v31", f"{V3}f<｜tool▁sep｜><｜tool▁call▁end｜>", [("f", {})], ""),
        ("deepseek_v31", f"x {V3} {V3}f<｜tool▁sep｜>{{}}", [("f", {})], f"x {V3}"),
        ("qwen3_coder", qwen("days", "3"), [("f", {"days": 3})], ""),
        ("qwen3_coder", "<function=f><parameter=city>A</parameter></function>", [("f", {"city": "A"})], ""),
        ("qwen3_coder", "<function=f>\n<parameter=days>\nsoon\n</parameter>", [("f", {"days": "soon"})], ""),
        (
            "qwen3_coder",
            "<function=f>\n<parameter=now>\nTrue\n</parameter>\n<b",
            [("f", {"now": True})],
            "<b",
        ),
        (
            "qwen3_coder",
            "<function=f>\n<parameter=list>\n['a', None]\n</parameter>\nx",
            [("f", {"list": ["a", None]})],
            "x",
        ),
        ("qwen3_coder", qwen("zip", "01234"), [("f", {"zip": "01234"})], ""),
        ("qwen3_coder", qwen("zip", "12"), [("f", {"zip": 12})], ""),
        ("qwen3_coder", qwen("note", "null"), [("f", {"note": None})], ""),
        ("qwen3_coder", qwen("note", "7"), [("f", {"note": "7"})], ""),
        ("qwen3_coder", qwen("city", "7"), [("f", {"city": "7"})], ""),
        ("qwen3_coder", qwen("days", "NaN"), [("f", {"days": "NaN"})], ""),
        (
            "glm45",
            "<tool_call>f<arg_key>days</arg_key><arg_value>3</arg_value></tool_call>",
            [("f", {"days": 3})],
            "",
        ),
        ("glm45", glm("city", " 3\n"), [("f", {"city": " 3\n"})], ""),
        (
            "glm45",
            "<tool_call>f\n<arg_key>days</arg_key>3</arg_value>\n</tool_call>",
            [("f", {"days": 3})],
            "",
        ),
        (
            "glm45",
            "<tool_call>f</tool_call><tool_call>x y</tool_call>",
            [("f", {})],
            "<tool_call>x y</tool_call>",
        ),
        (
            "kimi_k2",
            "<|tool_calls_section_begin|> <|tool_call_begin|> functions.f:7 <|tool_call_argument_begin|> {}",
            [("f", {})],
            "",
        ),
        ("kimi_k2", "<|tool_call_begin|>f<|tool_call_argument_begin|><|tool_call_end|>", [("f", {})], ""),
        ("granite", '<tool_call>[{"name": "f"}] so', [("f", {})], " so"),
        ("granite", '<|tool_call|> {"name": "f"}', [("f", {})], ""),
        ("granite", '<|tool_call|><tool_call>[{"name": "f"}', [("f", {})], ""),
        ("granite_20b", '<function_call>{"name": "f"} <function_call> {"name": "f"}', [("f", {})] * 2, ""),
        ("phi4_mini", '<|tool_call|>[{"name": "f"}, {"name": "f"}]<|/tool_call|>', [("f", {})] * 2, ""),
        ("phi4_mini", '<|tool_call|>{"name": "f", "arguments": {}}<|/tool_call|>x', [("f", {})], "x"),
        ("phi4_mini", 'Hi functools [] functools[{"name": "f"}]', [("f", {})], "Hi functools []"),
        ("functiongemma", gemma("{days:3<end_function_call>"), [("f", {"days": 3})], ""),
        ("functiongemma", gemma("{where:{a:[1,x y"), [("f", {"where": {"a": [1, "x y"]}})], ""),
        ("functiongemma", gemma('{"city": "a\\n\\q", days:}'), [("f", {"city": "a\n\\q", "days": None})], ""),
        (
            "functiongemma",
            gemma("{city:,list:[,],now:True}"),
            [("f", {"city": None, "list": [], "now": True})],
            "",
        ),
        ("functiongemma", gemma("{city:10:30} x"), [("f", {"city": "10:30"})], " x"),
        ("gemma4", '<|tool_call>call:f{where:{<|"|>a b<|"|>:1}}', [("f", {"where": {"a b": 1}})], ""),
        (
            "gemma4",
            '<|tool_call>call:f{city:<|"|>a<|"|><|"|>days<|"|>:3}',
            [("f", {"city": "a", "days": 3})],
            "",
        ),
    ],
)
def test_calls_in_doubtful_form(name: str, text: str, calls: list[Call], content: str) -> None:
    for events in (feed(make(name), [text]), feed(make(name), list(text))):
        found = [(one, json.loads(source + closing(source))) for one, source in sources_of(events)]
        assert found == calls
        assert content_of(events) == content


def closing(source: str) -> str:
    """The brackets that truncated arguments miss; none has a bracket inside of a string here."""
    opened = [char for char in source if char in "{["]
    for char in source:
        if char in "}]":
            opened.pop()
    return "".join({"{": "}", "[": "]"}[char] for char in reversed(opened))


@pytest.mark.parametrize(
    ("name", "text", "source"),
    [
        ("deepseek_v31", f'{V3}f<｜tool▁sep｜>{{"city": "a', '{"city": "a'),
        ("qwen3_coder", "<function=f>\n<parameter=city>\nab\n</para", '{"city": "ab\\n</para'),
        ("qwen3_coder", "<function=f>\n<parameter=days>\n1", '{"days": 1'),
        ("qwen3_coder", "<function=f>\n<parameter=ci", ""),
        ("glm45", "<tool_call>f\n<arg_key>city</arg_key>\n<arg_value>a", '{"city": "a'),
        ("functiongemma", "<start_function_call>call:f{city:<escape>a<esc", '{"city": "a<esc'),
        (
            "functiongemma",
            "<start_function_call>call:f{city:<escape>a<escape>,days:1",
            '{"city": "a", "days": 1',
        ),
        ("harmony", '<|channel|>commentary to=functions.f<|message|>{"city": "a', '{"city": "a'),
    ],
)
def test_truncated_arguments_are_kept(name: str, text: str, source: str) -> None:
    events = feed(make(name), [text])
    assert sources_of(events) == [("f", source)]
    assert content_of(events) == ""


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [
        (
            "qwen3_coder",
            "<tool_call>\n<function=f>\n<parameter=city>\n",
            "\n</parameter>\n</function>\n</tool_call>",
        ),
        ("glm45", "<tool_call>f\n<arg_key>city</arg_key>\n<arg_value>", "</arg_value>\n</tool_call>"),
        ("gemma4", '<|tool_call>call:f{city:<|"|>', '<|"|>}<tool_call|>'),
    ],
)
def test_a_long_string_is_streamed(name: str, begin: str, end: str) -> None:
    parser = make(name)
    parser.push(begin)
    assert parser.push('a "b"') == [CallArguments(0, 'a \\"b\\"')]
    assert parser.push(" c") == [CallArguments(0, " c")]
    assert parser.push(end) == [CallArguments(0, '"}')]
    assert parser.finish() == []


def test_the_models_own_ids_are_kept_unless_they_are_used_already() -> None:
    call = "<|tool_call_begin|>functions.{}<|tool_call_argument_begin|>{{}}<|tool_call_end|>"
    text = "".join(map(call.format, ("f:0", "math.add-2:1", "f:0")))
    starts = [event for event in feed(make("kimi_k2"), [text]) if isinstance(event, CallStart)]
    assert [start.name for start in starts] == ["f", "math.add-2", "f"]
    assert [start.id for start in starts[:2]] == ["functions.f:0", "functions.math.add-2:1"]
    assert starts[2].id.startswith("call_")


LONG = 100_000
LONG_TEXTS = {
    "string": ("qwen3_coder", "<function=f>\n<parameter=city>\n%s\n</parameter>", "a\n</p"),
    "value": ("qwen3_coder", "<function=f>\n<parameter=list>\n%s\n</parameter>", "[1, </p"),
    "name of an argument": ("glm45", "<tool_call>f\n<arg_key>%s</arg_key>", "name"),
    "arguments": (
        "glm45",
        "<tool_call>f%s</tool_call>",
        "<arg_key>city</arg_key>\n<arg_value>x</arg_value>\n",
    ),
    "space between arguments": ("glm45", "<tool_call>f\n<arg_key>a</arg_key>%s<arg_value>", " \n"),
    "marks": ("kimi_k2", "%s", "<|tool_call_begin|>"),
    "half a mark": ("deepseek_v3", "%s", "<｜tool▁"),
    "names": ("deepseek_v31", "%s", "<｜tool▁call▁begin｜>name "),
    "quoted": ("gemma4", '<|tool_call>call:f{city:<|"|>%s<|"|>}', "a <|"),
    "bare": ("functiongemma", "<start_function_call>call:f{city:%s}", "word "),
    "bare name": ("functiongemma", "<start_function_call>call:f{%s:1}", "word "),
    "nested": ("functiongemma", "<start_function_call>call:f{city:%s", "["),
    "JSON strings": ("functiongemma", '<start_function_call>call:f{city:["%s"]}', "a\\n"),
    "listed": ("granite", "<|tool_call|>[%s]", '{"name": "f"}, '),
    "space after a call": ("phi4_mini", 'functools[{"name": "f"}]%s<|/tool_call|>', " "),
    "header": ("harmony", "<|channel|>%s<|message|>", "analysis "),
    "messages": ("harmony", "%s", "<|channel|>final<|message|>a<|end|>"),
    "reasoning": ("harmony", "<|channel|>analysis<|message|>%s<|end|>", "a <|"),
}


@pytest.mark.parametrize("step", [4, LONG])
@pytest.mark.parametrize(("name", "frame", "filling"), LONG_TEXTS.values(), ids=LONG_TEXTS)
def test_work_is_linear(
    name: str, frame: str, filling: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is copied or searched again and again would be counted many times over."""
    text = frame % (filling * (LONG // len(filling)))
    parser = make(name)
    seen = 0
    advance = parser.advance

    def counting() -> bool:
        nonlocal seen
        seen += len(parser.buffer)
        return advance()

    monkeypatch.setattr(parser, "advance", counting)
    events = [
        event for start in range(0, len(text), step) for event in parser.push(text[start : start + step])
    ]
    events += parser.finish()
    assert len(events) < len(text)
    assert seen <= 100 * len(text)


def test_text_is_not_held_back_for_long() -> None:
    for name in FORMATS:
        assert content_of(make(name).push("Hello there, ")) == "Hello there,"


def test_settings_name_every_format() -> None:
    named = {
        key: get_args(Settings.model_fields[key].annotation) for key in ("tool_parser", "reasoning_parser")
    }
    assert set(named["tool_parser"]) == {"auto", "none", *TOOL_FORMATS}
    assert set(named["reasoning_parser"]) == {"auto", "none", *REASONING}
    api = (PACKAGE_ROOT.parent / "docs" / "api.md").read_text()
    assert all(f"`{name}`" in api for name in (*TOOL_FORMATS, *REASONING))


def test_every_mark_is_a_marker() -> None:
    """A special token that is not among the markers would be left out of the text."""
    for name in DECLARED:
        parser = make(name)
        assert isinstance(parser, LayoutParser)
        layout = parser.LAYOUT
        assert {*layout.begin, *layout.end, *layout.inner} <= set(marks(name))
    assert {"<｜tool▁sep｜>", "<｜tool▁call▁end｜>"} <= set(marks("deepseek_v3"))
    assert "<|tool_call_argument_begin|>" in marks("kimi_k2")
    assert '<|"|>' in marks("gemma4")
