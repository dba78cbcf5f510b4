"""Fields of a request that decide what the prompt or the answer is, each on every route that has it."""

import json
import re
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import RunningServer

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HI = [{"role": "user", "content": "Hi"}]


def post(server: RunningServer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer, which must be a success."""
    response = httpx.post(server.url + path, json=body, timeout=120)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def text_of(answer: dict[str, Any]) -> str:
    """The text of an answer of any of the three routes."""
    if "output" in answer:
        return str(answer["output"][-1]["content"][0]["text"])
    (choice,) = answer["choices"]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


FLAG = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
FORMS: list[tuple[dict[str, Any], str]] = [
    ({"type": "regex", "regex": "[0-9]{3}"}, r"\d{3}"),
    ({"type": "ebnf", "ebnf": 'root ::= "yes" | "no"'}, "yes|no"),
    ({"type": "json", "schema": {"type": "boolean"}}, "true|false"),
    ({"type": "json_object", "schema": {"enum": ["a", "b"]}}, '"[ab]"'),
    ({"type": "json_schema", "schema": {"enum": [1, 2]}}, "[12]"),
    ({"type": "boolean"}, "true|false"),
]


@pytest.mark.parametrize(("form", "pattern"), FORMS)
def test_the_text_has_the_demanded_form(server: RunningServer, form: dict[str, Any], pattern: str) -> None:
    bodies: dict[str, dict[str, Any]] = {
        COMPLETIONS: {"prompt": "Hi", "response_format": form},
        CHAT: {"messages": HI, "response_format": form},
        RESPONSES: {"input": "Hi", "text": {"format": form}},
    }
    for path, body in bodies.items():
        text = text_of(post(server, path, body))
        assert re.fullmatch(pattern, text), (path, text)


def test_a_json_schema_of_a_completion(server: RunningServer) -> None:
    """As OpenAI's SDK writes it; streamed too."""
    form = {"type": "json_schema", "json_schema": {"name": "flag", "schema": FLAG, "strict": True}}
    body = {"prompt": "Hi", "response_format": form, "max_tokens": 200, "seed": 1}
    assert list(json.loads(text_of(post(server, COMPLETIONS, body)))) == ["ok"]
    streamed = httpx.post(server.url + COMPLETIONS, json={**body, "stream": True}, timeout=120)
    chunks = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert list(json.loads("".join(chunk["choices"][0]["text"] for chunk in chunks))) == ["ok"]
