"""A choice's text is the same however its tokens are grouped, and never shows half a character."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.text.test_tokenizer import CHARACTERS
from trtllm_openai.generation import StepOutput, TokenLogprobs
from trtllm_openai.text.choice import ChoiceDecoder, TextDelta, TextRules
from trtllm_openai.text.tokenizer import Tokenizer


def decode(
    tokenizer: Tokenizer,
    groups: list[list[int]],
    finish: str = "length",
    stop_token_id: int | None = None,
    **arguments: Any,
) -> tuple[ChoiceDecoder, list[TextDelta]]:
    decoder, deltas = ChoiceDecoder(tokenizer, TextRules(**arguments)), []
    for index, group in enumerate(groups):
        output = StepOutput("x", group, logprobs=[TokenLogprobs(token, -1.0, []) for token in group])
        if index == len(groups) - 1:
            output.finish_reason, output.stop_token_id = finish, stop_token_id  # type: ignore[assignment]
        deltas.append(decoder.push(output))
        if decoder.finished:
            break
    return decoder, deltas


def text_of(deltas: list[TextDelta]) -> str:
    return "".join(delta.text for delta in deltas)


@given(st.text(CHARACTERS, min_size=1, max_size=30), st.data())
@settings(max_examples=150, deadline=None)
def test_any_grouping(demo_tokenizer: Tokenizer, text: str, data: st.DataObject) -> None:
    ids = demo_tokenizer.encode(text, add_special_tokens=False)
    groups, rest = [], ids
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        groups.append(rest[:size])
        rest = rest[size:]
    decoder, deltas = decode(demo_tokenizer, groups)
    assert text_of(deltas) == text
    assert decoder.completion_tokens == len(ids)
    for delta in deltas[:-1]:
        assert "\ufffd" not in delta.text or "\ufffd" in text
    offsets = [offset for delta in deltas for offset in delta.text_offsets]
    assert len(offsets) == len(ids)
    assert offsets == sorted(offsets)
    assert deltas[-1].finish_reason == "length"


def test_a_character_cut_off_at_the_end_is_not_lost(demo_tokenizer: Tokenizer) -> None:
    ids = demo_tokenizer.encode("서", add_special_tokens=False)
    assert len(ids) > 1
    _, deltas = decode(demo_tokenizer, [[token] for token in ids[:-1]])
    assert [delta.text for delta in deltas] == [""] * (len(ids) - 2) + ["\ufffd"]


def test_stop_string_over_several_tokens(demo_tokenizer: Tokenizer) -> None:
    ids = demo_tokenizer.encode("One two three four", add_special_tokens=False)
    for groups in ([[token] for token in ids], [ids]):
        decoder, deltas = decode(demo_tokenizer, groups, stop=["o three", "zzz"])
        assert text_of(deltas) == "One tw"
        assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", "o three")
        assert decoder.completion_tokens == 3
        assert sum(len(delta.logprobs or []) for delta in deltas) == 3


def test_half_a_stop_string_at_the_end_is_text(demo_tokenizer: Tokenizer) -> None:
    ids = demo_tokenizer.encode("One two", add_special_tokens=False)
    _, deltas = decode(demo_tokenizer, [[token] for token in ids], stop=["two!"])
    assert text_of(deltas) == "One two"
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("length", None)


def test_end_tokens_have_no_text_and_count(demo_tokenizer: Tokenizer) -> None:
    word = demo_tokenizer.encode("Hi", add_special_tokens=False)
    decoder, deltas = decode(demo_tokenizer, [word, [2]], finish="stop", stop_token_id=2)
    assert (text_of(deltas), deltas[-1].finish_reason, deltas[-1].stop_reason) == ("Hi", "stop", None)
    assert decoder.completion_tokens == len(word) + 1
    stop = demo_tokenizer.encode(" there", add_special_tokens=False)
    _, deltas = decode(
        demo_tokenizer, [word, stop], finish="stop", stop_token_id=stop[0], stop_token_ids=(stop[0],)
    )
    assert (text_of(deltas), deltas[-1].stop_reason) == ("Hi", stop[0])


def test_special_tokens_in_the_middle_are_not_shown(demo_tokenizer: Tokenizer) -> None:
    word = demo_tokenizer.encode("Hi", add_special_tokens=False)
    _, deltas = decode(demo_tokenizer, [word, [2], word])
    assert text_of(deltas) == "HiHi"


@given(st.lists(st.integers(1, 3), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_ids_of_the_counted_tokens_come_as_they_are_generated(
    demo_tokenizer: Tokenizer, sizes: list[int]
) -> None:
    ids = demo_tokenizer.encode("Hello world STOP and more words", add_special_tokens=False)
    groups = [ids[sum(sizes[:n]) : sum(sizes[: n + 1])] for n in range(len(sizes))]
    decoder, deltas = decode(demo_tokenizer, groups, stop=("STOP",), with_ids=True)
    found = [token for delta in deltas for token in delta.token_ids or ()]
    assert found == ids[: decoder.completion_tokens]
    assert [delta.token_ids for delta in decode(demo_tokenizer, groups)[1]] == [None] * len(groups)
