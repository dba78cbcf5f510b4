"""Fields about the tokens that come out: which may, their log-probabilities, their ids."""

import json
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


def stream(http: httpx.Client, path: str, body: dict[str, Any]) -> list[Any]:
    """Every chunk of a streamed answer."""
    with http.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        data = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return [json.loads(item) for item in data]


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


@pytest.mark.parametrize("count", [0, 2])
def test_alternatives_contain_the_token_that_was_sampled(http: httpx.Client, count: int) -> None:
    """At a temperature where most tokens are none of the likeliest; echoed tokens of the prompt as well."""
    hot = {"temperature": 2, "seed": 1, "max_tokens": 12}
    completion = post(http, TEXT, {**hot, "prompt": PROMPT, "logprobs": count, "echo": True})
    parts = completion["choices"][0]["logprobs"]
    places = list(zip(parts["tokens"], parts["token_logprobs"], parts["top_logprobs"], strict=True))[1:]
    assert all(top[token] == logprob for token, logprob, top in places)
    assert {len(top) for _, _, top in places} <= {count, count + 1}
    assert count + 1 in {len(top) for _, _, top in places}
    for path in (CHAT, RESPONSES):
        if path == CHAT:
            answer = post(http, path, {**HI, **hot, "logprobs": True, "top_logprobs": count})
            content = answer["choices"][0]["logprobs"]["content"]
        else:
            body = {"input": "Say hi.", "temperature": 2, "seed": 1, "max_output_tokens": 12}
            include = ["message.output_text.logprobs"]
            answer = post(http, path, {**body, "top_logprobs": count, "include": include})
            content = answer["output"][0]["content"][0]["logprobs"]
        assert content
        for token in content:
            own = {"token": token["token"], "logprob": token["logprob"], "bytes": token["bytes"]}
            assert len(token["top_logprobs"]) == count
            assert own in token["top_logprobs"] or count == 0


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_token_ids_beside_the_text(http: httpx.Client, path: str) -> None:
    """Whole and streamed: the prompt's once, the answer's as they come, those of held-back text too."""
    body = (
        {**HI, "max_tokens": 12} if path == CHAT else {"prompt": PROMPT, "temperature": 0, "max_tokens": 12}
    )
    plain = post(http, path, body)
    assert "token_ids" not in plain["choices"][0]
    body |= {"n": 2, "stop": "never said", "return_token_ids": True}
    whole = post(http, path, {**body, "logprobs": True if path == CHAT else 1})
    prompt = tokens(http, PROMPT)
    if path == CHAT:
        prompt = post(http, f"{CHAT}/render", HI)["token_ids"]
        assert whole["prompt_token_ids"] == prompt
    for choice in whole["choices"]:
        text = choice["message"]["content"] if path == CHAT else choice["text"]
        assert len(choice["token_ids"]) == 12
        assert post(http, "/detokenize", {"tokens": choice["token_ids"]})["prompt"] == text
        assert path == CHAT or choice["prompt_token_ids"] == prompt
    chunks = stream(http, path, body)
    for choice in whole["choices"]:
        own = [one for chunk in chunks for one in chunk["choices"] if one["index"] == choice["index"]]
        assert [token for one in own for token in one["token_ids"]] == choice["token_ids"]
        assert path == CHAT or [one.get("prompt_token_ids") for one in own] == [
            prompt,
            *[None] * (len(own) - 1),
        ]
    if path == CHAT:
        found = [chunk.get("prompt_token_ids") for chunk in chunks]
        assert found == [prompt, *[None] * (len(found) - 1)]


def test_tokens_named_by_their_ids(http: httpx.Client) -> None:
    wanted = {"return_tokens_as_token_ids": True, "return_token_ids": True, "max_tokens": 4}
    choice = post(http, TEXT, {**wanted, "prompt": PROMPT, "logprobs": 1})["choices"][0]
    assert choice["logprobs"]["tokens"] == [f"token_id:{token}" for token in choice["token_ids"]]
    assert all(key.startswith("token_id:") for top in choice["logprobs"]["top_logprobs"] for key in top)
    chunks = stream(http, CHAT, {**HI, **wanted, "logprobs": True, "top_logprobs": 1})
    for (one,) in (chunk["choices"] for chunk in chunks):
        named = [token["token"] for token in one["logprobs"]["content"]] if one["logprobs"] else []
        assert named == [f"token_id:{token}" for token in one["token_ids"]]


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_log_probabilities_of_the_prompt(http: httpx.Client, path: str) -> None:
    """The same whole and streamed, for each choice, and after the prefix cache has seen the prompt."""
    words = " ".join(f"word {number}" for number in range(60))
    body: dict[str, Any] = {"max_tokens": 2, "temperature": 0, "prompt_logprobs": 2, "n": 2}
    body |= {"messages": [{"role": "user", "content": words}]} if path == CHAT else {"prompt": words}
    seen = post(http, path, {**body, "prompt_logprobs": None})
    assert "prompt_logprobs" not in seen
    whole = post(http, path, body)
    ids = tokens(http, words)
    if path == CHAT:
        ids = post(http, f"{CHAT}/render", {"messages": body["messages"]})["token_ids"]
        values = whole["prompt_logprobs"]
    else:
        values = whole["choices"][0]["prompt_logprobs"]
        assert whole["choices"][1]["prompt_logprobs"] == values
    assert values[0] is None
    assert len(values) == len(ids) > 64
    for token, value in zip(ids[1:], values[1:], strict=True):
        assert next(iter(value)) == str(token)
        assert sorted(one["rank"] for one in value.values())[:2] == [1, 2]
        assert len(value) in (2, 3)
        best = min(value.values(), key=lambda one: one["rank"])
        assert best["logprob"] == max(one["logprob"] for one in value.values()) <= 0
    if path == TEXT:
        echoed = post(http, path, {**body, "echo": True, "logprobs": 0, "max_tokens": 0})["choices"][0]
        scores = [value[str(token)]["logprob"] for token, value in zip(ids[1:], values[1:], strict=True)]
        assert echoed["logprobs"]["token_logprobs"][1:] == scores
        assert [len(top) for top in echoed["logprobs"]["top_logprobs"][1:]] == [1] * len(scores)
        assert echoed["prompt_logprobs"] == values
    chunks = stream(http, path, body)
    if path == CHAT:
        assert [chunk.get("prompt_logprobs") for chunk in chunks] == [values, *[None] * (len(chunks) - 1)]
    else:
        for index in (0, 1):
            own = [one for chunk in chunks for one in chunk["choices"] if one["index"] == index]
            assert [one.get("prompt_logprobs") for one in own] == [values, *[None] * (len(own) - 1)]
    for wrong in (-1, 21):
        response = http.post(path, json={**body, "prompt_logprobs": wrong})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt_logprobs")
