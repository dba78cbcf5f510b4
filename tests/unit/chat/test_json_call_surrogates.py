"""Half of a surrogate pair in a tool call, which no UTF-8 response can carry."""

import json

import pytest

from trtllm_openai.chat.parsers.json_call import JsonCall
from trtllm_openai.text.events import CallArguments, CallStart, Event, merged


def parse(text: str, size: int) -> list[Event]:
    call = JsonCall(0, "id")
    events: list[Event] = []
    for start in range(0, len(text), size):
        found, _ = call.push(text[start : start + size])
        events += found
    return merged(events + call.finish())


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("half", [r"\ud800", r"\udc00", r"\ud800\ud800", r"\udc00\ud800"])
def test_a_half_becomes_a_question_mark_or_stays_escaped(half: str, size: int) -> None:
    name = "?" * (len(half) // 6)
    start, arguments = parse(f'{{"name": "f{half}", "arguments": {{"a": "x{half}"}}}}', size)
    assert start == CallStart(0, "id", f"f{name}")
    assert arguments == CallArguments(0, f'{{"a": "x{half}"}}'), "JSON source text passes as it is"

    escaped = json.dumps('{"a": "x"}').replace("x", f"x{half}")
    _, arguments = parse(f'{{"name": "f", "arguments": {escaped}}}', size)
    assert arguments == CallArguments(0, f'{{"a": "x{name}"}}')

    _, arguments = parse(f'{{"name": "f", "arguments": "{{x{half}', size)  # the text ends here
    assert arguments == CallArguments(0, f"{{x{name}")


def test_a_whole_pair_is_one_character() -> None:
    start, arguments = parse(r'{"name": "f", "arguments": "\"\ud83d\ude00\""}', 1)
    assert isinstance(start, CallStart)
    assert arguments == CallArguments(0, '"😀"')
