"""The error contract in detail."""

import contextvars
import json
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.responses import Response

from tests.unit.api.served import Served
from trtllm_openai.api.errors import ApiError, anthropic, from_exception, json_path
from trtllm_openai.errors import InvalidRequest, PoolError
from trtllm_openai.protocol.chat import ChatRequest
from trtllm_openai.protocol.completions import CompletionRequest
from trtllm_openai.text.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, "invalid_request_error") for status in (400, 401, 403, 404, 405, 413, 415)),
        (429, "rate_limit_error"),
        *((status, "server_error") for status in (500, 503, 504)),
    ],
)
def test_type_follows_the_status(status: int, kind: str) -> None:
    error = ApiError(status, "x", param="p", code="c")
    detail = {"message": "x", "type": kind, "param": "p", "code": "c", "request_id": None}
    assert json.loads(error.body()) == {"error": detail}
    assert error.response().status_code == status


@pytest.mark.parametrize(
    ("status", "sent", "kind"),
    [
        *((status, status, "invalid_request_error") for status in (400, 405, 415)),
        (401, 401, "authentication_error"),
        (403, 403, "permission_error"),
        (404, 404, "not_found_error"),
        (413, 413, "request_too_large"),
        (429, 429, "rate_limit_error"),
        (500, 500, "api_error"),
        (503, 529, "overloaded_error"),
        (504, 504, "timeout_error"),
    ],
)
def test_anthropics_shape(status: int, sent: int, kind: str) -> None:
    def response() -> Response:
        anthropic.set(True)
        return ApiError(status, "x", param="p", code="c", headers={"retry-after": "5"}).response()

    found = contextvars.copy_context().run(response)
    error = {"type": "error", "error": {"type": kind, "message": "x"}, "request_id": None}
    assert json.loads(bytes(found.body)) == error
    assert (found.status_code, found.headers["retry-after"]) == (sent, "5")


def test_place_is_written_as_openai_does() -> None:
    assert json_path(("messages", 0, "content", 1, "type")) == "messages[0].content[1].type"


def validation_error(model: type, value: object) -> ApiError:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(value)  # type: ignore[attr-defined]
    return from_exception(caught.value)


def test_validation_names_the_place() -> None:
    error = validation_error(CompletionRequest, {"prompt": [1, "a"]})
    assert (error.status, error.param) == (400, "prompt[1]")
    error = validation_error(ChatRequest, {"messages": [{"role": "user"}], "temperature": float("nan")})
    assert error.param == "temperature"


def test_other_exceptions() -> None:
    assert from_exception(InvalidRequest("m", "p", "c")).code == "c"
    unavailable = from_exception(PoolError("loading", loading=True))
    assert (unavailable.status, unavailable.headers["retry-after"]) == (503, "5")
    secret = from_exception(RuntimeError("password=hunter2"))
    assert secret.status == 500
    assert "hunter2" not in secret.body().decode()


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("completions", {"seed": 2**63}, f"'seed': must be from {-(2**63)} to {2**63 - 1}, not {2**63}."),
        ("chat/completions", {"seed": 1e30}, f"'seed': must be from {-(2**63)} to {2**63 - 1}, not 1e+30."),
        ("responses", {"seed": -(2**64)}, f"'seed': must be from {-(2**63)} to {2**63 - 1}, not "),
        ("chat/completions", {"seed": -(2**63) - 1}, f"'seed': must be from {-(2**63)} to {2**63 - 1}, not "),
        ("completions", {"temperature": 3}, "'temperature': must be from 0 to 2, not 3."),
        ("completions", {"logit_bias": {"5": 101}}, "'logit_bias.5': must be from -100 to 100, not 101."),
        ("completions", {"stop_token_ids": [1, -1]}, "'stop_token_ids[1]': must be at least 0, not -1."),
        ("messages", {"top_p": 0}, "'top_p': must be above 0 and at most 1, not 0."),
        ("completions", {"seed": "1"}, "'seed': Input should be a valid integer."),
    ],
)
def test_a_number_out_of_range_is_told_its_range(
    demo_tokenizer: Tokenizer, path: str, fields: dict[str, Any], message: str
) -> None:
    messages = [{"role": "user", "content": "x"}]
    body: dict[str, Any] = {"messages": messages, "max_tokens": 2}
    body = {"completions": {"prompt": "x"}, "responses": {"input": "x"}}.get(path, body)
    error = Served(demo_tokenizer).post(f"/v1/{path}", {**body, **fields}).json()["error"]
    assert error["message"].startswith(f"Invalid value for {message}")
