"""Fields of a request that decide what the prompt or the answer is, each on every route that has it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.e2e.conftest import RunningServer, serve

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


def rendered(server: RunningServer, messages: list[dict[str, Any]], **fields: Any) -> str:
    """The prompt that a conversation becomes."""
    return str(post(server, f"{CHAT}/render", {"messages": messages, **fields})["prompt"])


@pytest.mark.parametrize("text", ["Sure, ", "```json\n", " ", "a\n\n", "<|im_end|>"])
def test_a_prefill_is_kept_to_the_character(server: RunningServer, text: str) -> None:
    talk = [*HI, {"role": "assistant", "content": text}]
    prompt = rendered(server, talk, continue_final_message=True, add_generation_prompt=False)
    assert prompt == rendered(server, HI) + text
    body = {"messages": talk, "continue_final_message": True, "max_tokens": 5, "seed": 1}
    answer = text_of(post(server, CHAT, body))
    assert text_of(post(server, CHAT, body | {"echo": True})) == text + answer


def test_a_prefill_of_a_message(server: RunningServer) -> None:
    """Anthropic's API continues the last turn of the assistant."""
    turns = [*HI, {"role": "assistant", "content": [{"type": "text", "text": "Sure, "}]}]
    counted = post(server, "/v1/messages/count_tokens", {"messages": turns})["input_tokens"]
    own = {"messages": [*HI, {"role": "assistant", "content": "Sure, "}], "continue_final_message": True}
    assert counted == post(server, "/tokenize", own)["count"]
    chat = text_of(post(server, CHAT, own | {"max_tokens": 5, "temperature": 0}))
    message = post(server, "/v1/messages", {"messages": turns, "max_tokens": 5, "temperature": 0})
    assert message["content"][0]["text"] == chat


def test_messages_of_every_role_and_time(server: RunningServer) -> None:
    """A function_call of the history, its result, a role of the template's own, a billing header."""
    talk: list[dict[str, Any]] = [
        {"role": "developer", "content": "x-anthropic-billing-header: a=1\nBe brief."},
        *HI,
        {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": '{"at": 7}'}},
        {"role": "function", "name": "look", "content": "Nothing."},
        {"role": "ipython", "content": "Done."},
        {"role": "system", "content": "It is late."},
    ]
    prompt = rendered(server, talk)
    assert prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    for text in (
        '{"name": "look", "arguments": {"at": 7}}',
        "Nothing.",
        "<|im_start|>ipython\nDone.",
        "late",
    ):
        assert text in prompt


def test_which_end_of_the_prompt_is_cut_off(server: RunningServer) -> None:
    ids = post(server, "/tokenize", {"prompt": "one two three four five"})["tokens"]
    for side, kept in (("right", ids[:2]), ("left", ids[-2:])):
        body = {
            "prompt": ids,
            "truncate_prompt_tokens": 2,
            "truncation_side": side,
            "echo": True,
            "max_tokens": 0,
        }
        text = post(server, "/detokenize", {"tokens": kept})["prompt"]
        assert text_of(post(server, COMPLETIONS, body)) == text


WORDLESS = {
    "": "message",
    "<think>Hm, {so}</think>": "reasoning",
    '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>': "function_call",
}
"""Answers without text, and the one item that each becomes."""


@pytest.fixture(scope="module")
def wordless() -> Iterator[RunningServer]:
    """A server that gives those answers, one after the other."""
    script = [word for text in WORDLESS for word in ("--synthetic.script", text)]
    pace = ("--synthetic.ttft", "0", "--synthetic.itl", "0")
    with serve("--engine", "synthetic", *pace, "--reasoning-parser", "think", *script) as running:
        yield running


def test_a_stream_without_text(wordless: RunningServer) -> None:
    """OpenAI's client puts the events together, and refuses those about an item that was not announced."""
    tool: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
    with OpenAI(base_url=f"{wordless.url}/v1", api_key="none", max_retries=0) as client:
        for kind in WORDLESS.values():
            with client.responses.stream(model="SmolLM2-135M-Instruct", input="Hi", tools=[tool]) as stream:
                types = [event.type for event in stream]
                answer = stream.get_final_response()
            assert [item.type for item in answer.output] == [kind]
            assert answer.output_text == ""
            assert types.count("response.output_item.added") == 1
            assert types[-1] == "response.completed"
