"""Thinking between tags: split from the answer the same however the text is cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtllm_openai.chat.parsers import REASONING
from trtllm_openai.chat.parsers.reasoning import ReasoningSplitter
from trtllm_openai.text.events import Reasoning

TEXTS = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "</", "think>", "hm", "한", " ", "\n", "x < y "]),
    max_size=12,
).map("".join)


def split(
    chunks: list[str], *, opened: bool = False, name: str = "think", interrupts: tuple[str, ...] = ()
) -> tuple[str, str]:
    """Thinking and answer."""
    splitter = ReasoningSplitter(REASONING[name], opened=opened, interrupts=interrupts)
    events: list[Reasoning] = []
    answer = ""
    for found, text in [*map(splitter.push, chunks), splitter.finish()]:
        assert not (found and answer), "thinking after the answer"
        events += found
        answer += text
    return "".join(event.text for event in events), answer


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("<think>\nhm\n</think>\n\nYes", False, ("hm", "Yes")),
        (" \n<think>hm</think>Yes ", False, ("hm", "Yes ")),
        ("hm\n</think>\n\nYes", True, ("hm", "Yes")),
        ("<think>\n\n</think>\n\nYes", False, ("", "Yes")),
        ("<think>\n a \n b", False, ("a \n b", "")),
        ("<think>a </thi", False, ("a </thi", "")),
        ("<think>a </b> c\n", False, ("a </b> c", "")),
        ("<think></think>a<think>b</think>", False, ("", "a<think>b</think>")),
        (" \n a", False, ("", " \n a")),
        (" <thin", False, ("", " <thin")),
        (" <thing>", False, ("", " <thing>")),
        (" \n", False, ("", " \n")),
    ],
)
def test_thinking_and_answer(text: str, opened: bool, expected: tuple[str, str]) -> None:
    assert split([text], opened=opened) == expected
    assert split(list(text), opened=opened) == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("granite_tags", "<think>hm</think>\n<response>Yes</response>", ("hm", "Yes")),
        ("granite_tags", "<think>hm</think><response>a</resp</response>\n", ("hm", "a</resp\n")),
        ("granite_tags", "<think>hm</think><response>\n", ("hm", "")),
        ("granite_tags", "<think>hm</think><resp", ("hm", "<resp")),
        ("granite_tags", "<think>hm</think>Yes</response>", ("hm", "Yes</response>")),
        ("granite_tags", "<think>hm</think><response>a </respo", ("hm", "a </respo")),
        ("granite", "Here is my thought process: hm\nHere is my response: Yes", ("hm", "Yes")),
        ("granite", "Here is my idea", ("", "Here is my idea")),
        ("gemma4", "<|channel>thought\nhm<channel|>Yes", ("hm", "Yes")),
    ],
)
def test_other_tags(name: str, text: str, expected: tuple[str, str]) -> None:
    assert split([text], name=name) == expected
    assert split(list(text), name=name) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>hm\n<|call|>f", ("hm", "<|call|>f")),
        ("<think>hm</think><|call|>f", ("hm", "<|call|>f")),
        ("<think>hm <|ca</think>f", ("hm <|ca", "f")),
        ("<|call|>f</think>", ("", "<|call|>f</think>")),
    ],
)
def test_a_call_can_end_thinking(text: str, expected: tuple[str, str]) -> None:
    assert split([text], interrupts=("<|call|>",)) == expected
    assert split(list(text), interrupts=("<|call|>",)) == expected


@given(text=TEXTS, opened=st.booleans(), step=st.integers(1, 5))
@settings(max_examples=500, deadline=None)
def test_any_cutting(text: str, opened: bool, step: int) -> None:
    chunks = [text[start : start + step] for start in range(0, len(text), step)]
    assert split(chunks, opened=opened) == split([text], opened=opened)


@pytest.mark.parametrize("before", ["", "<think>", "<think>a", "<think>a</think>"])
def test_white_space_is_not_searched_again(before: str) -> None:
    splitter = ReasoningSplitter(REASONING["think"], opened=False)
    splitter.push(before)
    for _ in range(1000):
        splitter.push(" \n")
        assert len(splitter._held) < 10
