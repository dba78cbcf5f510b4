"""A budget of thinking: when its end tag is due, however the tags are cut into tokens."""

import pytest

from trtllm_openai.engines.torch.thinking_budget import ThinkingBudget
from trtllm_openai.generation import Thinking

SPECIAL = {"<think>": 301, "</think>": 302}
WORDS = {303: b" \n<th", 304: b"ink>so", 305: b"</thi", 306: b"nk>\n\n"}


def text_of(token: int) -> bytes:
    return WORDS.get(token, bytes([token]) if token < 256 else b"")


def budget(
    tokens: int, *, opened: bool = True, special: bool = False, end_ids: tuple[int, ...] = (305, 306)
) -> ThinkingBudget:
    thinking = Thinking("<think>", "</think>", end_ids, opened, tokens)
    return ThinkingBudget(thinking, SPECIAL if special else {}, text_of)


def due_after(subject: ThinkingBudget, tokens: list[int]) -> list[int | None]:
    found = [subject.due]
    for token in tokens:
        subject.count(token)
        found.append(subject.due)
    return found


def test_the_end_tag_is_due_token_by_token() -> None:
    assert due_after(budget(2), [97, 98, 305, 306, 99]) == [None, None, 305, 306, None, None]
    assert due_after(budget(0, special=True, end_ids=(302,)), [302, 97]) == [302, None, None]


@pytest.mark.parametrize("end", [[302], [305, 306], list(b"</think>")])
def test_thinking_that_ends_by_itself_has_no_end_due(end: list[int]) -> None:
    subject = budget(20, special=True)
    assert set(due_after(subject, [97, *end, *range(97, 122)])) == {None}


@pytest.mark.parametrize("begin", [[301], [303, 304], list(b"\n<think>"), [32, 301]])
def test_thinking_that_the_model_begins_is_counted_from_there(begin: list[int]) -> None:
    found = due_after(budget(1, opened=False, special=True), [*begin, 97])
    assert found == [*[None] * (len(begin) + 1), 305]


def test_an_answer_without_thinking_has_no_budget() -> None:
    assert set(due_after(budget(1, opened=False), list(b"so <think> it is"))) == {None}


def test_a_character_may_be_completed_first() -> None:
    """The due token was not allowed: another one came, and the tag is due again."""
    assert due_after(budget(1), [0xE2, 0x82, 0xAC, 305, 306]) == [None, 305, 305, 305, 306, None]


def test_thinking_that_comes_several_times_has_one_budget() -> None:
    """On gpt-oss's channels: `<|channel|>analysis<|message|>`, each mark a special token."""
    special = {"<|channel|>": 301, "<|message|>": 302, "<|end|>": 303}
    thinking = Thinking("<|channel|>analysis<|message|>", "<|end|>", (303,), budget=3, within=True)
    subject = ThinkingBudget(thinking, special, lambda token: bytes([token]) if token < 256 else b"")
    begin, other = [301, *b"analysis", 302], [301, *b"final", 302, *b"so"]
    assert set(due_after(subject, [*begin, 97, 303, *other])) == {None}
    assert due_after(subject, [*begin, 97])[-2:] == [None, 303]
    assert due_after(subject, [303, *other])[1:] == [None] * (len(other) + 1)
    assert due_after(subject, begin)[-1] == 303, "nothing is left for another one"
