"""Guides that cannot be used, at once or after some tokens, and guides beside other parameters.

One that cannot be used is a 400 that names the parameter as the client wrote it, on every route.
"""

import json
import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import RunningServer

TEXT, CHAT, RESPONSES, MESSAGES = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
)
UNSATISFIABLE = "root ::= root"
TURN = [{"role": "user", "content": "x"}]
ASKED: dict[str, dict[str, Any]] = {
    TEXT: {"prompt": "x", "max_tokens": 20},
    CHAT: {"messages": TURN, "max_tokens": 20},
    RESPONSES: {"input": "x", "max_output_tokens": 20, "store": False},
    MESSAGES: {"messages": TURN, "max_tokens": 20},
}

Wrong = tuple[dict[str, Any], str]
"""A schema, and the path of its fault: of its form, of what cannot be enforced or satisfied, of all of it."""
SCHEMAS: list[Wrong] = [
    ({"properties": {"a": {"type": "dance"}}}, ".properties.a.type"),
    ({"properties": {"a": {"items": {"not": {}}}}}, ".properties.a.items.not"),
    ({"properties": {"a": {"extends": {}}}}, ".properties.a.extends"),
    ({"$ref": "#/nowhere"}, ""),
]


def tool(schema: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


def tag(form: object) -> dict[str, Any]:
    return {"type": "structural_tag", "format": form}


def older(schema: object, trigger: str = "<") -> dict[str, Any]:
    structures = [{"begin": "<a>", "schema": one, "end": "</a>"} for one in ({"type": "null"}, schema)]
    return {"type": "structural_tag", "structures": structures, "triggers": [trigger]}


OTHER = {"type": "function", "function": {"name": "other"}}
NAMED = {"type": "function", "function": {"name": "f"}}


def texts() -> Iterator[tuple[dict[str, Any], str]]:
    """Fields of completions and chats, and the parameter that is wrong."""
    for field, value in (
        ("guided_regex", "(a"),
        ("guided_regex", "\x04"),
        ("guided_regex", ""),
        ("guided_grammar", UNSATISFIABLE),
        ("guided_grammar", "root ::= nowhere"),
        ("guided_choice", ["\x04"]),
        ("guided_json", "{"),
    ):
        yield {field: value}, field
        key = field.removeprefix("guided_")
        yield {"structured_outputs": {key: value}}, f"structured_outputs.{key}"
    for schema, path in SCHEMAS:
        yield {"guided_json": schema}, f"guided_json{path}"
        yield {"structured_outputs": {"json": schema}}, f"structured_outputs.json{path}"
        inner = tag({"type": "or", "elements": [{"type": "json_schema", "json_schema": schema}]})
        name = "structured_outputs.structural_tag"
        if path != ".properties.a.type":  # llguidance does not say where
            place = f"{name}.format.elements[0].json_schema{path}"
            yield {"structured_outputs": {"structural_tag": inner}}, place
    yield {"guided_regex": "a", "min_tokens": 3}, "min_tokens"


def forms() -> Iterator[tuple[dict[str, Any], str]]:
    """`response_format`s, and the path in it that is wrong."""
    for schema, path in SCHEMAS:
        yield (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
            f".json_schema.schema{path}",
        )
    yield {"type": "dance"}, ".type"
    for form, path in (
        ({"type": "regex", "pattern": "(a"}, ".pattern"),
        ({"type": "regex", "pattern": "\x04"}, ".pattern"),
        ({"type": "grammar", "grammar": UNSATISFIABLE}, ".grammar"),
        ({"type": "grammar", "grammar": "root ::= nowhere"}, ".grammar"),
        ({"type": "tag", "begin": "<", "content": {"type": "regex", "pattern": "(a"}, "end": ">"},
         ".content.pattern"),
        ({"type": "sequence", "elements": [{"type": "any_text"}, {"type": "dance"}]}, ".elements[1].type"),
        ({"type": "const_string"}, ".value"),
    ):  # fmt: skip
        yield tag(form), f".format{path}"
    yield older({"type": "object", "not": {}}), ".structures[1].schema.not"
    yield older(1), ".structures[1].schema"
    yield older({}, "["), ".structures[0].begin"
    yield {**older({}), "structures": [1]}, ".structures[0]"
    yield {**older({}), "triggers": None}, ".triggers"


def cases() -> Iterator[tuple[str, dict[str, Any], str]]:
    """Route, fields, the parameter that is wrong."""
    for fields, param in texts():
        yield TEXT, fields, param
        yield CHAT, fields, param
        if "structured_outputs" in fields:
            yield RESPONSES, fields, param
    for form, path in forms():
        yield CHAT, {"response_format": form}, f"response_format{path}"
    for schema, path in SCHEMAS:
        form = {"type": "json_schema", "name": "x", "schema": schema}
        yield RESPONSES, {"text": {"format": form}}, f"text.format.schema{path}"
        form = {"type": "json_schema", "schema": schema}
        yield MESSAGES, {"output_config": {"format": form}}, f"output_config.format.schema{path}"
        yield (
            CHAT,
            {"tools": [tool(schema)], "tool_choice": "required"},
            f"tools[0].function.parameters{path}",
        )
        several = {"tools": [OTHER, tool(schema)], "tool_choice": NAMED}
        yield CHAT, several, f"tools[1].function.parameters{path}"
        yield (
            RESPONSES,
            {"tools": [{"type": "function", "name": "f", "parameters": schema}], "tool_choice": "required"},
            f"tools[0].parameters{path}",
        )
        own = [{"name": "f", "input_schema": schema}]
        yield MESSAGES, {"tools": own, "tool_choice": {"type": "any"}}, f"tools[0].input_schema{path}"
    for schema, path in SCHEMAS[:2]:
        both = {"tools": [OTHER, tool(schema)], "tool_choice": "required"}
        yield CHAT, both, f"tools[1].function.parameters{path}"


CASES = list(cases())


@pytest.mark.parametrize("streamed", [False, True])
def test_every_refusal_names_its_parameter(server: RunningServer, streamed: bool) -> None:
    wrong = []
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for path, fields, param in CASES:
            response = client.post(path, json={**ASKED[path], **fields, "stream": streamed})
            if response.status_code != 400:
                wrong.append((path, fields, param, response.status_code, response.text[:300]))
                continue
            error = response.json()["error"]
            # Errors of Anthropic's shape have no param.
            named = f"'{param}'" in error["message"] if path == MESSAGES else error["param"] == param
            if not named:
                wrong.append((path, fields, param, 400, response.text[:300]))
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": 3},
        {"temperature": 1, "top_p": 0.1, "seed": 1},
        {"temperature": 2, "top_k": 5, "min_p": 0.2, "seed": 1},
        {"presence_penalty": 2, "frequency_penalty": 2, "repetition_penalty": 100},
        {"temperature": 1, "top_p": 0.9, "presence_penalty": -2, "logprobs": 2, "n": 4, "seed": 1},
        {"logit_bias": {str(token): 100 for token in range(0, 3000, 7)}, "logprobs": 1},
    ],
)
def test_a_guide_holds_beside_other_parameters(server: RunningServer, fields: dict[str, Any]) -> None:
    body = {"prompt": "x", "max_tokens": 40, "guided_regex": "[0-9]{3}-[a-f]{4}", **fields}
    choices = httpx.post(server.url + TEXT, json=body, timeout=60).raise_for_status().json()["choices"]
    assert len(choices) == fields.get("n", 1)
    for choice in choices:
        assert choice["finish_reason"] == "stop"
        assert re.fullmatch("[0-9]{3}-[a-f]{4}", choice["text"])
        if "logprobs" in fields:
            assert all(map(math.isfinite, choice["logprobs"]["token_logprobs"]))


