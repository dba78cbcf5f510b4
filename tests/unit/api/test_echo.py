"""The prompt as a part of the answer."""

from typing import Any

import pytest

from trtllm_openai.api.echo import Echo, echoed_message
from trtllm_openai.api.token_fields import TokenFields
from trtllm_openai.generation import TokenLogprobs
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.text.events import Content, Reasoning
from trtllm_openai.text.tokenizer import Tokenizer


def test_offsets_point_into_the_text(demo_tokenizer: Tokenizer) -> None:
    ids = demo_tokenizer.encode("Once upon 한국", add_special_tokens=False)
    echo = Echo.of(demo_tokenizer, ids, None)
    assert echo.text == "Once upon 한국", "decoded where the text is not known"
    assert len(echo.text_offsets) == len(ids)
    assert echo.text_offsets == sorted(echo.text_offsets)
    assert echo.text_offsets[0] == 0
    assert echo.text[echo.text_offsets[1] :].startswith(demo_tokenizer.token_text(ids[1]))


def test_the_text_as_it_was_written_is_kept(demo_tokenizer: Tokenizer) -> None:
    assert Echo.of(demo_tokenizer, [5, 6], "anything").text == "anything"


def test_tokens_that_nothing_predicts_have_null(demo_tokenizer: Tokenizer) -> None:
    ids = demo_tokenizer.encode("a b c", add_special_tokens=False)
    echo = Echo.of(demo_tokenizer, ids, None)
    values = [None, *(TokenLogprobs(token, -2.0, [(token, -2.0)]) for token in ids[1:])]
    parts = echo.logprobs(TokenFields(demo_tokenizer, 1), values)
    assert parts["token_logprobs"] == [None] + [-2.0] * (len(ids) - 1)
    assert parts["top_logprobs"][:2] == [None, {demo_tokenizer.token_text(ids[1]): -2.0}]
    assert "".join(parts["tokens"]) == "a b c"
    assert echo.logprobs(TokenFields(demo_tokenizer, 1), None)["token_logprobs"] == [None] * len(ids)


USER: dict[str, Any] = {
    "role": "user",
    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "Sure, "}
THOUGHT: dict[str, Any] = {"role": "assistant", "content": None, "reasoning_content": "Two. "}
CONTINUED: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}


@pytest.mark.parametrize(
    ("last", "fields", "echoed"),
    [
        (USER, {}, []),
        (USER, {"add_generation_prompt": False}, [Content("a\nb")]),
        (USER, CONTINUED, [Content("a\nb")]),
        (ANSWER, {}, [Content("Sure, ")]),
        (ANSWER, CONTINUED, [Content("Sure, ")]),
        (ANSWER | {"reasoning_content": "Two."}, CONTINUED, [Content("Sure, ")]),
        (THOUGHT, CONTINUED, [Reasoning("Two. ")]),
        (THOUGHT, {}, []),
        ({"role": "assistant", "content": ""}, CONTINUED, []),
    ],
)
def test_the_message_that_the_answer_goes_on_from(
    last: dict[str, Any], fields: dict[str, Any], echoed: list[Any]
) -> None:
    body = ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}, last], **fields})
    assert echoed_message(body) == echoed
