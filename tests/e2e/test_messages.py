"""/v1/messages beside what tests/conformance drives Anthropic's SDK through."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic

from tests.e2e.conftest import RunningServer

TURNS = [{"role": "user", "content": "Count to one hundred."}]


def test_a_second_turn_reads_the_cache(server: RunningServer) -> None:
    url = f"{server.url}/v1/messages"
    question = " ".join(f"word{index}" for index in range(60))
    body = {"max_tokens": 4, "temperature": 0, "messages": [{"role": "user", "content": question}]}
    first = httpx.post(url, json=body, timeout=60).raise_for_status().json()
    turns = [
        *body["messages"],  # type: ignore[misc]
        {"role": "assistant", "content": first["content"]},
        {"role": "user", "content": "Go on."},
    ]
    usage = httpx.post(url, json={**body, "messages": turns}, timeout=60).raise_for_status().json()["usage"]
    assert usage["cache_read_input_tokens"] >= 64
    prompt = {"messages": turns}
    count = httpx.post(f"{url}/count_tokens", json=prompt, timeout=60).raise_for_status().json()
    assert count["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]


@pytest.fixture
def client(synthetic: RunningServer) -> Iterator[Anthropic]:
    with Anthropic(base_url=synthetic.url, api_key="none", max_retries=0) as made:
        yield made


def test_a_client_that_leaves_frees_its_place(synthetic: RunningServer, client: Anthropic) -> None:
    model = next(iter(client.models.list())).id
    with client.messages.stream(model=model, max_tokens=4000, messages=TURNS) as stream:  # type: ignore[arg-type]
        next(iter(stream.text_stream))
        assert synthetic.metric("requests_running") == 1
    synthetic.wait(lambda: synthetic.metric("requests_running") == 0, patience=10)


def test_an_error_in_a_stream_is_the_sdks_own(client: Anthropic) -> None:
    model = next(iter(client.models.list())).id
    events: list[str] = []
    stream: Any = client.messages.create(
        model=model,
        max_tokens=4000,
        messages=TURNS,  # type: ignore[arg-type]
        stream=True,
        extra_body={"timeout": 1.0},
    )
    with pytest.raises(anthropic.APIStatusError) as caught:
        events.extend(event.type for event in stream)
    assert events[:2] == ["message_start", "content_block_start"]
    assert caught.value.type == "timeout_error"


def test_it_is_found_where_claude_code_looks(server: RunningServer) -> None:
    assert httpx.head(server.url).status_code == 200
    assert httpx.head(f"{server.url}/").status_code == 200


def test_a_tool_with_a_record_may_be_demanded(server: RunningServer) -> None:
    """Zod, and so Claude Code, writes `propertyNames: {"type": "string"}` for the keys of every record."""
    record = {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {}}
    schema = {"type": "object", "properties": {"notes": record}, "required": ["notes"]}
    body = {
        "max_tokens": 4,
        "messages": TURNS,
        "tools": [{"name": "update", "input_schema": {**schema, "additionalProperties": False}}],
        "tool_choice": {"type": "any"},
    }
    answer = httpx.post(f"{server.url}/v1/messages", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["output_tokens"] == 4
