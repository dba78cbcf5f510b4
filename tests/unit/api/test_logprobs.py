"""Log-probabilities in both shapes of the wire."""

import math

from trtllm_openai.api.logprobs import chat_logprobs, completion_logprobs
from trtllm_openai.api.token_fields import MIN_LOGPROB, TokenFields
from trtllm_openai.generation import TokenLogprobs
from trtllm_openai.text.choice import TextDelta
from trtllm_openai.text.tokenizer import Tokenizer


def test_chat_names_each_token_with_its_bytes(demo_tokenizer: Tokenizer) -> None:
    (token, *_) = demo_tokenizer.encode("한", add_special_tokens=False)
    other = demo_tokenizer.encode("a", add_special_tokens=False)[0]
    values = [TokenLogprobs(token, -0.5, [(token, -0.5), (other, -math.inf)])]
    (one,) = chat_logprobs(TokenFields(demo_tokenizer, 2), values)["content"]
    assert one["logprob"] == -0.5
    assert bytes(one["bytes"]) == demo_tokenizer.token_bytes(token)
    assert "한".encode().startswith(bytes(one["bytes"])), "half a character has its bytes, too"
    assert [part["logprob"] for part in one["top_logprobs"]] == [-0.5, MIN_LOGPROB], "JSON has no infinity"


def test_completions_shift_offsets_past_the_prompt(demo_tokenizer: Tokenizer) -> None:
    ids = demo_tokenizer.encode("Hello world", add_special_tokens=False)
    values = [TokenLogprobs(token, -math.inf, [(token, -1.0)]) for token in ids]
    delta = TextDelta("Hello world", logprobs=values, text_offsets=list(range(len(ids))))
    parts = completion_logprobs(TokenFields(demo_tokenizer, 1), delta, 10)
    assert "".join(parts["tokens"]) == "Hello world"
    assert parts["token_logprobs"] == [MIN_LOGPROB] * len(ids)
    assert parts["text_offset"] == [10 + index for index in range(len(ids))]


def test_alternatives_of_one_text_keep_the_likelier(demo_tokenizer: Tokenizer) -> None:
    parts_of_characters = demo_tokenizer.encode("👩한", add_special_tokens=False)
    same: dict[str, list[int]] = {}
    for token in parts_of_characters:
        same.setdefault(demo_tokenizer.token_text(token), []).append(token)
    text, (first, second, *_) = max(same.items(), key=lambda item: len(item[1]))
    values = [TokenLogprobs(first, -0.1, [(first, -0.1), (second, -3.0)])]
    assert completion_logprobs(TokenFields(demo_tokenizer, 2), TextDelta(logprobs=values))[
        "top_logprobs"
    ] == [{text: -0.1}]


def test_the_chosen_token_is_among_the_alternatives(demo_tokenizer: Tokenizer) -> None:
    """Completions have it beside those that were asked for, chat has it instead of the last."""
    chosen, first, second = (demo_tokenizer.encode(text, add_special_tokens=False)[0] for text in "abc")
    value = TokenLogprobs(chosen, -5.0, [(first, -0.1), (second, -0.2)])
    for count, completions, chat in [
        (0, {"a": -5.0}, []),
        (1, {"b": -0.1, "a": -5.0}, ["a"]),
        (2, {"b": -0.1, "c": -0.2, "a": -5.0}, ["b", "a"]),
    ]:
        fields = TokenFields(demo_tokenizer, count)
        assert completion_logprobs(fields, TextDelta(logprobs=[value]))["top_logprobs"] == [completions]
        (one,) = chat_logprobs(fields, [value])["content"]
        assert [alternative["token"] for alternative in one["top_logprobs"]] == chat
        assert (one["token"], one["logprob"]) == ("a", -5.0)


def test_tokens_by_their_ids(demo_tokenizer: Tokenizer) -> None:
    fields = TokenFields(demo_tokenizer, 2, as_ids=True)
    values = [TokenLogprobs(70, -0.5, [(70, -0.5), (71, -1.0)])]
    parts = completion_logprobs(fields, TextDelta(logprobs=values))
    assert parts["tokens"] == ["token_id:70"]
    assert parts["top_logprobs"] == [{"token_id:70": -0.5, "token_id:71": -1.0}]
    (one,) = chat_logprobs(fields, values)["content"]
    assert [one["token"], *(part["token"] for part in one["top_logprobs"])] == [
        "token_id:70",
        "token_id:70",
        "token_id:71",
    ]
    assert bytes(one["bytes"]) == demo_tokenizer.token_bytes(70)
