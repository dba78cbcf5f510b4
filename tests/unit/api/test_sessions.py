"""Sessions as the pool gets them, from every route."""

from typing import Any

import pytest

from tests.unit.api.served import Served
from trtllm_openai.text.tokenizer import Tokenizer

CHAT = ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
TEXT = ("/v1/completions", {"prompt": "Hi"})
RESPONSES = ("/v1/responses", {"input": "Hi"})
MESSAGES = ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5})


@pytest.mark.parametrize("route", [CHAT, TEXT, RESPONSES, MESSAGES], ids=lambda route: str(route[0]))
def test_a_header_names_the_session(demo_tokenizer: Tokenizer, route: tuple[str, dict[str, Any]]) -> None:
    served = Served(demo_tokenizer)
    served.pool.routed = True
    path, body = route
    for headers in (
        {"session-id": "a"},
        {"session_id": "a"},
        {"x-session-affinity": "b", "x-session-id": "a"},
    ):
        assert served.post(path, body, headers=headers).status_code == 200
    assert served.post(path, body).status_code == 200
    assert served.pool.sessions == ["a", "a", "a", ""]


@pytest.mark.parametrize("route", [CHAT, TEXT, RESPONSES], ids=lambda route: str(route[0]))
def test_a_field_names_it_before_a_header(
    demo_tokenizer: Tokenizer, route: tuple[str, dict[str, Any]]
) -> None:
    served = Served(demo_tokenizer)
    served.pool.routed = True
    path, body = route
    headers = {"x-session-id": "h"}
    for fields in ({"session_id": "s"}, {"session_id": "s", "prompt_cache_key": "k"}):
        response = served.post(path, body | fields, headers=headers)
        assert (response.status_code, "x-ignored-params" in response.headers) == (200, False)
    assert served.pool.sessions == ["s", "k"]


def test_with_one_runner_there_is_nothing_to_choose(demo_tokenizer: Tokenizer) -> None:
    served = Served(demo_tokenizer)
    assert served.post(CHAT[0], CHAT[1] | {"prompt_cache_key": "k"}).status_code == 200
    assert served.pool.sessions == [""]


def test_a_wrong_name_is_refused(demo_tokenizer: Tokenizer) -> None:
    response = Served(demo_tokenizer).post(CHAT[0], CHAT[1] | {"prompt_cache_key": 5})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt_cache_key")
