"""Whose cached prefixes a request finds."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.api.served import Served, keys_file
from trtllm_openai.text.tokenizer import Tokenizer

TEXT: tuple[str, dict[str, Any]] = ("/v1/completions", {"prompt": "Hi"})
CHAT: tuple[str, dict[str, Any]] = ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
RESPONSES: tuple[str, dict[str, Any]] = ("/v1/responses", {"input": "Hi"})


@pytest.mark.parametrize("request_", [TEXT, CHAT, RESPONSES], ids=["text", "chat", "responses"])
@pytest.mark.parametrize("sharing", ["key", "all"])
def test_a_key_finds_its_own_only(
    demo_tokenizer: Tokenizer, tmp_path: Path, sharing: str, request_: tuple[str, dict[str, Any]]
) -> None:
    file, headers = keys_file(tmp_path, alice="", bob="")
    served = Served(demo_tokenizer, api_keys_file=file, prefix_sharing=sharing)
    path, body = request_
    for name in ("alice", "bob", "alice"):
        assert served.post(path, body, headers=headers[name]).status_code == 200
    first, other, again = (request.cache_salt for request in served.pool.requests)
    assert first == again
    assert (first == other) is (sharing == "all")


def test_salts_divide_what_a_key_has(demo_tokenizer: Tokenizer, tmp_path: Path) -> None:
    file, headers = keys_file(tmp_path, a="", b="")
    served = Served(demo_tokenizer, api_keys_file=file)
    served.pool.info = served.pool.with_salts()
    for name, salt in (("a", None), ("a", "b"), ("a", "a"), ("b", "a"), ("b", None)):
        body = {"prompt": "Hi"} | ({"cache_salt": salt} if salt else {})
        assert served.post("/v1/completions", body, headers=headers[name]).status_code == 200
    salts = [request.cache_salt for request in served.pool.requests]
    assert len(set(salts)) == 5
    assert None not in salts


def test_without_keys_the_clients_salt_is_the_whole(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    served.pool.info = served.pool.with_salts()
    for more in ({}, {"cache_salt": "a"}):
        served.post("/v1/completions", {"prompt": "Hi", **more})
    assert [request.cache_salt for request in served.pool.requests] == [None, "a"]


def test_text_is_found_by_its_key_only(
    demo_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, headers = keys_file(tmp_path, alice="", bob="")
    served = Served(demo_tokenizer, api_keys_file=file)
    salts: list[str | None] = []
    original = Tokenizer.encode

    def encode(self: Tokenizer, text: str, *, add_special_tokens: bool, salt: str | None = None) -> list[int]:
        salts.append(salt)
        return original(self, text, add_special_tokens=add_special_tokens, salt=salt)

    monkeypatch.setattr(Tokenizer, "encode", encode)
    served.pool.hold = True  # what is encoded is what came in
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions/render", chat),
        ("/tokenize", {"prompt": "Hi"}),
        ("/tokenize", chat),
    ]
    for path, body in requests:
        for name in headers:
            assert served.post(path, body, headers=headers[name]).status_code == 200
    assert salts == ["alice ", "bob "] * 3
