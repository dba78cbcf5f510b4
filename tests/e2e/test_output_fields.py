"""What a client asks of the tokens that come out: which may, their log-probabilities, their ids."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import RunningServer

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
PROMPT = "The capital of France is"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Say hi."}], "temperature": 0}


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def post(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def tokens(http: httpx.Client, text: str) -> list[int]:
    found: list[int] = post(http, "/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]
    return found


def test_only_allowed_tokens_come(http: httpx.Client) -> None:
    allowed = tokens(http, " yes no maybe")
    body = {"max_tokens": 12, "temperature": 1, "seed": 3, "allowed_token_ids": allowed}
    texts = [
        post(http, TEXT, {**body, "prompt": PROMPT})["choices"][0]["text"],
        post(http, CHAT, {**HI, **body})["choices"][0]["message"]["content"],
    ]
    for text in texts:
        assert len(text.split()) == 12
        assert set(text.split()) <= {"yes", "no", "maybe"}
    wrong = http.post(TEXT, json={"prompt": PROMPT, "allowed_token_ids": [10**6]})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "allowed_token_ids")


def test_bad_words_of_one_and_of_several_tokens_do_not_come(http: httpx.Client) -> None:
    """Each word of the answer is forbidden in turn, then the first two together."""
    body = {"prompt": PROMPT, "max_tokens": 10, "temperature": 0, "logprobs": 0}
    first = post(http, TEXT, body)["choices"][0]["logprobs"]["tokens"]
    single = first[3]
    without = post(http, TEXT, {**body, "bad_words": [single.strip()]})["choices"][0]["logprobs"]["tokens"]
    assert without[:3] == first[:3]
    assert single not in without
    pair = "".join(first[2:4])
    assert len(tokens(http, pair)) == 2
    without = post(http, TEXT, {**body, "bad_words": [pair]})["choices"][0]["logprobs"]["tokens"]
    assert without[:3] == first[:3], "the word may begin"
    assert without[3] != first[3], "but not end"
    assert pair not in "".join(without)
    wrong = http.post(CHAT, json={**HI, "bad_words": ["x", " "]})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "bad_words[1]")