def test_min_tokens_is_refused_beside_a_guide_and_alone_is_kept(server: RunningServer) -> None:
    body = {"prompt": "x", "max_tokens": 9, "min_tokens": 9, "logprobs": 2, "top_p": 0.5, "temperature": 1}
    refused = httpx.post(server.url + TEXT, json={**body, "guided_regex": "a+"}, timeout=60)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "min_tokens")
    answer = httpx.post(server.url + TEXT, json=body, timeout=60).raise_for_status().json()
    assert answer["usage"]["completion_tokens"] == 9


SAMPLED = {"logprobs": 2, "top_p": 0.5, "temperature": 1, "presence_penalty": 1}
DEAD_ENDS = ["abc\x04", "(ab){3}\x04d"]
"""The demo's vocabulary has no token for U+0004: these can be begun, and not ended."""


@pytest.mark.parametrize("pattern", DEAD_ENDS)
@pytest.mark.parametrize(
    "fields", [{}, {"logprobs": 2, "top_p": 0.5, "temperature": 1, "presence_penalty": 1}]
)
def test_a_guide_without_an_end_is_an_error_and_no_stop(
    server: RunningServer, pattern: str, fields: dict[str, Any]
) -> None:
    ended = _ended(server)
    body = {"prompt": "x", "max_tokens": 40, "guided_regex": pattern, **fields}
    neighbour = {"prompt": "Once upon a time", "max_tokens": 60, "ignore_eos": True, "seed": 1}
    with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(6) as threads:

        def text(fields: dict[str, Any]) -> str:
            response = client.post(TEXT, json=fields).raise_for_status()
            return str(response.json()["choices"][0]["text"])

        alone = text(neighbour)
        beside = threads.map(text, [neighbour] * 3)
        whole = threads.submit(client.post, TEXT, json=body)
        streamed = threads.submit(client.post, TEXT, json={**body, "stream": True})
        assert list(beside) == [alone] * 3
        error = whole.result().json()["error"]
        assert whole.result().status_code == 400
        assert (error["param"], error["code"]) == ("guided_regex", "no_token_possible")
        assert "'guided_regex' ended" in error["message"]
        assert streamed.result().status_code == 200, "the text before the dead end is sent"
        events = [
            json.loads(line[6:]) for line in streamed.result().text.splitlines() if line[:7] == "data: {"
        ]
    assert events[-1]["error"]["param"] == "guided_regex"
    choices = [choice for event in events[:-1] for choice in event["choices"]]
    assert {choice["finish_reason"] for choice in choices} == {None}
    assert pattern.replace("(ab){3}", "ababab").startswith("".join(choice["text"] for choice in choices))
    assert _ended(server) == ended + 2


def _ended(server: RunningServer) -> float:
    """How many guides have ended so: the metric is not there before the first."""
    text = httpx.get(f"{server.url}/metrics", timeout=30).raise_for_status().text
    return sum(map(float, re.findall(r"^trtllm_openai_guides_ended_total\{.*\} (\S+)$", text, re.MULTILINE)))
