"""Text from tokens, one at a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtllm_openai.text.detokenizer import Detokenizer
from trtllm_openai.text.tokenizer import Tokenizer


@given(text=st.text("ab é\n한국🦜", max_size=30))
def test_pushes_add_up_to_the_text(demo_tokenizer: Tokenizer, text: str) -> None:
    detokenizer = Detokenizer(demo_tokenizer)
    pieces = [detokenizer.push(token) for token in demo_tokenizer.encode(text, add_special_tokens=False)]
    assert "".join(pieces) + detokenizer.flush() == text


def test_half_a_character_is_held_back_until_it_is_whole(demo_tokenizer: Tokenizer) -> None:
    ids = demo_tokenizer.encode("🦜", add_special_tokens=False)
    assert len(ids) > 1
    detokenizer = Detokenizer(demo_tokenizer)
    assert [detokenizer.push(token) for token in ids] == [""] * (len(ids) - 1) + ["🦜"]
    assert detokenizer.flush() == ""


def test_half_a_character_at_the_end_is_replaced(demo_tokenizer: Tokenizer) -> None:
    first, *_ = demo_tokenizer.encode("🦜", add_special_tokens=False)
    detokenizer = Detokenizer(demo_tokenizer)
    assert detokenizer.push(first) == ""
    assert detokenizer.flush() == "�"
    assert detokenizer.flush() == ""


@pytest.mark.parametrize("shown", [False, True])
def test_special_tokens_have_text_only_where_asked(demo_tokenizer: Tokenizer, shown: bool) -> None:
    (end,) = demo_tokenizer.ids_of(("<|im_end|>",))
    detokenizer = Detokenizer(demo_tokenizer, {end} if shown else ())
    assert detokenizer.push(end) == ("<|im_end|>" if shown else "")
