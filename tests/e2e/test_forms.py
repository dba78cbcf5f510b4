"""Tools, forms and thinking in one request: what is demanded holds, and thinking stays free and bounded.

The model babbles, so that its thinking does not end by itself; a budget ends it. It would babble white space
between the parts of JSON, too, as much as is allowed: it gets none.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tests.e2e.conftest import RunningServer, serve

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True}}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "pick", "parameters": SCHEMA}}
USER = [{"role": "user", "content": "Is it so?"}]
TEMPLATE = """\
{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|im_end|>
{% endfor %}{% if tools %}{{ tools }}{% endif %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% elif enable_thinking %}<think>
{% endif %}"""
Bias = dict[str, float]
THINKING = {"chat_template_kwargs": {"enable_thinking": True}}
END = 8
"""Tokens of an end tag, at most, and those that complete a character before it."""


@pytest.fixture(scope="module")
def thinker(few_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A model whose template knows thinking."""
    template = tmp_path_factory.mktemp("template") / "thinking.jinja"
    template.write_text(TEMPLATE)
    flags = ("--chat-template", str(template), "--torch.max-seq-len", "2048", "--log-level", "warning")
    with serve("--model", str(few_layers), *flags, "--reasoning-field", "both") as running:
        yield running


def ask(server: RunningServer, **fields: Any) -> Any:
    body = {"messages": USER, "temperature": 1, "seed": 5, "max_tokens": 900, **fields}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120)
    assert response.status_code == 200, response.text
    return response.json()


def chat(server: RunningServer, **fields: Any) -> dict[str, Any]:
    """The message and how it ended: whole and streamed, which must be the same."""
    answer = ask(server, **fields)
    (choice,) = answer["choices"]
    message = choice["message"]
    calls = [one["function"] for one in message.get("tool_calls", [])]
    whole = {
        "content": message["content"] or "",
        "reasoning": message.get("reasoning_content") or "",
        "calls": [(call["name"], call["arguments"]) for call in calls],
        "end": choice["finish_reason"],
    }
    streamed: dict[str, Any] = {"content": "", "reasoning": "", "calls": [], "end": None}
    body = {"messages": USER, "temperature": 1, "seed": 5, "max_tokens": 900, **fields, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=120) as lines:
        for line in lines.iter_lines():
            if line.startswith("data: {"):
                _add(streamed, json.loads(line[6:])["choices"][0])
    assert streamed == whole
    thought = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
    return {**whole, "message": message, "thought": thought}


def _add(streamed: dict[str, Any], part: dict[str, Any]) -> None:
    delta = part["delta"]
    assert delta.get("reasoning") == delta.get("reasoning_content")
    streamed["content"] += delta.get("content") or ""
    streamed["reasoning"] += delta.get("reasoning") or ""
    for call in delta.get("tool_calls", []):
        if "id" in call:
            streamed["calls"].append((call["function"]["name"], ""))
        else:
            name, arguments = streamed["calls"][call["index"]]
            streamed["calls"][call["index"]] = name, arguments + call["function"]["arguments"]
    streamed["end"] = part["finish_reason"] or streamed["end"]


def token_of(server: RunningServer, text: str) -> str:
    """The first token of a text."""
    body = {"prompt": text, "add_special_tokens": False}
    return str(httpx.post(f"{server.url}/tokenize", json=body).raise_for_status().json()["tokens"][0])


def test_a_form_follows_thinking(thinker: RunningServer, terse: Bias) -> None:
    found = chat(thinker, response_format=FORM, thinking_token_budget=20, logit_bias=terse, **THINKING)
    assert found["reasoning"]
    assert 20 <= found["thought"] <= 20 + END
    assert found["message"]["reasoning"] == found["message"]["reasoning_content"]
    jsonschema.validate(json.loads(found["content"]), SCHEMA)
    assert found["end"] == "stop"


def test_a_required_call_follows_thinking_and_wins_over_a_form(thinker: RunningServer, terse: Bias) -> None:
    both = {"tools": [TOOL], "tool_choice": "required", "response_format": FORM, "logit_bias": terse}
    found = chat(thinker, **both, thinking_token_budget=10, parallel_tool_calls=False, **THINKING)
    assert found["reasoning"]
    assert not found["content"]
    ((name, arguments),) = found["calls"]
    assert name == "pick"
    jsonschema.validate(json.loads(arguments), SCHEMA)
    assert found["end"] == "tool_calls"


@pytest.mark.parametrize("towards", ["{", "<"], ids=["form", "call"])
def test_a_form_and_tools_that_may_be_called(thinker: RunningServer, terse: Bias, towards: str) -> None:
    """The answer is a call or has the form: whose beginning is likelier decides."""
    bias = terse | {token_of(thinker, towards): 100}
    fields = {"tools": [TOOL], "response_format": FORM, "parallel_tool_calls": False}
    found = chat(thinker, **fields, logit_bias=bias, reasoning_effort="none")
    assert not found["reasoning"]
    if towards == "<":
        ((name, arguments),) = found["calls"]
        assert (name, found["content"], found["end"]) == ("pick", "", "tool_calls")
        jsonschema.validate(json.loads(arguments), SCHEMA)
    else:
        assert not found["calls"]
        jsonschema.validate(json.loads(found["content"]), SCHEMA)


@pytest.mark.parametrize("more", [{}, {"ignore_eos": True}, {"min_tokens": 40}, {"tools": [TOOL]}])
def test_a_budget_alone(thinker: RunningServer, more: dict[str, Any]) -> None:
    found = chat(thinker, **{"thinking_token_budget": 5, "max_tokens": 60, **more, **THINKING})
    assert 5 <= found["thought"] <= 5 + END
    assert found["content"] or found["end"] in ("stop", "tool_calls")
    if "ignore_eos" in more:
        assert found["end"] == "length"


