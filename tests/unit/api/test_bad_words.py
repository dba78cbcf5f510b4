"""Words to sequences of tokens: with and without a space, of one token or several."""

from typing import Any

import pytest

from tests.unit.api.served import Served, engine_info
from trtllm_openai.api.bad_words import MAX_TOKENS, tokenized
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Capabilities
from trtllm_openai.text.tokenizer import Tokenizer


def ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def test_each_word_with_and_without_a_space(demo_tokenizer: Tokenizer) -> None:
    assert tokenized(demo_tokenizer, None, None) == ()
    words = ["Paris", " Paris", "flibbertigibbet"]
    forms = [ids(demo_tokenizer, text) for text in ("Paris", " Paris", words[2], f" {words[2]}")]
    assert tokenized(demo_tokenizer, words, None) == tuple(forms)
    assert len(forms[2]) > 2


@pytest.mark.parametrize("word", ["", " ", "word " * (MAX_TOKENS + 1)])
def test_refused(demo_tokenizer: Tokenizer, word: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tokenized(demo_tokenizer, ["fine", word], None)
    assert caught.value.param == "bad_words[1]"


@pytest.mark.parametrize("path", ["completions", "chat/completions", "responses", "messages"])
def test_they_reach_the_engine_from_every_route(demo_tokenizer: Tokenizer, path: str) -> None:
    served = Served(demo_tokenizer)
    can = Capabilities(bad_words=True, allowed_token_ids=True)
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    body = {"completions": {"prompt": "Hi"}, "responses": {"input": "Hi"}}.get(path, body)
    body |= {"bad_words": [" Paris"], "allowed_token_ids": [5, 6]}
    refused = served.post(f"/v1/{path}", body)
    assert refused.status_code == 400
    assert "does not support allowed_token_ids" in refused.json()["error"]["message"]
    served.pool.info = engine_info(demo_tokenizer.vocab_size, can)
    answer = served.post(f"/v1/{path}", body)
    assert answer.status_code == 200, answer.text
    (request,) = served.pool.requests
    assert request.sampling.allowed_token_ids == (5, 6)
    assert request.sampling.bad_words == (ids(demo_tokenizer, "Paris"), ids(demo_tokenizer, " Paris"))


def test_no_token_at_all_is_a_mistake(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    status, param, _ = served.refusal("/v1/completions", {"prompt": "Hi", "allowed_token_ids": []})
    assert (status, param) == (400, "allowed_token_ids")
