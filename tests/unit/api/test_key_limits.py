"""Limits of the keys file over HTTP: what is refused, with which headers."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.unit.api.served import Served, keys_file
from trtllm_openai.text.tokenizer import Tokenizer

TEXT: tuple[str, dict[str, Any]] = ("/v1/completions", {"prompt": [1, 2, 3]})
CHAT: tuple[str, dict[str, Any]] = ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
RESPONSES: tuple[str, dict[str, Any]] = ("/v1/responses", {"input": "Hi"})
MESSAGES: tuple[str, dict[str, Any]] = ("/v1/messages", {**CHAT[1], "max_tokens": 5})
LIMIT_PARAMS = {"/v1/completions": "max_tokens", "/v1/responses": "max_output_tokens"}


@pytest.mark.parametrize(
    "request_", [TEXT, CHAT, RESPONSES, MESSAGES], ids=["text", "chat", "responses", "messages"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_requests_a_minute(
    demo_tokenizer: Tokenizer, tmp_path: Path, request_: tuple[str, dict[str, Any]], stream: bool
) -> None:
    file, headers = keys_file(tmp_path, alice="requests_per_minute=2", bob="")
    served = Served(demo_tokenizer, api_keys_file=file)
    path, body = request_
    answers = [served.post(path, {**body, "stream": stream}, headers=headers["alice"]) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"2"}
    error = answers[2].json()["error"]
    assert (error["type"], error.get("code", "rate_limit_exceeded")) == (
        "rate_limit_error",
        "rate_limit_exceeded",
    )
    assert 20 <= int(answers[2].headers["retry-after"]) <= 30
    assert answers[2].headers["x-ratelimit-reset-requests"].endswith("s")
    assert len(served.pool.requests) == 2
    models = served.get("/v1/models", headers=headers["alice"])
    assert models.status_code == 200, "only generating requests count"
    assert models.headers["x-ratelimit-remaining-requests"] == "0"
    other = served.post(path, body, headers=headers["bob"])
    assert other.status_code == 200
    assert not [name for name in other.headers if name.startswith("x-ratelimit")]
    usage = served.get("/admin/usage", headers=headers["bob"]).json()["keys"]["alice"]
    assert (usage["requests"], usage["rejected"]) == (2, 1)
    metrics = served.get("/metrics", headers=headers["bob"]).text
    assert 'trtllm_openai_rejected_total{reason="rate_limit_exceeded"} 1.0' in metrics


def test_tokens_a_minute(demo_tokenizer: Tokenizer, tmp_path: Path) -> None:
    file, headers = keys_file(tmp_path, alice="tokens_per_minute=20")
    served = Served(demo_tokenizer, api_keys_file=file)
    body = {"prompt": [[1, 2, 3], [4, 5]], "max_tokens": 2, "n": 3}
    first = served.post("/v1/completions", body, headers=headers["alice"])
    assert first.json()["usage"]["total_tokens"] == 5 + 2 * 3 * 2
    assert first.headers["x-ratelimit-limit-tokens"] == "20"
    second = served.post("/v1/completions", body, headers=headers["alice"])
    assert (second.status_code, second.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert second.headers["x-ratelimit-remaining-tokens"] == "3"
    assert 1 <= int(second.headers["retry-after"]) <= 6


@pytest.mark.parametrize("request_", [TEXT, CHAT, RESPONSES], ids=["text", "chat", "responses"])
def test_tokens_of_an_answer(
    demo_tokenizer: Tokenizer, tmp_path: Path, request_: tuple[str, dict[str, Any]]
) -> None:
    file, headers = keys_file(tmp_path, alice="max_tokens=5")
    served = Served(demo_tokenizer, api_keys_file=file)
    path, body = request_
    for name in {"max_tokens", LIMIT_PARAMS.get(path, "max_completion_tokens")}:
        if path == "/v1/responses" and name == "max_tokens":
            continue
        for tokens, status in ((5, 200), (6, 400)):
            answer = served.post(path, {**body, name: tokens}, headers=headers["alice"])
            assert answer.status_code == status
        assert answer.json()["error"]["param"] == name
    assert served.post(path, body, headers=headers["alice"]).status_code == 200
    assert {request.sampling.max_tokens for request in served.pool.requests} == {5}


def test_concurrent_requests(demo_tokenizer: Tokenizer, tmp_path: Path) -> None:
    file, headers = keys_file(tmp_path, alice="concurrent=2", bob="")
    served = Served(demo_tokenizer, api_keys_file=file, limits={"max_requests_per_key": 1})
    served.pool.hold = True

    async def main() -> list[int]:
        def ask(name: str) -> Any:
            return served.request("POST", TEXT[0], json=TEXT[1], headers=headers[name])

        running = [asyncio.create_task(ask(name)) for name in ("alice", "alice", "bob")]
        while len(served.pool.requests) < 3:
            await asyncio.sleep(0)
        refused = [(await ask(name)).status_code for name in headers]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        return refused

    assert asyncio.run(main()) == [429, 429]
