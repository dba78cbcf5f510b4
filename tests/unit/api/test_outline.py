"""Counting what a body has without parsing it: exact, whatever its texts are, and in the budget's words."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.api.served import Served
from trtllm_openai.api import outline
from trtllm_openai.api.budget import check_budget
from trtllm_openai.api.outline import refuse_dense
from trtllm_openai.config import LimitSettings
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.text.tokenizer import Tokenizer

TEXT = st.text(alphabet='a"\\\\,:[]{} \\n가', max_size=6)
VALUE = st.recursive(
    st.integers() | st.none() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
MESSAGE = {"role": "user", "content": 'a, "b'}
MANY = 70_000


def commas(value: Any) -> int:
    if not isinstance(value, (dict, list)):
        return 0
    inside = value.values() if isinstance(value, dict) else value
    return max(0, len(value) - 1) + sum(map(commas, inside))


def unescaped(body: dict[str, Any], indent: int | None) -> bytes:
    raw = json.dumps(body, ensure_ascii=False, indent=indent).encode()
    return raw.replace(rb"\\", b"__").replace(rb"\"", b"__")


@given(st.dictionaries(TEXT, VALUE, min_size=1, max_size=6), st.integers(1, 40), st.sampled_from([None, 1]))
def test_what_each_field_has_is_counted_exactly(body: dict[str, Any], block: int, indent: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outline, "BLOCK", block)
        found, count = outline.outline(unescaped(body, indent))
    assert count == len(found) == len(body)
    for field, value in zip(found, body.values(), strict=True):
        assert field.commas == commas(value)
        assert field.own_commas == (max(0, len(value) - 1) if isinstance(value, (dict, list)) else 0)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": ["a, b"] * MANY},
        {"prompt": [[1]] * MANY},
        {"messages": [MESSAGE] * MANY},
        {"input": [MESSAGE] * MANY, "x": 1},
        {"messages": [1] * MANY},
        {"messages": [MESSAGE], "tools": [{}] * MANY},
        {"stop": [1] * MANY, "prompt": "x"},
        {"stop_token_ids": ["x"] * MANY},
        {"logit_bias": {str(number): 1 for number in range(MANY)}},
        {"prompt": ["x"], "n": 12, "allowed_token_ids": [1] * MANY},
        {"bad_words": ["x"] * MANY},
        {"n": 129, "prompt": [1] * MANY},
        {"metadata": {str(number): 1 for number in range(MANY)}},
        {"a": [[0, 0]] * (MANY // 2), "b": [[0, 0]] * (MANY // 2)},
        {str(number): 1 for number in range(MANY)},
    ],
    ids=lambda body: " ".join(list(body)[:3]),
)
def test_it_says_what_the_budget_says(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    with pytest.raises(InvalidRequest) as after:
        check_budget(body, LimitSettings(), raw.count(b"[") + raw.count(b"{"), raw.count(b","))
    with pytest.raises(InvalidRequest) as before:
        refuse_dense(raw, LimitSettings())
    assert (str(before.value), before.value.param) == (str(after.value), after.value.param)


def test_content_parts_are_refused_with_their_messages() -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * MANY}]}
    with pytest.raises(InvalidRequest, match="more than 65536 JSON values up to the end of 'messages'"):
        refuse_dense(json.dumps(body).encode(), LimitSettings())


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"prompt": [1] * MANY, "max_tokens": 3}),
        json.dumps({"prompt": "a, " * MANY}),
        json.dumps({"tokens": [1] * MANY, "messages": [MESSAGE] * 4000}),
        json.dumps([1] * MANY),
        json.dumps(["x"] * MANY),
        json.dumps("a, " * MANY),
        '{"prompt" 1' + "," * 100,
        "{" + "," * 100,
        "",
    ],
    ids=lambda text: text[:12],
)
def test_the_rest_is_left_to_the_parser(text: str) -> None:
    refuse_dense(bytearray(text.encode()), LimitSettings())


def test_a_dense_body_is_not_parsed(demo_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtllm_openai.api.body._parse", None)
    response = Served(demo_tokenizer).post("/v1/completions", {"prompt": ["x"] * MANY})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(f"'prompt' has {MANY} prompts: at most 128")
