"""Bodies: the bound on nesting, whatever stands beside what is nested, and fields that nobody knows."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.api.served import Served
from trtllm_openai.api.body import deeper_than
from trtllm_openai.telemetry import logs
from trtllm_openai.text.tokenizer import Tokenizer

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
VALUES = st.recursive(
    st.integers() | st.none() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=4),
    max_leaves=20,
)


def depth(value: Any) -> int:
    if not isinstance(value, (dict, list)):
        return 0
    children = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, children), default=0)


@given(VALUES, st.integers(1, 6))
def test_depth_is_bounded_exactly(value: Any, limit: int) -> None:
    assert deeper_than(value, limit) == (depth(value) > limit + 1)


@pytest.mark.parametrize("count", [1, 100_000])
def test_wide_is_not_deep(count: int) -> None:
    assert not deeper_than({"prompt": [1] * count}, 2)


ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "Hi"}),
    ("/v1/chat/completions", HI),
    ("/v1/chat/completions/render", HI),
    ("/v1/responses", {"input": "Hi"}),
    ("/v1/responses/input_tokens", {"input": "Hi"}),
    ("/v1/responses/compact", {"input": "Hi"}),
    ("/v1/messages", {**HI, "max_tokens": 2}),
    ("/v1/messages/count_tokens", HI),
    ("/tokenize", {"prompt": "Hi"}),
    ("/detokenize", {"tokens": [70]}),
]


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_unknown_fields_are_named_to_the_client_and_in_the_log(
    demo_tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture, path: str, body: dict[str, Any]
) -> None:
    with caplog.at_level(logging.INFO):
        answer = Served(demo_tokenizer).post(path, {**body, "sparkle": 1, "glitter": None})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ignored-params"] == "glitter, sparkle"
    (record,) = (one for one in caplog.records if one.message == "ignored")
    assert vars(record)[logs._FIELDS]["params"] == "glitter, sparkle"


def test_every_route_that_reads_a_body_is_among_them(demo_tokenizer: Tokenizer) -> None:
    document = Served(demo_tokenizer).get("/openapi.json").json()
    assert {
        path for path, methods in document["paths"].items() if "requestBody" in methods.get("post", {})
    } == {path for path, _ in ROUTES}