def test_budgets_of_several_choices_with_a_seed(thinker: RunningServer) -> None:
    fields = {"n": 3, "max_tokens": 40, "thinking_token_budget": 6, **THINKING}
    first, second = ask(thinker, **fields), ask(thinker, **fields)
    texts = [choice["message"] for choice in first["choices"]]
    assert texts == [choice["message"] for choice in second["choices"]]
    assert len({message["reasoning"] for message in texts}) == 3
    assert 3 * 6 <= first["usage"]["completion_tokens_details"]["reasoning_tokens"] <= 3 * (6 + END)


def test_reasoning_is_left_out(thinker: RunningServer) -> None:
    fields = {"thinking_token_budget": 8, "max_tokens": 30, "logprobs": True, **THINKING}
    shown, hidden = ask(thinker, **fields), ask(thinker, **fields, include_reasoning=False)
    (one,), (other,) = shown["choices"], hidden["choices"]
    assert one["message"].pop("reasoning") == one["message"].pop("reasoning_content") != ""
    assert other["message"] == one["message"]
    assert hidden["usage"] == shown["usage"], "the tokens are counted all the same"
    counted = shown["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert other["logprobs"]["content"] == one["logprobs"]["content"][counted:]
    chat(thinker, **fields, include_reasoning=False)


def rendered(server: RunningServer, messages: list[Any], **fields: Any) -> str:
    body = {"messages": messages, **fields}
    response = httpx.post(f"{server.url}/v1/chat/completions/render", json=body)
    text: str = response.raise_for_status().json()["prompt"]
    return text


def test_reasoning_of_the_history_by_either_name(thinker: RunningServer) -> None:
    prompts = {
        rendered(thinker, [*USER, {"role": "assistant", "content": "Yes.", name: "Because."}, *USER])
        for name in ("reasoning", "reasoning_content")
    }
    assert len(prompts) == 1
    assert "<think>Because.</think>" in prompts.pop()


def test_effort_sets_thinking(thinker: RunningServer) -> None:
    assert rendered(thinker, USER).endswith("assistant\n")
    assert rendered(thinker, USER, reasoning_effort="low").endswith("<think>\n")
    assert "</think>" in rendered(thinker, USER, reasoning_effort="none")
    own = {"chat_template_kwargs": {"enable_thinking": False}}
    assert "</think>" in rendered(thinker, USER, reasoning_effort="high", **own)


def test_the_same_in_responses(thinker: RunningServer, terse: Bias) -> None:
    tool = {"type": "function", "name": "pick", "parameters": SCHEMA, "strict": True}
    form = {"format": {"type": "json_schema", "name": "verdict", "schema": SCHEMA}}
    body = {"input": "Is it so?", "text": form, "tools": [tool], "seed": 3, "reasoning": {"effort": "low"}}
    budget = {"thinking_token_budget": 12, "parallel_tool_calls": False, "logit_bias": terse}
    response = httpx.post(f"{thinker.url}/v1/responses", json={**body, **budget}, timeout=120)
    assert response.status_code == 200, response.text
    reasoning, item = response.json()["output"]
    assert reasoning["type"] == "reasoning"
    text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
    jsonschema.validate(json.loads(text), SCHEMA)


def test_the_same_in_messages(thinker: RunningServer, terse: Bias) -> None:
    body = {
        "messages": USER,
        "max_tokens": 900,
        "thinking": {"type": "enabled", "budget_tokens": 9},
        "tools": [{"name": "pick", "input_schema": SCHEMA}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "seed": 3,
        "logit_bias": terse,
    }
    response = httpx.post(f"{thinker.url}/v1/messages", json=body, timeout=120)
    assert response.status_code == 200, response.text
    assert "x-ignored-params" not in response.headers
    thinking, call = response.json()["content"]
    assert (thinking["type"], call["type"]) == ("thinking", "tool_use")
    jsonschema.validate(call["input"], SCHEMA)
    assert response.json()["usage"]["output_tokens_details"]["thinking_tokens"] <= 9 + END


def refused(server: RunningServer, **fields: Any) -> tuple[int, Any]:
    body = {"messages": USER, "max_tokens": 2, **fields}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    return response.status_code, response.json()["error"]["param"]


def test_a_schema_that_cannot_be_enforced_has_its_place(thinker: RunningServer) -> None:
    """Beside a form and behind thinking the name is the client's own; without strictness it is no fault."""
    odd = {"name": "odd", "parameters": {"type": "object", "not": {}}}
    strict = {"type": "function", "function": {**odd, "strict": True}}
    place = (400, "tools[1].function.parameters.not")
    assert refused(thinker, tools=[TOOL, strict]) == place
    assert refused(thinker, tools=[TOOL, strict], response_format=FORM, **THINKING) == place
    ask(thinker, tools=[TOOL, {"type": "function", "function": odd}], max_tokens=4)


def test_an_engine_that_cannot(synthetic: RunningServer) -> None:
    assert refused(synthetic, thinking_token_budget=5) == (400, "thinking_token_budget")
    assert refused(synthetic, tools=[TOOL], tool_strict="all") == (400, "tool_strict")
    form = "response_format.json_schema.schema"
    assert refused(synthetic, tools=[TOOL], response_format=FORM) == (400, form)


def test_a_strict_tool_that_cannot_be_held_is_named(synthetic: RunningServer) -> None:
    strict = {"type": "function", "function": {"name": "b", "strict": True}}
    body = {"messages": USER, "max_tokens": 2, "tools": [TOOL, strict]}
    response = httpx.post(f"{synthetic.url}/v1/chat/completions", json=body, timeout=30)
    assert response.headers["x-ignored-params"] == "tools[1].function.strict"
