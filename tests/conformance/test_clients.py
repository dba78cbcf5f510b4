"""Real clients against started servers.

The official Python clients in `make test-all` (tests/e2e has their SDKs in every run); the others with
CONFORMANCE=1, after `tests.conformance.install`: that is what `make conformance` does, and it writes
docs/conformance.md. A client that is not installed is skipped, with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conformance import page
from tests.conformance.clients import CLIENTS, Client, Servers
from tests.conformance.page import Result
from tests.e2e.conftest import RunningServer
from tests.e2e.scripted import call, scripted

FULL = os.environ.get("CONFORMANCE") == "1"

TOO_SMALL = "the demo model is too small"
NO_IMAGES = "the model does not support images"
NO_MODEL = "expects 400 without `model`; this server defaults to the served model"
KNOWN = {
    "llm-comply openai-chat": {"chat-image-input": NO_IMAGES, "chat-error-handling": NO_MODEL},
    "llm-comply open-responses": {
        "image-input": NO_IMAGES,
        "error-handling": NO_MODEL,
        "compact-missing-model": NO_MODEL,
    },
    "OpenAI Agents SDK": {
        "chat: tools and output_type together": f"{TOO_SMALL}: it calls the tool again and again",
        "responses: tools and output_type together": f"{TOO_SMALL}: it calls the tool again and again",
    },
}
"""Expected failures with their reasons, by client and test. Another failure fails, as does a pass here."""
BY_CHANCE = {"langchain-tests": ("test_json_mode", "test_structured_output_pydantic_2_v1")}
"""Tests that want certain keys of the model, with schemas that allow others, or none. Whether the demo model
says them depends on how the processor rounds; the same features are tested by others here."""

PICK = "I pick." + call("pick", color="red")
SAID = "It is red."


@pytest.fixture(scope="module")
def model(server: RunningServer) -> str:
    found: str = httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"]
    return found


@pytest.fixture
def servers(server: RunningServer, model: str, tmp_path: Path) -> Iterator[Servers]:
    """The demo model, and for each client anew an engine that says a call and an answer in turn."""
    with scripted(tmp_path, model, PICK, SAID) as told:
        yield Servers(f"{server.url}/v1", f"{told.url}/v1", model, tmp_path)


RUN = [client for client in CLIENTS if FULL or not client.installed_as]
MISSING = {client.name: reason for client in RUN if (reason := client.missing())}


def report(results: dict[str, Result]) -> None:
    """Keep these results for the page, and that some clients cannot be run."""
    skipped = {name: Result("", skipped=reason) for name, reason in MISSING.items()}
    page.update({**skipped, **results}, [client.name for client in CLIENTS])


def _marks(client: Client) -> list[pytest.MarkDecorator]:
    reason = MISSING.get(client.name)
    return [pytest.mark.slow, *([pytest.mark.skip(reason=reason)] if reason else [])]


@pytest.mark.timeout(2700)
@pytest.mark.parametrize(
    "client", [pytest.param(client, marks=_marks(client), id=client.name) for client in RUN]
)
def test_client(servers: Servers, client: Client) -> None:
    known = KNOWN.get(client.name, {})
    rows = client.run(servers)
    assert len(rows) >= client.at_least
    by_chance = BY_CHANCE.get(client.name, ())
    known |= {
        test: f"{TOO_SMALL}: it says other words" for test, ok, _ in rows if not ok and test in by_chance
    }
    named = [(test, ok, "" if ok else known.get(test, detail)) for test, ok, detail in rows]
    if FULL:
        report({client.name: Result(client.versions(), named)})
    assert {test: why for test, ok, why in rows if not ok and test not in known} == {}
    assert [test for test, ok, _ in rows if ok and test in known] == [], "known to fail, but passes"


def test_the_demo_answers_a_question(servers: Servers) -> None:
    """All other tests of text would pass with any model."""
    question = "What is the capital of France? Answer in one short sentence."
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 40}
    answer = httpx.post(f"{servers.url}/chat/completions", json=body, timeout=120).raise_for_status().json()
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert "Paris" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] <= 40
