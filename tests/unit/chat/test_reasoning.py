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


def split(chunks: list[str], *, opened: bool = False) -> tuple[str, str]:
    """Thinking and answer."""
    splitter = ReasoningSplitter(REASONING["think"], opened=opened)
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
